/**
 * Maps and unmaps ranges in one page table of any format, with the largest leaves that fit: what IOMMU drivers use.
 *
 * Leaves are never cut: unmapping part of one unmaps all of it. A table that loses its last entry is unlinked at once
 * and gathered, because hardware may still reach it through cached upper entries; its owner frees what is gathered after
 * the flush.
 */

import { hex, high32, joinU64, low32, type PageTableFormat, pageHigh, pageLow } from '@iommukit/hw';
import { type DirtyVisitor, IOMMU_READ, IOMMU_WRITE } from '../domain.ts';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import { leafHigh, leafLow } from './leaf-bits.ts';
import {
  clearBits,
  clearEntries,
  countUsed,
  endOfLeaves,
  fillFewLeaves,
  fillLeaves,
  firstWith,
  firstWithout,
} from './leaf-run.ts';
import { ENTRIES, SPAN, TableTree } from './table-tree.ts';

const LAST_PFN = 2 ** 40 - 1;
/** Physical pages of one value of a leaf's high half, and the highest such value. */
const FRAMES_LOW = 2 ** 20;
const LAST_HIGH = 2 ** 20 - 1;
/** Bytes of a table of level 0 with pages of 4 KiB. */
const SHORT = 2 ** 21;

export class PageTableEditor extends TableTree {
  /**
   * A range of pages that covers the leaves which the last `unmap` took away, or whose dirty bits the last `readDirty`
   * cleared; they may have stuck out of its range on both sides. The first is above the last when there were none.
   */
  firstChanged: number = Number.POSITIVE_INFINITY;
  lastChanged = -1;

  /** Bit n is set when entries of level n can be leaves. */
  private readonly leafLevels: number;
  /** Bytes of a page, its log2, and pages of one value of an address's high half. */
  private readonly pageBytes: number;
  private readonly pageLg2: number;
  private readonly pagesLow: number;
  /** Pages of all addresses of 64 bits. */
  private readonly spacePages: number;
  /** Last page number of the table's width, and of its lower half where addresses are canonical. */
  private readonly lastPage: number;
  private readonly lastLowerPage: number;
  /** What was last mapped with, and the bits of such leaves. */
  private prot = -1;
  private low = 0;
  private high = 0;
  /** Pages mapped so far by the `map` under way. */
  private mapped = 0;
  /** Pages that `mapShort` can map, in units of 2^27. */
  private readonly shortLimit: number;

  /**
   * @param levels one of `format.levels`
   * @param pageSizesLg2 the sizes that the hardware has, some of the format's; the smallest is always there
   * @throws {SysError} ENOMEM
   */
  constructor(
    kernel: Kernel,
    format: PageTableFormat,
    levels: number,
    pageSizesLg2: readonly number[] = format.pageSizesLg2,
  ) {
    super(kernel, format, levels);
    this.lastPage = 2 ** (9 * levels) - 1;
    this.lastLowerPage = format.canonical ? 2 ** (9 * levels - 1) - 1 : this.lastPage;
    this.pageLg2 = format.pageSizesLg2[0]!;
    this.pageBytes = 1 << this.pageLg2;
    this.pagesLow = 1 << (32 - this.pageLg2);
    this.spacePages = 2 ** (64 - this.pageLg2);
    this.shortLimit = this.pageLg2 === 12 ? Math.floor((this.lastLowerPage + 1) / 2 ** 27) : 0;
    let leafLevels = 1;
    for (const size of pageSizesLg2) leafLevels |= 1 << ((size - this.pageLg2) / 9);
    this.leafLevels = leafLevels & ((1 << levels) - 1);
  }

  /** True when tables wait for `freeGathered`. */
  get hasGathered(): boolean {
    return this.gathered.length > 0;
  }

  /**
   * Maps `bytes` at `iova` to adjoining physical addresses with the largest leaves that fit. `prot` holds IOMMU_ bits.
   * On failure the table is as it was.
   * @throws {SysError} EINVAL misaligned, empty or no access; ERANGE outside the table or the physical address space;
   * EEXIST where something is mapped; ENOMEM
   */
  map(iovaLo: number, iovaHi: number, physLo: number, physHi: number, bytes: number, prot: number): void {
    if (prot !== this.prot) this.setProtection(prot);
    if (bytes < SHORT && this.mapShort(iovaLo, iovaHi, physLo, physHi, bytes)) return;
    const { pageBytes } = this;
    const pages = bytes / pageBytes;
    if (((iovaLo | physLo) & (pageBytes - 1)) !== 0 || !(pages > 0) || pages !== Math.floor(pages)) {
      throw new SysError('EINVAL', 'iommu_map', `misaligned: ${range(iovaLo, iovaHi, bytes)}`);
    }
    const page = this.pageOf(iovaLo, iovaHi);
    const pfn = this.pageNumber(physLo, physHi);
    if (page < 0 || page + (pages - 1) > this.lastOf(page)) {
      throw new SysError('ERANGE', 'iommu_map', `outside the table: ${range(iovaLo, iovaHi, bytes)}`);
    }
    if (pfn + (pages - 1) > LAST_PFN) {
      throw new SysError('ERANGE', 'iommu_map', `no physical address: ${range(physLo, physHi, bytes)}`);
    }
    this.mapped = 0;
    try {
      this.fill(this.rootPfn, this.levels - 1, page, pfn, pages);
    } catch (error) {
      this.takeBack(page);
      throw error;
    }
  }

  /**
   * Unmaps every leaf that meets the range, and gives the bytes unmapped: more than asked when leaves stick out, fewer
   * where there are holes. Never fails and takes no frame.
   */
  unmap(iovaLo: number, iovaHi: number, bytes: number): number {
    this.noneChanged();
    const first = this.pageOf(iovaLo, iovaHi);
    if (first < 0 || !(bytes > 0)) return 0;
    const last = Math.min(this.lastOf(first), first + Math.ceil(bytes / this.pageBytes) - 1);
    return this.remove(this.rootPfn, this.levels - 1, 0, first, last) * this.pageBytes;
  }

  /**
   * Gives every leaf that meets the range the protection `prot`; accessed and dirty bits stay. Gives the bytes changed,
   * counted as by `unmap`.
   * @throws {SysError} EINVAL no access
   */
  protect(iovaLo: number, iovaHi: number, bytes: number, prot: number): number {
    if ((prot & (IOMMU_READ | IOMMU_WRITE)) === 0) throw new SysError('EINVAL', 'iommu_map', `protection ${hex(prot)}`);
    const first = this.pageOf(iovaLo, iovaHi);
    if (first < 0 || !(bytes > 0)) return 0;
    const last = Math.min(this.lastOf(first), first + Math.ceil(bytes / this.pageBytes) - 1);
    const { words } = this;
    const { accessed, dirty, readHigh, writeHigh, snoopHigh, noExecuteHigh } = this.format;
    const kept = 0xfffff000 | this.leafMask | accessed | dirty;
    const keptHigh = ~(readHigh | writeHigh | snoopHigh | noExecuteHigh);
    const low = leafLow(this.format, prot) & ~(accessed | dirty);
    const high = leafHigh(this.format, prot);
    let pages = 0;
    this.eachRun(first, last, (start, count, _page, span) => {
      for (let word = start; word < start + 2 * count; word += 2) {
        if (words[word] === 0) continue;
        words[word] = (words[word]! & kept) | low;
        words[word + 1] = (words[word + 1]! & keptHigh) | high;
        pages += span;
      }
      this.memory.noteWrite(start >>> 10);
    });
    return pages * this.pageBytes;
  }

  /**
   * Calls `visit` for the dirty leaves that meet the range, ascending and whole; adjoining ones of one table come as one
   * range. Clears their dirty bits unless `keep`. `visit` must not throw.
   */
  readDirty(iovaLo: number, iovaHi: number, bytes: number, keep: boolean, visit: DirtyVisitor): void {
    this.noneChanged();
    const { pageBytes, words } = this;
    const first = this.pageOf(iovaLo, iovaHi);
    if (first < 0 || !(bytes > 0)) return;
    const last = Math.min(this.lastOf(first), first + Math.ceil(bytes / pageBytes) - 1);
    const { dirty } = this.format;
    this.eachRun(first, last, (start, count, page, span) => {
      const end = start + 2 * count;
      let word = firstWith(words, start, end, dirty);
      if (word === end) return;
      // The leaves of a run are of one table, or one: the high half of their addresses is the same.
      const at = this.spacePageOf(page);
      const high = Math.floor(at / this.pagesLow) | 0;
      const low = (at - (high >>> 0) * this.pagesLow) << this.pageLg2;
      const leafBytes = span * pageBytes;
      const from = word;
      let to = word;
      while (word < end) {
        const stop = firstWithout(words, word, end, dirty);
        if (!keep) clearBits(words, word, stop, dirty);
        visit((low + ((word - start) >> 1) * leafBytes) | 0, high, ((stop - word) >> 1) * leafBytes);
        to = stop;
        word = firstWith(words, stop, end, dirty);
      }
      if (keep) return;
      this.memory.noteWrite(start >>> 10);
      this.noteChanged(page + ((from - start) >> 1) * span, page + ((to - start) >> 1) * span - 1);
    });
  }

  /** Physical address behind `iova`, or null. @throws {RangeError} not an unsigned 64-bit value */
  iovaToPhys(iova: bigint): bigint | null {
    const page = this.pageOf(low32(iova), high32(iova));
    if (page < 0) return null;
    let pfn = -1;
    this.eachRun(page, page, (word, _count, first, span) => {
      const low = this.words[word]!;
      if (low === 0) return;
      const frame = (this.words[word + 1]! & 0xfffff) * FRAMES_LOW + (low >>> 12);
      pfn = frame + (page - first) - (frame % span);
    });
    return pfn < 0 ? null : BigInt(pfn) * BigInt(this.pageBytes) + (iova & BigInt(this.pageBytes - 1));
  }

  /** @throws {SysError} EINVAL no access */
  private setProtection(prot: number): void {
    if ((prot & (IOMMU_READ | IOMMU_WRITE)) === 0) throw new SysError('EINVAL', 'iommu_map', `protection ${hex(prot)}`);
    this.prot = prot;
    this.low = leafLow(this.format, prot);
    this.high = leafHigh(this.format, prot);
  }

  /**
   * Maps less than 2 MiB in small integers, which is what scattered frames need: where the table of level 0 is there, and
   * the place in it free. False: nothing is done.
   */
  private mapShort(iovaLo: number, iovaHi: number, physLo: number, physHi: number, bytes: number): boolean {
    const high = pageHigh(iovaHi);
    const frame = physLo >>> 12;
    const pages = bytes >>> 12;
    if (high >= this.shortLimit || ((iovaLo | physLo | bytes) & 0xfff) !== 0 || pages === 0) return false;
    if (physHi >>> 0 > LAST_HIGH || frame + pages > FRAMES_LOW) return false;
    const word = this.findSplit(high, pageLow(iovaLo, iovaHi));
    const table = word >>> 10;
    if (word < 0 || (word & (2 * ENTRIES - 1)) > 2 * (ENTRIES - pages)) return false;
    if (countUsed(this.words, word, pages) !== 0) return false;
    fillFewLeaves(this.words, word, pages, (frame << 12) | this.low, this.high | physHi, 4096);
    this.used[table] = this.used[table]! + pages;
    this.memory.noteWrite(table);
    return true;
  }

  /** Maps `pages` pages within `table`, advancing `mapped`. */
  private fill(table: number, level: number, page: number, pfn: number, pages: number): void {
    const { words, used } = this;
    const span = SPAN[level]!;
    const canBeLeaf = ((this.leafLevels >> level) & 1) !== 0;
    let index = Math.floor(page / span) & (ENTRIES - 1);
    let at = page;
    let frame = pfn;
    let rest = pages;
    while (rest > 0) {
      const word = (table << 10) | (index << 1);
      let done = 0;
      if (canBeLeaf && rest >= span && remainder(at, span) === 0 && remainder(frame, span) === 0) {
        const high = Math.floor(frame / FRAMES_LOW);
        const low20 = frame - high * FRAMES_LOW;
        const count = Math.min(ENTRIES - index, Math.floor(rest / span), (FRAMES_LOW - low20) / span);
        if (used[table] !== 0 && countUsed(words, word, count) !== 0) throw this.exists(at);
        const size = level === 0 ? 0 : this.large;
        fillLeaves(words, word, count, (low20 << 12) | size | this.low, this.high | high, span << 12);
        used[table] = used[table]! + count;
        this.memory.noteWrite(table);
        done = count * span;
        this.mapped += done;
        index += count;
      } else {
        done = Math.min(rest, span - remainder(at, span));
        let entry = words[word]!;
        if (entry === 0) entry = this.addTable(table, level, word);
        else if ((entry & this.leafMask) === this.large) throw this.exists(at);
        this.fill(entry >>> 12, level - 1, at, frame, done);
        index++;
      }
      at += done;
      frame += done;
      rest -= done;
    }
  }

  /** Takes back a `map` from `page` that failed: hardware has not run since, so its tables are freed at once. */
  private takeBack(page: number): void {
    const waiting = this.gathered.length;
    const { mapped } = this;
    if (mapped > 0) this.remove(this.rootPfn, this.levels - 1, 0, page, page + mapped - 1);
    this.freeEmpty(page + mapped, page + mapped);
    this.freeGathered(waiting);
  }

  /** Clears the leaves of `table`, whose first page is `base`, that meet [first, last]; gives the pages cleared. */
  private remove(table: number, level: number, base: number, first: number, last: number): number {
    const { words, used } = this;
    const span = SPAN[level]!;
    const from = first <= base ? 0 : Math.floor((first - base) / span);
    const to = Math.min(ENTRIES - 1, Math.floor((last - base) / span));
    const start = (table << 10) | (from << 1);
    if (level === 0) {
      const count = to - from + 1;
      const cleared = count === ENTRIES ? used[table]! : countUsed(words, start, count);
      if (cleared === 0) return 0;
      clearEntries(words, start, count);
      used[table] = used[table]! - cleared;
      this.memory.noteWrite(table);
      this.noteChanged(base + from, base + to);
      return cleared;
    }
    const end = start + 2 * (to - from + 1);
    let pages = 0;
    for (let word = start; word < end; ) {
      const entry = words[word]!;
      const at = base + ((word >> 1) & (ENTRIES - 1)) * span;
      const leaves = (endOfLeaves(words, word, end, this.leafMask, this.large) - word) >> 1;
      if (leaves > 0) {
        clearEntries(words, word, leaves);
        used[table] = used[table]! - leaves;
        pages += leaves * span;
        this.noteChanged(at, at + leaves * span - 1);
      } else if (entry !== 0) {
        pages += this.remove(entry >>> 12, level - 1, at, first, last);
        if (used[entry >>> 12] === 0) this.unlink(word);
      }
      word += 2 * Math.max(leaves, 1);
    }
    this.memory.noteWrite(table);
    return pages;
  }

  private noteChanged(first: number, last: number): void {
    if (first < this.firstChanged) this.firstChanged = first;
    if (last > this.lastChanged) this.lastChanged = last;
  }

  private noneChanged(): void {
    this.firstChanged = Number.POSITIVE_INFINITY;
    this.lastChanged = -1;
  }

  /** The page number within the table's width, or -1 for an address that the table has not. */
  protected pageOf(iovaLo: number, iovaHi: number): number {
    const page = this.pageNumber(iovaLo, iovaHi);
    if (page <= this.lastLowerPage) return page;
    const upper = page - (this.spacePages - 1 - this.lastPage);
    return this.format.canonical && upper > this.lastLowerPage ? upper : -1;
  }

  /** The last page that adjoins `page` without a gap in the address space. */
  private lastOf(page: number): number {
    return page <= this.lastLowerPage ? this.lastLowerPage : this.lastPage;
  }

  /** The page number in the 64-bit address space of a page of the table. */
  private spacePageOf(page: number): number {
    return page <= this.lastLowerPage ? page : page + (this.spacePages - 1 - this.lastPage);
  }

  private pageNumber(lo: number, hi: number): number {
    return (hi >>> 0) * this.pagesLow + (lo >>> this.pageLg2);
  }

  private exists(page: number): SysError {
    const address = BigInt(this.spacePageOf(page)) * BigInt(this.pageBytes);
    return new SysError('EEXIST', 'iommu_map', `${hex(address)} is mapped`);
  }
}

/** Of whole numbers below 2^53 by a power of two; `%` on doubles is slow. */
function remainder(value: number, divisor: number): number {
  return value - Math.floor(value / divisor) * divisor;
}

function range(lo: number, hi: number, bytes: number): string {
  return `${hex(joinU64(lo, hi))} + ${hex(bytes)}`;
}
