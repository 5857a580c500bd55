/**
 * Frame numbers for pages that lie in other processes, and who has pinned them.
 *
 * Every source of pages, a file or an address space, is cut into windows; a window with a pinned page has a range of
 * frames of its own above all RAM, aligned to its size. So pages that adjoin in their source have adjoining frames, and
 * a page has one frame however many pin it. A window without pins gives its range back.
 */

import type { PhysicalMemory } from '@iommukit/hw';
import type { PfnRuns } from '@iommukit/iommu-core';

/** Where the bytes of pages are. Positions are bytes from page 0 of the source. */
export type PageSource = {
  read(position: number, into: Uint8Array): void;
  write(position: number, from: Uint8Array): void;
  /** None of its pages is pinned any more. */
  unused(): void;
};

/** Frames of a window: 1 GiB. */
const WINDOW_FRAMES = 2 ** 18;
const WINDOW_BYTES = WINDOW_FRAMES * 4096;
/** The first window is at 16 TiB, above every machine's RAM and registers. */
const FIRST_PFN = 2 ** 32;
/** Pages whose pins are counted in one array: 2 MiB. */
const BLOCK_PAGES = 512;

type Window = {
  readonly source: PageSource;
  /** The window's number in its source. */
  readonly index: number;
  readonly firstPfn: number;
  /** Pins of each page, by blocks. */
  readonly counts: Map<number, Int32Array>;
  pins: number;
};

export class ForeignFrames {
  private readonly memory: PhysicalMemory;
  private readonly windows: (Window | null)[] = [];
  private readonly bySource = new Map<PageSource, Map<number, Window>>();
  private total = 0;

  constructor(memory: PhysicalMemory) {
    this.memory = memory;
  }

  /** Pins held on all pages. */
  get pinned(): number {
    return this.total;
  }

  /** Pins `pages` pages of `source` from page `first`, appending their frames to `into`. */
  pin(source: PageSource, first: number, pages: number, into: PfnRuns): void {
    for (let page = first; page < first + pages; ) {
      const window = this.window(source, Math.floor(page / WINDOW_FRAMES));
      const start = page % WINDOW_FRAMES;
      const count = Math.min(WINDOW_FRAMES - start, first + pages - page);
      this.count(window, start, count, 1);
      into.push(window.firstPfn + start, count);
      page += count;
    }
  }

  /** Gives back one pin of every frame of `runs`. */
  unpin(runs: PfnRuns): void {
    for (let run = 0; run < runs.count; run++) {
      const end = runs.starts[run]! + runs.lengths[run]!;
      for (let pfn = runs.starts[run]!; pfn < end; ) {
        const window = this.windows[Math.floor((pfn - FIRST_PFN) / WINDOW_FRAMES)]!;
        const count = Math.min(window.firstPfn + WINDOW_FRAMES, end) - pfn;
        this.count(window, pfn - window.firstPfn, count, -1);
        if (window.pins === 0) this.drop(window);
        pfn += count;
      }
    }
  }

  /** Whether a page of `source` is pinned. */
  holds(source: PageSource): boolean {
    return this.bySource.has(source);
  }

  /** Pins held on one frame. */
  pinCount(pfn: number): number {
    const window = this.windows[Math.floor((pfn - FIRST_PFN) / WINDOW_FRAMES)];
    if (window == null) return 0;
    const page = pfn - window.firstPfn;
    return window.counts.get(Math.floor(page / BLOCK_PAGES))?.[page % BLOCK_PAGES] ?? 0;
  }

  private count(window: Window, start: number, pages: number, change: number): void {
    for (let page = start; page < start + pages; ) {
      const block = Math.floor(page / BLOCK_PAGES);
      let counts = window.counts.get(block);
      if (counts === undefined) window.counts.set(block, (counts = new Int32Array(BLOCK_PAGES)));
      const from = page % BLOCK_PAGES;
      const end = Math.min(BLOCK_PAGES, from + start + pages - page);
      for (let i = from; i < end; i++) counts[i] = counts[i]! + change;
      page += end - from;
    }
    window.pins += change * pages;
    this.total += change * pages;
  }

  private window(source: PageSource, index: number): Window {
    let own = this.bySource.get(source);
    const found = own?.get(index);
    if (found !== undefined) return found;
    if (own === undefined) this.bySource.set(source, (own = new Map()));
    let slot = this.windows.indexOf(null);
    if (slot < 0) slot = this.windows.length;
    const window = { source, index, firstPfn: FIRST_PFN + slot * WINDOW_FRAMES, counts: new Map(), pins: 0 };
    const base = index * WINDOW_BYTES;
    this.memory.mapForeign(window.firstPfn, WINDOW_FRAMES, {
      read: (offset, into) => source.read(base + offset, into),
      write: (offset, from) => source.write(base + offset, from),
    });
    this.windows[slot] = window;
    own.set(index, window);
    return window;
  }

  private drop(window: Window): void {
    const { source, index, firstPfn } = window;
    this.memory.unmap(firstPfn);
    this.windows[(firstPfn - FIRST_PFN) / WINDOW_FRAMES] = null;
    const own = this.bySource.get(source)!;
    own.delete(index);
    if (own.size > 0) return;
    this.bySource.delete(source);
    source.unused();
  }
}
