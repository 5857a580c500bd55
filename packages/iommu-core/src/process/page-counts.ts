/**
 * Who uses each RAM frame that holds a page of a process or of a memory file (Linux: the mapcount, the pin count and
 * the flags of struct page). A frame is freed when no page table maps it, no pin holds it and no file caches it.
 *
 * A frame that is not cached is anonymous. While it is pinned, at most one page table maps it: pinning takes a private
 * copy of what is shared, and fork copies what is pinned. So a pinned page never changes its frame under its process.
 */

import type { Kernel } from '../kernel.ts';
import type { PfnRuns } from '../pfn-runs.ts';

const CACHED = 1;
const DIRTY = 2;

export class PageCounts {
  private readonly kernel: Kernel;
  private readonly mappings: Int32Array;
  private readonly pins: Int32Array;
  private readonly flags: Uint8Array;
  private total = 0;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.mappings = new Int32Array(kernel.memory.ramFrames);
    this.pins = new Int32Array(kernel.memory.ramFrames);
    this.flags = new Uint8Array(kernel.memory.ramFrames);
  }

  /** Pins held on all frames. */
  get pinned(): number {
    return this.total;
  }

  /** Page tables that map `pfn`. */
  mapCount(pfn: number): number {
    return this.mappings[pfn]!;
  }

  pinCount(pfn: number): number {
    return this.pins[pfn]!;
  }

  /** True when a memory file caches `pfn`: what is written there, every mapping of the file sees. */
  isCached(pfn: number): boolean {
    return (this.flags[pfn]! & CACHED) !== 0;
  }

  /** True when a device was told to have written `pfn`, through `unpin`. */
  isDirty(pfn: number): boolean {
    return (this.flags[pfn]! & DIRTY) !== 0;
  }

  /** True when a private mapping of `pfn` is the only use of its bytes, so that writes need no copy. */
  isExclusive(pfn: number): boolean {
    return this.mappings[pfn] === 1 && (this.flags[pfn]! & CACHED) === 0;
  }

  map(pfn: number): void {
    this.mappings[pfn] = this.mappings[pfn]! + 1;
  }

  unmap(pfn: number): void {
    this.mappings[pfn] = this.mappings[pfn]! - 1;
    this.freeUnused(pfn);
  }

  cache(pfn: number): void {
    this.flags[pfn] = this.flags[pfn]! | CACHED;
  }

  uncache(pfn: number): void {
    this.flags[pfn] = this.flags[pfn]! & ~CACHED;
    this.freeUnused(pfn);
  }

  /** How many of `count` frames from `pfn` are exclusive, up to the first that is not. */
  exclusiveLength(pfn: number, count: number): number {
    const { mappings, flags } = this;
    const first = pfn | 0;
    let length = 0;
    while (length < count && mappings[first + length] === 1 && (flags[first + length]! & CACHED) === 0) length++;
    return length;
  }

  /** Pins each of `count` frames from `pfn` once. */
  pin(pfn: number, count: number): void {
    const { pins } = this;
    const first = pfn | 0;
    for (let frame = first; frame < first + count; frame++) pins[frame] = pins[frame]! + 1;
    this.total += count;
  }

  /** Gives back one pin of every frame of `runs`. `dirty` marks them written. */
  unpin(runs: PfnRuns, dirty: boolean): void {
    const { pins, flags } = this;
    const mark = dirty ? DIRTY : 0;
    for (let run = 0; run < runs.count; run++) {
      const first = runs.starts[run]! | 0;
      const end = first + runs.lengths[run]!;
      for (let pfn = first; pfn < end; pfn++) {
        const left = pins[pfn]! - 1;
        if (left < 0) throw new RangeError(`frame ${pfn} is unpinned but not pinned`);
        pins[pfn] = left;
        flags[pfn] = flags[pfn]! | mark;
        if (left === 0) this.freeUnused(pfn);
      }
    }
    this.total -= runs.pages;
  }

  private freeUnused(pfn: number): void {
    if (this.mappings[pfn] !== 0 || this.pins[pfn] !== 0 || (this.flags[pfn]! & CACHED) !== 0) return;
    this.flags[pfn] = 0;
    this.kernel.freeFrame(pfn);
  }
}
