/**
 * Numbers and structure layouts of /dev/ioasid as an allocator of PASIDs: include/uapi/linux/ioasid.h of the IOASID
 * series, version 4 (February 2021), which was never merged. The later proposal uses the path and the numbers anew.
 */

import { type Struct, struct } from '@iommukit/iommu-core';

const IOASID_TYPE = 0x69;
const IOASID_BASE = 100;

export const IOASID_API_VERSION = 0;

export const IOASID_GET_API_VERSION: number = (IOASID_TYPE << 8) | IOASID_BASE;
/** IOASID_GET_INFO of that header. */
export const IOASID_GET_ALLOCATION_INFO: number = (IOASID_TYPE << 8) | (IOASID_BASE + 1);
/** Gives the IOASID as result. */
export const IOASID_REQUEST_ALLOC: number = (IOASID_TYPE << 8) | (IOASID_BASE + 2);
/** Takes a pointer to an int. */
export const IOASID_REQUEST_FREE: number = (IOASID_TYPE << 8) | (IOASID_BASE + 3);

const infoFields = { argsz: 'u32', flags: 'u32', ioasidBits: 'u32' } as const;
export const ioasidAllocationInfo: Struct<typeof infoFields> = struct(infoFields);

const requestFields = { argsz: 'u32', flags: 'u32', min: 'u32', max: 'u32' } as const;
export const ioasidAllocRequest: Struct<typeof requestFields> = struct(requestFields);
