/**
 * Virtual IOMMUs of user space: the VIOMMU object, which holds a nest parent and a driver's half (Linux:
 * drivers/iommu/iommufd/viommu.c and driver.c).
 */

import { hex } from '@iommukit/hw';
import {
  type Device,
  type IommuDriver,
  type PagingDomain,
  SysError,
  type UserReply,
  type ViommuCore,
  type ViommuDriver,
  type ViommuOps,
} from '@iommukit/iommu-core';
import { BoundDevice } from './bound-device.ts';
import type { IommufdContext } from './context.ts';
import type { EventQueue } from './event-queue.ts';
import { HwptPaging } from './hwpt.ts';
import type { MmapRange } from './mmap-ranges.ts';
import { IommufdObject, type ObjectDetails } from './object-table.ts';
import { IOMMU_VIOMMU_TYPE_DEFAULT } from './uapi/viommu.ts';
import type { Vdevice } from './vdevice.ts';

const CALL = 'IOMMU_VIOMMU_ALLOC';

export class Viommu extends IommufdObject implements ViommuCore {
  readonly type = 'viommu';
  readonly context: IommufdContext;
  readonly viommuType: number;
  /** The physical IOMMU: only devices behind it can have to do with this one. */
  readonly driver: IommuDriver;
  readonly hwpt: HwptPaging;
  /** By what the guest knows them by. */
  readonly vdevices: Map<bigint, Vdevice> = new Map();
  /** By type. */
  readonly eventQueues: Map<number, EventQueue> = new Map();
  readonly ops: ViommuOps;
  private readonly mmaps: MmapRange[] = [];

  /** @throws {SysError} what the driver refuses with */
  constructor(id: number, hwpt: HwptPaging, device: Device, driver: ViommuDriver, options: ViommuInit) {
    super(id);
    this.context = options.context;
    this.viommuType = options.type;
    this.driver = device.driver;
    this.hwpt = hwpt;
    try {
      this.ops = driver.init(this, device, options.data);
    } catch (error) {
      this.freeMmaps();
      throw error;
    }
    hwpt.users++;
  }

  get parent(): PagingDomain {
    return this.hwpt.domain;
  }

  get uses(): readonly IommufdObject[] {
    return [this.hwpt];
  }

  override details(): ObjectDetails {
    const mmaps = this.mmaps.map(({ offset, length }) => ({ offset: hex(offset), length: hex(length) }));
    return { viommuType: hex(this.viommuType), mmaps };
  }

  destroy(): void {
    this.ops.destroy();
    this.freeMmaps();
    this.hwpt.users--;
  }

  findDevice(virtId: bigint): Device | null {
    return this.vdevices.get(virtId)?.device ?? null;
  }

  virtIdOf(device: Device): bigint | null {
    for (const [virtId, vdevice] of this.vdevices) if (vdevice.device === device) return virtId;
    return null;
  }

  reportEvent(type: number, data: Uint8Array): void {
    const call = 'iommufd_viommu_report_event';
    if (data.length === 0) throw new SysError('EINVAL', call, 'an event without data');
    const queue = this.eventQueues.get(type);
    if (queue === undefined) {
      throw new SysError('EOPNOTSUPP', call, `vIOMMU ${this.id} has no queue of type ${hex(type)}`);
    }
    queue.report(data);
  }

  allocMmap(base: bigint, length: bigint): bigint {
    const range = this.context.mmaps.allocate(this, base, length);
    this.mmaps.push(range);
    return range.offset;
  }

  private freeMmaps(): void {
    for (const range of this.mmaps) this.context.mmaps.free(range);
  }
}

type ViommuInit = {
  readonly context: IommufdContext;
  readonly type: number;
  readonly data: UserReply | null;
};

export type ViommuAllocOptions = {
  flags: number;
  /** Of enum iommu_viommu_type. */
  type: number;
  /** A device behind the physical IOMMU. */
  deviceId: number;
  /** The nest parent. */
  hwptId: number;
  /** Null when the caller has none. */
  data: UserReply | null;
};

/**
 * Makes a vIOMMU on a nest parent.
 * @throws {SysError} EOPNOTSUPP flags, type 0, or a type that the device's IOMMU does not have; ENOENT no device, no
 * paging table; EINVAL the table is no nest parent, or of another IOMMU; ENOMEM; and the driver's errors
 */
export function viommuAlloc(context: IommufdContext, options: ViommuAllocOptions): Viommu {
  const { flags, type, data } = options;
  if (flags !== 0 || type === IOMMU_VIOMMU_TYPE_DEFAULT) {
    throw new SysError('EOPNOTSUPP', CALL, `type ${hex(type)} with flags ${hex(flags)}`);
  }
  const { device } = context.objects.get(options.deviceId, BoundDevice);
  const driver = device.driver.viommu;
  if (driver === null || !driver.supports(device, type)) {
    throw new SysError('EOPNOTSUPP', CALL, `the IOMMU of ${device.name} has no vIOMMUs of type ${hex(type)}`);
  }
  const hwpt = context.objects.get(options.hwptId, HwptPaging);
  if (!hwpt.domain.nestParent || hwpt.domain.driver !== device.driver) {
    throw new SysError('EINVAL', CALL, `${hwpt.id} is no nest parent of the IOMMU of ${device.name}`);
  }
  return context.objects.create((id) => new Viommu(id, hwpt, device, driver, { context, type, data }));
}
