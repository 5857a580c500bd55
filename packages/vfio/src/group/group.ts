/**
 * A group as VFIO offers it: the way to devices that goes through a container (Linux: drivers/vfio/group.c). One file at
 * a time has it open, and devices got through that file keep it open.
 */

import { type Device, type IommuGroup, SysError } from '@iommukit/iommu-core';
import type { VfioContainer } from '../container/container.ts';
import { VfioDeviceFile } from '../device-file.ts';
import type { OfferedDevice } from '../offered-device.ts';
import { parseDeviceName } from './device-name.ts';

/** A device on offer that is a function under the iommu core. */
export type GroupMember = OfferedDevice & { readonly device: Device };

export class VfioGroup {
  readonly iommuGroup: IommuGroup;
  /** Devices of the group that are on offer. */
  readonly members: Set<GroupMember> = new Set();
  private container: VfioContainer | null = null;
  /** The group's file, and devices that were got through it. */
  private holders = 0;
  private openDevices = 0;

  constructor(iommuGroup: IommuGroup) {
    this.iommuGroup = iommuGroup;
  }

  get path(): string {
    return `/dev/vfio/${this.iommuGroup.id}`;
  }

  get devices(): readonly Device[] {
    return [...this.members].map(({ device }) => device);
  }

  /** Stands for the group where the core asks for a device. */
  get device(): Device {
    return this.iommuGroup.devices[0]!;
  }

  get isOpen(): boolean {
    return this.holders > 0;
  }

  get hasContainer(): boolean {
    return this.container !== null;
  }

  /** False while kernel drivers, or another owner, have the group's DMA. */
  get isViable(): boolean {
    return this.hasContainer || this.iommuGroup.ownerCount === 0;
  }

  /** A device is about to be bound by a file of its own. @throws {SysError} EBUSY the group is open */
  checkClosed(call: string): void {
    if (this.isOpen) throw new SysError('EBUSY', call, `${this.path} is open`);
  }

  /** The file of the group is opened. @throws {SysError} EBUSY it is open, or a device is bound by a file of its own */
  open(): void {
    this.checkClosed('open');
    for (const { user, name } of this.members) {
      if (user !== null) throw new SysError('EBUSY', 'open', `${name} of ${this.path} is in use`);
    }
    this.holders++;
  }

  /** A holder lets go; with the last one the group leaves its container. Never fails. */
  release(): void {
    if (--this.holders > 0) return;
    this.container?.removeGroup(this);
    this.container = null;
  }

  /** @throws {SysError} EINVAL the group has a container; and as `VfioContainer.addGroup` */
  setContainer(container: () => VfioContainer): void {
    if (this.container !== null) {
      throw new SysError('EINVAL', 'VFIO_GROUP_SET_CONTAINER', `${this.path} has a container`);
    }
    const target = container();
    target.addGroup(this);
    this.container = target;
  }

  /** @throws {SysError} EINVAL the group has no container; EBUSY devices are open */
  unsetContainer(): void {
    const call = 'VFIO_GROUP_UNSET_CONTAINER';
    const { container, openDevices } = this;
    if (container === null) throw new SysError('EINVAL', call, `${this.path} has no container`);
    if (openDevices > 0) throw new SysError('EBUSY', call, `${openDevices} devices of ${this.path} are open`);
    container.removeGroup(this);
    this.container = null;
  }

  /**
   * Opens a device by name: `0000:01:00.0`, with ` vf_token=UUID` behind it where one is needed.
   * @throws {SysError} ENODEV no such device; EINVAL the text behind the name, no container, or the device is open;
   * EACCES the token; and as `VfioContainer.openDevice` and `ContainerDma.attach`
   */
  openDevice(text: string): VfioDeviceFile {
    const call = 'VFIO_GROUP_GET_DEVICE_FD';
    const { member, token } = this.find(call, text);
    const { container } = this;
    if (container === null) throw new SysError('EINVAL', call, `${this.path} has no container`);
    const file = new VfioDeviceFile(member, this);
    const dma = file.take(
      call,
      () => token,
      () => container,
      (target) => {
        const taken = target.openDevice(member, () => this.deviceClosed());
        this.openDevices++;
        this.holders++;
        return taken;
      },
    );
    try {
      dma.attach();
    } catch (error) {
      file.release();
      throw error;
    }
    return file;
  }

  private deviceClosed(): void {
    this.openDevices--;
    this.release();
  }

  private find(call: string, text: string): { member: GroupMember; token: Uint8Array | null } {
    for (const member of this.members) {
      const parsed = parseDeviceName(call, text, member.name);
      if (parsed !== null) return { member, token: parsed.token };
    }
    throw new SysError('ENODEV', call, `no device of ${this.path} is called ${text}`);
  }
}
