/**
 * A process's four-level x86-64 page table (Intel SDM volume 3, section 5.5): what its leaves say.
 *
 * A bit that hardware ignores is set in all of them, so that a page of a region without any permission is held, its
 * entry in use, but not present. Another marks frames that are not memory of processes (Linux: pte_special).
 */

import { ACCESS_EXECUTE, x86_64 } from '@iommukit/hw';
import type { Kernel } from '../kernel.ts';
import { TableTree } from '../page-table/table-tree.ts';

const { present: PRESENT, write: WRITABLE, user: USER, noExecuteHigh: EXECUTE_DISABLE } = x86_64;
/** The lowest bit that hardware leaves to software. */
const HELD = x86_64.software & -x86_64.software;
const BORROWED = x86_64.software & ~HELD;
const FRAME_HIGH = 0x000fffff;

/** First page number that no user address has: one page short of 2^47 bytes (Linux: TASK_SIZE). */
export const USER_PAGES: number = 2 ** 35 - 1;

export class CpuPageTable extends TableTree {
  /** @throws {SysError} ENOMEM */
  constructor(kernel: Kernel) {
    super(kernel, x86_64, 4);
  }

  /** Calls `visit` for the pages held in [start, end), ascending. It may enter pages elsewhere, and clear this one. */
  eachHeld(start: number, end: number, visit: (vpn: number, at: number) => void): void {
    this.eachRun(start, end - 1, (word, count, page) => {
      for (let i = 0; i < count; i++) if (this.isHeld(word + 2 * i)) visit(page + i, word + 2 * i);
    });
  }

  isHeld(at: number): boolean {
    return this.words[at] !== 0;
  }

  /** True when the frame is device registers or the kernel's, which page counts know nothing of. */
  isBorrowed(at: number): boolean {
    return (this.words[at]! & BORROWED) !== 0;
  }

  isWritable(at: number): boolean {
    return (this.words[at]! & WRITABLE) !== 0;
  }

  /** True when none of the 512 pages that have their entries in one table with `vpn` is held. */
  isBlockEmpty(vpn: number): boolean {
    const at = this.find(vpn);
    return at < 0 || this.used[at >>> 10] === 0;
  }

  /** How many of the `count` entries from `at`, all in one table, hold adjoining frames. */
  runLength(at: number, count: number): number {
    const { words } = this;
    const first = words[at]! >>> 12;
    let length = 0;
    for (let word = at; length < count; word += 2, length++) {
      const low = words[word]!;
      if (low === 0 || low >>> 12 !== first + length) break;
    }
    return length;
  }

  /** Frame of a held page. */
  frame(at: number): number {
    return (this.words[at]! >>> 12) + (this.words[at + 1]! & FRAME_HIGH) * 2 ** 20;
  }

  /** Makes the entry hold `pfn`. `protection` holds ACCESS_ bits; a page without any is kept from hardware. */
  hold(at: number, pfn: number, protection: number, writable: boolean, borrowed: boolean): void {
    const present = protection === 0 ? 0 : PRESENT;
    const executable = (protection & ACCESS_EXECUTE) !== 0;
    const high = (Math.floor(pfn / 2 ** 20) & FRAME_HIGH) | (executable ? 0 : EXECUTE_DISABLE);
    const software = HELD | (borrowed ? BORROWED : 0);
    this.set(at, (pfn << 12) | software | USER | present | (writable ? WRITABLE : 0), high);
  }

  /** Moves what entry `from` holds to entry `to`. */
  move(from: number, to: number): void {
    this.set(to, this.words[from]!, this.words[from + 1]!);
    this.clear(from);
  }
}
