/**
 * Numbers and layouts of nested translation through VFIO, as they were proposed and never merged: cache invalidation
 * and the region of DMA faults after the series "SMMUv3 Nested Stage Setup", version 13 (April 2021); the nesting
 * capability after "vfio: expose virtual Shared Virtual Addressing to VMs", version 7 (September 2020).
 *
 * What has no number that is free of others' in its version has one of this project's: requests from 0xc0, and
 * capabilities from 0xc000, which the kernel gives to nothing.
 */

import { type Struct, struct } from '@iommukit/iommufd';

/** On a container: argsz, flags, then a struct iommu_cache_invalidate_info. */
export const VFIO_IOMMU_CACHE_INVALIDATE = 0x3b77;
/** This project's, on a container: argsz, flags, then a struct iommu_gpasid_bind_data. */
export const VFIO_IOMMU_BIND_GPASID = 0x3bc0;
/** This project's, on a container: argsz, flags, then a struct iommu_gpasid_bind_data, of which the PASID counts. */
export const VFIO_IOMMU_UNBIND_GPASID = 0x3bc1;
/** This project's, on a device in a container: a struct iommu_page_response. */
export const VFIO_DEVICE_PAGE_RESPONSE = 0x3bc2;

export const VFIO_REGION_TYPE_NESTED = 4;
export const VFIO_REGION_SUBTYPE_NESTED_DMA_FAULT = 1;
export const VFIO_REGION_INFO_CAP_DMA_FAULT = 6;
export const VFIO_IRQ_TYPE_NESTED = 1;
export const VFIO_IRQ_SUBTYPE_DMA_FAULT = 1;

/** This project's: the series' 3 was VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL before it could be merged. */
export const VFIO_IOMMU_TYPE1_INFO_CAP_NESTING = 0xc000;
export const IOMMU_NESTING_FEAT_SYSWIDE_PASID = 1;
export const IOMMU_NESTING_FEAT_BIND_PGTBL = 2;
export const IOMMU_NESTING_FEAT_CACHE_INVLD = 4;

type U32 = 'u32';

/** Head of the requests on a container: one of the structures of include/uapi/linux/iommu.h follows, with an argsz of its own. */
export const vfioIommuNestingHead: Struct<{ argsz: U32; flags: U32 }> = struct({ argsz: 'u32', flags: 'u32' });

/** Behind the header of the fault region's capability: version of the records. */
export const vfioRegionFaultVersion: Struct<{ version: U32 }> = struct({ version: 'u32' });

/** struct vfio_region_dma_fault, at the start of the region. The user writes `tail`, the kernel everything else. */
export const vfioRegionDmaFault: Struct<{
  tail: U32;
  entrySize: U32;
  nbEntries: U32;
  offset: U32;
  head: U32;
}> = struct({ tail: 'u32', entrySize: 'u32', nbEntries: 'u32', offset: 'u32', head: 'u32' });

/** struct iommu_nesting_info with `vendor.vtd`. */
export const iommuNestingInfo: Struct<{
  argsz: U32;
  flags: U32;
  format: U32;
  features: U32;
  addrWidth: 'u16';
  pasidBits: 'u16';
  padding0: U32;
  padding1: U32;
  padding2: U32;
  vtdFlags: U32;
  vtdPadding: U32;
  vtdCapReg: 'u64';
  vtdEcapReg: 'u64';
}> = struct({
  argsz: 'u32',
  flags: 'u32',
  format: 'u32',
  features: 'u32',
  addrWidth: 'u16',
  pasidBits: 'u16',
  padding0: 'u32',
  padding1: 'u32',
  padding2: 'u32',
  vtdFlags: 'u32',
  vtdPadding: 'u32',
  vtdCapReg: 'u64',
  vtdEcapReg: 'u64',
});
