/**
 * Numbers and structure layouts of include/uapi/linux/iommu.h of Linux 5.17, the last that had all of them. Names are the
 * kernel's in camel case; behaviour lives elsewhere.
 *
 * A structure with a union is one layout with the union's only member in place, or one layout for each member. Reserved
 * bytes are fields named `padding`.
 */

import { type Struct, type StructValues, struct } from '../struct.ts';

/** What an access wanted. */
export const IOMMU_FAULT_PERM_READ = 1;
export const IOMMU_FAULT_PERM_WRITE = 2;
export const IOMMU_FAULT_PERM_EXEC = 4;
export const IOMMU_FAULT_PERM_PRIV = 8;

/** enum iommu_fault_type. */
export const IOMMU_FAULT_DMA_UNRECOV = 1;
export const IOMMU_FAULT_PAGE_REQ = 2;

/** enum iommu_fault_reason. */
export const IOMMU_FAULT_REASON_UNKNOWN = 0;
export const IOMMU_FAULT_REASON_PASID_FETCH = 1;
export const IOMMU_FAULT_REASON_BAD_PASID_ENTRY = 2;
export const IOMMU_FAULT_REASON_PASID_INVALID = 3;
export const IOMMU_FAULT_REASON_WALK_EABT = 4;
export const IOMMU_FAULT_REASON_PTE_FETCH = 5;
export const IOMMU_FAULT_REASON_PERMISSION = 6;
export const IOMMU_FAULT_REASON_ACCESS = 7;
export const IOMMU_FAULT_REASON_OOR_ADDRESS = 8;

/** Flags of struct iommu_fault_unrecoverable. */
export const IOMMU_FAULT_UNRECOV_PASID_VALID = 1;
export const IOMMU_FAULT_UNRECOV_ADDR_VALID = 2;
export const IOMMU_FAULT_UNRECOV_FETCH_ADDR_VALID = 4;

/** Flags of struct iommu_fault_page_request. */
export const IOMMU_FAULT_PAGE_REQUEST_PASID_VALID = 1;
export const IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE = 2;
export const IOMMU_FAULT_PAGE_REQUEST_PRIV_DATA = 4;
export const IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID = 8;

/** enum iommu_page_response_code. */
export const IOMMU_PAGE_RESP_SUCCESS = 0;
export const IOMMU_PAGE_RESP_INVALID = 1;
export const IOMMU_PAGE_RESP_FAILURE = 2;

export const IOMMU_PAGE_RESP_VERSION_1 = 1;
export const IOMMU_PAGE_RESP_PASID_VALID = 1;

/** enum iommu_inv_granularity. */
export const IOMMU_INV_GRANU_DOMAIN = 0;
export const IOMMU_INV_GRANU_PASID = 1;
export const IOMMU_INV_GRANU_ADDR = 2;
export const IOMMU_INV_GRANU_NR = 3;

/** Flags of struct iommu_inv_addr_info. */
export const IOMMU_INV_ADDR_FLAGS_PASID = 1;
export const IOMMU_INV_ADDR_FLAGS_ARCHID = 2;
export const IOMMU_INV_ADDR_FLAGS_LEAF = 4;

/** Flags of struct iommu_inv_pasid_info. */
export const IOMMU_INV_PASID_FLAGS_PASID = 1;
export const IOMMU_INV_PASID_FLAGS_ARCHID = 2;

export const IOMMU_CACHE_INVALIDATE_INFO_VERSION_1 = 1;
/** Caches of struct iommu_cache_invalidate_info, and how many there are. */
export const IOMMU_CACHE_INV_TYPE_IOTLB = 1;
export const IOMMU_CACHE_INV_TYPE_DEV_IOTLB = 2;
export const IOMMU_CACHE_INV_TYPE_PASID = 4;
export const IOMMU_CACHE_INV_TYPE_NR = 3;

/** Flags of struct iommu_gpasid_bind_data_vtd; LAST is the first bit without a meaning. */
export const IOMMU_SVA_VTD_GPASID_SRE = 1n;
export const IOMMU_SVA_VTD_GPASID_EAFE = 2n;
export const IOMMU_SVA_VTD_GPASID_PCD = 4n;
export const IOMMU_SVA_VTD_GPASID_PWT = 8n;
export const IOMMU_SVA_VTD_GPASID_EMTE = 16n;
export const IOMMU_SVA_VTD_GPASID_CD = 32n;
export const IOMMU_SVA_VTD_GPASID_WPE = 64n;
export const IOMMU_SVA_VTD_GPASID_LAST = 128n;
/** The memory-type bits among them. */
export const IOMMU_SVA_VTD_GPASID_MTS_MASK: bigint =
  IOMMU_SVA_VTD_GPASID_CD | IOMMU_SVA_VTD_GPASID_EMTE | IOMMU_SVA_VTD_GPASID_PCD | IOMMU_SVA_VTD_GPASID_PWT;

export const IOMMU_GPASID_BIND_VERSION_1 = 1;
/** Formats of struct iommu_gpasid_bind_data; LAST is the first number without a meaning. */
export const IOMMU_PASID_FORMAT_INTEL_VTD = 1;
export const IOMMU_PASID_FORMAT_LAST = 2;
/** The guest's PASID is given. */
export const IOMMU_SVA_GPASID_VAL = 1n;

const faultFields = { type: 'u32', padding: 'u32' } as const;

/** Bytes of struct iommu_fault, whichever member its union has. */
export const IOMMU_FAULT_SIZE = 64;

const unrecoverableFields = {
  reason: 'u32',
  flags: 'u32',
  pasid: 'u32',
  perm: 'u32',
  addr: 'u64',
  fetchAddr: 'u64',
} as const;
export const iommuFaultUnrecoverable: Struct<typeof unrecoverableFields> = struct(unrecoverableFields);

const pageRequestFields = {
  flags: 'u32',
  pasid: 'u32',
  grpid: 'u32',
  perm: 'u32',
  addr: 'u64',
  privateData0: 'u64',
  privateData1: 'u64',
} as const;
export const iommuFaultPageRequest: Struct<typeof pageRequestFields> = struct(pageRequestFields);

/** struct iommu_fault with `event`, up to the end of that. */
export const iommuFaultEvent: Struct<typeof faultFields & typeof unrecoverableFields> = struct({
  ...faultFields,
  ...unrecoverableFields,
});

/** struct iommu_fault with `prm`, up to the end of that. */
export const iommuFaultPrm: Struct<typeof faultFields & typeof pageRequestFields> = struct({
  ...faultFields,
  ...pageRequestFields,
});

const pageResponseFields = {
  argsz: 'u32',
  version: 'u32',
  flags: 'u32',
  pasid: 'u32',
  grpid: 'u32',
  code: 'u32',
} as const;
export const iommuPageResponse: Struct<typeof pageResponseFields> = struct(pageResponseFields);
export type IommuPageResponse = StructValues<typeof pageResponseFields>;

const invPasidInfoFields = { flags: 'u32', archid: 'u32', pasid: 'u64' } as const;
export const iommuInvPasidInfo: Struct<typeof invPasidInfoFields> = struct(invPasidInfoFields);

const invAddrInfoFields = {
  flags: 'u32',
  archid: 'u32',
  pasid: 'u64',
  addr: 'u64',
  granuleSize: 'u64',
  nbGranules: 'u64',
} as const;
export const iommuInvAddrInfo: Struct<typeof invAddrInfoFields> = struct(invAddrInfoFields);

const cacheInvalidateHead = {
  argsz: 'u32',
  version: 'u32',
  cache: 'u8',
  granularity: 'u8',
  padding0: 'u16',
  padding1: 'u16',
  padding2: 'u16',
} as const;
type CacheInvalidateInfoFields = typeof cacheInvalidateHead & typeof invAddrInfoFields;
/** With `granu.addr_info`, which begins as `granu.pasid_info` does: it holds either. */
export const iommuCacheInvalidateInfo: Struct<CacheInvalidateInfoFields> = struct({
  ...cacheInvalidateHead,
  ...invAddrInfoFields,
});
export type IommuCacheInvalidateInfo = StructValues<CacheInvalidateInfoFields>;

const gpasidBindDataVtdFields = { flags: 'u64', pat: 'u32', emt: 'u32' } as const;
export const iommuGpasidBindDataVtd: Struct<typeof gpasidBindDataVtdFields> = struct(gpasidBindDataVtdFields);

const gpasidBindDataFields = {
  argsz: 'u32',
  version: 'u32',
  format: 'u32',
  addrWidth: 'u32',
  flags: 'u64',
  gpgd: 'u64',
  hpasid: 'u64',
  gpasid: 'u64',
  padding: 'u64',
  vtdFlags: 'u64',
  vtdPat: 'u32',
  vtdEmt: 'u32',
} as const;
/** With `vendor.vtd`. */
export const iommuGpasidBindData: Struct<typeof gpasidBindDataFields> = struct(gpasidBindDataFields);
export type GpasidBindData = StructValues<typeof gpasidBindDataFields>;
