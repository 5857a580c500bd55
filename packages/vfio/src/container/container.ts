/**
 * A container: groups whose devices share one I/O address space (Linux: drivers/vfio/container.c and
 * vfio_iommu_type1.c). A façade on one context of /dev/iommu: the address space is an IOAS, and what devices attach to
 * is one hardware page table on it, in a container of the nesting type a nest parent. Nothing is pinned, mapped or
 * attached but through them.
 *
 * Groups own their DMA from when they are set; devices are bound and attached as they are opened. With its last group a
 * container loses everything.
 */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { claimDmaOwner, type Device, type Kernel, type Process, releaseDmaOwner, SysError } from '@iommukit/iommu-core';
import {
  allocPaging,
  type HwptPaging,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  type Ioas,
  type IommufdContext,
  type IommufdNode,
  ioasAlloc,
  ioasMap,
  ioasUnmap,
} from '@iommukit/iommufd';
import type { GroupMember, VfioGroup } from '../group/group.ts';
import * as uapi from '../uapi/container.ts';
import { ContainerDma } from './container-dma.ts';
import { GuestTables, type NestingCore } from './guest-tables.ts';

export type ContainerOptions = {
  /** Where the container's context comes from. */
  iommufd: (kernel: Kernel) => IommufdNode;
  /** Without it there are no containers of the nesting type. */
  core: NestingCore | null;
};

export type DmaMapRequest = {
  /** VFIO_DMA_MAP_FLAG_ bits. */
  flags: number;
  /** Address in the caller's memory. */
  vaddr: bigint;
  iova: bigint;
  /** Bytes. */
  size: bigint;
};

/** What SET_IOMMU makes. */
export type ContainerIommu = {
  /** VFIO_TYPE1v2_IOMMU or VFIO_TYPE1_NESTING_IOMMU. */
  readonly type: number;
  readonly ioas: Ioas;
  readonly hwpt: HwptPaging;
};

export class VfioContainer {
  private readonly options: ContainerOptions;
  private readonly groups = new Set<VfioGroup>();
  private readonly devices = new Set<ContainerDma>();
  /** There while the container has a group. It owns the DMA of the groups. */
  private context: IommufdContext | null = null;
  private made: ContainerIommu | null = null;

  constructor(options: ContainerOptions) {
    this.options = options;
  }

  /** @throws {SysError} ENODEV no IOMMU is set */
  get iommu(): ContainerIommu {
    return this.require('vfio_iommu');
  }

  /** Devices that are open, in the order in which they were opened. */
  get openDevices(): readonly Device[] {
    return [...this.devices].map(({ device }) => device);
  }

  /** Devices of the groups, open or not. */
  get groupDevices(): readonly Device[] {
    return [...this.groups].flatMap((group) => group.devices);
  }

  /** 1 when the container can do what a VFIO_ extension names, else 0. @throws {SysError} ENODEV VFIO_DMA_CC_IOMMU without an IOMMU */
  checkExtension(extension: bigint): number {
    switch (Number(extension)) {
      case uapi.VFIO_TYPE1v2_IOMMU:
      case uapi.VFIO_UNMAP_ALL:
        return 1;
      case uapi.VFIO_TYPE1_NESTING_IOMMU:
        return this.options.core === null ? 0 : 1;
      case uapi.VFIO_DMA_CC_IOMMU:
        // Devices whose DMA is not coherent cannot be bound.
        this.require('VFIO_CHECK_EXTENSION');
        return 1;
      default:
        return 0;
    }
  }

  /**
   * A group joins: its DMA is blocked until its devices are opened.
   * @throws {SysError} EPERM kernel drivers or another owner have its DMA; EBUSY it is not at its default domain, or
   * PASIDs are attached; EINVAL a device must stay mapped one to one; ENOMEM
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
    this.context = context;
    this.groups.add(group);
  }

  /** A group none of whose devices is open leaves. With the last one the IOMMU and all mappings go. Never fails. */
  removeGroup(group: VfioGroup): void {
    const { context } = this;
    this.groups.delete(group);
    releaseDmaOwner(group.device);
    if (this.groups.size > 0 || context === null) return;
    this.made = null;
    this.context = null;
    context.release();
  }

  /**
   * Makes the address space, of a type that stays until the last group has left.
   * @throws {SysError} EINVAL no such type, or a type is set; ENODEV no group; EOPNOTSUPP the IOMMU cannot nest; ENOMEM
   */
  setIommu(type: bigint): void {
    const call = 'VFIO_SET_IOMMU';
    const number = Number(type);
    const isType = number === uapi.VFIO_TYPE1v2_IOMMU || number === uapi.VFIO_TYPE1_NESTING_IOMMU;
    if (!isType || this.checkExtension(type) === 0) throw new SysError('EINVAL', call, `no IOMMU has type ${type}`);
    const [group] = this.groups;
    const { context } = this;
    if (context === null || group === undefined) throw new SysError('ENODEV', call, 'the container has no group');
    if (this.made !== null) throw new SysError('EINVAL', call, `the container is of type ${this.made.type}`);
    const nests = number === uapi.VFIO_TYPE1_NESTING_IOMMU;
    const ioas = ioasAlloc(context, 0);
    try {
      const flags = nests ? IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID : 0;
      this.made = { type: number, ioas, hwpt: allocPaging(context, ioas, group.device, flags) };
    } catch (error) {
      context.objects.destroy(ioas.id);
      throw error;
    }
  }

  /**
   * Maps the caller's memory and pins it. What a device reserves is reserved while it is open.
   * @throws {SysError} EINVAL flags, or an address or size that is misaligned, empty, reserved or past the end of the
   * address space; ENODEV no IOMMU; EEXIST something is mapped there; EFAULT; ENOMEM
   */
  map(caller: Process, { flags, vaddr, iova, size }: DmaMapRequest): void {
    const call = 'VFIO_IOMMU_MAP_DMA';
    if ((flags & ~(uapi.VFIO_DMA_MAP_FLAG_READ | uapi.VFIO_DMA_MAP_FLAG_WRITE)) !== 0) {
      throw new SysError('EINVAL', call, `flags ${hex(flags)}`);
    }
    const { ioas } = this.require(call);
    let mapFlags = IOMMU_IOAS_MAP_FIXED_IOVA;
    if ((flags & uapi.VFIO_DMA_MAP_FLAG_READ) !== 0) mapFlags |= IOMMU_IOAS_MAP_READABLE;
    if ((flags & uapi.VFIO_DMA_MAP_FLAG_WRITE) !== 0) mapFlags |= IOMMU_IOAS_MAP_WRITEABLE;
    try {
      ioasMap(ioas.context, caller, { ioasId: ioas.id, flags: mapFlags, userVa: vaddr, length: size, iova });
    } catch (error) {
      // type1 says of every range that cannot be what it says of a misaligned one.
      if (error instanceof SysError && error.code === 'EOVERFLOW') throw new SysError('EINVAL', call, error.message);
      throw error;
    }
  }

  /**
   * Unmaps what was mapped in a range, which may be nothing. @returns bytes unmapped
   * @throws {SysError} EINVAL the range is misaligned, empty or past the end, or cuts what was mapped in one piece, when
   * nothing is unmapped; ENODEV no IOMMU
   */
  unmap(iova: bigint, size: bigint): bigint {
    const call = 'VFIO_IOMMU_UNMAP_DMA';
    const { ioas } = this.require(call);
    const last = iova + size - 1n;
    if (size === 0n || ((iova | size) & BigInt(PAGE_SIZE - 1)) !== 0n || last > U64_MAX) {
      throw new SysError('EINVAL', call, `${hex(size)} bytes from ${hex(iova)}`);
    }
    if (ioas.table.cuts(iova, last)) {
      throw new SysError('EINVAL', call, `${hex(iova)}..${hex(last)} cuts a mapping`);
    }
    try {
      return ioasUnmap(ioas.context, ioas.id, iova, size);
    } catch (error) {
      if (error instanceof SysError && error.code === 'ENOENT') return 0n;
      throw error;
    }
  }

  /** Unmaps everything. @returns bytes unmapped. @throws {SysError} ENODEV no IOMMU */
  unmapAll(): bigint {
    const { ioas } = this.require('VFIO_IOMMU_UNMAP_DMA');
    return ioasUnmap(ioas.context, ioas.id, 0n, U64_MAX);
  }

  /**
   * Takes a device of one of the groups into use, with its DMA blocked. `onUnbind` runs when it has been given up.
   * @throws {SysError} EINVAL no IOMMU is set; EBUSY somebody hears of the device's faults; and the errors of bindDevice
   */
  openDevice(entry: GroupMember, onUnbind: () => void): ContainerDma {
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
          onUnbind();
        },
      });
      this.devices.add(dma);
      return dma;
    } catch (error) {
      binding.unbind();
      throw error;
    }
  }

  /** The guests' page tables of a container of the nesting type. @throws {SysError} ENODEV no IOMMU is set; EINVAL it is of another type */
  nesting(call: string): GuestTables {
    const { type } = this.require(call);
    const { core } = this.options;
    if (type === uapi.VFIO_TYPE1_NESTING_IOMMU && core !== null) return new GuestTables(core, this.openDevices);
    throw new SysError('EINVAL', call, `the container is of type ${type}`);
  }

  private require(call: string): ContainerIommu {
    if (this.made === null) throw new SysError('ENODEV', call, 'no IOMMU is set in the container');
    return this.made;
  }
}
