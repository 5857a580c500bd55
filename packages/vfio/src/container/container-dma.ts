/**
 * A device in a container: its DMA reaches what is mapped there while its file is open, and in a container of the
 * nesting type its faults go into a ring of its own.
 */

import {
  type AddressSpace,
  type Device,
  encodeDeviceFault,
  type IommuPageResponse,
  iommuPageResponse,
  SysError,
} from '@iommukit/iommu-core';
import { fetch } from '../argument.ts';
import type { DeviceUser } from '../device-user.ts';
import { ExtendedUser } from '../extended-user.ts';
import type { GroupDma } from '../group/group-container.ts';
import type { IommufdBinding } from '../offered-device.ts';
import { FaultRing } from './fault-ring.ts';
import type { NestingCore } from './guest-tables.ts';

const CALL = 'VFIO_DEVICE_PAGE_RESPONSE';

export type ContainerDmaOptions = {
  device: Device;
  /** The device's part of the container's context. */
  binding: IommufdBinding;
  /** What the device attaches to. */
  hwptId: number;
  /** What binds guest PASIDs and reports faults; null in a container of another type. */
  nesting: NestingCore | null;
  /** Runs when the device has been given up. */
  onUnbind: (dma: ContainerDma) => void;
};

export class ContainerDma implements GroupDma {
  readonly kind = 'VFIO container';
  readonly device: Device;
  /** Where the device's faults go; null when the container is not of the nesting type. */
  readonly ring: FaultRing | null;
  private readonly binding: IommufdBinding;
  private readonly hwptId: number;
  private readonly nesting: NestingCore | null;
  private readonly onUnbind: (dma: ContainerDma) => void;

  /** @throws {SysError} EBUSY somebody hears of the device's faults; ENOMEM */
  constructor({ device, binding, hwptId, nesting, onUnbind }: ContainerDmaOptions) {
    this.device = device;
    this.binding = binding;
    this.hwptId = hwptId;
    this.nesting = nesting;
    this.onUnbind = onUnbind;
    const ring = nesting === null ? null : new FaultRing(device.kernel);
    nesting?.deviceFaults.register(device, (fault) => ring!.push(encodeDeviceFault(fault)));
    this.ring = ring;
  }

  /**
   * Lets DMA reach what is mapped, once the device has been reset.
   * @throws {SysError} EINVAL the device does not fit the container's IOMMU; and the errors of IommufdDevice.attach
   */
  attach(): void {
    this.binding.attach(this.hwptId);
  }

  extend(user: DeviceUser): DeviceUser {
    const { ring } = this;
    return ring === null ? user : new ExtendedUser(user, { regions: [ring], interrupts: [ring.interrupt] });
  }

  /**
   * Answers a group of page requests that the ring has told of.
   * @throws {SysError} EINVAL the container is not of the nesting type, a field that the interface does not have, or no
   * such group waits; ENODEV the device's page requests cannot be taken
   */
  pageResponse(response: IommuPageResponse): void {
    if (this.nesting === null) throw new SysError('EINVAL', CALL, `${this.device.name} has no fault ring`);
    this.nesting.deviceFaults.pageResponse(this.device, response);
  }

  /** `pageResponse` with the structure at `argument`. @throws {SysError} EFAULT; EINVAL it is too short; and as `pageResponse` */
  pageResponseUser(memory: AddressSpace, argument: bigint): void {
    this.pageResponse(fetch(CALL, memory, argument, iommuPageResponse, 'code'));
  }

  /** Takes the device's guest PASIDs down, detaches it and gives it up. Never fails. */
  unbind(): void {
    this.nesting?.guestPasids.release(this.device);
    this.nesting?.deviceFaults.release(this.device);
    this.binding.unbind();
    this.onUnbind(this);
  }
}
