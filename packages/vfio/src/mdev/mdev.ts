/**
 * A mediated device: a part of another device that is handed to a user as a device of its own (Linux: struct mdev_device,
 * drivers/vfio/mdev). It is on offer as /dev/vfio/devices/vfioN like any other.
 */

import { type Device, type Kernel, SysError } from '@iommukit/iommu-core';
import { bindMediatedDevice, type IommufdContext, type MediatedDevice } from '@iommukit/iommufd';
import type { DeviceUser } from '../device-user.ts';
import type { OfferedDevice } from '../offered-device.ts';
import type { MdevDma } from './mdev-dma.ts';

/** One kind of mediated device that a parent can be divided into. */
export type MdevType = {
  /** As in sysfs, without the driver's name in front. */
  readonly name: string;
  readonly description: string;
};

/** A device that can be divided, as its kernel driver offers it. */
export type MdevParent = {
  readonly kernel: Kernel;
  /** Names the device in messages. */
  readonly name: string;
  readonly types: readonly MdevType[];
  /** Mediated devices of all types that can exist at a time. */
  readonly instances: number;
  /** Makes what is behind a new mediated device. @throws {SysError} what the driver refuses with */
  create(type: MdevType): MdevBackend;
};

export type MdevBackend = {
  /** The mediated device's share of its parent's DMA. Null when software does for it all that a device would do. */
  readonly dma: MdevDma | null;
  /** Hands the device, in its state after a reset, to a user. @throws {SysError} ENOMEM */
  open(): DeviceUser;
};

export class Mdev implements OfferedDevice {
  readonly parent: MdevParent;
  readonly type: MdevType;
  /** Lower case. */
  readonly uuid: string;
  readonly path: string;
  readonly physicalToken = null;
  user: DeviceUser | null = null;
  /** Null when the device has been removed: files that were open then cannot be bound. */
  private backend: MdevBackend | null;

  /** `index` is the N of vfioN. */
  constructor(parent: MdevParent, type: MdevType, uuid: string, backend: MdevBackend, index: number) {
    this.parent = parent;
    this.type = type;
    this.uuid = uuid;
    this.backend = backend;
    this.path = `/dev/vfio/devices/vfio${index}`;
  }

  get kernel(): Kernel {
    return this.parent.kernel;
  }

  get name(): string {
    return this.uuid;
  }

  get dma(): MdevDma | null {
    return this.backend?.dma ?? null;
  }

  /** The function whose auxiliary domains back the device, or null (Linux 5.2 to 5.13: mdev_get_iommu_device). */
  get iommuDevice(): Device | null {
    return this.dma?.device ?? null;
  }

  checkToken(token: Uint8Array | null): void {
    if (token === null) return;
    throw new SysError('EINVAL', 'VFIO_DEVICE_BIND_IOMMUFD', `${this.uuid} has no use for a token`);
  }

  /** @throws {SysError} ENODEV it has been removed; EINVAL no IOMMU is behind it; and the errors of bindMediatedDevice */
  bindIommufd(context: IommufdContext): MediatedDevice {
    const call = 'VFIO_DEVICE_BIND_IOMMUFD';
    if (this.backend === null) throw new SysError('ENODEV', call, `${this.uuid} has been removed`);
    const { dma } = this.backend;
    if (dma !== null) return bindMediatedDevice(context, dma);
    throw new SysError('EINVAL', call, `no IOMMU is behind ${this.uuid}`);
  }

  takeOver(): DeviceUser {
    return this.backend!.open();
  }

  /** Called by the bus when it removes the device, which nobody uses. */
  retire(): void {
    this.backend = null;
  }
}
