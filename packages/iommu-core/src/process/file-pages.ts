/** A file of memory as DMA uses it: pages that are pinned without any process (Linux: memfd_pin_folios, mm/gup.c). */

import type { PfnRuns } from '../pfn-runs.ts';

export type FilePages = {
  /** Keeps the file, whose descriptors may all be closed, until `close`. */
  hold(): void;
  close(): void;
  /**
   * Pins `pages` pages from page `index` of the file, appending their frames to `into`. They stay with their contents
   * until `unpin`, whatever becomes of the file.
   * @returns pages pinned: fewer than asked when a later page cannot be
   * @throws {SysError} EINVAL the first page is behind the end of the file; ENOMEM
   */
  pin(index: number, pages: number, into: PfnRuns): number;
  /** Releases frames pinned before. `dirty` marks them written. Never fails. */
  unpin(runs: PfnRuns, dirty: boolean): void;
};
