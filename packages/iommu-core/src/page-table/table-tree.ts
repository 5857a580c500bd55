/**
 * The tables of one page table of any format, and its entries one by one: what every editor stands on. Together they are
 * the only code that writes page tables.
 *
 * A page is the format's smallest. Page numbers are exact doubles, counted within the table's width. An entry is named
 * by the index of its low word in the memory's `words` and is in use when that word is not 0, whether hardware finds it
 * present or not; `used` counts them by table. A table without an entry in use may stand only until the operation that
 * left it so has ended.
 */

import type { PageTableFormat, PhysicalMemory } from '@iommukit/hw';
import type { Kernel } from '../kernel.ts';

export const ENTRIES = 512;
/** Pages that an entry of each level spans. */
export const SPAN: readonly number[] = [1, 2 ** 9, 2 ** 18, 2 ** 27, 2 ** 36];

/** Pages that an entry of level 3 spans: below it a page number is a small integer. */
const SPLIT = 2 ** 27;

/** Entries in use, by the frame of the table; of all tables in one memory. */
const counters = new WeakMap<PhysicalMemory, Uint16Array>();

function countersOf(memory: PhysicalMemory): Uint16Array {
  let counts = counters.get(memory);
  if (counts === undefined) {
    counts = new Uint16Array(memory.ramFrames);
    counters.set(memory, counts);
  }
  return counts;
}

/**
 * Sees `count` adjoining entries of one table, some of which may be unused: `word` is the first one's, `page` its first
 * page, and each stands for `span` pages.
 */
export type RunVisitor = (word: number, count: number, page: number, span: number) => void;

export class TableTree {
  readonly format: PageTableFormat;
  /** Frame of the root table. */
  readonly rootPfn: number;
  /** Levels of the table. */
  readonly levels: number;
  protected readonly kernel: Kernel;
  protected readonly memory: PhysicalMemory;
  protected readonly words: Int32Array;
  protected readonly used: Uint16Array;
  protected readonly large: number;
  protected readonly leafMask: number;
  /** Tables out of the tree to which caches of the hardware may still lead. */
  protected readonly gathered: number[] = [];

  /** @param levels one of `format.levels` @throws {SysError} ENOMEM */
  constructor(kernel: Kernel, format: PageTableFormat, levels: number) {
    this.kernel = kernel;
    this.format = format;
    this.levels = levels;
    this.memory = kernel.memory;
    this.words = kernel.memory.words;
    this.used = countersOf(kernel.memory);
    this.large = format.large;
    this.leafMask = format.leafMask;
    this.rootPfn = kernel.allocateFrame('page_table');
    this.used[this.rootPfn] = 0;
  }

  /** The entry of level 0 for `page`, or -1 when there is no table for it. */
  find(page: number): number {
    const high = Math.floor(page / SPLIT);
    return this.findSplit(high, page - high * SPLIT);
  }

  /** `find` of a page number that is split at level 3, in small integers: `high` * 2^27 + `low`. */
  protected findSplit(high: number, low: number): number {
    const { words, leafMask, large } = this;
    let table = this.rootPfn;
    for (let level = this.levels - 1; level > 0; level--) {
      const entry = words[wordAt(table, high, low, level)]!;
      if (entry === 0 || (entry & leafMask) === large) return -1;
      table = entry >>> 12;
    }
    return wordAt(table, high, low, 0);
  }

  /**
   * The entry of level 0 for `page`, which no large leaf covers, with the tables it needs.
   * @throws {SysError} ENOMEM, having built nothing
   */
  ensure(page: number): number {
    const high = Math.floor(page / SPLIT);
    const low = page - high * SPLIT;
    let table = this.rootPfn;
    try {
      for (let level = this.levels - 1; level > 0; level--) {
        const word = wordAt(table, high, low, level);
        table = (this.words[word] === 0 ? this.addTable(table, level, word) : this.words[word]!) >>> 12;
      }
    } catch (error) {
      this.freeEmpty(page, page);
      throw error;
    }
    return wordAt(table, high, low, 0);
  }

  /** Writes a leaf, in place of the one that is there if any. `low` is not 0. */
  set(word: number, low: number, high: number): void {
    const table = word >>> 10;
    if (this.words[word] === 0) this.used[table] = this.used[table]! + 1;
    this.words[word + 1] = high;
    this.words[word] = low;
    this.memory.noteWrite(table);
  }

  /** Clears an entry in use. Its table stays where it is. */
  clear(word: number): void {
    const table = word >>> 10;
    this.words[word] = 0;
    this.words[word + 1] = 0;
    this.used[table] = this.used[table]! - 1;
    this.memory.noteWrite(table);
  }

  /** Frees the empty tables of pages [first, last], to which no cache of the hardware leads. Never fails. */
  freeEmpty(first: number, last: number): void {
    const waiting = this.gathered.length;
    this.prune(this.rootPfn, this.levels - 1, 0, first, last);
    this.freeGathered(waiting);
  }

  /** Frees every table. Nothing may use the table any more. */
  free(): void {
    this.freeTable(this.rootPfn, this.levels - 1);
    this.freeGathered();
  }

  /** Frees the tables taken out of the tree, once no cache of the hardware leads to them; all but the first `but`. */
  freeGathered(but = 0): void {
    while (this.gathered.length > but) this.kernel.freeFrame(this.gathered.pop()!);
  }

  /** Puts an empty table behind an unused entry of `table`, which is of `level`; gives the entry. @throws {SysError} ENOMEM */
  protected addTable(table: number, level: number, word: number): number {
    const child = this.kernel.allocateFrame('page_table');
    const entry = (child << 12) | (this.format.table + level * this.format.tableLevel);
    this.used[child] = 0;
    this.words[word] = entry;
    this.words[word + 1] = this.format.tableHigh;
    this.used[table] = this.used[table]! + 1;
    this.memory.noteWrite(table);
    return entry;
  }

  /** Takes the empty table behind an entry out of the tree. */
  protected unlink(word: number): void {
    this.gathered.push(this.words[word]! >>> 12);
    this.clear(word);
  }

  /** Visits the runs of leaves that meet pages [first, last], ascending. */
  protected eachRun(first: number, last: number, visit: RunVisitor): void {
    this.visitRuns(this.rootPfn, this.levels - 1, 0, first, last, visit);
  }

  /** `base` is the first page of `table`. */
  private visitRuns(table: number, level: number, base: number, first: number, last: number, visit: RunVisitor): void {
    const span = SPAN[level]!;
    const from = first <= base ? 0 : Math.floor((first - base) / span);
    const to = Math.min(ENTRIES - 1, Math.floor((last - base) / span));
    const start = (table << 10) | (from << 1);
    if (level === 0) {
      visit(start, to - from + 1, base + from, 1);
      return;
    }
    for (let index = from, word = start; index <= to; index++, word += 2) {
      const entry = this.words[word]!;
      if (entry === 0) continue;
      if ((entry & this.leafMask) === this.large) visit(word, 1, base + index * span, span);
      else this.visitRuns(entry >>> 12, level - 1, base + index * span, first, last, visit);
    }
  }

  /** Takes the empty tables below `table` for pages [first, last] out of the tree. */
  private prune(table: number, level: number, base: number, first: number, last: number): void {
    if (level === 0) return;
    const span = SPAN[level]!;
    const from = first <= base ? 0 : Math.floor((first - base) / span);
    const to = Math.min(ENTRIES - 1, Math.floor((last - base) / span));
    for (let index = from, word = (table << 10) | (from << 1); index <= to; index++, word += 2) {
      const entry = this.words[word]!;
      if (entry === 0 || (entry & this.leafMask) === this.large) continue;
      this.prune(entry >>> 12, level - 1, base + index * span, first, last);
      if (this.used[entry >>> 12] === 0) this.unlink(word);
    }
  }

  private freeTable(table: number, level: number): void {
    for (let word = table << 10; level > 0 && word < (table + 1) << 10; word += 2) {
      const entry = this.words[word]!;
      if (entry !== 0 && (entry & this.leafMask) !== this.large) this.freeTable(entry >>> 12, level - 1);
    }
    this.kernel.freeFrame(table);
  }
}

/** `high` and `low` are a page number split at level 3: remainders of doubles are slow. */
function wordAt(table: number, high: number, low: number, level: number): number {
  const index = level < 3 ? low >>> (9 * level) : high >>> (9 * level - 27);
  return (table << 10) | ((index & (ENTRIES - 1)) << 1);
}
