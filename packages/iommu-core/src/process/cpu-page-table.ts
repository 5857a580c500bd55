/**
 * A process's four-level x86-64 page table in physical memory (Intel SDM volume 3, section 5.5), entry by entry.
 *
 * An entry is named by the index of its first word in the memory's `words`. A bit that hardware ignores says that
 * it holds a page: a page of a region without any permission is held but not present.
 */

import { ACCESS_EXECUTE, x86_64 } from '@iommukit/hw';
import type { Kernel } from '../kernel.ts';

const { present: PRESENT, write: WRITABLE, user: USER, noExecuteHigh: EXECUTE_DISABLE, table: TABLE_FLAGS } = x86_64;
/** The lowest bit that hardware leaves to software. */
const HELD = x86_64.software & -x86_64.software;
const FRAME_HIGH = 0x000fffff;

const TOP_LEVEL = 3;
const ENTRIES = 512;
/** Pages that a table of each level spans. */
const SPAN = [2 ** 9, 2 ** 18, 2 ** 27, 2 ** 36];
/** First page number that no user address has: one page short of 2^47 bytes (Linux: TASK_SIZE). */
export const USER_PAGES: number = 2 ** 35 - 1;

export class CpuPageTable {
  readonly rootPfn: number;
  private readonly kernel: Kernel;
  private readonly words: Int32Array;

  /** @throws {SysError} ENOMEM */
  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.words = kernel.memory.words;
    this.rootPfn = kernel.allocateFrame('pgd_alloc');
  }

  /** The entry of page `vpn`, or -1 when there is no table for it. */
  find(vpn: number): number {
    let table = this.rootPfn;
    for (let level = TOP_LEVEL; level > 0; level--) {
      const entry = this.words[entryAt(table, vpn, level)]!;
      if ((entry & PRESENT) === 0) return -1;
      table = entry >>> 12;
    }
    return entryAt(table, vpn, 0);
  }

  /** The entry of page `vpn`, with the tables it needs. @throws {SysError} ENOMEM, having built nothing */
  ensure(vpn: number): number {
    let table = this.rootPfn;
    for (let level = TOP_LEVEL; level > 0; level--) {
      const at = entryAt(table, vpn, level);
      if ((this.words[at]! & PRESENT) === 0) {
        try {
          this.words[at] = (this.kernel.allocateFrame('pte_alloc') << 12) | TABLE_FLAGS;
          this.kernel.memory.noteWrite(table);
        } catch (error) {
          this.prune(vpn, vpn + 1);
          throw error;
        }
      }
      table = this.words[at]! >>> 12;
    }
    return entryAt(table, vpn, 0);
  }

  /** The first page in [vpn, end) that an entry holds, or `end`. Ranges without tables cost nothing. */
  nextHeld(vpn: number, end: number): number {
    let page = vpn;
    while (page < end) {
      let table = this.rootPfn;
      let level = TOP_LEVEL;
      for (; level > 0; level--) {
        const entry = this.words[entryAt(table, page, level)]!;
        if ((entry & PRESENT) === 0) break;
        table = entry >>> 12;
      }
      const span = level === 0 ? SPAN[0]! : SPAN[level - 1]!;
      const next = Math.min(end, (Math.floor(page / span) + 1) * span);
      if (level === 0) {
        for (let at = entryAt(table, page, 0); page < next; page++, at += 2) {
          if ((this.words[at]! & HELD) !== 0) return page;
        }
      }
      page = next;
    }
    return end;
  }

  isHeld(at: number): boolean {
    return (this.words[at]! & HELD) !== 0;
  }

  isWritable(at: number): boolean {
    return (this.words[at]! & WRITABLE) !== 0;
  }

  /** How many of the `count` entries from `at`, all in one table, hold adjoining frames. */
  runLength(at: number, count: number): number {
    const { words } = this;
    const first = words[at]! >>> 12;
    let length = 0;
    for (let word = at; length < count; word += 2, length++) {
      const low = words[word]!;
      if ((low & HELD) === 0 || low >>> 12 !== first + length) break;
    }
    return length;
  }

  /** Frame of a held page. */
  frame(at: number): number {
    return (this.words[at]! >>> 12) + (this.words[at + 1]! & FRAME_HIGH) * 2 ** 20;
  }

  /** Makes the entry hold `pfn`. `protection` holds ACCESS_ bits; a page without any is kept from hardware. */
  set(at: number, pfn: number, protection: number, writable: boolean): void {
    const present = protection === 0 ? 0 : PRESENT;
    const executable = (protection & ACCESS_EXECUTE) !== 0;
    this.words[at + 1] = (Math.floor(pfn / 2 ** 20) & FRAME_HIGH) | (executable ? 0 : EXECUTE_DISABLE);
    this.words[at] = (pfn << 12) | HELD | USER | present | (writable ? WRITABLE : 0);
    this.kernel.memory.noteWrite(at >>> 10);
  }

  /** Moves what entry `from` holds to entry `to`. */
  move(from: number, to: number): void {
    this.words[to + 1] = this.words[from + 1]!;
    this.words[to] = this.words[from]!;
    this.kernel.memory.noteWrite(to >>> 10);
    this.clear(from);
  }

  clear(at: number): void {
    this.words[at] = 0;
    this.words[at + 1] = 0;
    this.kernel.memory.noteWrite(at >>> 10);
  }

  /** Frees the tables of [start, end) that hold nothing. Never fails. */
  prune(start: number, end: number): void {
    this.pruneTable(this.rootPfn, TOP_LEVEL, 0, start, end);
  }

  /** Frees every table. No page may be held. */
  destroy(): void {
    this.prune(0, USER_PAGES);
    this.kernel.freeFrame(this.rootPfn);
  }

  /** `base` is the first page of the table. */
  private pruneTable(table: number, level: number, base: number, start: number, end: number): void {
    if (level === 0) return;
    const span = SPAN[level - 1]!;
    const first = Math.max(0, Math.floor((start - base) / span));
    const last = Math.min(ENTRIES - 1, Math.floor((end - 1 - base) / span));
    for (let index = first; index <= last; index++) {
      const at = (table << 10) | (index << 1);
      const entry = this.words[at]!;
      if ((entry & PRESENT) === 0) continue;
      const child = entry >>> 12;
      this.pruneTable(child, level - 1, base + index * span, start, end);
      if (!this.isEmpty(child)) continue;
      this.clear(at);
      this.kernel.freeFrame(child);
    }
  }

  private isEmpty(table: number): boolean {
    for (let at = table << 10; at < (table + 1) << 10; at += 2) if (this.words[at] !== 0) return false;
    return true;
  }
}

function entryAt(table: number, vpn: number, level: number): number {
  const index = level === TOP_LEVEL ? Math.floor(vpn / 2 ** 27) & 511 : ((vpn % 2 ** 27) >>> (9 * level)) & 511;
  return (table << 10) | (index << 1);
}
