/** A group for programs written in TypeScript: each method is one system call on an open /dev/vfio/N. */

import { SysError } from '@iommukit/iommu-core';
import type { SystemCalls } from '@iommukit/iommufd';
import { VfioDeviceClient } from '../client.ts';
import { VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE } from '../uapi/container.ts';
import { VfioGroupFile } from './group-file.ts';

export class VfioGroupClient {
  readonly system: SystemCalls;
  readonly fd: number;
  private readonly file: VfioGroupFile;

  /** `fd` is a descriptor of a /dev/vfio/N. @throws {SysError} EBADF; EINVAL it is another file */
  constructor(system: SystemCalls, fd: number) {
    const file = system.file(fd);
    if (!(file instanceof VfioGroupFile)) throw new SysError('EINVAL', 'vfio', `${file.name} is no group`);
    this.system = system;
    this.fd = fd;
    this.file = file;
  }

  /** Whether the group's DMA is in nobody else's hands, and whether it is in a container. */
  status(): { readonly viable: boolean; readonly containerSet: boolean } {
    const flags = this.system.call('VFIO_GROUP_GET_STATUS', () => this.file.status);
    return {
      viable: (flags & VFIO_GROUP_FLAGS_VIABLE) !== 0,
      containerSet: (flags & VFIO_GROUP_FLAGS_CONTAINER_SET) !== 0,
    };
  }

  /** Joins the container, or the /dev/iommu, that is open as `fd`. @throws {SysError} as VFIO_GROUP_SET_CONTAINER */
  setContainer(fd: number): void {
    this.system.call('VFIO_GROUP_SET_CONTAINER', (caller) => this.file.setContainer(caller, fd));
  }

  /** @throws {SysError} EINVAL the group has no container; EBUSY devices of a VFIO container are open */
  unsetContainer(): void {
    this.system.call('VFIO_GROUP_UNSET_CONTAINER', () => this.file.group.unsetContainer());
  }

  /** Opens a device: its DMA reaches what is mapped in the container. A device can be opened again while it is open. @throws {SysError} as VFIO_GROUP_GET_DEVICE_FD */
  openDevice(name: string): VfioDeviceClient {
    const fd = this.system.call('VFIO_GROUP_GET_DEVICE_FD', (caller) => this.file.openDevice(caller, name));
    return new VfioDeviceClient(this.system, fd);
  }
}
