/**
 * Numbers and structure layouts of the type1 interface, which /dev/iommu and VFIO's containers share: the part of
 * include/uapi/linux/vfio.h (Linux 5.10 to 7.2) that maps memory.
 */

import { type Struct, struct } from '@iommukit/iommu-core';
import { request } from './request.ts';

export const VFIO_API_VERSION = 0;

export const VFIO_GET_API_VERSION: number = request(0x64);
export const VFIO_CHECK_EXTENSION: number = request(0x65);
export const VFIO_SET_IOMMU: number = request(0x66);
export const VFIO_IOMMU_GET_INFO: number = request(0x70);
export const VFIO_IOMMU_MAP_DMA: number = request(0x71);
export const VFIO_IOMMU_UNMAP_DMA: number = request(0x72);

/** Extensions, of which the first ones are also types of IOMMU. */
export const VFIO_TYPE1_IOMMU = 1;
export const VFIO_TYPE1v2_IOMMU = 3;
export const VFIO_DMA_CC_IOMMU = 4;
export const VFIO_TYPE1_NESTING_IOMMU = 6;
export const VFIO_NOIOMMU_IOMMU = 8;
export const VFIO_UNMAP_ALL = 9;

export const VFIO_IOMMU_INFO_PGSIZES = 1;
export const VFIO_IOMMU_INFO_CAPS = 2;
export const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;
export const VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3;

export const VFIO_DMA_MAP_FLAG_READ = 1;
export const VFIO_DMA_MAP_FLAG_WRITE = 2;
export const VFIO_DMA_MAP_FLAG_VADDR = 4;
export const VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1;
export const VFIO_DMA_UNMAP_FLAG_ALL = 2;

type U32 = 'u32';
type U64 = 'u64';

/** In front of each entry of a capability chain; `next` counts from the structure that the chain is behind. */
export const vfioInfoCapHeader: Struct<{ id: 'u16'; version: 'u16'; next: U32 }> = struct({
  id: 'u16',
  version: 'u16',
  next: 'u32',
});

export const vfioIommuType1Info: Struct<{
  argsz: U32;
  flags: U32;
  iovaPgsizes: U64;
  capOffset: U32;
  pad: U32;
}> = struct({ argsz: 'u32', flags: 'u32', iovaPgsizes: 'u64', capOffset: 'u32', pad: 'u32' });

/** Behind the header of the IOVA-range capability; `nrIovas` ranges follow. */
export const vfioIovaRangeHead: Struct<{ nrIovas: U32; reserved: U32 }> = struct({ nrIovas: 'u32', reserved: 'u32' });

/** `end` is the last address. */
export const vfioIovaRange: Struct<{ start: U64; end: U64 }> = struct({ start: 'u64', end: 'u64' });

/** Behind the header of the capability that says how many mappings can still be made. */
export const vfioDmaAvail: Struct<{ avail: U32 }> = struct({ avail: 'u32' });

export const vfioIommuType1DmaMap: Struct<{
  argsz: U32;
  flags: U32;
  vaddr: U64;
  iova: U64;
  size: U64;
}> = struct({ argsz: 'u32', flags: 'u32', vaddr: 'u64', iova: 'u64', size: 'u64' });

export const vfioIommuType1DmaUnmap: Struct<{ argsz: U32; flags: U32; iova: U64; size: U64 }> = struct({
  argsz: 'u32',
  flags: 'u32',
  iova: 'u64',
  size: 'u64',
});
