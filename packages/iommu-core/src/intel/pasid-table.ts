/**
 * The PASID directory and tables of one device, and the context entry that points to them (Intel VT-d specification,
 * revision 4.1, sections 9.4 to 9.6).
 *
 * A table of 64 entries is allocated when the first of its PASIDs is used and stays until the device goes, so that
 * taking an entry away or putting it back never allocates.
 */

import { DIRECTORY0_PRESENT, PASIDS_PER_TABLE } from '@iommukit/hw';
import type { Kernel } from '../kernel.ts';
import { decodeEntryTag, type EntryTag, PASID_ENTRY_WORDS } from './pasid-entry.ts';

const DIRECTORY_ENTRIES_PER_FRAME = 512;

export class PasidTable {
  readonly directoryPfn: number;
  /** Directory size field of the context entry: the directory has 2^(size + 7) entries. */
  readonly directorySize: number;
  private readonly kernel: Kernel;
  private readonly directoryFrames: number;
  /** Frame of each PASID table, by directory index. */
  private readonly tables = new Map<number, number>();

  /** Room for PASIDs below `maxPasids`, and for requests without PASID. @throws {SysError} ENOMEM */
  constructor(kernel: Kernel, maxPasids: number) {
    this.kernel = kernel;
    const wanted = Math.ceil(Math.max(maxPasids, 1) / PASIDS_PER_TABLE);
    this.directorySize = Math.max(0, Math.ceil(Math.log2(wanted)) - 7);
    this.directoryFrames = Math.ceil(2 ** (this.directorySize + 7) / DIRECTORY_ENTRIES_PER_FRAME);
    this.directoryPfn = kernel.allocateFrames('pasid_directory', this.directoryFrames);
  }

  /** Makes room for the entry of `pasid`. @throws {SysError} ENOMEM */
  reserve(pasid: number): void {
    const index = Math.floor(pasid / PASIDS_PER_TABLE);
    if (this.tables.has(index)) return;
    const pfn = this.kernel.allocateFrame('pasid_table');
    this.tables.set(index, pfn);
    const frame = this.directoryPfn + Math.floor(index / DIRECTORY_ENTRIES_PER_FRAME);
    const word = 2 * (index % DIRECTORY_ENTRIES_PER_FRAME);
    this.kernel.memory.writeWord(frame, word + 1, pfn >>> 20);
    this.kernel.memory.writeWord(frame, word, (pfn << 12) | DIRECTORY0_PRESENT);
  }

  /** The tag of the entry of `pasid`, or null when it is not present. */
  tag(pasid: number): EntryTag | null {
    const pfn = this.tables.get(Math.floor(pasid / PASIDS_PER_TABLE));
    if (pfn === undefined) return null;
    const first = firstWord(pasid);
    const { memory } = this.kernel;
    return decodeEntryTag(memory.readWord(pfn, first), memory.readWord(pfn, first + 2));
  }

  /**
   * Stores an entry, for which there must be room. The word with the present bit comes last, so that an entry becomes
   * present whole. Over a present entry all sixteen words change before hardware runs again, which a unit sees as one
   * change: until its PASID cache is flushed it uses the entry it had.
   */
  write(pasid: number, words: Int32Array): void {
    const pfn = this.tables.get(Math.floor(pasid / PASIDS_PER_TABLE))!;
    const first = firstWord(pasid);
    for (let word = PASID_ENTRY_WORDS - 1; word >= 0; word--) {
      this.kernel.memory.writeWord(pfn, first + word, words[word]!);
    }
  }

  /** The words of the entry of `pasid`, for which there must be room. */
  save(pasid: number): Int32Array {
    const pfn = this.tables.get(Math.floor(pasid / PASIDS_PER_TABLE))!;
    const first = firstWord(pasid);
    return Int32Array.from({ length: PASID_ENTRY_WORDS }, (_, word) => this.kernel.memory.readWord(pfn, first + word));
  }

  /** Makes the entry not present, then zero. */
  clear(pasid: number): void {
    const pfn = this.tables.get(Math.floor(pasid / PASIDS_PER_TABLE));
    if (pfn === undefined) return;
    const first = firstWord(pasid);
    for (let word = 0; word < PASID_ENTRY_WORDS; word++) this.kernel.memory.writeWord(pfn, first + word, 0);
  }

  /** Frees directory and tables. The context entry no longer points here. */
  free(): void {
    for (const pfn of this.tables.values()) this.kernel.freeFrame(pfn);
    this.tables.clear();
    this.kernel.freeFrame(this.directoryPfn, this.directoryFrames);
  }
}

function firstWord(pasid: number): number {
  return (pasid % PASIDS_PER_TABLE) * PASID_ENTRY_WORDS;
}
