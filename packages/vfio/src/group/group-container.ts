/** What a group is set into: a VFIO container, or a /dev/iommu in its place. */

import type { DmaBinding } from '../dma-binding.ts';
import type { GroupMember, VfioGroup } from './group.ts';

export type GroupContainer = {
  /** A group joins. @throws {SysError} the group then stays out */
  addGroup(group: VfioGroup): void;
  /** A group leaves. Never fails. */
  removeGroup(group: VfioGroup): void;
  /** Binds a device of a group that has joined; its DMA is blocked. @throws {SysError} */
  openDevice(member: GroupMember, group: VfioGroup): GroupDma;
};

export type GroupDma = DmaBinding & {
  /** Lets DMA reach what is mapped, once the device has been reset. @throws {SysError} */
  attach(): void;
};
