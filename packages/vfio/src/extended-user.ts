/**
 * A device with regions and interrupts beyond its own, of kinds that a type and subtype name (Linux:
 * vfio_pci_core_register_dev_region, drivers/vfio/pci/vfio_pci_core.c; vfio_pci_register_irq of the nesting series,
 * version 13). They follow the device's own in index; everything else is the device's.
 */

import { SysError } from '@iommukit/iommu-core';
import type { EventFd, Mapping } from '@iommukit/iommufd';
import type { DeviceInfo, DeviceInterrupts, DeviceUser, IrqInfo, IrqRequest, RegionInfo } from './device-user.ts';
import type { InfoCapability } from './info-capability.ts';
import { checkIrqRange } from './irq-range.ts';
import { setSingleTrigger } from './single-trigger.ts';
import * as uapi from './uapi/vfio.ts';

/** Of a region or an interrupt whose index says nothing. */
export type DeviceSpecificType = { readonly type: number; readonly subtype: number };

export type ExtraRegion = {
  readonly type: DeviceSpecificType;
  /** VFIO_REGION_INFO_FLAG_ bits, without the one for capabilities. */
  readonly flags: number;
  /** Bytes. */
  readonly size: number;
  /** Beside the one that names the type. */
  readonly capabilities: readonly InfoCapability[];
  /** Bytes read, from an offset inside the region on and up to its end at most. @throws {SysError} */
  read(offset: number, into: Uint8Array): number;
  /** Bytes written, as `read` reads. @throws {SysError} */
  write(offset: number, from: Uint8Array): number;
};

/** One interrupt with an index of its own, which the kernel raises. */
export class ExtraInterrupt {
  readonly type: DeviceSpecificType;
  private trigger: EventFd | null = null;

  constructor(type: DeviceSpecificType) {
    this.type = type;
  }

  /** Signals the user's eventfd, if there is one. */
  raise(): void {
    this.trigger?.signal();
  }

  /** @throws {SysError} as `setSingleTrigger` */
  set(request: IrqRequest): void {
    this.trigger = setSingleTrigger(request, this.trigger);
  }
}

export type Extras = { readonly regions: readonly ExtraRegion[]; readonly interrupts: readonly ExtraInterrupt[] };

export class ExtendedUser implements DeviceUser {
  readonly interrupts: DeviceInterrupts;
  private readonly user: DeviceUser;
  private readonly regions: readonly ExtraRegion[];
  private readonly extraInterrupts: readonly ExtraInterrupt[];

  constructor(user: DeviceUser, { regions, interrupts }: Extras) {
    this.user = user;
    this.regions = regions;
    this.extraInterrupts = interrupts;
    this.interrupts = {
      info: (index) => this.interruptInfo(index),
      set: (request) => this.setInterrupt(request),
    };
  }

  get info(): DeviceInfo {
    const { flags, regions, irqs } = this.user.info;
    return { flags, regions: regions + this.regions.length, irqs: irqs + this.extraInterrupts.length };
  }

  regionInfo(index: number): RegionInfo {
    const region = this.region(index);
    if (region === null) return this.user.regionInfo(index);
    return {
      flags: region.flags,
      size: BigInt(region.size),
      offset: BigInt(index) << BigInt(uapi.VFIO_PCI_OFFSET_SHIFT),
      msixMappable: false,
      sparse: null,
      capabilities: [typeCapability(uapi.VFIO_REGION_INFO_CAP_TYPE, region.type), ...region.capabilities],
    };
  }

  read(position: bigint, into: Uint8Array): number {
    const found = this.locate('read', position);
    if (found === null) return this.user.read(position, into);
    const { region, offset } = found;
    return region.read(offset, into.subarray(0, region.size - offset));
  }

  write(position: bigint, from: Uint8Array): number {
    const found = this.locate('write', position);
    if (found === null) return this.user.write(position, from);
    const { region, offset } = found;
    return region.write(offset, from.subarray(0, region.size - offset));
  }

  /** Regions of the device's own alone can be mapped. */
  mmap(position: bigint, length: bigint, shared: boolean): Mapping {
    return this.user.mmap(position, length, shared);
  }

  reset(): void {
    this.user.reset();
  }

  close(): void {
    this.user.close();
  }

  private region(index: number): ExtraRegion | null {
    return this.regions[index - this.user.info.regions] ?? null;
  }

  /** The extra region at a position of the file, or null. @throws {SysError} EINVAL past its end */
  private locate(call: string, position: bigint): { region: ExtraRegion; offset: number } | null {
    const shift = BigInt(uapi.VFIO_PCI_OFFSET_SHIFT);
    const index = Number(position >> shift);
    const region = this.region(index);
    if (region === null) return null;
    const offset = Number(position & ((1n << shift) - 1n));
    if (offset < region.size) return { region, offset };
    throw new SysError('EINVAL', call, `${offset} is outside region ${index}`);
  }

  private interrupt(index: number): ExtraInterrupt | null {
    return this.extraInterrupts[index - this.user.info.irqs] ?? null;
  }

  private interruptInfo(index: number): IrqInfo {
    const interrupt = this.interrupt(index);
    if (interrupt === null) return this.user.interrupts.info(index);
    const capabilities = [typeCapability(uapi.VFIO_IRQ_INFO_CAP_TYPE, interrupt.type)];
    return { flags: uapi.VFIO_IRQ_INFO_EVENTFD, count: 1, capabilities };
  }

  private setInterrupt(request: IrqRequest): void {
    const interrupt = this.interrupt(request.index);
    if (interrupt === null) {
      this.user.interrupts.set(request);
      return;
    }
    const { action, index } = request;
    checkIrqRange(request, 1);
    if (action !== uapi.VFIO_IRQ_SET_ACTION_TRIGGER) {
      throw new SysError('ENOTTY', 'VFIO_DEVICE_SET_IRQS', `action ${action} at index ${index}`);
    }
    interrupt.set(request);
  }
}

/** struct vfio_region_info_cap_type and struct vfio_irq_info_cap_type, behind their header. */
function typeCapability(id: number, { type, subtype }: DeviceSpecificType): InfoCapability {
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, subtype, true);
  return { id, version: 1, data };
}
