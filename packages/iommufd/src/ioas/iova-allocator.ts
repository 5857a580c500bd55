/**
 * Choosing an I/O virtual address: the first place that fits, as aligned as the memory behind it, so that large pages
 * can be used (Linux: iopt_alloc_iova, drivers/iommu/iommufd/io_pagetable.c).
 */

import { hex, low32, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import { addressAt, byteOf, pageOf } from './area.ts';
import type { GapRequest, IntervalTree } from './interval-tree.ts';
import type { IovaRange, ReservedRanges } from './reserved.ts';

/** No address is aligned to more than this: the size of a large page of the CPU. */
const HUGE_PAGE = 2 << 20;
const LENGTH_LIMIT = 2n ** 63n - 1n;
/** First and last address to give out: never 0. */
const FIRST = BigInt(PAGE_SIZE);
const LAST: bigint = U64_MAX - BigInt(PAGE_SIZE);
const EVERYWHERE: readonly IovaRange[] = [{ start: FIRST, last: LAST }];

/**
 * The lowest address for `length` bytes (at least 1) of memory at `address` that no area and no reserved range meets,
 * in an allowed range when there are any.
 * It has the memory's offset in the page.
 * @throws {SysError} EOVERFLOW length; EINVAL the memory is less aligned than `minAlignment`; ENOSPC
 */
export function allocateIova(
  areas: IntervalTree<unknown>,
  reserved: ReservedRanges,
  allowed: readonly IovaRange[],
  address: bigint,
  length: bigint,
  minAlignment: number,
): bigint {
  const call = 'iopt_alloc_iova';
  if (length >= LENGTH_LIMIT) throw new SysError('EOVERFLOW', call, `length ${hex(length)}`);
  const alignment = alignmentFor(address, length);
  if (alignment < minAlignment) {
    throw new SysError('EINVAL', call, `memory at ${hex(address)} cannot be aligned to ${minAlignment}`);
  }
  const request: GapRequest = {
    pages: pageOf(length - 1n),
    bytes: byteOf(length - 1n),
    alignment,
    pageOffset: byteOf(address),
  };
  for (const range of allowed.length === 0 ? EVERYWHERE : allowed) {
    const to = range.last > LAST ? LAST : range.last;
    // The search begins at the first address that would do, whatever gaps lie before it.
    const from = alignUp(range.start < FIRST ? FIRST : range.start, BigInt(alignment)) | BigInt(request.pageOffset);
    if (from >= to || to - from < length - 1n) continue;
    for (const { start, last } of reserved.holes(from, to)) {
      if (areas.findGap(pageOf(start), byteOf(start), pageOf(last), byteOf(last), request)) {
        return addressAt(areas.foundPage, areas.foundByte);
      }
    }
  }
  throw new SysError('ENOSPC', call, `no place for ${hex(length)} bytes aligned to ${hex(alignment)}`);
}

function alignUp(address: bigint, alignment: bigint): bigint {
  return (address + alignment - 1n) & -alignment;
}

/** The smallest power of two not below `length`, but no more than a large page and than what `address` has. */
function alignmentFor(address: bigint, length: bigint): number {
  const size = length < HUGE_PAGE ? 1 << (32 - Math.clz32(low32(length) - 1)) : HUGE_PAGE;
  const low = low32(address);
  const own = low & -low;
  return own > 0 && own < size ? own : size;
}
