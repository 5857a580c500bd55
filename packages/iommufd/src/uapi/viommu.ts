/**
 * Numbers and structure layouts of the virtual-IOMMU objects of /dev/iommu: include/uapi/linux/iommufd.h of Linux 7.2.
 */

import { type Struct, struct } from '@iommukit/iommu-core';
import { request } from './request.ts';

export const IOMMU_VIOMMU_ALLOC: number = request(0x90);
export const IOMMU_VDEVICE_ALLOC: number = request(0x91);
export const IOMMU_VEVENTQ_ALLOC: number = request(0x93);
export const IOMMU_HW_QUEUE_ALLOC: number = request(0x94);

export const IOMMU_VIOMMU_TYPE_DEFAULT = 0;
export const IOMMU_VEVENTQ_TYPE_DEFAULT = 0;
export const IOMMU_HW_QUEUE_TYPE_DEFAULT = 0;
export const IOMMU_VEVENTQ_FLAG_LOST_EVENTS = 1;
/** Deepest event queue. */
export const VEVENTQ_DEPTH_MAX: number = 1 << 19;

const viommuAllocFields = {
  size: 'u32',
  flags: 'u32',
  type: 'u32',
  devId: 'u32',
  hwptId: 'u32',
  outViommuId: 'u32',
  dataLen: 'u32',
  reserved: 'u32',
  dataUptr: 'u64',
} as const;
export const iommuViommuAlloc: Struct<typeof viommuAllocFields> = struct(viommuAllocFields);

const vdeviceAllocFields = { size: 'u32', viommuId: 'u32', devId: 'u32', outVdeviceId: 'u32', virtId: 'u64' } as const;
export const iommuVdeviceAlloc: Struct<typeof vdeviceAllocFields> = struct(vdeviceAllocFields);

const veventqAllocFields = {
  size: 'u32',
  flags: 'u32',
  viommuId: 'u32',
  type: 'u32',
  veventqDepth: 'u32',
  outVeventqId: 'u32',
  outVeventqFd: 'u32',
  reserved: 'u32',
} as const;
export const iommuVeventqAlloc: Struct<typeof veventqAllocFields> = struct(veventqAllocFields);

const veventHeaderFields = { flags: 'u32', sequence: 'u32' } as const;
/** In front of each record read from an event queue. */
export const iommufdVeventHeader: Struct<typeof veventHeaderFields> = struct(veventHeaderFields);

const hwQueueAllocFields = {
  size: 'u32',
  flags: 'u32',
  viommuId: 'u32',
  type: 'u32',
  index: 'u32',
  outHwQueueId: 'u32',
  nestingParentIova: 'u64',
  length: 'u64',
} as const;
export const iommuHwQueueAlloc: Struct<typeof hwQueueAllocFields> = struct(hwQueueAllocFields);
