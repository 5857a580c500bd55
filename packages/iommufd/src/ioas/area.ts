/**
 * A mapping of an IOAS: an interval of I/O virtual addresses onto a slice of a pin group, on which it holds one
 * reference (Linux: struct iopt_area). Areas are byte-granular; they reach a hardware table as runs of frames.
 */

import { high32, joinU64, low32, PAGE_SIZE, pageNumber } from '@iommukit/hw';
import { IOMMU_CACHE, IOMMU_MMIO, type Kernel, type PagingDomain } from '@iommukit/iommu-core';
import type { Pages } from './pages.ts';

/** A part of a pin group: `length` bytes (at least 1) from byte `startByte` of its page 0. */
export type PagesSlice = { readonly pages: Pages; readonly startByte: bigint; readonly length: bigint };

export class Area {
  /** Position of `iova` and `last`: page number and byte in the page. */
  readonly iovaPage: number;
  readonly iovaByte: number;
  readonly lastPage: number;
  readonly lastByte: number;
  readonly iova: bigint;
  readonly last: bigint;
  readonly pages: Pages;
  /** Byte of the pin group at `iova`. */
  readonly startByte: bigint;
  /** IOMMU_ bits. */
  readonly prot: number;
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

const address64 = new BigUint64Array(1);
const halves = new Int32Array(address64.buffer);

/** Page number of a byte address, which is a 64-bit value and is not checked to be one. */
export function pageOf(address: bigint): number {
  address64[0] = address;
  return pageNumber(halves[0]!, halves[1]!);
}

/** Byte in its page of a byte address. */
export function byteOf(address: bigint): number {
  address64[0] = address;
  return halves[0]! & 0xfff;
}

/** The address of a byte of a page. */
export function addressAt(page: number, byte: number): bigint {
  return joinU64(low32Of(page, byte), high32Of(page));
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
  /** Of the address of every page but the first, whose bytes before the area are not mapped. */
  const byte = (iovaByte - pageOffset) & (PAGE_SIZE - 1);
  const before = iovaByte < pageOffset ? 1 : 0;
  let done = 0;
  const map = (pfn: number, count: number, index: number): void => {
    kernel.checkpoint('iommu_map');
    if (index === 0) {
      const size = Math.min(count * PAGE_SIZE - pageOffset, bytes);
      domain.map(low32Of(iovaPage, iovaByte), high32Of(iovaPage), low32Of(pfn, pageOffset), high32Of(pfn), size, prot);
    } else {
      const page = iovaPage + index - before;
      const size = Math.min(count * PAGE_SIZE, bytes + pageOffset - index * PAGE_SIZE);
      domain.map(low32Of(page, byte), high32Of(page), low32Of(pfn, 0), high32Of(pfn), size, prot);
    }
    done = index + count;
  };
  try {
    pages.forEachRun(area.firstIndex, area.lastIndex, (pfn, count, index) => {
      if (count <= runPages) map(pfn, count, index);
      else for (let page = 0; page < count; page++) map(pfn + page, 1, index + page);
    });
  } catch (error) {
    if (done > 0) {
      domain.unmap(low32(area.iova), high32(area.iova), done * PAGE_SIZE - pageOffset);
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
function high32Of(page: number): number {
  return Math.floor(page / 1048576) | 0;
}

/** Bits 31..0 of the address of a byte of a page. */
function low32Of(page: number, byte: number): number {
  return (page << 12) | byte;
}
