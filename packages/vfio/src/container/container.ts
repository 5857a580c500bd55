/**
 * A container: groups whose devices share one I/O address space (Linux: drivers/vfio/container.c and
 * vfio_iommu_type1.c). A façade on one context of /dev/iommu: the address space is an IOAS, and what devices attach to
 * is one hardware page table on it, in a container of the nesting type a nest parent. Nothing is pinned, mapped or
 * attached but through them.
 *
 * Groups own their DMA from when they are set; devices are bound and attached as they are opened. With its last group a
 * container loses everything.
 */

import { claimDmaOwner, type Device, type Kernel, releaseDmaOwner, SysError } from '@iommukit/iommu-core';
import {
  allocPaging,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  type IommufdContext,
  type IommufdNode,
  ioasAlloc,
} from '@iommukit/iommufd';
import type { GroupMember, VfioGroup } from '../group/group.ts';
import type { GroupContainer } from '../group/group-container.ts';
import * as uapi from '../uapi/container.ts';
import { ContainerDma } from './container-dma.ts';
import { ContainerIommu } from './container-iommu.ts';
import { GuestTables, type NestingCore } from './guest-tables.ts';

const NEST_PARENT = IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID;

export type ContainerOptions = {
  /** Where the container's context comes from. */
  iommufd: (kernel: Kernel) => IommufdNode;
  /** Without it there are no containers of the nesting type. */
  core: NestingCore | null;
  /** Mappings that there can be in a container. */
  dmaEntryLimit: number;
};

export class VfioContainer implements GroupContainer {
  private readonly options: ContainerOptions;
  private readonly groups = new Set<VfioGroup>();
  private readonly devices = new Set<ContainerDma>();
  /** There while the container has a group. It owns the DMA of the groups. */
  private context: IommufdContext | null = null;
  private made: ContainerIommu | null = null;

  constructor(options: ContainerOptions) {
    this.options = options;
  }

  /** @throws {SysError} EINVAL no IOMMU is set */
  get iommu(): ContainerIommu {
    if (this.made === null) throw new SysError('EINVAL', 'vfio_iommu', 'no IOMMU is set in the container');
    return this.made;
  }

  /** Devices that are open, in the order in which they were opened. */
  get openDevices(): readonly Device[] {
    return [...this.devices].map(({ device }) => device);
  }

  /** Devices of the groups, open or not. */
  get groupDevices(): readonly Device[] {
    return [...this.groups].flatMap((group) => group.devices);
  }

  /** 1 when the container can do what a VFIO_ extension names, else 0. */
  checkExtension(extension: bigint): number {
    switch (Number(extension)) {
      case uapi.VFIO_TYPE1_IOMMU:
      case uapi.VFIO_TYPE1v2_IOMMU:
      case uapi.VFIO_UNMAP_ALL:
        return 1;
      case uapi.VFIO_TYPE1_NESTING_IOMMU:
        return this.options.core === null ? 0 : 1;
      case uapi.VFIO_DMA_CC_IOMMU:
        return this.made?.hwpt.enforcesCoherency ? 1 : 0;
      default:
        return 0;
    }
  }

  /**
   * A group joins: its DMA is blocked until its devices are opened.
   * @throws {SysError} EPERM kernel drivers or another owner have its DMA; EBUSY it is not at its default domain, or
   * PASIDs are attached; EINVAL a device must stay mapped one to one, or something is mapped where one reserves; ENOMEM
   */
  addGroup(group: VfioGroup): void {
    const { device } = group;
    const context = this.context ?? this.options.iommufd(device.kernel).createContext({ accountMm: true });
    try {
      claimDmaOwner(device, context);
    } catch (error) {
      if (this.context === null) context.release();
      throw error;
    }
    try {
      this.made?.reserve(group);
    } catch (error) {
      releaseDmaOwner(device);
      throw error;
    }
    this.context = context;
    this.groups.add(group);
  }

  /** A group none of whose devices is open leaves. With the last one the IOMMU and all mappings go. Never fails. */
  removeGroup(group: VfioGroup): void {
    const { context } = this;
    this.groups.delete(group);
    this.made?.unreserve(group);
    releaseDmaOwner(group.device);
    if (this.groups.size > 0 || context === null) return;
    this.made = null;
    this.context = null;
    context.release();
  }

  /**
   * Makes the address space, of a type that stays until the last group has left.
   * @throws {SysError} EINVAL no group, or a type is set; ENODEV no such type; EOPNOTSUPP the IOMMU cannot nest; ENOMEM
   */
  setIommu(extension: bigint): void {
    const call = 'VFIO_SET_IOMMU';
    const [group] = this.groups;
    const { context } = this;
    if (context === null || group === undefined) throw new SysError('EINVAL', call, 'the container has no group');
    if (this.made !== null) throw new SysError('EINVAL', call, `the container is of type ${this.made.type}`);
    if (this.checkExtension(extension) === 0) throw new SysError('ENODEV', call, `no IOMMU has type ${extension}`);
    const type = Number(extension);
    if (type === uapi.VFIO_UNMAP_ALL) throw new SysError('EINVAL', call, `${extension} is an extension of other types`);
    const ioas = ioasAlloc(context, 0);
    try {
      const hwpt = allocPaging(context, ioas, group.device, type === uapi.VFIO_TYPE1_NESTING_IOMMU ? NEST_PARENT : 0);
      try {
        const made = new ContainerIommu({ type, ioas, hwpt, dmaEntryLimit: this.options.dmaEntryLimit });
        for (const member of this.groups) made.reserve(member);
        this.made = made;
      } catch (error) {
        context.objects.destroy(hwpt.id);
        throw error;
      }
    } catch (error) {
      context.objects.destroy(ioas.id);
      throw error;
    }
  }

  /**
   * Takes a device of one of the groups into use, with its DMA blocked. It keeps the group here until it is given up.
   * @throws {SysError} EINVAL no IOMMU is set; EBUSY somebody hears of the device's faults; and the errors of bindDevice
   */
  openDevice(entry: GroupMember, group: VfioGroup): ContainerDma {
    const { context, made } = this;
    if (context === null || made === null) {
      throw new SysError('EINVAL', 'VFIO_GROUP_GET_DEVICE_FD', 'no IOMMU is set in the container');
    }
    const binding = entry.bindIommufd(context);
    try {
      const dma = new ContainerDma({
        device: entry.device,
        binding,
        hwptId: made.hwpt.id,
        nesting: made.type === uapi.VFIO_TYPE1_NESTING_IOMMU ? this.options.core : null,
        onUnbind: (closed) => {
          this.devices.delete(closed);
          group.unuse();
        },
      });
      this.devices.add(dma);
      group.use();
      return dma;
    } catch (error) {
      binding.unbind();
      throw error;
    }
  }

  /** The guests' page tables of a container of the nesting type. @throws {SysError} EINVAL no IOMMU is set, or it is of another type */
  nesting(call: string): GuestTables {
    const { type } = this.iommu;
    const { core } = this.options;
    if (type === uapi.VFIO_TYPE1_NESTING_IOMMU && core !== null) return new GuestTables(core, this.openDevices);
    throw new SysError('EINVAL', call, `the container is of type ${type}`);
  }
}
