/**
 * A pin group: a stretch of one process's memory, of a file or of a dma-buf as a linear array of pages, from which areas
 * of any number of IOAS are mapped (Linux: struct iopt_pages, drivers/iommu/iommufd/pages.c).
 *
 * The group is referenced as a whole: one count for the areas that use it. Its pages are pinned lazily: an index is
 * pinned, once, exactly while a filled area or an access covers it. Pinning walks the process's page table once; from
 * then on frames come from the group's own store.
 */

import { hex, PAGE_SIZE, type TraceSink } from '@iommukit/hw';
import { type Kernel, PfnRuns, SysError } from '@iommukit/iommu-core';
import type { IommufdEvent } from '../trace.ts';
import { type AccountMode, charge, type Payer, uncharge } from './accounting.ts';
import { type Area, byteOf, pageOf } from './area.ts';
import { Coverage } from './coverage.ts';
import { FrameStore, PIECE_PAGES, Piece, type RunVisitor } from './frame-store.ts';
import type { PageSource } from './page-source.ts';
import type { IndexRange } from './range-list.ts';

export type PagesOptions = {
  /** Open file of /dev/iommu the group was made by, and its number there; they name it in traces. */
  context: number;
  id: number;
  kernel: Kernel;
  payer: Payer;
  accounting: AccountMode;
  writable: boolean;
  trace: TraceSink<IommufdEvent>;
  /** Makes the group's source, given what to call when its memory is taken away. */
  source: (onRevoke: () => void) => PageSource;
};

/** What shows areas of a group to devices. */
export type AreaHolder = {
  /** Takes the area out of every hardware table; it stays mapped, onto nothing. Never fails. */
  withdraw(area: Area): void;
};

/** Where a piece is pinned before it is known how many runs it has. */
const pinning = new PfnRuns(PIECE_PAGES);

export class Pages {
  readonly context: number;
  readonly id: number;
  readonly source: PageSource;
  /** Whether areas of the group may be writable; pages are pinned for writing then. */
  readonly writable: boolean;
  /** Areas that are to be withdrawn when the source is revoked; null when it cannot be. */
  readonly revocable: Map<Area, AreaHolder> | null;
  private readonly kernel: Kernel;
  private payingProcess: Payer;
  private readonly accounting: AccountMode;
  private readonly trace: TraceSink<IommufdEvent>;
  private readonly coverage = new Coverage();
  private readonly frames = new FrameStore();
  private references = 1;
  private gone = false;

  /** The maker holds the first reference. @throws {SysError} what `source` throws */
  constructor(options: PagesOptions) {
    this.context = options.context;
    this.id = options.id;
    this.kernel = options.kernel;
    this.payingProcess = options.payer;
    this.accounting = options.accounting;
    this.trace = options.trace;
    this.writable = options.writable;
    this.source = options.source(() => this.revoke());
    this.revocable = this.source.kind === 'dma-buf' ? new Map() : null;
  }

  /** True when the source has been taken away: the areas of the group are in no hardware table any more. */
  get revoked(): boolean {
    return this.gone;
  }

  get payer(): Payer {
    return this.payingProcess;
  }

  /** How the pinned pages are charged. */
  get accountMode(): AccountMode {
    return this.accounting;
  }

  /** Pages pinned, and charged, now. */
  get pinned(): number {
    return this.source.kind === 'dma-buf' ? 0 : this.frames.pages;
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
    if (--this.references > 0) return;
    if (this.frames.pages > 0) throw new Error(`pages ${this.id} dropped with ${this.frames.pages} pins`);
    this.source.release();
  }

  /**
   * Covers indexes [first, last]: those that were not covered are pinned and charged. On failure nothing changes.
   * @throws {SysError} EFAULT memory that is not there or not writable; EINVAL a file that is no memory, or ends before;
   * ENOMEM, RLIMIT_MEMLOCK included
   */
  cover(first: number, last: number): void {
    this.kernel.checkpoint('iopt_pages_coverage');
    const fresh = this.pinHoles(first, last);
    const pages = fresh.reduce((sum, { runs }) => sum + runs.pages, 0);
    try {
      this.charge(pages);
    } catch (error) {
      for (const { runs } of fresh) this.source.unpin(runs, false);
      throw error;
    }
    for (const piece of fresh) this.frames.put(piece);
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
        this.source.unpin(runs, this.writable);
        this.uncharge(runs.pages);
      }
      const count = gone.last - gone.first + 1;
      if (this.trace.enabled) this.trace.emit({ name: 'unpin', ...this.name, first: gone.first, count });
    }
  }

  /** Calls `visit` for each run of adjoining frames behind covered indexes [first, last], in order. */
  forEachRun(first: number, last: number, visit: RunVisitor): void {
    this.frames.forEachRun(first, last, visit);
  }

  /**
   * Copies between `data` and the group's bytes from `startByte`: as a device would see them, also when the process is
   * gone whose memory they were. Pages that nothing covers are pinned meanwhile, and not charged.
   * @throws {SysError} as `cover`, but for RLIMIT_MEMLOCK
   */
  copy(startByte: bigint, data: Uint8Array, write: boolean): void {
    const first = pageOf(startByte);
    const last = pageOf(startByte + BigInt(data.length) - 1n);
    const { memory } = this.kernel;
    const fresh = this.pinHoles(first, last);
    for (const piece of fresh) this.frames.put(piece);
    let done = 0;
    let skip = byteOf(startByte);
    this.forEachRun(first, last, (pfn, pages) => {
      const part = data.subarray(done, done + pages * PAGE_SIZE - skip);
      const address = pfn * PAGE_SIZE + skip;
      if (write) memory.write(address, part);
      else memory.read(address, part);
      done += part.length;
      skip = 0;
    });
    for (const piece of fresh) {
      for (const taken of this.frames.take(piece.first, piece.last)) this.source.unpin(taken, write);
    }
  }

  /** Makes `payer` pay for the pages from now on, which are charged to it already (Linux: change_mm). */
  setPayer(payer: Payer): void {
    this.payingProcess = payer;
  }

  private revoke(): void {
    if (this.gone) return;
    for (const [area, holder] of this.revocable ?? []) holder.withdraw(area);
    this.gone = true;
  }

  /** A process's own memory counts its pins itself (Linux: mm->pinned_vm). @throws {SysError} ENOMEM */
  private charge(pages: number): void {
    if (this.source.kind === 'dma-buf') return;
    charge(this.accounting, this.payer, pages);
    if (this.source.kind === 'file') this.payer.addressSpace.pinnedPages += pages;
  }

  private uncharge(pages: number): void {
    if (this.source.kind === 'dma-buf') return;
    uncharge(this.accounting, this.payer, pages);
    if (this.source.kind === 'file') this.payer.addressSpace.pinnedPages -= pages;
  }

  private get name(): { context: number; pages: number } {
    return { context: this.context, pages: this.id };
  }

  /** Pins the pages of [first, last] that nothing covers, in pieces; all of them or none. */
  private pinHoles(first: number, last: number): Piece[] {
    const fresh: Piece[] = [];
    try {
      for (const hole of this.coverage.holes(first, last)) {
        for (let index = hole.first; index <= hole.last; index += PIECE_PAGES) {
          pinning.clear();
          try {
            this.pin(index, Math.min(PIECE_PAGES, hole.last - index + 1), pinning);
          } finally {
            if (pinning.pages > 0) fresh.push(new Piece(index, pinning.copy()));
          }
        }
      }
    } catch (error) {
      for (const { runs } of fresh) this.source.unpin(runs, false);
      throw error;
    }
    return fresh;
  }

  /** Pins all of `pages` pages, or throws with those pinned so far in `runs`. */
  private pin(index: number, pages: number, runs: PfnRuns): void {
    while (runs.pages < pages) {
      this.kernel.checkpoint('pin_user_pages');
      const at = index + runs.pages;
      const pinned = this.source.pin(at, pages - runs.pages, this.writable, runs);
      if (pinned === 0) throw new SysError('EFAULT', 'pin_user_pages', `no page ${hex(at)} of pages ${this.id}`);
    }
  }
}
