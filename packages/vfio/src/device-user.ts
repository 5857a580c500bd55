/**
 * What an open device file gives its user once the device is in his hands: regions, interrupts, reset. A PCI function
 * is one kind (pci/pci-user.ts).
 */

import type { EventFd, Mapping } from '@iommukit/iommufd';
import type { InfoCapability } from './info-capability.ts';

export type DeviceInfo = {
  /** VFIO_DEVICE_FLAGS_ bits. */
  readonly flags: number;
  readonly regions: number;
  readonly irqs: number;
};

export type RegionInfo = {
  /** VFIO_REGION_INFO_FLAG_ bits, without the one for capabilities. */
  readonly flags: number;
  readonly size: bigint;
  readonly offset: bigint;
  /** The MSI-X table lies in the region and can be mapped. */
  readonly msixMappable: boolean;
  /** Parts that can be mapped, when not all of it can; null otherwise. */
  readonly sparse: readonly { readonly offset: bigint; readonly size: bigint }[] | null;
  /** What else there is to say. */
  readonly capabilities?: readonly InfoCapability[];
};

export type IrqInfo = {
  /** VFIO_IRQ_INFO_ bits, without the one for capabilities. */
  readonly flags: number;
  readonly count: number;
  readonly capabilities?: readonly InfoCapability[];
};

/**
 * What a call says of each interrupt it names: nothing, a truth value, or an eventfd (null takes the trigger away,
 * undefined leaves it).
 */
export type IrqData =
  | { readonly kind: 'none' }
  | { readonly kind: 'bool'; readonly values: readonly boolean[] }
  | { readonly kind: 'eventfd'; readonly values: readonly (EventFd | null | undefined)[] };

export type IrqRequest = {
  /** One VFIO_IRQ_SET_ACTION_ bit. */
  readonly action: number;
  readonly index: number;
  readonly start: number;
  readonly count: number;
  readonly data: IrqData;
};

export type DeviceInterrupts = {
  /** @throws {SysError} EINVAL no such index */
  info(index: number): IrqInfo;
  /** @throws {SysError} EINVAL the request makes no sense here; and what giving the device the interrupt throws */
  set(request: IrqRequest): void;
};

export type DeviceUser = {
  readonly info: DeviceInfo;
  readonly interrupts: DeviceInterrupts;
  /** @throws {SysError} EINVAL no such region */
  regionInfo(index: number): RegionInfo;
  /**
   * Reads at `position` of the device file: region index in bits 63..40, offset in the region below. Gives the bytes read.
   * @throws {SysError} EINVAL no such region, or past its end; EFAULT past the end of configuration space; EIO memory decode is off
   */
  read(position: bigint, into: Uint8Array): number;
  /** Writes at `position`, as `read` reads. Gives the bytes written. @throws {SysError} EINVAL, EFAULT, EIO */
  write(position: bigint, from: Uint8Array): number;
  /** Whole pages of a region, to be mapped into a process. @throws {SysError} EINVAL nothing that can be mapped so */
  mmap(position: bigint, length: bigint, shared: boolean): Mapping;
  /** @throws {SysError} EINVAL the device cannot be reset; EBUSY it is being reset */
  reset(): void;
  /** Gives the device back, silent and reset. Never fails. */
  close(): void;
};
