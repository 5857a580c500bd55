/** The frames behind a process's memory, as they are now: what MD_CHECK_MAP and its like compare with. */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { type AddressSpace, type PagingDomain, PfnRuns, SysError } from '@iommukit/iommu-core';

/** Pages looked up at a time. */
const CHUNK = 512;
const PAGE_MASK = BigInt(PAGE_SIZE - 1);

/**
 * Calls `visit` for the frame of each of `pages` pages from the one of `va`, in order; they are faulted in as by a read
 * (Linux: get_user_pages without FOLL_WRITE). Nothing of it is pinned when `visit` is called.
 * @throws {SysError} EFAULT at the first page that is not there; and what `visit` throws
 */
export function forEachFrame(
  space: AddressSpace,
  va: bigint,
  pages: number,
  visit: (pfn: number, index: number) => void,
): void {
  const start = va & ~PAGE_MASK;
  for (let done = 0; done < pages; ) {
    const runs = new PfnRuns();
    const at = start + BigInt(done) * BigInt(PAGE_SIZE);
    if (at > U64_MAX) throw new SysError('EFAULT', 'get_user_pages', `no address ${hex(at)}`);
    space.pin(at, Math.min(CHUNK, pages - done), false, runs);
    space.unpin(runs, false);
    for (let run = 0; run < runs.count; run++) {
      const first = runs.starts[run]!;
      const length = runs.lengths[run]!;
      for (let index = 0; index < length; index++) visit(first + index, done++);
    }
  }
}

/** A stretch of the caller's memory and the I/O virtual address it should be behind. */
export type Comparison = { readonly iova: bigint; readonly length: bigint; readonly uptr: bigint };

/**
 * Checks, in steps of the domain's smallest page, that the memory is behind the I/O virtual addresses.
 * @throws {SysError} EINVAL misaligned, or something else or nothing is there; EFAULT
 */
export function checkMap(domain: PagingDomain, space: AddressSpace, { iova, length, uptr }: Comparison): void {
  const call = 'IOMMU_TEST_CMD';
  const step = 1n << BigInt(domain.pageSizesLg2[0]!);
  const end = uptr + length;
  if (((iova | length | uptr) & (step - 1n)) !== 0n || end > U64_MAX) {
    throw new SysError('EINVAL', call, `${hex(length)} bytes at ${hex(uptr)} for ${hex(iova)}, in steps of ${step}`);
  }
  let at = uptr;
  forEachFrame(space, uptr, pagesOf(uptr, length), (pfn, index) => {
    const page = (uptr & ~PAGE_MASK) + BigInt(index) * BigInt(PAGE_SIZE);
    for (; at < end && at <= page + PAGE_MASK; at += step) {
      const where = BigInt.asUintN(64, iova + (at - uptr));
      const expected = BigInt(pfn) * BigInt(PAGE_SIZE) + (at - page);
      if (domain.iovaToPhys(where) !== expected) {
        throw new SysError('EINVAL', call, `${hex(where)} is not at ${hex(expected)}, where ${hex(at)} is`);
      }
    }
  });
}

/**
 * Checks that every page is pinned `refs` times, whoever pinned it.
 * @throws {SysError} EINVAL misaligned; EIO a page is pinned another number of times; EFAULT
 */
export function checkRefs(space: AddressSpace, uptr: bigint, length: bigint, refs: number): void {
  const call = 'IOMMU_TEST_CMD';
  if (((uptr | length) & PAGE_MASK) !== 0n || uptr + length > U64_MAX) {
    throw new SysError('EINVAL', call, `${hex(length)} bytes at ${hex(uptr)}`);
  }
  forEachFrame(space, uptr, pagesOf(uptr, length), (pfn, index) => {
    const pins = space.pinCount(pfn);
    if (pins !== refs) {
      const page = uptr + BigInt(index) * BigInt(PAGE_SIZE);
      throw new SysError('EIO', call, `the page at ${hex(page)} has ${pins} pins, not ${refs}`);
    }
  });
}

/** Pages that [va, va + length) meets. */
export function pagesOf(va: bigint, length: bigint): number {
  if (length === 0n) return 0;
  return Number((va + length - 1n) / BigInt(PAGE_SIZE) - va / BigInt(PAGE_SIZE)) + 1;
}
