/** Addresses and lengths of mmap(2) and its kin as page numbers, checked. */

import { hex, high32, low32, pageNumber, type U64 } from '@iommukit/hw';
import { SysError } from '../errno.ts';
import { USER_PAGES } from './cpu-page-table.ts';

/** Lowest page that can be mapped (Linux: mmap_min_addr). */
export const FIRST_PAGE = 16;

export function addressOf(vpn: number): bigint {
  return BigInt(vpn) << 12n;
}

export function pageOf(va: U64): number {
  return pageNumber(low32(va), high32(va));
}

/** @throws {SysError} EINVAL */
export function alignedPage(call: string, address: U64): number {
  if ((low32(address) & 0xfff) !== 0) throw new SysError('EINVAL', call, `${hex(address)} is not page-aligned`);
  return pageOf(address);
}

/** Pages that `length` bytes touch. @throws {SysError} EINVAL none */
export function pagesOf(call: string, length: U64): number {
  const pages = pageOf(length) + ((low32(length) & 0xfff) === 0 ? 0 : 1);
  if (pages === 0) throw new SysError('EINVAL', call, 'length 0');
  return pages;
}

/** A range of user pages, [start, end). @throws {SysError} EINVAL */
export function rangeOf(call: string, address: U64, length: U64): [start: number, end: number] {
  const start = alignedPage(call, address);
  const end = start + pagesOf(call, length);
  if (end > USER_PAGES) throw new SysError('EINVAL', call, `${hex(address)}+${hex(length)} is not a user range`);
  return [start, end];
}

/** @throws {SysError} EPERM, ENOMEM pages [start, end) are not where a process may have memory */
export function checkPlace(call: string, start: number, end: number): void {
  if (start < FIRST_PAGE)
    throw new SysError('EPERM', call, `page ${hex(start)} is below the lowest that can be mapped`);
  if (end > USER_PAGES) throw new SysError('ENOMEM', call, `page ${hex(end - 1)} is not a user page`);
}
