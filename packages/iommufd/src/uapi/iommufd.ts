/**
 * Numbers and structure layouts of /dev/iommu: include/uapi/linux/iommufd.h of Linux 7.2. Names are the kernel's in
 * camel case; behaviour lives elsewhere.
 */

import { type Struct, struct } from '@iommukit/iommu-core';
import { request } from './request.ts';

export const IOMMU_DESTROY: number = request(0x80);
export const IOMMU_IOAS_ALLOC: number = request(0x81);
export const IOMMU_IOAS_ALLOW_IOVAS: number = request(0x82);
export const IOMMU_IOAS_COPY: number = request(0x83);
export const IOMMU_IOAS_IOVA_RANGES: number = request(0x84);
export const IOMMU_IOAS_MAP: number = request(0x85);
export const IOMMU_IOAS_UNMAP: number = request(0x86);
export const IOMMU_OPTION: number = request(0x87);
export const IOMMU_VFIO_IOAS: number = request(0x88);
export const IOMMU_HWPT_ALLOC: number = request(0x89);
export const IOMMU_GET_HW_INFO: number = request(0x8a);
export const IOMMU_HWPT_SET_DIRTY_TRACKING: number = request(0x8b);
export const IOMMU_HWPT_GET_DIRTY_BITMAP: number = request(0x8c);
export const IOMMU_HWPT_INVALIDATE: number = request(0x8d);
export const IOMMU_FAULT_QUEUE_ALLOC: number = request(0x8e);
export const IOMMU_IOAS_MAP_FILE: number = request(0x8f);
export const IOMMU_IOAS_CHANGE_PROCESS: number = request(0x92);

export const IOMMU_OPTION_RLIMIT_MODE = 0;
export const IOMMU_OPTION_HUGE_PAGES = 1;
export const IOMMU_OPTION_OP_SET = 0;
export const IOMMU_OPTION_OP_GET = 1;

export const IOMMU_VFIO_IOAS_GET = 0;
export const IOMMU_VFIO_IOAS_SET = 1;
export const IOMMU_VFIO_IOAS_CLEAR = 2;

export const IOMMU_IOAS_MAP_FIXED_IOVA = 1;
export const IOMMU_IOAS_MAP_WRITEABLE = 2;
export const IOMMU_IOAS_MAP_READABLE = 4;

export const IOMMU_HWPT_ALLOC_NEST_PARENT = 1;
export const IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 2;
export const IOMMU_HWPT_FAULT_ID_VALID = 4;
export const IOMMU_HWPT_ALLOC_PASID = 8;

export const IOMMU_HWPT_DATA_NONE = 0;
export const IOMMU_HWPT_DATA_VTD_S1 = 1;

/** Flags of struct iommu_hwpt_vtd_s1. */
export const IOMMU_VTD_S1_SRE = 1;
export const IOMMU_VTD_S1_EAFE = 2;
export const IOMMU_VTD_S1_WPE = 4;

export const IOMMU_HW_INFO_FLAG_INPUT_TYPE = 1;
export const IOMMU_HW_INFO_TYPE_NONE = 0;
export const IOMMU_HW_INFO_TYPE_INTEL_VTD = 1;

export const IOMMU_HW_CAP_DIRTY_TRACKING = 1;
export const IOMMU_HW_CAP_PCI_PASID_EXEC = 2;
export const IOMMU_HW_CAP_PCI_PASID_PRIV = 4;
export const IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 8;

export const IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1;
export const IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1;

export const IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0;
export const IOMMU_VTD_INV_FLAGS_LEAF = 1;
/** Entries of one invalidation are at most this long, in bytes (PAGE_SIZE). */
export const INVALIDATE_ENTRY_MAX = 4096;
/** One invalidation has at most this many entries. */
export const INVALIDATE_COUNT_MAX: number = 1 << 19;

export const IOMMU_PGFAULT_FLAGS_PASID_VALID = 1;
export const IOMMU_PGFAULT_FLAGS_LAST_PAGE = 2;
export const IOMMU_PGFAULT_PERM_READ = 1;
export const IOMMU_PGFAULT_PERM_WRITE = 2;
export const IOMMU_PGFAULT_PERM_EXEC = 4;
export const IOMMU_PGFAULT_PERM_PRIV = 8;
export const IOMMUFD_PAGE_RESP_SUCCESS = 0;
export const IOMMUFD_PAGE_RESP_INVALID = 1;

const destroyFields = { size: 'u32', id: 'u32' } as const;
export const iommuDestroy: Struct<typeof destroyFields> = struct(destroyFields);

const ioasAllocFields = { size: 'u32', flags: 'u32', outIoasId: 'u32' } as const;
export const iommuIoasAlloc: Struct<typeof ioasAllocFields> = struct(ioasAllocFields);

const iovaRangeFields = { start: 'u64', last: 'u64' } as const;
export const iommuIovaRange: Struct<typeof iovaRangeFields> = struct(iovaRangeFields);

const ioasIovaRangesFields = {
  size: 'u32',
  ioasId: 'u32',
  numIovas: 'u32',
  reserved: 'u32',
  allowedIovas: 'u64',
  outIovaAlignment: 'u64',
} as const;
export const iommuIoasIovaRanges: Struct<typeof ioasIovaRangesFields> = struct(ioasIovaRangesFields);

const ioasAllowIovasFields = {
  size: 'u32',
  ioasId: 'u32',
  numIovas: 'u32',
  reserved: 'u32',
  allowedIovas: 'u64',
} as const;
export const iommuIoasAllowIovas: Struct<typeof ioasAllowIovasFields> = struct(ioasAllowIovasFields);

const ioasMapFields = {
  size: 'u32',
  flags: 'u32',
  ioasId: 'u32',
  reserved: 'u32',
  userVa: 'u64',
  length: 'u64',
  iova: 'u64',
} as const;
export const iommuIoasMap: Struct<typeof ioasMapFields> = struct(ioasMapFields);

const ioasMapFileFields = {
  size: 'u32',
  flags: 'u32',
  ioasId: 'u32',
  fd: 's32',
  start: 'u64',
  length: 'u64',
  iova: 'u64',
} as const;
export const iommuIoasMapFile: Struct<typeof ioasMapFileFields> = struct(ioasMapFileFields);

const ioasCopyFields = {
  size: 'u32',
  flags: 'u32',
  dstIoasId: 'u32',
  srcIoasId: 'u32',
  length: 'u64',
  dstIova: 'u64',
  srcIova: 'u64',
} as const;
export const iommuIoasCopy: Struct<typeof ioasCopyFields> = struct(ioasCopyFields);

const ioasUnmapFields = { size: 'u32', ioasId: 'u32', iova: 'u64', length: 'u64' } as const;
export const iommuIoasUnmap: Struct<typeof ioasUnmapFields> = struct(ioasUnmapFields);

const optionFields = {
  size: 'u32',
  optionId: 'u32',
  op: 'u16',
  reserved: 'u16',
  objectId: 'u32',
  val64: 'u64',
} as const;
export const iommuOption: Struct<typeof optionFields> = struct(optionFields);

const vfioIoasFields = { size: 'u32', ioasId: 'u32', op: 'u16', reserved: 'u16' } as const;
export const iommuVfioIoas: Struct<typeof vfioIoasFields> = struct(vfioIoasFields);

const ioasChangeProcessFields = { size: 'u32', reserved: 'u32' } as const;
export const iommuIoasChangeProcess: Struct<typeof ioasChangeProcessFields> = struct(ioasChangeProcessFields);

const hwptAllocFields = {
  size: 'u32',
  flags: 'u32',
  devId: 'u32',
  ptId: 'u32',
  outHwptId: 'u32',
  reserved: 'u32',
  dataType: 'u32',
  dataLen: 'u32',
  dataUptr: 'u64',
  faultId: 'u32',
  reserved2: 'u32',
} as const;
export const iommuHwptAlloc: Struct<typeof hwptAllocFields> = struct(hwptAllocFields);

const hwptVtdS1Fields = { flags: 'u64', pgtblAddr: 'u64', addrWidth: 'u32', reserved: 'u32' } as const;
export const iommuHwptVtdS1: Struct<typeof hwptVtdS1Fields> = struct(hwptVtdS1Fields);

const hwInfoFields = {
  size: 'u32',
  flags: 'u32',
  devId: 'u32',
  dataLen: 'u32',
  dataUptr: 'u64',
  /** `in_data_type` on the way in. */
  outDataType: 'u32',
  outMaxPasidLog2: 'u8',
  reserved0: 'u8',
  reserved1: 'u8',
  reserved2: 'u8',
  outCapabilities: 'u64',
} as const;
export const iommuHwInfo: Struct<typeof hwInfoFields> = struct(hwInfoFields);

const hwInfoVtdFields = { flags: 'u32', reserved: 'u32', capReg: 'u64', ecapReg: 'u64' } as const;
export const iommuHwInfoVtd: Struct<typeof hwInfoVtdFields> = struct(hwInfoVtdFields);

const hwptSetDirtyTrackingFields = { size: 'u32', flags: 'u32', hwptId: 'u32', reserved: 'u32' } as const;
export const iommuHwptSetDirtyTracking: Struct<typeof hwptSetDirtyTrackingFields> = struct(hwptSetDirtyTrackingFields);

const hwptGetDirtyBitmapFields = {
  size: 'u32',
  hwptId: 'u32',
  flags: 'u32',
  reserved: 'u32',
  iova: 'u64',
  length: 'u64',
  pageSize: 'u64',
  data: 'u64',
} as const;
export const iommuHwptGetDirtyBitmap: Struct<typeof hwptGetDirtyBitmapFields> = struct(hwptGetDirtyBitmapFields);

const hwptInvalidateFields = {
  size: 'u32',
  hwptId: 'u32',
  dataUptr: 'u64',
  dataType: 'u32',
  entryLen: 'u32',
  entryNum: 'u32',
  reserved: 'u32',
} as const;
export const iommuHwptInvalidate: Struct<typeof hwptInvalidateFields> = struct(hwptInvalidateFields);

const hwptVtdS1InvalidateFields = { addr: 'u64', npages: 'u64', flags: 'u32', reserved: 'u32' } as const;
export const iommuHwptVtdS1Invalidate: Struct<typeof hwptVtdS1InvalidateFields> = struct(hwptVtdS1InvalidateFields);

const faultAllocFields = { size: 'u32', flags: 'u32', outFaultId: 'u32', outFaultFd: 'u32' } as const;
export const iommuFaultAlloc: Struct<typeof faultAllocFields> = struct(faultAllocFields);

const pgfaultFields = {
  flags: 'u32',
  devId: 'u32',
  pasid: 'u32',
  grpid: 'u32',
  perm: 'u32',
  reserved: 'u32',
  addr: 'u64',
  length: 'u32',
  cookie: 'u32',
} as const;
/** A record read from a fault queue. */
export const iommuHwptPgfault: Struct<typeof pgfaultFields> = struct(pgfaultFields);

const pageResponseFields = { cookie: 'u32', code: 'u32' } as const;
/** An answer written to a fault queue. */
export const iommuHwptPageResponse: Struct<typeof pageResponseFields> = struct(pageResponseFields);
