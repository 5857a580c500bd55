/**
 * Hardware page tables: paging ones show an IOAS, nested ones walk their user's stage 1 on a paging one (Linux:
 * drivers/iommu/iommufd/hw_pagetable.c).
 */

import { hex } from '@iommukit/hw';
import {
  type Device,
  type FaultGroup,
  type NestedDomain,
  type PagingDomain,
  SysError,
  type UserData,
} from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import type { FaultQueue } from './fault-queue.ts';
import type { Ioas } from './ioas/ioas.ts';
import { IommufdObject } from './object-table.ts';
import {
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HWPT_DATA_NONE,
  IOMMU_HWPT_FAULT_ID_VALID,
} from './uapi/iommufd.ts';
import type { Viommu } from './viommu.ts';

const PAGING_FLAGS =
  IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID;
const NESTED_FLAGS = IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID;

const CALL = 'IOMMU_HWPT_ALLOC';

export const NO_USER_DATA: UserData = { type: IOMMU_HWPT_DATA_NONE, length: 0, read: () => new Uint8Array() };

/** What both kinds have. */
abstract class HwptBase extends IommufdObject {
  /** Allocated for use with PASIDs: a table that is not cannot be attached where PASIDs are in use. */
  readonly pasidCompatible: boolean;
  /** Where page requests of attachments to the table go. */
  fault: FaultQueue | null = null;
  abstract readonly domain: PagingDomain | NestedDomain;

  constructor(id: number, flags: number) {
    super(id);
    this.pasidCompatible = (flags & IOMMU_HWPT_ALLOC_PASID) !== 0;
  }

  setFaultQueue(fault: FaultQueue): void {
    fault.users++;
    this.fault = fault;
    this.domain.faultHandler = (group: FaultGroup) => fault.deliver(group);
  }

  get uses(): readonly IommufdObject[] {
    return this.fault === null ? [this.below] : [this.below, this.fault];
  }

  /** What the table stands on. */
  protected abstract get below(): IommufdObject;

  protected releaseDomain(): void {
    this.domain.free();
    if (this.fault !== null) this.fault.users--;
  }
}

export class HwptPaging extends HwptBase {
  readonly type = 'hwpt-paging';
  readonly ioas: Ioas;
  readonly domain: PagingDomain;
  /** Made by attaching an IOAS: goes with its last attachment, and is never a parent. */
  readonly auto: boolean;
  /** What devices say of snooping CPU caches is overruled; decided by the device that it was made for. */
  enforcesCoherency = false;

  constructor(id: number, ioas: Ioas, domain: PagingDomain, flags: number, auto: boolean) {
    super(id, flags);
    this.ioas = ioas;
    this.domain = domain;
    this.auto = auto;
    ioas.users++;
    ioas.hwpts.push(this);
  }

  /** The table whose IOAS devices attached here can reach. */
  get paging(): HwptPaging {
    return this;
  }

  protected get below(): IommufdObject {
    return this.ioas;
  }

  destroy(): void {
    this.ioas.table.removeDomain(this.domain);
    this.ioas.hwpts.splice(this.ioas.hwpts.indexOf(this), 1);
    this.ioas.users--;
    this.releaseDomain();
  }
}

export class HwptNested extends HwptBase {
  readonly type = 'hwpt-nested';
  readonly parent: HwptPaging;
  /** What it was made through, and uses in the place of its parent; null when it was made on the parent itself. */
  readonly viommu: Viommu | null;
  readonly domain: NestedDomain;

  constructor(id: number, parent: HwptPaging, viommu: Viommu | null, domain: NestedDomain, flags: number) {
    super(id, flags);
    this.parent = parent;
    this.viommu = viommu;
    this.domain = domain;
    this.below.users++;
  }

  get paging(): HwptPaging {
    return this.parent;
  }

  protected get below(): IommufdObject {
    return this.viommu ?? this.parent;
  }

  destroy(): void {
    this.releaseDomain();
    this.below.users--;
  }
}

export type Hwpt = HwptPaging | HwptNested;

/**
 * Makes a paging table for a device and fills it with everything in the IOAS.
 * @throws {SysError} EOPNOTSUPP flags, or data, that the device's IOMMU does not have; EINVAL bad data; EINVAL and
 * EADDRINUSE areas do not fit the table; EFAULT, ENOMEM from filling
 */
export function allocPaging(
  context: IommufdContext,
  ioas: Ioas,
  device: Device,
  flags: number,
  data: UserData = NO_USER_DATA,
  auto = false,
): HwptPaging {
  if ((flags & ~PAGING_FLAGS) !== 0) throw new SysError('EOPNOTSUPP', CALL, `flags ${hex(flags)}`);
  if ((flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING) !== 0 && !device.capable('dirty-tracking')) {
    throw new SysError('EOPNOTSUPP', CALL, `the IOMMU of ${device.name} does not track dirty pages`);
  }
  if ((flags & IOMMU_HWPT_FAULT_ID_VALID) !== 0 && (flags & IOMMU_HWPT_ALLOC_NEST_PARENT) !== 0) {
    throw new SysError('EOPNOTSUPP', CALL, 'a nest parent takes no page faults');
  }
  return context.objects.create((id) => {
    const user = data.length > 0 ? data : null;
    const domain = device.driver.allocPaging(device, 'unmanaged', flags & ~IOMMU_HWPT_FAULT_ID_VALID, user);
    try {
      ioas.table.addDomain(domain);
    } catch (error) {
      domain.free();
      throw error;
    }
    const hwpt = new HwptPaging(id, ioas, domain, flags, auto);
    hwpt.enforcesCoherency = device.capable('enforce-cache-coherency');
    traceAlloc(context, hwpt, ioas.id, 'paging');
    return hwpt;
  });
}

/**
 * Makes a nested table whose stage 1 is the user's.
 * @throws {SysError} EOPNOTSUPP flags, no data, or a type the device's IOMMU does not have; EINVAL the parent is not a
 * nest parent of the same driver, or bad data; EFAULT; ENOMEM
 */
export function allocNested(
  context: IommufdContext,
  parent: HwptPaging,
  device: Device,
  flags: number,
  data: UserData,
): HwptNested {
  if ((flags & ~NESTED_FLAGS) !== 0 || data.length === 0) {
    throw new SysError('EOPNOTSUPP', CALL, `nested with flags ${hex(flags)} and ${data.length} bytes of data`);
  }
  if (parent.auto || !parent.domain.nestParent || parent.domain.driver !== device.driver) {
    throw new SysError('EINVAL', CALL, `${parent.id} cannot be the parent of a table for ${device.name}`);
  }
  return context.objects.create((id) => {
    const domain = device.driver.allocNested(device, parent.domain, flags & ~IOMMU_HWPT_FAULT_ID_VALID, data);
    const hwpt = new HwptNested(id, parent, null, domain, flags);
    traceAlloc(context, hwpt, parent.id, 'nested');
    return hwpt;
  });
}

/**
 * Makes a nested table through a vIOMMU, on its parent.
 * @throws {SysError} EINVAL the device is behind another IOMMU; EOPNOTSUPP flags, no data, a type or a vIOMMU that has no
 * nested tables; EINVAL bad data; EFAULT; ENOMEM
 */
export function allocNestedOnViommu(
  context: IommufdContext,
  viommu: Viommu,
  device: Device,
  flags: number,
  data: UserData,
): HwptNested {
  const { ops, hwpt: parent } = viommu;
  if (viommu.driver !== device.driver) {
    throw new SysError('EINVAL', CALL, `${device.name} is not behind the IOMMU of vIOMMU ${viommu.id}`);
  }
  if ((flags & ~NESTED_FLAGS) !== 0 || data.length === 0 || ops.allocNested === null) {
    throw new SysError(
      'EOPNOTSUPP',
      CALL,
      `vIOMMU ${viommu.id} with flags ${hex(flags)}, ${data.length} bytes of data`,
    );
  }
  return context.objects.create((id) => {
    const domain = ops.allocNested!(flags & ~IOMMU_HWPT_FAULT_ID_VALID, data);
    const hwpt = new HwptNested(id, parent, viommu, domain, flags);
    traceAlloc(context, hwpt, viommu.id, 'nested');
    return hwpt;
  });
}

function traceAlloc(context: IommufdContext, hwpt: Hwpt, parent: number, kind: 'paging' | 'nested'): void {
  if (!context.trace.enabled) return;
  context.trace.emit({
    name: 'hwpt_alloc',
    context: context.id,
    hwpt: hwpt.id,
    parent,
    kind,
    domain: hwpt.domain.id,
  });
}
