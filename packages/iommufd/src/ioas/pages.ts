/**
 * A pin group: a stretch of one process's memory as a linear array of pages, from which areas of any number of IOAS are
 * mapped (Linux: struct iopt_pages, drivers/iommu/iommufd/pages.c).
 *
 * The group is referenced as a whole: one count for the areas that use it. Its pages are pinned lazily: an index is
 * pinned, once, exactly while a filled area covers it. Pinning walks the process's page table once; from then on
 * frames come from the group's own store.
 */

import { hex, PAGE_SIZE, type TraceSink } from '@iommukit/hw';
import { type Kernel, PfnRuns, SysError } from '@iommukit/iommu-core';
import type { IommufdEvent } from '../trace.ts';
import { type AccountMode, charge, type Payer, uncharge } from './accounting.ts';
import { Coverage, type IndexRange } from './coverage.ts';
import { FrameStore, PIECE_PAGES } from './frame-store.ts';

export type PagesOptions = {
  /** Open file of /dev/iommu the group was made by, and its number there; they name it in traces. */
  context: number;
  id: number;
  kernel: Kernel;
  payer: Payer;
  accounting: AccountMode;
  /** First byte of the memory; the group starts at its page. */
  userVa: bigint;
  /** Bytes of the memory, at least 1. */
  length: bigint;
  writable: boolean;
  trace: TraceSink<IommufdEvent>;
};

export class Pages {
  readonly context: number;
  readonly id: number;
  /** Address of page 0, page-aligned. */
  readonly origin: bigint;
  /** Whether areas of the group may be writable; pages are pinned for writing then. */
  readonly writable: boolean;
  private readonly kernel: Kernel;
  private readonly payer: Payer;
  private readonly accounting: AccountMode;
  private readonly trace: TraceSink<IommufdEvent>;
  private readonly coverage = new Coverage();
  private readonly frames = new FrameStore();
  private references = 1;

  /** The maker holds the first reference. */
  constructor(options: PagesOptions) {
    this.context = options.context;
    this.id = options.id;
    this.kernel = options.kernel;
    this.payer = options.payer;
    this.accounting = options.accounting;
    this.trace = options.trace;
    this.origin = options.userVa & ~BigInt(PAGE_SIZE - 1);
    this.writable = options.writable;
  }

  /** Pages pinned, and charged, now. */
  get pinned(): number {
    return this.frames.pages;
  }

  get users(): number {
    return this.references;
  }

  /** Ranges of indexes that are pinned. */
  get covered(): readonly IndexRange[] {
    return this.coverage.covered;
  }

  /** Reference counters that the group keeps for its pages. */
  get counters(): number {
    return this.coverage.counters;
  }

  get(): void {
    this.references++;
  }

  /** Gives a reference back. Whoever gives the last one has uncovered everything before. */
  put(): void {
    this.references--;
    if (this.references === 0 && this.pinned > 0) throw new Error(`pages ${this.id} dropped with ${this.pinned} pins`);
  }

  /**
   * Covers indexes [first, last]: those that were not covered are pinned and charged. On failure nothing changes.
   * @throws {SysError} EFAULT memory that is not there or not writable; ENOMEM, RLIMIT_MEMLOCK included
   */
  cover(first: number, last: number): void {
    this.kernel.checkpoint('iopt_pages_coverage');
    const fresh: { first: number; runs: PfnRuns }[] = [];
    let pages = 0;
    try {
      for (const hole of this.coverage.holes(first, last)) {
        for (let index = hole.first; index <= hole.last; index += PIECE_PAGES) {
          const runs = new PfnRuns();
          fresh.push({ first: index, runs });
          this.pin(index, Math.min(PIECE_PAGES, hole.last - index + 1), runs);
          pages += runs.pages;
        }
      }
      charge(this.accounting, this.payer, pages);
    } catch (error) {
      for (const { runs } of fresh) if (runs.pages > 0) this.payer.addressSpace.unpin(runs, false);
      throw error;
    }
    for (const piece of fresh) this.frames.put(piece.first, piece.runs);
    this.coverage.add(first, last);
    if (pages > 0 && this.trace.enabled) this.trace.emit({ name: 'pin', ...this.name, first, count: pages });
  }

  /**
   * Takes one covering of [first, last] away; pages that nothing covers any more are unpinned, from the store. No
   * device may reach them any more. Never fails.
   */
  uncover(first: number, last: number): void {
    for (const gone of this.coverage.remove(first, last)) {
      for (const runs of this.frames.take(gone.first, gone.last)) {
        this.payer.addressSpace.unpin(runs, this.writable);
        uncharge(this.accounting, this.payer, runs.pages);
      }
      const count = gone.last - gone.first + 1;
      if (this.trace.enabled) this.trace.emit({ name: 'unpin', ...this.name, first: gone.first, count });
    }
  }

  /** Calls `visit` for each run of adjoining frames behind covered indexes [first, last], in order. */
  forEachRun(first: number, last: number, visit: (pfn: number, pages: number) => void): void {
    this.frames.forEachRun(first, last, visit);
  }

  private get name(): { context: number; pages: number } {
    return { context: this.context, pages: this.id };
  }

  /** Pins all of `pages` pages, or throws with those pinned so far in `runs`. */
  private pin(index: number, pages: number, runs: PfnRuns): void {
    const start = this.origin + BigInt(index) * BigInt(PAGE_SIZE);
    while (runs.pages < pages) {
      this.kernel.checkpoint('pin_user_pages');
      const va = start + BigInt(runs.pages) * BigInt(PAGE_SIZE);
      const pinned = this.payer.addressSpace.pin(va, pages - runs.pages, this.writable, runs);
      if (pinned === 0) throw new SysError('EFAULT', 'pin_user_pages', `no page at ${hex(va)}`);
    }
  }
}
