/** /dev/vfio/vfio as a file. A container outlives its file while groups are in it. */

import { SysError } from '@iommukit/iommu-core';
import type { Caller, File } from '@iommukit/iommufd';
import type { VfioContainer } from './container.ts';
import { containerIoctl } from './container-ioctl.ts';

export const CONTAINER_PATH = '/dev/vfio/vfio';

export class VfioContainerFile implements File {
  readonly name: string = CONTAINER_PATH;
  readonly container: VfioContainer;

  constructor(container: VfioContainer) {
    this.container = container;
  }

  ioctl(caller: Caller, request: number, argument: bigint): number {
    return containerIoctl(this.container, caller.process, request, argument);
  }

  /** Groups that are in the container hold it. */
  release(): void {}
}

/** The container of an open /dev/vfio/vfio. @throws {SysError} EBADFD it is another file */
export function containerOf(file: File): VfioContainer {
  if (file instanceof VfioContainerFile) return file.container;
  throw new SysError('EBADFD', 'VFIO_GROUP_SET_CONTAINER', `${file.name} is no container`);
}
