/**
 * Which frames an address space's pages are in: faults, copy-on-write, the page table that hardware sees (Linux:
 * mm/memory.c, mm/gup.c).
 *
 * An entry of a private region is writable only while its frame is exclusive, so entries follow from the regions, the
 * frames and their counts alone.
 */

import { ACCESS_WRITE, PAGE_SIZE } from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import type { PfnRuns } from '../pfn-runs.ts';
import { CpuPageTable } from './cpu-page-table.ts';
import type { PageCounts } from './page-counts.ts';
import { backingIndex, type Region } from './region.ts';

/** Pages of a block that is filled with adjoining frames when it is free as a whole: 2 MiB. */
export const BLOCK_PAGES = 512;

export class ProcessPages {
  readonly table: CpuPageTable;
  private readonly kernel: Kernel;
  private readonly counts: PageCounts;
  private readonly invalidate: (start: number, end: number) => void;

  /** `invalidate` tells whoever caches translations of pages [start, end). @throws {SysError} ENOMEM */
  constructor(kernel: Kernel, counts: PageCounts, invalidate: (start: number, end: number) => void) {
    this.kernel = kernel;
    this.counts = counts;
    this.invalidate = invalidate;
    this.table = new CpuPageTable(kernel);
  }

  /**
   * The frame of page `vpn`, faulted in where needed. `own` asks for a frame that no write will ever make the process
   * leave; it is what pinning needs. -1: nothing is behind the page. @throws {SysError} ENOMEM
   */
  frame(region: Region, vpn: number, write: boolean, own: boolean): number {
    const at = this.table.find(vpn);
    if (at < 0 || !this.table.isHeld(at)) return this.fill(region, vpn, write || own);
    return this.settle(region, vpn, at, write, own);
  }

  /**
   * Pins pages [vpn, end) of `region`, appending their frames to `into`, up to the first that cannot be. Gives the
   * pages pinned. @throws {SysError} ENOMEM at the first page
   */
  pin(region: Region, vpn: number, end: number, write: boolean, into: PfnRuns): number {
    let page = vpn;
    try {
      while (page < end) {
        if (region.backing === null && end - page >= BLOCK_PAGES) this.fillBlock(region, page);
        const count = Math.min(end - page, BLOCK_PAGES - (page & (BLOCK_PAGES - 1)));
        const pinned = this.pinHeld(region, this.table.find(page), count, into);
        page += pinned;
        if (pinned === count) continue;
        const pfn = this.frame(region, page, write, true);
        if (pfn < 0) break;
        this.counts.pin(pfn, 1);
        into.push(pfn, 1);
        page++;
      }
    } catch (error) {
      if (!(error instanceof SysError) || page === vpn) throw error;
    }
    return page - vpn;
  }

  /** Takes pages [start, end) out of the table; frames that are counted go to `gathered`, for `release`. */
  drop(start: number, end: number, gathered: PfnRuns): void {
    const { table } = this;
    table.eachHeld(start, end, (_vpn, at) => {
      if (!table.isBorrowed(at)) gathered.push(table.frame(at), 1);
      table.clear(at);
    });
  }

  /** Gives up frames that `drop` took out of [start, end), once no cache of a translation is left. */
  release(start: number, end: number, gathered: PfnRuns): void {
    for (let run = 0; run < gathered.count; run++) {
      const first = gathered.starts[run]!;
      for (let i = 0; i < gathered.lengths[run]!; i++) this.counts.unmap(first + i);
    }
    this.table.freeEmpty(start, end - 1);
  }

  /** Makes the entries of `region` follow its protection and the present use of its frames. Allocates nothing. */
  refresh(region: Region): void {
    const { table } = this;
    table.eachHeld(region.start, region.end, (_vpn, at) => this.enter(region, at, table.frame(at)));
  }

  /** Builds the tables that `move` needs. @throws {SysError} ENOMEM, having built nothing */
  prepareMove(start: number, end: number, target: number): void {
    const { table } = this;
    try {
      table.eachHeld(start, end, (vpn) => table.ensure(target + (vpn - start)));
    } catch (error) {
      table.freeEmpty(target, target + (end - start) - 1);
      throw error;
    }
  }

  /** Moves what [start, end) holds to the pages from `target`, which hold nothing. */
  move(start: number, end: number, target: number): void {
    const { table } = this;
    table.eachHeld(start, end, (vpn, at) => table.move(at, table.find(target + (vpn - start))));
  }

  /**
   * Gives `child` the pages of a private region: shared until written, or a copy at once when pinned. The caller
   * refreshes the region afterwards, or drops the child's pages on failure. @throws {SysError} ENOMEM
   */
  share(region: Region, child: ProcessPages): void {
    const { table, counts } = this;
    table.eachHeld(region.start, region.end, (vpn, from) => {
      const pfn = table.frame(from);
      const at = child.table.ensure(vpn);
      const given = !counts.isCached(pfn) && counts.pinCount(pfn) > 0 ? this.copy(pfn) : pfn;
      counts.map(given);
      child.enter(region, at, given);
    });
  }

  /** Pins up to `count` pages from entry `at`, as far as they need no fault. Gives the pages pinned. */
  private pinHeld(region: Region, at: number, count: number, into: PfnRuns): number {
    const { table, counts } = this;
    let done = 0;
    while (at >= 0 && done < count) {
      const held = table.runLength(at + 2 * done, count - done);
      if (held === 0) break;
      const pfn = table.frame(at + 2 * done);
      const pages = region.shared ? held : counts.exclusiveLength(pfn, held);
      counts.pin(pfn, pages);
      if (pages > 0) into.push(pfn, pages);
      done += pages;
      if (pages < held) break;
    }
    return done;
  }

  /** A held page, made to allow the access. */
  private settle(region: Region, vpn: number, at: number, write: boolean, own: boolean): number {
    const { table, counts } = this;
    const pfn = table.frame(at);
    if (region.shared || counts.isExclusive(pfn)) {
      if (write && !table.isWritable(at)) this.enter(region, at, pfn);
      return pfn;
    }
    if (!write && !own) return pfn;
    const copy = this.copy(pfn);
    counts.map(copy);
    this.enter(region, at, copy);
    this.invalidate(vpn, vpn + 1);
    counts.unmap(pfn);
    return copy;
  }

  /** A page not held: brings it in. `own` asks for a private copy of what a private region maps. */
  private fill(region: Region, vpn: number, own: boolean): number {
    const at = this.table.ensure(vpn);
    let pfn = -1;
    try {
      pfn = this.newFrame(region, vpn, own);
    } finally {
      if (pfn < 0) this.table.freeEmpty(vpn, vpn);
    }
    if (pfn < 0) return -1;
    if (!isBorrowed(region)) this.counts.map(pfn);
    this.enter(region, at, pfn);
    return pfn;
  }

  private newFrame(region: Region, vpn: number, own: boolean): number {
    const { kernel } = this;
    const { backing } = region;
    if (backing === null) return kernel.allocateFrame('alloc_anon_folio');
    const index = backingIndex(region, vpn);
    if (region.shared || !own) return backing.frame(index);
    const copy = kernel.allocateFrame('wp_page_copy');
    let source = -1;
    try {
      source = backing.frame(index);
    } finally {
      if (source < 0) kernel.freeFrame(copy);
    }
    if (source < 0) return -1;
    this.copyBytes(source, copy);
    return copy;
  }

  /** Fills the block of anonymous pages at `vpn` with adjoining frames, if it is empty and there are such frames. */
  private fillBlock(region: Region, vpn: number): void {
    const { kernel, table, counts } = this;
    if ((vpn & (BLOCK_PAGES - 1)) !== 0 || !table.isBlockEmpty(vpn)) return;
    let pfn: number;
    const at = table.ensure(vpn);
    try {
      pfn = kernel.allocateFrames('alloc_anon_huge', BLOCK_PAGES);
    } catch (error) {
      table.freeEmpty(vpn, vpn);
      if (!(error instanceof SysError)) throw error;
      return;
    }
    for (let i = 0; i < BLOCK_PAGES; i++) {
      counts.map(pfn + i);
      this.enter(region, at + 2 * i, pfn + i);
    }
  }

  private enter(region: Region, at: number, pfn: number): void {
    const { protection } = region;
    const writable = (protection & ACCESS_WRITE) !== 0 && (region.shared || this.counts.isExclusive(pfn));
    this.table.hold(at, pfn, protection, writable, isBorrowed(region));
  }

  private copy(pfn: number): number {
    const copy = this.kernel.allocateFrame('wp_page_copy');
    this.copyBytes(pfn, copy);
    return copy;
  }

  private copyBytes(from: number, to: number): void {
    this.kernel.memory.copy(to * PAGE_SIZE, from * PAGE_SIZE, PAGE_SIZE);
    this.kernel.memory.noteWrite(to);
  }
}

/** Whether the frames of the region are others' to count and to free. */
function isBorrowed({ backing }: Region): boolean {
  return backing?.isMemory === false;
}
