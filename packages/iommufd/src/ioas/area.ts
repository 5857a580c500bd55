/**
 * A mapping of an IOAS: an interval of I/O virtual addresses onto a slice of a pin group, on which it holds one
 * reference (Linux: struct iopt_area). Areas are byte-granular; they reach a hardware table as runs of frames.
 */

import { high32, low32, PAGE_SIZE, pageNumber } from '@iommukit/hw';
import { IOMMU_CACHE, IOMMU_MMIO, type Kernel, type PagingDomain } from '@iommukit/iommu-core';
import type { Pages } from './pages.ts';

/** A part of a pin group: `length` bytes (at least 1) from byte `startByte` of its page 0. */
export type PagesSlice = { readonly pages: Pages; readonly startByte: bigint; readonly length: bigint };

export class Area {
  readonly iova: bigint;
  readonly last: bigint;
  readonly pages: Pages;
  /** Byte of the pin group at `iova`. */
  readonly startByte: bigint;
  /** IOMMU_ bits. */
  readonly prot: number;
  /** Position of `iova` and `last`: page number and byte in the page. */
  readonly iovaPage: number;
  readonly iovaByte: number;
  readonly lastPage: number;
  readonly lastByte: number;
  /** Indexes of the group's pages that the area uses. */
  readonly firstIndex: number;
  readonly lastIndex: number;
  /** Pins by accesses, of all of it or of parts; those of them that keep it from being unmapped. */
  accesses = 0;
  locks = 0;
  /** Being unmapped: no access may begin. */
  preventAccess = false;

  constructor(slice: PagesSlice, iova: bigint, prot: number) {
    this.iova = iova;
    this.last = iova + slice.length - 1n;
    this.pages = slice.pages;
    this.startByte = slice.startByte;
    this.prot = prot;
    this.iovaPage = pageOf(this.iova);
    this.iovaByte = byteOf(this.iova);
    this.lastPage = pageOf(this.last);
    this.lastByte = byteOf(this.last);
    this.firstIndex = pageOf(slice.startByte);
    this.lastIndex = pageOf(slice.startByte + slice.length - 1n);
  }

  get length(): bigint {
    return this.last - this.iova + 1n;
  }

  /** Byte of its first page at which the area starts. */
  get pageOffset(): number {
    return byteOf(this.startByte);
  }

  /** Byte of the group at `iova`, which is in the area. */
  byteAt(iova: bigint): bigint {
    return this.startByte + (iova - this.iova);
  }

  /** Index of the page at `iova`, which is in the area. */
  indexAt(iova: bigint): number {
    return pageOf(this.byteAt(iova));
  }

  /** True when address, length and page offset are multiples of `alignment`, a power of two of at most a page. */
  isAligned(alignment: number): boolean {
    return ((this.iovaByte | (this.lastByte + 1) | this.pageOffset) & (alignment - 1)) === 0;
  }
}

/** Page number of a byte address. */
export function pageOf(address: bigint): number {
  return pageNumber(low32(address), high32(address));
}

/** Byte in its page of a byte address. */
export function byteOf(address: bigint): number {
  return low32(address) & 0xfff;
}

/**
 * Puts an area whose pages are pinned into a hardware table, in leaves of up to `runPages` pages. Nothing is put there of
 * memory that was revoked. On failure nothing of it is there, and nothing cached.
 * @throws {SysError} as PagingDomain.map; ENOMEM
 */
export function mapArea(kernel: Kernel, domain: PagingDomain, area: Area, runPages: number): void {
  const { iovaPage, iovaByte, pageOffset, pages } = area;
  if (pages.revoked) return;
  const bytes = byteLength(area);
  const prot = pages.revocable === null ? area.prot : (area.prot & ~IOMMU_CACHE) | IOMMU_MMIO;
  let done = 0;
  try {
    pages.forEachRun(area.firstIndex, area.lastIndex, (first, count) => {
      for (let next = 0; next < count; next += runPages) {
        kernel.checkpoint('iommu_map');
        const pfn = first + next;
        const skip = done === 0 ? pageOffset : 0;
        const size = Math.min(Math.min(runPages, count - next) * PAGE_SIZE - skip, bytes - done);
        const at = iovaByte + done;
        const whole = Math.floor(at / PAGE_SIZE);
        const page = iovaPage + whole;
        const high = halfHigh(page);
        const physHigh = halfHigh(pfn);
        const byte = at - whole * PAGE_SIZE;
        domain.map(halfLow(page, high, byte), high, halfLow(pfn, physHigh, skip), physHigh, size, prot);
        done += size;
      }
    });
  } catch (error) {
    if (done > 0) {
      domain.unmap(low32(area.iova), high32(area.iova), done);
      domain.sync();
    }
    throw error;
  }
  domain.syncMap(low32(area.iova), high32(area.iova), bytes);
}

/** Takes an area out of a hardware table, in one piece. Cached translations live on until the domain's `sync`. */
export function unmapArea(domain: PagingDomain, area: Area): void {
  if (!area.pages.revoked) domain.unmap(low32(area.iova), high32(area.iova), byteLength(area));
}

/** Bytes of an area that is in a hardware table: its pages are pinned, so they are fewer than 2^53. */
function byteLength(area: Area): number {
  return (area.lastPage - area.iovaPage) * PAGE_SIZE + area.lastByte - area.iovaByte + 1;
}

/** Bits 63..32 of the address of a page. */
function halfHigh(page: number): number {
  return Math.floor(page / 1048576) | 0;
}

/** Bits 31..0 of the address of a byte of a page, whose bits 63..32 are `high`. No remainder of doubles: that is slow. */
function halfLow(page: number, high: number, byte: number): number {
  return ((page - (high >>> 0) * 1048576) << 12) | byte;
}
