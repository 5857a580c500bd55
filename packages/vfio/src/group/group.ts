/**
 * A group as VFIO offers it: the way to devices that goes through a container (Linux: drivers/vfio/group.c). One file at
 * a time has it open; devices that were got through it into a VFIO container keep it open.
 */

import { type Device, type IommuGroup, SysError } from '@iommukit/iommu-core';
import { VfioDeviceFile } from '../device-file.ts';
import { DeviceUse } from '../device-use.ts';
import type { OfferedDevice } from '../offered-device.ts';
import { parseDeviceName } from './device-name.ts';
import type { GroupContainer } from './group-container.ts';

/** A device on offer that is a function under the iommu core. */
export type GroupMember = OfferedDevice & { readonly device: Device };

export class VfioGroup {
  readonly iommuGroup: IommuGroup;
  /** Devices of the group that are on offer. */
  readonly members: Set<GroupMember> = new Set();
  private container: GroupContainer | null = null;
  /** The group's file, and devices that keep it open. */
  private holders = 0;
  private openDevices = 0;
  /** Devices that are bound by files of their own. */
  private blockers = 0;
  /** Devices that were got through the group. */
  private readonly uses = new Map<GroupMember, DeviceUse>();

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

  /** A device is bound by a file of its own, until `unblock`. */
  block(): void {
    this.blockers++;
  }

  unblock(): void {
    this.blockers--;
  }

  /** The file of the group is opened. @throws {SysError} EBUSY it is open, or a device is bound by a file of its own */
  open(): void {
    this.checkClosed('open');
    if (this.blockers > 0) {
      throw new SysError('EBUSY', 'open', `${this.blockers} devices of ${this.path} are bound by their own files`);
    }
    this.holders++;
  }

  /** An open device keeps the group open and in its container, until `unuse`. */
  use(): void {
    this.holders++;
    this.openDevices++;
  }

  unuse(): void {
    this.openDevices--;
    this.release();
  }

  /** A holder lets go; with the last one the group leaves its container. Never fails. */
  release(): void {
    if (--this.holders > 0) return;
    this.container?.removeGroup(this);
    this.container = null;
  }

  /** @throws {SysError} EINVAL the group has a container; and as `GroupContainer.addGroup` */
  setContainer(container: () => GroupContainer): void {
    if (this.container !== null) {
      throw new SysError('EINVAL', 'VFIO_GROUP_SET_CONTAINER', `${this.path} has a container`);
    }
    const target = container();
    target.addGroup(this);
    this.container = target;
  }

  /** @throws {SysError} EINVAL the group has no container; EBUSY devices are open that need it */
  unsetContainer(): void {
    const call = 'VFIO_GROUP_UNSET_CONTAINER';
    const { container, openDevices } = this;
    if (container === null) throw new SysError('EINVAL', call, `${this.path} has no container`);
    if (openDevices > 0) throw new SysError('EBUSY', call, `${openDevices} devices of ${this.path} are open`);
    container.removeGroup(this);
    this.container = null;
  }

  /**
   * Opens a device by name: `0000:01:00.0`, with ` vf_token=UUID` behind it where one is needed. A device that is open
   * already is given once more, as it is.
   * @throws {SysError} ENODEV no such device; EINVAL the text behind the name, or no container; EACCES the token; and as
   * `GroupContainer.openDevice` and `GroupDma.attach`
   */
  openDevice(text: string): VfioDeviceFile {
    const call = 'VFIO_GROUP_GET_DEVICE_FD';
    const member = this.find(call, text);
    const { container } = this;
    if (container === null) throw new SysError('EINVAL', call, `${this.path} has no container`);
    const shared = this.uses.get(member);
    if (shared !== undefined) {
      shared.hold();
      return new VfioDeviceFile(member, shared);
    }
    const dma = container.openDevice(member, this);
    const use = new DeviceUse(member, dma, () => this.uses.delete(member));
    try {
      dma.attach();
    } catch (error) {
      use.release();
      throw error;
    }
    this.uses.set(member, use);
    return new VfioDeviceFile(member, use);
  }

  /** The device that is named, when its token is right. */
  private find(call: string, text: string): GroupMember {
    for (const member of this.members) {
      const parsed = parseDeviceName(call, text, member.name);
      if (parsed === null) continue;
      member.checkToken(parsed.token);
      return member;
    }
    throw new SysError('ENODEV', call, `no device of ${this.path} is called ${text}`);
  }
}
