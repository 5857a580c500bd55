/**
 * Virtual IOMMUs: a slice of a physical IOMMU that user space gives a guest, with the devices, event queues and hardware
 * queues in it. What a driver does for them, and what it can ask of whoever keeps them (Linux: struct iommufd_viommu_ops
 * and the helpers for drivers, include/linux/iommufd.h and drivers/iommu/iommufd/driver.c).
 *
 * Types of vIOMMUs, events and queues, and the structures that go with them, are the driver's (include/uapi/linux/iommufd.h).
 */

import type { Device } from './device.ts';
import type { InvalidateResult, NestedDomain, PagingDomain } from './domain.ts';
import type { UserArray, UserData, UserReply } from './user-data.ts';

/** A driver's part of making one. */
export type ViommuDriver = {
  /** Whether the IOMMU of `device` has vIOMMUs of this type, which is not 0. */
  supports(device: Device, type: number): boolean;
  /**
   * Makes the driver's half. `core.parent` is a nest parent of the same driver. `data` is null when the user has none.
   * What it has asked of `core` is taken back when it throws.
   * @throws {SysError} EINVAL data; EOPNOTSUPP; EFAULT; ENOMEM
   */
  init(core: ViommuCore, device: Device, data: UserReply | null): ViommuOps;
};

/** The driver's half of a vIOMMU. Null stands for what the family does not have (EOPNOTSUPP). */
export type ViommuOps = {
  /** A domain on the vIOMMU's parent. `flags` holds ALLOC_ bits. @throws {SysError} as IommuDriver.allocNested */
  readonly allocNested: ((flags: number, data: UserData) => NestedDomain) | null;
  /**
   * Carries out invalidations by the numbers of the guest, in order. No entries: a probe of the array's type.
   * @returns entries carried out; when fewer than given, `failure` says why
   */
  readonly invalidate: ((entries: UserArray) => InvalidateResult) | null;
  /**
   * Takes a device into the vIOMMU; `ViommuCore.findDevice` finds it once this has returned. @returns what undoes it,
   * which never fails. @throws {SysError}
   */
  readonly initVdevice: ((vdevice: VdeviceCore) => () => void) | null;
  readonly hwQueues: HwQueueOps | null;
  /** Everything in the vIOMMU is gone. Never fails. */
  destroy(): void;
};

/** Queues in guest memory that hardware reads by physical address. */
export type HwQueueOps = {
  /** Whether there are queues of this type, which is not 0. */
  supports(type: number): boolean;
  /**
   * Gives hardware a queue that starts at physical address `base`. @returns what takes it away again, which never fails
   * @throws {SysError} of an index that cannot be taken, and the driver's own
   */
  init(queue: HwQueueCore, index: number, base: bigint): () => void;
};

/** A vIOMMU as its driver sees it. */
export type ViommuCore = {
  readonly viommuType: number;
  /** The second stage below all domains of the vIOMMU. */
  readonly parent: PagingDomain;
  /** The device that the guest knows by `virtId`, or null (Linux: iommufd_viommu_find_dev). */
  findDevice(virtId: bigint): Device | null;
  /** What the guest knows `device` by, or null when it is not in the vIOMMU (Linux: iommufd_viommu_get_vdev_id). */
  virtIdOf(device: Device): bigint | null;
  /**
   * Reports an event to the vIOMMU's queue of `type`; a full queue notes that one was lost.
   * @throws {SysError} EOPNOTSUPP there is no such queue; EINVAL no data; ENOMEM, and the event is noted as lost
   */
  reportEvent(type: number, data: Uint8Array): void;
  /**
   * Lets the user map `length` bytes from physical address `base`, both multiples of a page, through the file of the
   * vIOMMU's context, until the vIOMMU goes, which it does not while they are mapped (Linux: iommufd_viommu_alloc_mmap).
   * @returns the file offset to map, at least one page. @throws {SysError} EINVAL; ENOMEM; EBUSY no room
   */
  allocMmap(base: bigint, length: bigint): bigint;
};

/** A device in a vIOMMU. */
export type VdeviceCore = {
  readonly device: Device;
  /** What the guest knows it by: stream id, device id or requester id. */
  readonly virtId: bigint;
};

/** A hardware queue as the driver sees it. */
export type HwQueueCore = {
  readonly queueType: number;
  /** Guest-physical address, which need not be page-aligned. */
  readonly base: bigint;
  /** Bytes. */
  readonly length: bigint;
  /**
   * Keeps `other` as long as this queue lives (Linux: iommufd_hw_queue_depend).
   * @throws {SysError} EINVAL it is this queue, or of another vIOMMU
   */
  depend(other: HwQueueCore): void;
};
