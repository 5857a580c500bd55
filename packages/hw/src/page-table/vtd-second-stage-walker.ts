/* Generated from x86-walker.ts by scripts/generate-walkers.mjs. */

/**
 * Walks page tables of one format. Every format has its own walker, so that each is monomorphic code of its own.
 *
 * The fast path takes walks with nothing to see to: all entries present, used bits set, no reserved bit, tables in RAM.
 * All else is walked again by the slow path, which says why a walk fails and sets accessed and dirty bits. Bits are set
 * when the whole walk has succeeded.
 */

import type { PhysicalMemory } from '../memory/physical-memory.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../pci/transaction.ts';
import {
  inRange,
  isLarge,
  isPresent,
  NOT_PLAIN_TABLE,
  plainTable,
  reservedHigh,
  reservedLeaf,
  reservedTable,
  rightsOf,
  usedBits,
  writtenBit,
} from './formats/vtd-second-stage.ts';
import {
  allows,
  denial,
  entryIndex,
  frameOf,
  RIGHTS_DATA,
  RIGHTS_WRITE,
  reservedAddressHigh,
  WALK_NOT_PRESENT,
  WALK_OK,
  WALK_OUT_OF_RANGE,
  WALK_RESERVED,
  WALK_UNREACHABLE,
  type WalkerOptions,
} from './walk.ts';
import { WalkResult } from './walk-result.ts';

/** Bits of the high half of a leaf that put the frame at 2^31 or above. */
const FAR_LEAF_HIGH = 0x000ff800;
/** Bits of the high half that put a table at 4 GiB or above, where RAM never is. */
const FAR_TABLE_HIGH = 0x000fffff;

export class VtdSecondStageWalker extends WalkResult {
  private readonly memory: PhysicalMemory;
  private readonly words: Int32Array;
  private readonly ramFrames: number;
  private readonly addressHigh: number;
  /** Reserved low bits by level, of leaves and of entries that point to tables. */
  private readonly leafReserved: Int32Array = new Int32Array(5);
  private readonly pageReserved: number;
  private readonly tableReserved: Int32Array = new Int32Array(5);
  /** Frames of the tables on the way of the slow path, by level. */
  private readonly path: Float64Array = new Float64Array(5);
  private low = 0;
  private high = 0;
  /** The control bits that the masks of the fast path are for. */
  private control = -1;
  /** Low bits that are set in an entry with nothing to see to; low and high bits looked at in those that point to tables. */
  private plain = 0;
  private tableMask = 0;
  private tableHigh = 0;
  private leafHigh = 0;

  constructor(memory: PhysicalMemory, options: WalkerOptions = {}) {
    super();
    this.memory = memory;
    this.words = memory.words;
    this.ramFrames = memory.ramFrames;
    this.addressHigh = reservedAddressHigh(options.physicalBits ?? 52);
    this.pageReserved = reservedLeaf(0, options.snoopControl ?? true);
    const { page2M = true, page1G = true, snoopControl = true } = options;
    const has = [true, page2M, page1G];
    for (let level = 0; level < 5; level++) {
      this.tableReserved[level] = reservedTable(level);
      this.leafReserved[level] = has[level] ? reservedLeaf(level, snoopControl) : -1;
    }
  }

  /**
   * Translates the page (`pageHigh`, `pageLow`) for `access` (ACCESS_ bits; 0 asks only what is there) by the table at
   * frame `rootPfn`, whose entries are of level `topLevel`. `control` holds CONTROL_ bits. Gives a WALK_ code.
   */
  walk(rootPfn: number, topLevel: number, pageHigh: number, pageLow: number, access: number, control: number): number {
    if (!inRange(topLevel, pageHigh)) return this.fail(WALK_OUT_OF_RANGE, topLevel, rootPfn, 0);
    const words = this.words;
    const frames = this.ramFrames;
    if (control !== this.control) this.take(control);
    const plain = this.plain;
    const tableMask = this.tableMask;
    const tableHigh = this.tableHigh;
    let table = rootPfn;
    let all = -1;
    let any = 0;
    let low = 0;
    let high = 0;
    let entry = 0;
    if (topLevel > 3) {
      if (table >= frames) {
        return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
      }
      entry = (table << 10) | ((pageHigh >> 8) & 0x3fe);
      low = words[entry]!;
      high = words[entry | 1]!;
      if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
        return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
      }
      all &= low;
      any |= high;
      table = low >>> 12;
    }
    if (topLevel > 2) {
      if (table >= frames) {
        return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
      }
      entry = (table << 10) | ((pageHigh << 1) & 0x3fe);
      low = words[entry]!;
      high = words[entry | 1]!;
      if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
        return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
      }
      all &= low;
      any |= high;
      table = low >>> 12;
    }
    if (table >= frames) {
      return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
    }
    entry = (table << 10) | ((pageLow >> 17) & 0x3fe);
    low = words[entry]!;
    high = words[entry | 1]!;
    if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
      return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
    }
    all &= low;
    any |= high;
    table = low >>> 12;
    if (table >= frames) {
      return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
    }
    entry = (table << 10) | ((pageLow >> 8) & 0x3fe);
    low = words[entry]!;
    high = words[entry | 1]!;
    if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
      return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
    }
    all &= low;
    any |= high;
    table = low >>> 12;
    if (table >= frames) {
      return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
    }
    entry = (table << 10) | ((pageLow << 1) & 0x3fe);
    low = words[entry]!;
    high = words[entry | 1]!;
    const written = (access & ACCESS_WRITE) !== 0 ? writtenBit(control) : 0;
    const leafPlain = plain | written;
    const rights = rightsOf(all & low, any | high, control);
    if (
      (((low ^ leafPlain) & (leafPlain | this.pageReserved)) | (high & this.leafHigh)) !== 0 ||
      (rights & RIGHTS_DATA) === 0 ||
      !allows(rights, access)
    ) {
      return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, access, control);
    }
    this.pfn = (low >>> 12) | (high << 20);
    this.sizeLg2 = 12;
    this.rights = rights;
    this.leafLow = low;
    this.tablePfn = table;
    this.tableLevel = 0;
    this.tableAll = all;
    this.tableAny = any;
    this.reads += topLevel + 1;
    return WALK_OK;
  }

  /**
   * A walk from a table below the root, as a paging-structure cache starts it: `tablePfn`, `level`, `all` and `any` are
   * what an earlier walk left in `tablePfn`, `tableLevel`, `tableAll` and `tableAny`.
   */
  resume(
    tablePfn: number,
    level: number,
    all: number,
    any: number,
    pageHigh: number,
    pageLow: number,
    access: number,
    control: number,
  ): number {
    const words = this.words;
    const frames = this.ramFrames;
    if (control !== this.control) this.take(control);
    const plain = this.plain;
    const tableMask = this.tableMask;
    const tableHigh = this.tableHigh;
    let table = tablePfn;
    let at = level;
    let onAll = all;
    let onAny = any;
    let low = 0;
    let high = 0;
    while (at > 2) {
      if (table >= frames) return this.slow(tablePfn, level, all, any, pageHigh, pageLow, access, control);
      const entry = (table << 10) | (((pageHigh >> (9 * at - 27)) & 511) << 1);
      low = words[entry]!;
      high = words[entry | 1]!;
      if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
        return this.slow(tablePfn, level, all, any, pageHigh, pageLow, access, control);
      }
      onAll &= low;
      onAny |= high;
      table = low >>> 12;
      at--;
    }
    for (;;) {
      if (table >= frames) return this.slow(tablePfn, level, all, any, pageHigh, pageLow, access, control);
      const entry = (table << 10) | (((pageLow >> (9 * at)) & 511) << 1);
      low = words[entry]!;
      high = words[entry | 1]!;
      if (at === 0 || (((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) break;
      onAll &= low;
      onAny |= high;
      table = low >>> 12;
      at--;
    }
    const written = (access & ACCESS_WRITE) !== 0 ? writtenBit(control) : 0;
    const leafPlain = plain | written;
    const leafMask = leafPlain | this.leafReserved[at]!;
    const rights = rightsOf(onAll & low, onAny | high, control);
    if (
      (((low ^ leafPlain) & leafMask) | (high & this.leafHigh)) !== 0 ||
      (at !== 0 && !isLarge(low)) ||
      (rights & RIGHTS_DATA) === 0 ||
      !allows(rights, access)
    ) {
      return this.slow(tablePfn, level, all, any, pageHigh, pageLow, access, control);
    }
    const inside = (1 << (9 * at)) - 1;
    this.pfn = (((low >>> 12) | (high << 20)) & ~inside) | (pageLow & inside);
    this.sizeLg2 = 9 * at + 12;
    this.rights = rights;
    this.leafLow = low;
    this.tablePfn = table;
    this.tableLevel = at;
    this.tableAll = onAll;
    this.tableAny = onAny;
    this.reads += level - at + 1;
    return WALK_OK;
  }

  /**
   * A walk to read, of which only the frame is wanted: gives it, or -1 where `walk` gives a reason. What a walk of
   * another stage asks for each of its tables; what it leaves in the fields is undefined.
   */
  frame(rootPfn: number, topLevel: number, pageHigh: number, pageLow: number, control: number): number {
    if (!inRange(topLevel, pageHigh)) return -1;
    const words = this.words;
    const frames = this.ramFrames;
    if (control !== this.control) this.take(control);
    const plain = this.plain;
    const tableMask = this.tableMask;
    const tableHigh = this.tableHigh;
    let table = rootPfn;
    let all = -1;
    let any = 0;
    let low = 0;
    let high = 0;
    let entry = 0;
    if (topLevel > 3) {
      if (table >= frames) return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
      entry = (table << 10) | ((pageHigh >> 8) & 0x3fe);
      low = words[entry]!;
      high = words[entry | 1]!;
      if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
        return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
      }
      all &= low;
      any |= high;
      table = low >>> 12;
    }
    if (topLevel > 2) {
      if (table >= frames) return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
      entry = (table << 10) | ((pageHigh << 1) & 0x3fe);
      low = words[entry]!;
      high = words[entry | 1]!;
      if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
        return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
      }
      all &= low;
      any |= high;
      table = low >>> 12;
    }
    if (table >= frames) return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
    entry = (table << 10) | ((pageLow >> 17) & 0x3fe);
    low = words[entry]!;
    high = words[entry | 1]!;
    if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
      return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
    }
    all &= low;
    any |= high;
    table = low >>> 12;
    if (table >= frames) return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
    entry = (table << 10) | ((pageLow >> 8) & 0x3fe);
    low = words[entry]!;
    high = words[entry | 1]!;
    if ((((low ^ plain) & tableMask) | (high & tableHigh)) !== 0) {
      return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
    }
    all &= low;
    any |= high;
    table = low >>> 12;
    if (table >= frames) return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
    entry = (table << 10) | ((pageLow << 1) & 0x3fe);
    low = words[entry]!;
    high = words[entry | 1]!;
    if (
      (((low ^ plain) & (plain | this.pageReserved)) | (high & this.leafHigh)) !== 0 ||
      (rightsOf(all & low, any | high, control) & ACCESS_READ) === 0
    ) {
      return this.frameSlowly(rootPfn, topLevel, pageHigh, pageLow, control);
    }
    this.reads += topLevel + 1;
    return (low >>> 12) | (high << 20);
  }

  /** `frame` where there is something to see to. */
  private frameSlowly(rootPfn: number, topLevel: number, pageHigh: number, pageLow: number, control: number): number {
    return this.resume(rootPfn, topLevel, -1, 0, pageHigh, pageLow, ACCESS_READ, control) === WALK_OK ? this.pfn : -1;
  }

  /** The rights that may be cached: without those to write while the leaf still has to be marked dirty by a walk. */
  cacheableRights(control: number): number {
    const written = writtenBit(control);
    return (this.leafLow & written) === written ? this.rights : this.rights & ~RIGHTS_WRITE;
  }

  private take(control: number): void {
    this.control = control;
    this.plain = plainTable(control);
    this.tableMask = this.plain | NOT_PLAIN_TABLE;
    this.tableHigh = reservedHigh(control) | FAR_TABLE_HIGH;
    this.leafHigh = reservedHigh(control) | this.addressHigh | FAR_LEAF_HIGH;
  }

  private slow(
    tablePfn: number,
    topLevel: number,
    all: number,
    any: number,
    pageHigh: number,
    pageLow: number,
    access: number,
    control: number,
  ): number {
    const path = this.path;
    const refused = reservedHigh(control) | this.addressHigh;
    let table = tablePfn;
    let level = topLevel;
    let onAll = all;
    let onAny = any;
    let deniedAt = -1;
    for (; ; level--) {
      const index = entryIndex(level, pageHigh, pageLow);
      if (!this.load(table, index)) return this.fail(WALK_UNREACHABLE, level, table, index);
      const low = this.low;
      this.reads++;
      path[level] = table;
      if (!isPresent(low)) return this.fail(WALK_NOT_PRESENT, level, table, index);
      const leaf = level === 0 || (level <= 2 && isLarge(low));
      const reserved = leaf ? this.leafReserved[level]! : this.tableReserved[level]!;
      if ((low & reserved) !== 0 || (this.high & refused) !== 0) return this.fail(WALK_RESERVED, level, table, index);
      if (deniedAt < 0 && !allows(rightsOf(onAll & low, onAny | this.high, control), access)) deniedAt = level;
      if (leaf) break;
      onAll &= low;
      onAny |= this.high;
      table = frameOf(low, this.high);
    }
    const rights = rightsOf(onAll & this.low, onAny | this.high, control);
    if (!allows(rights, access)) {
      return this.fail(denial(rights, access), deniedAt, path[deniedAt]!, entryIndex(deniedAt, pageHigh, pageLow));
    }
    const inside = (1 << (9 * level)) - 1;
    this.pfn = frameOf(this.low & ~(inside << 12), this.high) + (pageLow & inside);
    this.sizeLg2 = 9 * level + 12;
    this.rights = rights;
    this.tablePfn = table;
    this.tableLevel = level;
    this.tableAll = onAll;
    this.tableAny = onAny;
    const used = usedBits(control);
    for (let at = topLevel; at > level; at--) this.mark(path[at]!, entryIndex(at, pageHigh, pageLow), used);
    const written = (access & ACCESS_WRITE) !== 0 ? writtenBit(control) : 0;
    this.leafLow = this.mark(table, entryIndex(level, pageHigh, pageLow), used | written);
    return WALK_OK;
  }

  /** Reads an entry into `low` and `high`. False when there is no memory. */
  private load(table: number, index: number): boolean {
    if (table >= this.ramFrames && !this.memory.isMemory(table)) return false;
    this.low = this.memory.readWord(table, index << 1);
    this.high = this.memory.readWord(table, (index << 1) | 1);
    return true;
  }

  /** Sets bits of an entry's low half where they are clear; gives the low half. */
  private mark(table: number, index: number, bits: number): number {
    const low = this.memory.readWord(table, index << 1);
    if ((low & bits) !== bits) this.memory.writeWord(table, index << 1, low | bits);
    return low | bits;
  }
}
