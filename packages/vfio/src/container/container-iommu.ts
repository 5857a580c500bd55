/**
 * What SET_IOMMU makes: the I/O address space of a container and the calls that change it (Linux:
 * drivers/vfio/vfio_iommu_type1.c). A façade on an IOAS, in which each call's mapping is one area, and on one hardware
 * page table.
 */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { type Process, SysError } from '@iommukit/iommu-core';
import {
  type HwptPaging,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  type Ioas,
  ioasMap,
  ioasUnmap,
} from '@iommukit/iommufd';
import type { VfioGroup } from '../group/group.ts';
import {
  VFIO_DMA_MAP_FLAG_READ as READ,
  VFIO_TYPE1_IOMMU,
  VFIO_DMA_MAP_FLAG_WRITE as WRITE,
} from '../uapi/container.ts';

export type DmaMapRequest = {
  /** VFIO_DMA_MAP_FLAG_ bits. */
  flags: number;
  /** Address in the caller's memory. */
  vaddr: bigint;
  iova: bigint;
  /** Bytes. */
  size: bigint;
};

export type ContainerIommuOptions = {
  /** VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU or VFIO_TYPE1_NESTING_IOMMU. */
  type: number;
  ioas: Ioas;
  hwpt: HwptPaging;
  /** Mappings that there can be. */
  dmaEntryLimit: number;
};

export class ContainerIommu {
  readonly type: number;
  readonly ioas: Ioas;
  readonly hwpt: HwptPaging;
  private readonly dmaEntryLimit: number;

  constructor({ type, ioas, hwpt, dmaEntryLimit }: ContainerIommuOptions) {
    this.type = type;
    this.ioas = ioas;
    this.hwpt = hwpt;
    this.dmaEntryLimit = dmaEntryLimit;
  }

  /** Mappings that can still be made. */
  get mappingsLeft(): number {
    return this.dmaEntryLimit - this.ioas.table.space.areaCount;
  }

  /** Keeps mappings out of what the group's devices reserve. @throws {SysError} EINVAL something is mapped there; ENOMEM */
  reserve(group: VfioGroup): void {
    const { space } = this.ioas.table;
    try {
      for (const { first, last, kind } of group.iommuGroup.devices.flatMap((device) => device.reservedRegions())) {
        if (kind !== 'direct-relaxable') space.reserve(first, last, group);
      }
    } catch (error) {
      space.unreserve(group);
      if (error instanceof SysError && error.code === 'EADDRINUSE') {
        throw new SysError('EINVAL', 'vfio_iommu_resv_conflict', error.message);
      }
      throw error;
    }
  }

  unreserve(group: VfioGroup): void {
    this.ioas.table.space.unreserve(group);
  }

  /**
   * Maps the caller's memory and pins it.
   * @throws {SysError} EINVAL flags, an address or size that is misaligned, or size 0; EOVERFLOW; EEXIST something is
   * mapped there; ENOSPC there are as many mappings as can be; EINVAL reserved, or past the end of the address space; EFAULT; ENOMEM
   */
  map(caller: Process, { flags, vaddr, iova, size }: DmaMapRequest): void {
    const call = 'VFIO_IOMMU_MAP_DMA';
    if ((flags & ~(READ | WRITE)) !== 0) throw new SysError('EINVAL', call, `flags ${hex(flags)}`);
    const last = lastOf(call, iova, size);
    lastOf(call, vaddr, size);
    if (flags === 0) throw new SysError('EINVAL', call, 'neither readable nor writable');
    checkAligned(call, vaddr, iova, size);
    const { ioas } = this;
    const found = ioas.table.space.areaFrom(iova);
    if (found !== null && found.iova <= last) throw new SysError('EEXIST', call, `${hex(found.iova)} is mapped`);
    if (this.mappingsLeft === 0) throw new SysError('ENOSPC', call, `there are ${this.dmaEntryLimit} mappings`);
    let mapFlags = IOMMU_IOAS_MAP_FIXED_IOVA;
    if ((flags & READ) !== 0) mapFlags |= IOMMU_IOAS_MAP_READABLE;
    if ((flags & WRITE) !== 0) mapFlags |= IOMMU_IOAS_MAP_WRITEABLE;
    // /dev/iommu takes no range that ends with the address space; for type1 there is just no memory there.
    if (vaddr + size > U64_MAX) throw new SysError('EFAULT', call, `nothing can be at ${hex(vaddr)}`);
    ioasMap(ioas.context, caller, { ioasId: ioas.id, flags: mapFlags, userVa: vaddr, length: size, iova });
  }

  /**
   * Unmaps what was mapped in a range, which may be nothing, in the pieces in which it was mapped. In version 1 what
   * begins before the range is not touched, nor anything after it, and what begins in the range goes as a whole; in
   * version 2 the range cuts no mapping.
   * @returns bytes unmapped
   * @throws {SysError} EINVAL misaligned, size 0, or in version 2 a mapping is cut, when nothing is unmapped; EOVERFLOW
   */
  unmap(iova: bigint, size: bigint): bigint {
    const call = 'VFIO_IOMMU_UNMAP_DMA';
    checkAligned(call, iova, size);
    const last = lastOf(call, iova, size);
    const { ioas, type } = this;
    const { space } = ioas.table;
    const first = space.areaFrom(iova);
    if (first === null || first.iova > last) return 0n;
    const tail = space.areaFrom(last);
    const end = tail !== null && tail.iova <= last ? tail.last : last;
    if (type !== VFIO_TYPE1_IOMMU && (first.iova < iova || end > last)) {
      throw new SysError('EINVAL', call, `${hex(iova)}..${hex(last)} cuts a mapping`);
    }
    if (first.iova < iova) return 0n;
    return ioasUnmap(ioas.context, ioas.id, iova, end - iova + 1n);
  }

  /** Unmaps everything. @returns bytes unmapped */
  unmapAll(): bigint {
    return ioasUnmap(this.ioas.context, this.ioas.id, 0n, U64_MAX);
  }
}

/** @throws {SysError} EINVAL size 0; EOVERFLOW */
function lastOf(call: string, start: bigint, size: bigint): bigint {
  if (size === 0n) throw new SysError('EINVAL', call, `no bytes from ${hex(start)}`);
  const last = start + size - 1n;
  if (last > U64_MAX) throw new SysError('EOVERFLOW', call, `${hex(size)} bytes from ${hex(start)}`);
  return last;
}

/** @throws {SysError} EINVAL */
function checkAligned(call: string, ...values: bigint[]): void {
  const crooked = values.find((value) => (value & BigInt(PAGE_SIZE - 1)) !== 0n);
  if (crooked !== undefined) throw new SysError('EINVAL', call, `${hex(crooked)} is no multiple of a page`);
}
