/** /dev/vfio/N as a file, with its ioctls (Linux: vfio_group_fops_unl_ioctl, drivers/vfio/group.c). */

import { hex, PAGE_SIZE } from '@iommukit/hw';
import { type AddressSpace, SysError } from '@iommukit/iommu-core';
import { type Caller, copyFromUser, type File, iommufdContextOf } from '@iommukit/iommufd';
import { fetch, storeStruct } from '../argument.ts';
import { VfioContainerFile } from '../container/container-file.ts';
import * as uapi from '../uapi/container.ts';
import type { VfioGroup } from './group.ts';
import { IommufdContainer } from './iommufd-container.ts';

export class VfioGroupFile implements File {
  readonly name: string;
  readonly group: VfioGroup;

  /** @throws {SysError} EBUSY the group is open, or a device of it is bound by a file of its own */
  constructor(group: VfioGroup) {
    group.open();
    this.group = group;
    this.name = group.path;
  }

  /**
   * @throws {SysError} EFAULT the argument cannot be read or answered; EINVAL it is too short; ENOTTY no such command;
   * EBADF, EBADFD the descriptor of a container or /dev/iommu; EMFILE; and the command's own
   */
  ioctl(caller: Caller, request: number, argument: bigint): number {
    const memory = caller.process.addressSpace;
    switch (request >>> 0) {
      case uapi.VFIO_GROUP_GET_STATUS: {
        const layout = uapi.vfioGroupStatus;
        const { argsz } = fetch('VFIO_GROUP_GET_STATUS', memory, argument, layout, 'flags');
        storeStruct(memory, argument, layout, { argsz, flags: this.status });
        return 0;
      }
      case uapi.VFIO_GROUP_SET_CONTAINER: {
        const fd = new DataView(copyFromUser(memory, argument, 4).buffer).getInt32(0, true);
        this.setContainer(caller, fd);
        return 0;
      }
      case uapi.VFIO_GROUP_UNSET_CONTAINER:
        this.group.unsetContainer();
        return 0;
      case uapi.VFIO_GROUP_GET_DEVICE_FD:
        return this.openDevice(caller, copyString(memory, argument));
      default:
        throw new SysError('ENOTTY', 'ioctl', `${this.name} has no request ${hex(request >>> 0)}`);
    }
  }

  /** VFIO_GROUP_FLAGS_ bits. */
  get status(): number {
    const { isViable, hasContainer } = this.group;
    return (isViable ? uapi.VFIO_GROUP_FLAGS_VIABLE : 0) | (hasContainer ? uapi.VFIO_GROUP_FLAGS_CONTAINER_SET : 0);
  }

  /** @throws {SysError} EBADF, EBADFD; and as `VfioGroup.setContainer` */
  setContainer({ descriptors }: Caller, fd: number): void {
    const file = descriptors.get(fd);
    this.group.setContainer(() => {
      return file instanceof VfioContainerFile ? file.container : new IommufdContainer(iommufdContextOf(file));
    });
  }

  /** @returns a descriptor. @throws {SysError} EMFILE; and as `VfioGroup.openDevice` */
  openDevice({ descriptors }: Caller, name: string): number {
    const file = this.group.openDevice(name);
    try {
      return descriptors.install(file);
    } catch (error) {
      file.release();
      throw error;
    }
  }

  /** Devices in a VFIO container that were got through the file keep the group open. */
  release(): void {
    this.group.release();
  }
}

/** A string of the caller's, at most a page long. @throws {SysError} EFAULT; EINVAL it does not end within a page */
function copyString(memory: AddressSpace, address: bigint): string {
  let text = '';
  for (let at = 0; at < PAGE_SIZE; at++) {
    const [byte = 0] = copyFromUser(memory, address + BigInt(at), 1);
    if (byte === 0) return text;
    text += String.fromCharCode(byte);
  }
  throw new SysError('EINVAL', 'VFIO_GROUP_GET_DEVICE_FD', 'the name is longer than a page');
}
