/**
 * A file whose pages are frames of RAM: what a memfd is, and what shared anonymous memory is backed by (Linux: shmem).
 * Pages appear, zeroed, when first used.
 */

import { PAGE_SIZE } from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import type { PfnRuns } from '../pfn-runs.ts';
import { FileFrames } from './file-frames.ts';
import type { FilePages } from './file-pages.ts';
import type { PageCounts } from './page-counts.ts';
import type { Backing, BackingMapper } from './region.ts';

/** Largest file: what fits the frame numbers of a machine. */
const MAX_PAGES = 2 ** 40;

export class MemoryFile implements Backing, FilePages {
  readonly isMemory = true;
  private readonly kernel: Kernel;
  private readonly counts: PageCounts;
  private readonly frames = new FileFrames();
  private readonly mappers = new Set<BackingMapper>();
  private bytes = 0;
  /** Open descriptors, and who else holds the file open. */
  private holders = 1;

  constructor(kernel: Kernel, counts: PageCounts, bytes = 0) {
    this.kernel = kernel;
    this.counts = counts;
    this.resize(bytes);
  }

  get size(): number {
    return this.bytes;
  }

  /** Frames that the file holds. */
  get cachedPages(): number {
    return this.frames.size;
  }

  frame(index: number): number {
    if (index >= Math.ceil(this.bytes / PAGE_SIZE)) return -1;
    let pfn = this.frames.get(index);
    if (pfn < 0) {
      pfn = this.kernel.allocateFrame('shmem_alloc_folio');
      this.counts.cache(pfn);
      this.frames.set(index, pfn);
    }
    return pfn;
  }

  pin(index: number, pages: number, into: PfnRuns): number {
    const pin = (pfn: number): void => {
      this.counts.pin(pfn, 1);
      into.push(pfn, 1);
    };
    let done = 0;
    try {
      while (done < pages) {
        done += this.frames.walk(index + done, pages - done, pin);
        if (done < pages && this.frame(index + done) < 0) break;
      }
    } catch (error) {
      if (done === 0) throw error;
    }
    if (done > 0) return done;
    throw new SysError('EINVAL', 'memfd_pin_folios', `page ${index} is behind the end, ${this.bytes} bytes`);
  }

  unpin(runs: PfnRuns, dirty: boolean): void {
    this.counts.unpin(runs, dirty);
  }

  /**
   * ftruncate(2). Pages that are cut off vanish from every mapping; a pinned one stays with its pins, but is no longer
   * the file's. @throws {SysError} EINVAL not a size a file can have
   */
  resize(bytes: number): void {
    if (!Number.isSafeInteger(bytes) || bytes < 0 || bytes > MAX_PAGES * PAGE_SIZE) {
      throw new SysError('EINVAL', 'ftruncate', `no file has ${bytes} bytes`);
    }
    const pages = Math.ceil(bytes / PAGE_SIZE);
    const shrinks = bytes < this.bytes;
    this.bytes = bytes;
    if (!shrinks) return;
    for (const mapper of [...this.mappers]) mapper.dropPages(this, pages, Number.POSITIVE_INFINITY);
    this.frames.cut(pages, (pfn) => this.counts.uncache(pfn));
    const tail = this.frames.get(pages - 1);
    if (tail >= 0 && bytes % PAGE_SIZE !== 0) {
      this.kernel.memory.bytes.fill(0, tail * PAGE_SIZE + (bytes % PAGE_SIZE), (tail + 1) * PAGE_SIZE);
      this.kernel.memory.noteWrite(tail);
    }
  }

  hold(): void {
    this.holders++;
  }

  /** Lets go of the file. When nobody holds it its pages go with the last mapping. Never fails. */
  close(): void {
    this.holders--;
    this.dropIfUnused();
  }

  mapped(mapper: BackingMapper): void {
    this.mappers.add(mapper);
  }

  unmapped(mapper: BackingMapper): void {
    this.mappers.delete(mapper);
    this.dropIfUnused();
  }

  private dropIfUnused(): void {
    if (this.holders > 0 || this.mappers.size > 0) return;
    this.frames.cut(0, (pfn) => this.counts.uncache(pfn));
  }
}
