/**
 * Which pages devices have written to through a hardware page table: HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP
 * (Linux: iopt_set_dirty_tracking and iopt_read_and_clear_dirty_data, drivers/iommu/iommufd/io_pagetable.c).
 */

import { hex, high32, low32, U64_MAX } from '@iommukit/hw';
import { type DirtyTracking, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import { type BitmapMemory, DirtyBitmap } from './dirty-bitmap.ts';
import { HwptPaging } from './hwpt.ts';
import { IOMMU_HWPT_DIRTY_TRACKING_ENABLE, IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR } from './uapi/iommufd.ts';

const SET = 'IOMMU_HWPT_SET_DIRTY_TRACKING';
const GET = 'IOMMU_HWPT_GET_DIRTY_BITMAP';

/**
 * Turns tracking on or off. Turning it on forgets what was written before.
 * @throws {SysError} EOPNOTSUPP flags, or the table was not made for tracking; ENOENT no paging table
 */
export function hwptSetDirtyTracking(context: IommufdContext, hwptId: number, flags: number): void {
  if ((flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE) !== 0) throw new SysError('EOPNOTSUPP', SET, `flags ${hex(flags)}`);
  const hwpt = context.objects.get(hwptId, HwptPaging);
  const { domain, ioas } = hwpt;
  const dirty = trackingOf(SET, hwpt);
  const enable = (flags & IOMMU_HWPT_DIRTY_TRACKING_ENABLE) !== 0;
  if (enable) {
    ioas.table.space.forEachArea(({ iova, length }) => {
      dirty.read(low32(iova), high32(iova), Number(length), false, () => {});
    });
    domain.sync();
  }
  dirty.setEnabled(enable);
}

export type DirtyBitmapRequest = {
  hwptId: number;
  /** IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or 0. */
  flags: number;
  iova: bigint;
  /** Bytes; 0 from address 0 is all 2^64. */
  length: bigint;
  /** Bytes that a bit stands for. */
  pageSize: bigint;
  /** Address of the bitmap in `memory`. */
  data: bigint;
  memory: BitmapMemory;
};

/**
 * Sets the bits of pages that were written to since they were last read and cleared, and clears them in the table unless
 * told not to. The walk ends without an error where nothing is mapped.
 * @throws {SysError} EOPNOTSUPP flags, or the table was not made for tracking; ENOENT no paging table; EOVERFLOW; EINVAL
 * page size 0, or the range is not aligned to it or to the IOAS; ENOMEM
 */
export function hwptGetDirtyBitmap(context: IommufdContext, request: DirtyBitmapRequest): void {
  const { flags, iova, memory, data, pageSize } = request;
  if ((flags & ~IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR) !== 0) {
    throw new SysError('EOPNOTSUPP', GET, `flags ${hex(flags)}`);
  }
  const hwpt = context.objects.get(request.hwptId, HwptPaging);
  const { domain, ioas } = hwpt;
  const last = checkRange(request, ioas.table.iovaAlignment);
  const dirty = trackingOf(GET, hwpt);
  context.kernel.checkpoint('iova_bitmap');
  const bitmap = new DirtyBitmap({ memory, address: data, iova, last, pageSize });
  const record = (lo: number, hi: number, bytes: number): void => bitmap.record(lo, hi, bytes);
  const keep = (flags & IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR) !== 0;
  try {
    ioas.table.space.forEachPart(GET, iova, last, (_area, first, end) => {
      dirty.read(low32(first), high32(first), Number(end - first + 1n), keep, record);
    });
  } catch (error) {
    if (!(error instanceof SysError) || error.code !== 'ENOENT') throw error;
  }
  bitmap.flush();
  if (!keep) domain.sync();
}

function trackingOf(call: string, { id, domain }: HwptPaging): DirtyTracking {
  if (domain.dirty !== null) return domain.dirty;
  throw new SysError('EOPNOTSUPP', call, `table ${id} does not track what is written`);
}

/** Last address of the range. @throws {SysError} EOVERFLOW, EINVAL */
function checkRange({ iova, length, pageSize }: DirtyBitmapRequest, alignment: number): bigint {
  const range = `${hex(length)} bytes from ${hex(iova)}`;
  const last = iova + BigInt.asUintN(64, length - 1n);
  if (last > U64_MAX) throw new SysError('EOVERFLOW', GET, range);
  const ends = iova | (last + 1n);
  if (pageSize === 0n || (ends & BigInt(alignment - 1)) !== 0n || (ends & (pageSize - 1n)) !== 0n) {
    throw new SysError('EINVAL', GET, `${range} in pages of ${hex(pageSize)}, aligned to ${hex(alignment)}`);
  }
  return last;
}
