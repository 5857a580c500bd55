/**
 * Numbers and structures of the kernel's own tests of /dev/iommu: drivers/iommu/iommufd/iommufd_test.h of Linux 7.2.
 * Names are the kernel's in camel case. What the structure of IOMMU_TEST_CMD holds besides its head depends on the
 * operation (operations.ts).
 */

import { type Struct, struct } from '@iommukit/iommu-core';
import { request } from '../uapi/request.ts';

export const IOMMU_TEST_CMD: number = request(0xa0);

export const IOMMU_TEST_OP_ADD_RESERVED = 1;
export const IOMMU_TEST_OP_MOCK_DOMAIN = 2;
export const IOMMU_TEST_OP_MD_CHECK_MAP = 3;
export const IOMMU_TEST_OP_MD_CHECK_REFS = 4;
export const IOMMU_TEST_OP_CREATE_ACCESS = 5;
export const IOMMU_TEST_OP_DESTROY_ACCESS_PAGES = 6;
export const IOMMU_TEST_OP_ACCESS_PAGES = 7;
export const IOMMU_TEST_OP_ACCESS_RW = 8;
export const IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT = 9;
export const IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE = 10;
export const IOMMU_TEST_OP_ACCESS_REPLACE_IOAS = 11;
export const IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS = 12;
export const IOMMU_TEST_OP_DIRTY = 13;
export const IOMMU_TEST_OP_MD_CHECK_IOTLB = 14;
export const IOMMU_TEST_OP_TRIGGER_IOPF = 15;
export const IOMMU_TEST_OP_DEV_CHECK_CACHE = 16;
export const IOMMU_TEST_OP_TRIGGER_VEVENT = 17;
export const IOMMU_TEST_OP_PASID_ATTACH = 18;
export const IOMMU_TEST_OP_PASID_REPLACE = 19;
export const IOMMU_TEST_OP_PASID_DETACH = 20;
export const IOMMU_TEST_OP_PASID_CHECK_HWPT = 21;
export const IOMMU_TEST_OP_DMABUF_GET = 22;
export const IOMMU_TEST_OP_DMABUF_REVOKE = 23;

export const MOCK_IOMMUPT_DEFAULT = 0;
export const MOCK_IOMMUPT_HUGE = 1;
/** Of the default page table. */
export const MOCK_APERTURE_START: number = 1 << 24;
export const MOCK_APERTURE_LAST: number = 2 ** 31 - 1;
export const MOCK_PAGE_SIZE = 2048;
export const MOCK_HUGE_PAGE_SIZE: number = 512 * MOCK_PAGE_SIZE;

export const MOCK_FLAGS_ACCESS_WRITE = 1;
export const MOCK_FLAGS_ACCESS_SYZ: number = 1 << 16;
export const MOCK_ACCESS_RW_WRITE = 1;
export const MOCK_ACCESS_RW_SLOW_PATH = 4;
export const MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES = 1;
export const MOCK_FLAGS_DEVICE_NO_DIRTY = 1;
export const MOCK_FLAGS_DEVICE_PASID = 4;

export const MOCK_NESTED_DOMAIN_IOTLB_NUM = 4;
export const MOCK_DEV_CACHE_NUM = 4;
/** Bits of a PASID. */
export const MOCK_PASID_WIDTH = 20;
/** The second attachment in a row to this PASID fails. */
export const IOMMU_TEST_PASID_RESERVED = 1024;

export const IOMMU_HW_INFO_TYPE_SELFTEST = 0xfeed_beef;
export const IOMMU_HW_INFO_SELFTEST_REGVAL = 0xdead_beef;
export const IOMMU_HWPT_DATA_SELFTEST = 0xdead;
/** What the tests put into the IOTLB of a nested domain, and what the cache of a device holds at first. */
export const IOMMU_TEST_IOTLB_DEFAULT = 0x0bad_beef;
export const IOMMU_TEST_DEV_CACHE_DEFAULT = 0x00ba_ddad;
export const IOMMU_HWPT_INVALIDATE_DATA_SELFTEST = 0xdead_beef;
export const IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST = 0xdead_beef;
/** Of both kinds of invalidation. */
export const IOMMU_TEST_INVALIDATE_FLAG_ALL = 1;
export const IOMMU_VIOMMU_TYPE_SELFTEST = 0xdead_beef;
export const IOMMU_VEVENTQ_TYPE_SELFTEST = 0xbeef_beef;
export const IOMMU_HW_QUEUE_TYPE_SELFTEST = 0xdead_beef;
export const IOMMU_TEST_HW_QUEUE_MAX = 2;

const hwInfoFields = { flags: 'u32', testReg: 'u32' } as const;
export const iommuTestHwInfo: Struct<typeof hwInfoFields> = struct(hwInfoFields);

const hwptFields = { iotlb: 'u32', pagetableType: 'u32' } as const;
/** Data of HWPT_ALLOC: what a nested domain's IOTLB holds, or the kind of a paging domain's table. */
export const iommuHwptSelftest: Struct<typeof hwptFields> = struct(hwptFields);

const hwptInvalidateFields = { flags: 'u32', iotlbId: 'u32' } as const;
export const iommuHwptInvalidateSelftest: Struct<typeof hwptInvalidateFields> = struct(hwptInvalidateFields);

const viommuFields = { inData: 'u32', outData: 'u32', outMmapOffset: 'u64', outMmapLength: 'u64' } as const;
export const iommuViommuSelftest: Struct<typeof viommuFields> = struct(viommuFields);

const viommuInvalidateFields = { flags: 'u32', vdevId: 'u32', cacheId: 'u32' } as const;
export const iommuViommuInvalidateSelftest: Struct<typeof viommuInvalidateFields> = struct(viommuInvalidateFields);

const viommuEventFields = { virtId: 'u32' } as const;
export const iommuViommuEventSelftest: Struct<typeof viommuEventFields> = struct(viommuEventFields);
