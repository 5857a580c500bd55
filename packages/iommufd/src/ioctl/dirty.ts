/** The commands on what devices have written to, on bytes. What they do is in dirty-tracking.ts. */

import { hwptGetDirtyBitmap, hwptSetDirtyTracking } from '../dirty-tracking.ts';
import * as uapi from '../uapi/iommufd.ts';
import { type Command, checkReserved, command } from './command.ts';

export const dirtyCommands: readonly Command[] = [
  command(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.iommuHwptSetDirtyTracking, 'reserved', ({ context }, cmd) => {
    hwptSetDirtyTracking(context, cmd.hwptId, cmd.flags);
    return { answers: false };
  }),
  command(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, uapi.iommuHwptGetDirtyBitmap, 'data', ({ context, process }, cmd) => {
    checkReserved('IOMMU_HWPT_GET_DIRTY_BITMAP', cmd.reserved);
    hwptGetDirtyBitmap(context, { ...cmd, memory: process.addressSpace });
    return { answers: false };
  }),
];
