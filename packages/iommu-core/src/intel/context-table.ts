/**
 * Root and context tables in scalable mode (Intel VT-d specification, revision 4.1, sections 9.1, 9.3 and 9.4): one
 * root entry per bus with two context tables of 128 entries of 32 bytes each.
 */

import {
  CONTEXT0_DTE,
  CONTEXT0_PASIDE,
  CONTEXT0_PDTS,
  CONTEXT0_PRE,
  CONTEXT0_PRESENT,
  fieldPrep,
  ROOT_PRESENT,
  SCALABLE_CONTEXT_SIZE,
} from '@iommukit/hw';
import type { Kernel } from '../kernel.ts';

export type ContextEntry = {
  /** Frame of the PASID directory, and its size field. */
  readonly directoryPfn: number;
  readonly directorySize: number;
  /** Requests with PASID are allowed. */
  readonly pasids: boolean;
  /** Translation requests and translated requests are allowed. */
  readonly deviceTlb: boolean;
  /** Page requests are allowed. */
  readonly pageRequests: boolean;
};

const ENTRY_WORDS: number = SCALABLE_CONTEXT_SIZE / 4;

export class ContextTables {
  readonly rootPfn: number;
  private readonly kernel: Kernel;
  /** Frame of each context table, by rid >> 7. */
  private readonly tables = new Map<number, number>();

  /** @throws {SysError} ENOMEM */
  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.rootPfn = kernel.allocateFrame('root_table');
  }

  /** Makes room for the entry of `rid`. @throws {SysError} ENOMEM */
  reserve(rid: number): void {
    const index = rid >> 7;
    if (this.tables.has(index)) return;
    const pfn = this.kernel.allocateFrame('context_table');
    this.tables.set(index, pfn);
    // Root entry words: lower table (functions 0..127), then upper.
    this.kernel.memory.writeWord(this.rootPfn, 2 * index + 1, pfn >>> 20);
    this.kernel.memory.writeWord(this.rootPfn, 2 * index, (pfn << 12) | ROOT_PRESENT);
  }

  /** Stores the entry of `rid`, for which there must be room. Requests without PASID use PASID-table entry 0. */
  write(rid: number, entry: ContextEntry): void {
    const { memory } = this.kernel;
    const pfn = this.tables.get(rid >> 7)!;
    const first = (rid & 127) * ENTRY_WORDS;
    for (let word = ENTRY_WORDS - 1; word >= 2; word--) memory.writeWord(pfn, first + word, 0);
    memory.writeWord(pfn, first + 1, entry.directoryPfn >>> 20);
    memory.writeWord(
      pfn,
      first,
      (entry.directoryPfn << 12) |
        fieldPrep(CONTEXT0_PDTS, entry.directorySize) |
        (entry.pageRequests ? CONTEXT0_PRE : 0) |
        (entry.pasids ? CONTEXT0_PASIDE : 0) |
        (entry.deviceTlb ? CONTEXT0_DTE : 0) |
        CONTEXT0_PRESENT,
    );
  }

  /**
   * Makes the entry of `rid` not present, and unlinks its table when no other entry is. Gives the frame of that table,
   * to be freed once the context cache is flushed, or null.
   */
  clear(rid: number): number | null {
    const { memory } = this.kernel;
    const index = rid >> 7;
    const pfn = this.tables.get(index);
    if (pfn === undefined) return null;
    for (let word = 0; word < ENTRY_WORDS; word++) memory.writeWord(pfn, (rid & 127) * ENTRY_WORDS + word, 0);
    for (let first = 0; first < 1024; first += ENTRY_WORDS) {
      if ((memory.readWord(pfn, first) & CONTEXT0_PRESENT) !== 0) return null;
    }
    this.tables.delete(index);
    memory.writeWord(this.rootPfn, 2 * index, 0);
    memory.writeWord(this.rootPfn, 2 * index + 1, 0);
    return pfn;
  }

  free(): void {
    for (const pfn of this.tables.values()) this.kernel.freeFrame(pfn);
    this.kernel.freeFrame(this.rootPfn);
  }
}
