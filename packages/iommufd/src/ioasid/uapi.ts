/**
 * Numbers and structure layouts of the /dev/ioasid proposal: its first version ([RFC] /dev/ioasid uAPI proposal, 27 May
 * 2021, section 2.1) and its second ([RFC v2] /dev/iommu uAPI proposal, 9 July 2021, section 2.1).
 *
 * The mails give the commands, their order and what they take, as _IO(TYPE, BASE + n). They give neither the letter nor
 * the base, which are those of the ioasid header of the time ('i' and 100), and no layouts: all structures here, their
 * flags, the extension numbers and the command for the eventfd are this project's, in the manner of
 * include/uapi/linux/vfio.h. An IOASID that is the only argument is passed by value, and handles are returned.
 */

import { type Struct, struct } from '@iommukit/iommu-core';

const IOASID_TYPE = 0x69;
const IOASID_BASE = 100;

function request(command: number): number {
  return (IOASID_TYPE << 8) | (IOASID_BASE + command);
}

/** Version 1. */
export const IOASID_CHECK_EXTENSION: number = request(0);
export const IOASID_REGISTER_MEMORY: number = request(1);
export const IOASID_UNREGISTER_MEMORY: number = request(2);
export const IOASID_ALLOC: number = request(3);
export const IOASID_FREE: number = request(4);
export const IOASID_GET_INFO: number = request(5);
export const IOASID_MAP_DMA: number = request(6);
export const IOASID_UNMAP_DMA: number = request(7);
export const IOASID_CREATE_NESTING: number = request(8);
export const IOASID_BIND_PGTABLE: number = request(9);
export const IOASID_UNBIND_PGTABLE: number = request(10);
export const IOASID_BIND_PASID_TABLE: number = request(11);
export const IOASID_UNBIND_PASID_TABLE: number = request(12);
export const IOASID_INVALIDATE_CACHE: number = request(13);

/** Version 2, whose names are those of its text. */
export const IOMMU_CHECK_EXTENSION: number = request(0);
export const IOMMU_DEVICE_GET_INFO: number = request(1);
export const IOMMU_IOASID_ALLOC: number = request(2);
export const IOMMU_IOASID_FREE: number = request(3);
export const IOMMU_MAP_DMA: number = request(4);
export const IOMMU_UNMAP_DMA: number = request(5);
export const IOMMU_INVALIDATE_CACHE: number = request(6);

/** Of both versions, and of this project: the eventfd, by value, that is signalled for page requests; -1 for none. */
export const IOASID_SET_FAULT_EVENTFD: number = request(32);

/** Extensions to ask for. */
export const IOASID_EXT_MAP_TYPE1V2 = 1;
export const IOASID_EXT_NESTING = 2;
export const IOASID_EXT_USER_PAGE_TABLE = 3;
export const IOASID_EXT_USER_PASID_TABLE = 4;
export const IOASID_EXT_MULTIDEV_GROUP = 5;
export const IOASID_EXT_DMA_NO_SNOOP = 6;
export const IOASID_EXT_DIRTY_TRACKING = 7;
export const IOASID_EXT_REGISTER_MEMORY = 8;
export const IOASID_EXT_PAGE_FAULT = 9;
export const IOASID_EXT_SHARED = 10;

/** Formats of user page tables and PASID tables; values of enum iommu_hwpt_data_type (include/uapi/linux/iommufd.h). */
export const IOASID_FORMAT_INTEL_VTD = 1;
export const IOASID_FORMAT_ARM_SMMUV3 = 2;

/** Of GET_INFO and DEVICE_GET_INFO: what can be done. */
export const IOASID_INFO_MAP_DMA: number = 1 << 0;
export const IOASID_INFO_NESTING_HARDWARE: number = 1 << 1;
export const IOASID_INFO_NESTING_SOFTWARE: number = 1 << 2;
/** The PASID table lies with the user; else each of his tables is attached at its PASID. */
export const IOASID_INFO_USER_PASID_TABLE: number = 1 << 3;
export const IOASID_INFO_ENFORCE_SNOOP: number = 1 << 4;
export const IOASID_INFO_PAGE_FAULTS: number = 1 << 5;
/** Of a device: the user can name PASIDs; the CPU may send them; the CPU has to translate them. */
export const IOASID_INFO_PASID: number = 1 << 8;
export const IOASID_INFO_PASID_DELEGATED: number = 1 << 9;
export const IOASID_INFO_PASID_CPU: number = 1 << 10;
export const IOASID_INFO_PASID_CPU_VIRT: number = 1 << 11;

/** Values of VFIO_DMA_MAP_FLAG_ and VFIO_DMA_UNMAP_FLAG_. */
export const IOASID_DMA_MAP_READ = 1;
export const IOASID_DMA_MAP_WRITE = 2;
export const IOASID_DMA_UNMAP_ALL = 2;

/** Of BIND_PGTABLE and BIND_PASID_TABLE: page requests of the table are read from the file. */
export const IOASID_BIND_FAULTS = 1;

/** Of version 2's ALLOC. */
export const IOASID_ALLOC_USER_PGTABLE: number = 1 << 0;
export const IOASID_ALLOC_USER_PASID_TABLE: number = 1 << 1;
/** The address space is the calling process's own. */
export const IOASID_ALLOC_SHARED: number = 1 << 2;
export const IOASID_ALLOC_PARENT: number = 1 << 3;
export const IOASID_ALLOC_ENFORCE_SNOOP: number = 1 << 4;
export const IOASID_ALLOC_FAULTS: number = 1 << 5;

/** Of INVALIDATE_CACHE; without ADDR it is everything. */
export const IOASID_INVALIDATE_ADDR = 1;
/** Only the last level of the table has changed. */
export const IOASID_INVALIDATE_LEAF = 2;
/** In the address space of one PASID, of a PASID table. */
export const IOASID_INVALIDATE_PASID = 4;
/** For one device. */
export const IOASID_INVALIDATE_COOKIE = 8;

export const IOASID_FAULT_PASID_VALID = 1;
export const IOASID_FAULT_LAST_PAGE = 2;
export const IOASID_FAULT_SUCCESS = 0;
export const IOASID_FAULT_INVALID = 1;

const memoryFields = { argsz: 'u32', flags: 'u32', vaddr: 'u64', size: 'u64' } as const;
/** Of REGISTER_MEMORY and UNREGISTER_MEMORY. */
export const ioasidMemory: Struct<typeof memoryFields> = struct(memoryFields);

const infoFields = {
  argsz: 'u32',
  flags: 'u32',
  /** In: the IOASID, or the device's cookie. */
  id: 'u64',
  pageSizes: 'u64',
  /** Bit n is set for format n. */
  formats: 'u32',
  maxPasidLog2: 'u32',
  children: 'u32',
  /** Out: type of the vendor's structure (enum iommu_hw_info_type); in and out: its length. */
  vendorType: 'u32',
  vendorUptr: 'u64',
  vendorLen: 'u32',
  /** In: room for ranges; out: how many there are. */
  numRanges: 'u32',
  rangesUptr: 'u64',
} as const;
/** Of GET_INFO, whose ranges are the reserved ones, and DEVICE_GET_INFO, whose ranges are the permitted ones. */
export const ioasidInfo: Struct<typeof infoFields> = struct(infoFields);

const rangeFields = { start: 'u64', last: 'u64' } as const;
export const ioasidRange: Struct<typeof rangeFields> = struct(rangeFields);

const mapFields = {
  argsz: 'u32',
  flags: 'u32',
  ioasid: 'u32',
  reserved: 'u32',
  vaddr: 'u64',
  iova: 'u64',
  size: 'u64',
} as const;
/** `vaddr` is an address of the parent when the IOASID is a child. */
export const ioasidDmaMap: Struct<typeof mapFields> = struct(mapFields);

const unmapFields = { argsz: 'u32', flags: 'u32', ioasid: 'u32', reserved: 'u32', iova: 'u64', size: 'u64' } as const;
/** `size` is what was unmapped on the way out. */
export const ioasidDmaUnmap: Struct<typeof unmapFields> = struct(unmapFields);

const tableFields = {
  argsz: 'u32',
  flags: 'u32',
  /** The child; of version 2's ALLOC the parent. */
  ioasid: 'u32',
  format: 'u32',
  /** The table's address in the parent's space. */
  addr: 'u64',
  /** Bits of an address, or of a PASID. */
  width: 'u32',
  /** IOMMU_VTD_S1_ bits for that format. */
  vendorFlags: 'u32',
} as const;
/** Of BIND_PGTABLE, BIND_PASID_TABLE and version 2's ALLOC. */
export const ioasidTable: Struct<typeof tableFields> = struct(tableFields);

const invalidateFields = {
  argsz: 'u32',
  flags: 'u32',
  ioasid: 'u32',
  pasid: 'u32',
  cookie: 'u64',
  addr: 'u64',
  size: 'u64',
} as const;
export const ioasidInvalidate: Struct<typeof invalidateFields> = struct(invalidateFields);

const faultFields = {
  ioasid: 'u32',
  flags: 'u32',
  cookie: 'u64',
  pasid: 'u32',
  group: 'u32',
  /** IOMMU_PGFAULT_PERM_ bits. */
  perm: 'u32',
  /** Names the group in its answer, together with the IOASID. */
  token: 'u32',
  addr: 'u64',
} as const;
/** A record read from the file. */
export const ioasidFault: Struct<typeof faultFields> = struct(faultFields);

const responseFields = { ioasid: 'u32', token: 'u32', code: 'u32', reserved: 'u32' } as const;
/** An answer written to the file. */
export const ioasidFaultResponse: Struct<typeof responseFields> = struct(responseFields);

const pasidTableFields = { addr: 'u64', pasidBits: 'u32', vendorFlags: 'u32' } as const;
/** What a driver with user PASID tables gets for one of them. */
export const ioasidPasidTable: Struct<typeof pasidTableFields> = struct(pasidTableFields);

const pasidInvalidateFields = { addr: 'u64', npages: 'u64', flags: 'u32', pasid: 'u32' } as const;
/** What such a driver gets as an entry of an invalidation; the pages are those of iommu_hwpt_vtd_s1_invalidate. */
export const ioasidPasidInvalidate: Struct<typeof pasidInvalidateFields> = struct(pasidInvalidateFields);
/** Of the entry: only its PASID is meant. */
export const IOASID_PASID_INVALIDATE_ONE = 2;
