/**
 * A /dev/iommu in the place of a container: a group that is set into it gives devices that are bound there and attached
 * to the IOAS that its type1 interface works on (Linux: drivers/vfio/iommufd.c, and iommufd_vfio_compat_ioas_create in
 * drivers/iommu/iommufd/vfio_compat.c).
 *
 * The group's DMA is nobody's until a device is opened, which then holds the context and not the group: the group can be
 * unset and closed before it.
 */

import { type IommufdContext, type1EnsureIoas } from '@iommukit/iommufd';
import type { IommufdBinding } from '../offered-device.ts';
import type { GroupMember } from './group.ts';
import type { GroupContainer, GroupDma } from './group-container.ts';

export class IommufdContainer implements GroupContainer {
  private readonly context: IommufdContext;

  constructor(context: IommufdContext) {
    this.context = context;
  }

  /** Makes an IOAS for type1 when none is set. @throws {SysError} ENOMEM */
  addGroup(): void {
    type1EnsureIoas(this.context);
    this.context.hold();
  }

  removeGroup(): void {
    this.context.release();
  }

  /** @throws {SysError} the errors of bindDevice */
  openDevice(member: GroupMember): GroupDma {
    return new CompatDma(member.bindIommufd(this.context));
  }
}

class CompatDma implements GroupDma {
  readonly kind = '/dev/iommu by its group';
  private readonly binding: IommufdBinding;

  constructor(binding: IommufdBinding) {
    this.binding = binding;
  }

  /** @throws {SysError} ENODEV the IOAS for type1 is gone; and the errors of IommufdDevice.attach */
  attach(): void {
    const { binding } = this;
    binding.attach(binding.context.compatIoas.get('VFIO_GROUP_GET_DEVICE_FD').id);
  }

  unbind(): void {
    this.binding.unbind();
  }
}
