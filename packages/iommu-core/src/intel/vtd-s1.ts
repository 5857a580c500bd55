/**
 * How a user describes a first stage of VT-d and what to invalidate of it: numbers and structures of
 * include/uapi/linux/iommufd.h (struct iommu_hwpt_vtd_s1 and struct iommu_hwpt_vtd_s1_invalidate).
 */

import { type Struct, struct } from '../struct.ts';

/** IOMMU_HWPT_DATA_VTD_S1. */
export const HWPT_DATA_VTD_S1 = 1;
/** IOMMU_HWPT_INVALIDATE_DATA_VTD_S1. */
export const HWPT_INVALIDATE_DATA_VTD_S1 = 0;

/** Flags of struct iommu_hwpt_vtd_s1: supervisor requests, extended accessed bits, write protection for supervisors. */
export const VTD_S1_SRE = 1n;
export const VTD_S1_EAFE = 2n;
export const VTD_S1_WPE = 4n;

/** Flag of struct iommu_hwpt_vtd_s1_invalidate: tables have not changed, only leaves. */
export const VTD_INV_FLAGS_LEAF = 1;

const vtdS1Fields = { flags: 'u64', pgtblAddr: 'u64', addrWidth: 'u32', reserved: 'u32' } as const;
export const vtdS1: Struct<typeof vtdS1Fields> = struct(vtdS1Fields);

const vtdS1InvalidateFields = { addr: 'u64', npages: 'u64', flags: 'u32', reserved: 'u32' } as const;
export const vtdS1Invalidate: Struct<typeof vtdS1InvalidateFields> = struct(vtdS1InvalidateFields);
