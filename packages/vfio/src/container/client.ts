/**
 * A container for programs written in TypeScript: each method is one system call on an open /dev/vfio/vfio, and runs the
 * same code as the ioctl of its name.
 */

import { toU64, type U64 } from '@iommukit/hw';
import {
  type GpasidBindData,
  IOMMU_CACHE_INV_TYPE_DEV_IOTLB,
  IOMMU_CACHE_INV_TYPE_IOTLB,
  IOMMU_CACHE_INVALIDATE_INFO_VERSION_1,
  IOMMU_GPASID_BIND_VERSION_1,
  IOMMU_INV_ADDR_FLAGS_LEAF,
  IOMMU_INV_GRANU_ADDR,
  IOMMU_INV_GRANU_PASID,
  IOMMU_INV_PASID_FLAGS_PASID,
  IOMMU_PASID_FORMAT_INTEL_VTD,
  IOMMU_SVA_GPASID_VAL,
  type IommuCacheInvalidateInfo,
  iommuCacheInvalidateInfo,
  iommuGpasidBindData,
  type Process,
} from '@iommukit/iommu-core';
import type { MapAccess, SystemCalls } from '@iommukit/iommufd';
import * as uapi from '../uapi/container.ts';
import type { VfioContainer } from './container.ts';
import { containerOf } from './container-file.ts';
import { type ContainerInfo, containerInfo } from './container-info.ts';

export type ContainerMapRequest = MapAccess & {
  userVa: U64;
  length: U64;
  iova: U64;
};

/** A guest's page table and the PASID to put it behind. */
export type GuestPasidRequest = {
  /** An IOASID of the caller's. */
  hostPasid: number;
  /** What the guest knows the PASID by, if it knows it. */
  guestPasid?: number;
  /** Guest physical address of the table's root. */
  pageTable: U64;
  /** Bits of a guest virtual address: 48 or 57. */
  addressWidth: number;
  /** IOMMU_SVA_VTD_GPASID_ bits. */
  vtdFlags?: bigint;
};

export type GuestInvalidation = {
  hostPasid: number;
  /** A range of guest virtual addresses; the whole PASID by default. */
  range?: {
    /** Page-aligned. */
    address: U64;
    /** 4 KiB pages; 2^64 - 1 from address 0 is everything. */
    pages: U64;
    /** Only the last level of the table has changed. */
    leaf?: boolean;
  };
};

export class VfioContainerClient {
  readonly system: SystemCalls;
  readonly fd: number;
  private readonly container: VfioContainer;

  /** `fd` is a descriptor of /dev/vfio/vfio. @throws {SysError} EBADF, EBADFD */
  constructor(system: SystemCalls, fd: number) {
    this.container = containerOf(system.file(fd));
    this.system = system;
    this.fd = fd;
  }

  /** True for a VFIO_ extension that the container has. */
  hasExtension(extension: number): boolean {
    return this.call('VFIO_CHECK_EXTENSION', (container) => container.checkExtension(BigInt(extension)) > 0);
  }

  /** Makes the address space, by default of the nesting type; the container has a group. @throws {SysError} as `VfioContainer.setIommu` */
  setIommu(type: number = uapi.VFIO_TYPE1_NESTING_IOMMU): void {
    this.call('VFIO_SET_IOMMU', (container) => container.setIommu(BigInt(type)));
  }

  /** @throws {SysError} EINVAL no IOMMU is set */
  info(): ContainerInfo {
    return this.call('VFIO_IOMMU_GET_INFO', containerInfo);
  }

  /** Maps memory of the process. @throws {SysError} EINVAL no IOMMU is set; and as `ContainerIommu.map` */
  map({ userVa, length, iova, readable = true, writable = true }: ContainerMapRequest): void {
    let flags = readable ? uapi.VFIO_DMA_MAP_FLAG_READ : 0;
    if (writable) flags |= uapi.VFIO_DMA_MAP_FLAG_WRITE;
    const request = { flags, vaddr: toU64(userVa), iova: toU64(iova), size: toU64(length) };
    this.call('VFIO_IOMMU_MAP_DMA', (container, process) => container.iommu.map(process, request));
  }

  /** @returns bytes unmapped, which may be none. @throws {SysError} EINVAL no IOMMU is set; and as `ContainerIommu.unmap` */
  unmap(iova: U64, length: U64): bigint {
    return this.call('VFIO_IOMMU_UNMAP_DMA', (container) => container.iommu.unmap(toU64(iova), toU64(length)));
  }

  /** @returns bytes unmapped. @throws {SysError} EINVAL no IOMMU is set */
  unmapAll(): bigint {
    return this.call('VFIO_IOMMU_UNMAP_DMA', (container) => container.iommu.unmapAll());
  }

  /** Puts a guest's page table behind a PASID of every open device. @throws {SysError} as `GuestTables.bind` */
  bindGuestPasid(request: GuestPasidRequest): void {
    const data = bindData(request);
    const call = 'VFIO_IOMMU_BIND_GPASID';
    this.call(call, (container, process) => container.nesting(call).bind(process, data));
  }

  /** @throws {SysError} as `GuestTables.unbind` */
  unbindGuestPasid(hostPasid: number): void {
    const call = 'VFIO_IOMMU_UNBIND_GPASID';
    this.call(call, (container, process) => container.nesting(call).unbind(process, hostPasid));
  }

  /** Invalidates what was cached of a guest's page table. @throws {SysError} as `GuestTables.invalidate` */
  invalidate(request: GuestInvalidation): void {
    const info = invalidateInfo(request);
    const call = 'VFIO_IOMMU_CACHE_INVALIDATE';
    this.call(call, (container, process) => container.nesting(call).invalidate(process, info));
  }

  private call<T>(name: string, body: (container: VfioContainer, process: Process) => T): T {
    return this.system.call(name, ({ process }) => body(this.container, process));
  }
}

function bindData({
  hostPasid,
  guestPasid,
  pageTable,
  addressWidth,
  vtdFlags = 0n,
}: GuestPasidRequest): GpasidBindData {
  return {
    argsz: iommuGpasidBindData.size,
    version: IOMMU_GPASID_BIND_VERSION_1,
    format: IOMMU_PASID_FORMAT_INTEL_VTD,
    addrWidth: addressWidth,
    flags: guestPasid === undefined ? 0n : IOMMU_SVA_GPASID_VAL,
    gpgd: toU64(pageTable),
    hpasid: BigInt(hostPasid),
    gpasid: BigInt(guestPasid ?? 0),
    padding: 0n,
    vtdFlags,
    vtdPat: 0,
    vtdEmt: 0,
  };
}

function invalidateInfo({ hostPasid, range }: GuestInvalidation): IommuCacheInvalidateInfo {
  return {
    argsz: iommuCacheInvalidateInfo.size,
    version: IOMMU_CACHE_INVALIDATE_INFO_VERSION_1,
    cache: IOMMU_CACHE_INV_TYPE_IOTLB | IOMMU_CACHE_INV_TYPE_DEV_IOTLB,
    granularity: range === undefined ? IOMMU_INV_GRANU_PASID : IOMMU_INV_GRANU_ADDR,
    padding0: 0,
    padding1: 0,
    padding2: 0,
    // The flag that says that the PASID is given is the same with both granularities.
    flags: IOMMU_INV_PASID_FLAGS_PASID | (range?.leaf === true ? IOMMU_INV_ADDR_FLAGS_LEAF : 0),
    archid: 0,
    pasid: BigInt(hostPasid),
    addr: toU64(range?.address ?? 0),
    granuleSize: 4096n,
    nbGranules: toU64(range?.pages ?? 0),
  };
}
