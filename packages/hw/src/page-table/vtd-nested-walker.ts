/**
 * Nested translation: a first stage in x86-64 format whose tables and results are guest physical addresses, each of
 * which goes through the VT-d second stage (VT-d specification 4.1, section 3.8).
 *
 * The order of a walk: the first stage down to its leaf, each table by a second-stage read; then the page itself through
 * the second stage; then the first stage's accessed and dirty bits, for which the second stage must allow to write.
 * Second-stage bits are set by each second-stage walk that succeeds.
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
} from './formats/x86-64.ts';
import type { VtdSecondStageWalker } from './vtd-second-stage-walker.ts';
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

/** Bits of the high half of an entry that put its guest frame at 2^31 or above. */
const FAR_HIGH = 0x000ff800;
const LAST_NEAR_GFN = 0x7fffffff;

export class VtdNestedWalker extends WalkResult {
  /** The second stage; after a failure with `faultStage` 2 its fault fields say where. */
  readonly stage2: VtdSecondStageWalker;
  /** The stage that refused: 1 or 2. After a failure. */
  faultStage = 0;
  /** The guest frame that stage 2 refused, and whether it was that of a first-stage table. After a failure of stage 2. */
  faultGfn = 0;
  faultOnTable = false;
  /** Guest frame of the table `tablePfn`. After WALK_OK. */
  tableGfn = 0;

  private readonly memory: PhysicalMemory;
  private readonly words: Int32Array;
  private readonly ramFrames: number;
  private readonly addressHigh: number;
  /** The control bits that the masks of the fast path are for. */
  private control = -1;
  private plain = 0;
  private tableMask = 0;
  private refused = 0;
  private readonly leafReserved: Int32Array = new Int32Array(5);
  private readonly tableReserved: Int32Array = new Int32Array(5);
  /** Host and guest frames of the tables on the way of the slow path, by level. */
  private readonly path: Float64Array = new Float64Array(5);
  private readonly guestPath: Float64Array = new Float64Array(5);

  constructor(memory: PhysicalMemory, stage2: VtdSecondStageWalker, options: WalkerOptions = {}) {
    super();
    this.memory = memory;
    this.stage2 = stage2;
    this.words = memory.words;
    this.ramFrames = memory.ramFrames;
    this.addressHigh = reservedAddressHigh(options.physicalBits ?? 52);
    const has = [true, options.page2M ?? true, options.page1G ?? true];
    for (let level = 0; level < 5; level++) {
      this.tableReserved[level] = reservedTable(level);
      this.leafReserved[level] = has[level] ? reservedLeaf(level, true) : -1;
    }
  }

  /**
   * Translates the page (`pageHigh`, `pageLow`): first stage from guest frame `rootGfn` with entries of level
   * `topLevel1`, second stage from frame `rootPfn` with entries of level `topLevel2`. Otherwise as the walk of one
   * stage; a code is that of the stage in `faultStage`.
   */
  walk(
    rootGfn: number,
    topLevel1: number,
    rootPfn: number,
    topLevel2: number,
    pageHigh: number,
    pageLow: number,
    access: number,
    control: number,
  ): number {
    if (!inRange(topLevel1, pageHigh)) return this.refuse(WALK_OUT_OF_RANGE, topLevel1, -1, 0);
    return this.resume(rootGfn, -1, topLevel1, -1, 0, rootPfn, topLevel2, pageHigh, pageLow, access, control);
  }

  /**
   * A walk from a first-stage table below the root: `tableGfn`, `tablePfn`, `level`, `all` and `any` are what an earlier
   * walk left in `tableGfn`, `tablePfn`, `tableLevel`, `tableAll` and `tableAny`. A `tablePfn` of -1 is looked up.
   */
  resume(
    tableGfn: number,
    tablePfn: number,
    level: number,
    all: number,
    any: number,
    rootPfn: number,
    topLevel2: number,
    pageHigh: number,
    pageLow: number,
    access: number,
    control: number,
  ): number {
    const words = this.words;
    const stage2 = this.stage2;
    if (control !== this.control) this.take(control);
    const plain = this.plain;
    const tableMask = this.tableMask;
    const refused = this.refused;
    let gfn = tableGfn;
    let table = tablePfn;
    let at = level;
    let onAll = all;
    let onAny = any;
    let low = 0;
    let high = 0;
    if (table < 0 && gfn <= LAST_NEAR_GFN)
      table = stage2.frame(rootPfn, topLevel2, gfn >>> 27, gfn & 0x7ffffff, control);
    for (;;) {
      if (table < 0 || table >= this.ramFrames) {
        return this.slow(tableGfn, tablePfn, level, all, any, rootPfn, topLevel2, pageHigh, pageLow, access, control);
      }
      const index = (at > 2 ? pageHigh >> (9 * at - 27) : pageLow >> (9 * at)) & 511;
      const entry = (table << 10) | (index << 1);
      low = words[entry]!;
      high = words[entry | 1]!;
      if (at === 0 || (((low ^ plain) & tableMask) | (high & refused)) !== 0) break;
      onAll &= low;
      onAny |= high;
      gfn = (low >>> 12) | (high << 20);
      table = stage2.frame(rootPfn, topLevel2, gfn >>> 27, gfn & 0x7ffffff, control);
      at--;
    }
    const written = (access & ACCESS_WRITE) !== 0 ? writtenBit(control) : 0;
    const leafPlain = plain | written;
    const rights = rightsOf(onAll & low, onAny | high, control);
    if (
      (((low ^ leafPlain) & (leafPlain | this.leafReserved[at]!)) | (high & refused)) !== 0 ||
      at > 2 ||
      (at !== 0 && !isLarge(low)) ||
      (rights & RIGHTS_DATA) === 0 ||
      !allows(rights, access)
    ) {
      return this.slow(tableGfn, tablePfn, level, all, any, rootPfn, topLevel2, pageHigh, pageLow, access, control);
    }
    const inside = (1 << (9 * at)) - 1;
    const page = (((low >>> 12) | (high << 20)) & ~inside) | (pageLow & inside);
    const code = stage2.walk(rootPfn, topLevel2, page >>> 27, page & 0x7ffffff, access & 7, control);
    if (code !== WALK_OK) return this.refuseStage2(code, page, false, at, table);
    const size = 9 * at + 12;
    this.pfn = stage2.pfn;
    this.sizeLg2 = Math.min(stage2.sizeLg2, size);
    this.rights = rights & stage2.rights;
    this.leafLow = low;
    this.tablePfn = table;
    this.tableGfn = gfn;
    this.tableLevel = at;
    this.tableAll = onAll;
    this.tableAny = onAny;
    this.reads += level - at + 1;
    return WALK_OK;
  }

  /** The rights that may be cached: without those to write while a leaf still has to be marked dirty by a walk. */
  cacheableRights(control: number): number {
    const written = writtenBit(control);
    const rights = (this.leafLow & written) === written ? this.rights : this.rights & ~RIGHTS_WRITE;
    return rights & this.stage2.cacheableRights(control);
  }

  private take(control: number): void {
    this.control = control;
    this.plain = plainTable(control);
    this.tableMask = this.plain | NOT_PLAIN_TABLE;
    this.refused = reservedHigh(control) | this.addressHigh | FAR_HIGH;
  }

  private slow(
    tableGfn: number,
    tablePfn: number,
    topLevel: number,
    all: number,
    any: number,
    rootPfn: number,
    topLevel2: number,
    pageHigh: number,
    pageLow: number,
    access: number,
    control: number,
  ): number {
    const memory = this.memory;
    const refused = reservedHigh(control) | this.addressHigh;
    let gfn = tableGfn;
    let table = tablePfn;
    let level = topLevel;
    let onAll = all;
    let onAny = any;
    let deniedAt = -1;
    let low = 0;
    let high = 0;
    for (; ; level--) {
      const index = entryIndex(level, pageHigh, pageLow);
      if (table < 0) {
        const code = this.walkStage2(rootPfn, topLevel2, gfn, ACCESS_READ, control);
        if (code !== WALK_OK) return this.refuseStage2(code, gfn, true, level, -1);
        table = this.stage2.pfn;
      }
      if (!memory.isMemory(table)) return this.refuse(WALK_UNREACHABLE, level, table, index);
      low = memory.readWord(table, index << 1);
      high = memory.readWord(table, (index << 1) | 1);
      this.reads++;
      this.path[level] = table;
      this.guestPath[level] = gfn;
      if (!isPresent(low)) return this.refuse(WALK_NOT_PRESENT, level, table, index);
      const leaf = level === 0 || (level <= 2 && isLarge(low));
      const reserved = leaf ? this.leafReserved[level]! : this.tableReserved[level]!;
      if ((low & reserved) !== 0 || (high & refused) !== 0) return this.refuse(WALK_RESERVED, level, table, index);
      if (deniedAt < 0 && !allows(rightsOf(onAll & low, onAny | high, control), access)) deniedAt = level;
      if (leaf) break;
      onAll &= low;
      onAny |= high;
      gfn = frameOf(low, high);
      table = -1;
    }
    const rights = rightsOf(onAll & low, onAny | high, control);
    if (!allows(rights, access)) {
      const index = entryIndex(deniedAt, pageHigh, pageLow);
      return this.refuse(denial(rights, access), deniedAt, this.path[deniedAt]!, index);
    }
    const inside = (1 << (9 * level)) - 1;
    const page = frameOf(low & ~(inside << 12), high) + (pageLow & inside);
    const used = usedBits(control);
    const written = (access & ACCESS_WRITE) !== 0 ? writtenBit(control) : 0;
    let code = this.walkStage2(rootPfn, topLevel2, page, access & 7, control);
    if (code !== WALK_OK) return this.refuseStage2(code, page, false, level, table);
    for (let at = topLevel; at >= level; at--) {
      const bits = at === level ? used | written : used;
      const word = entryIndex(at, pageHigh, pageLow) << 1;
      const entry = memory.readWord(this.path[at]!, word);
      if ((entry & bits) === bits) continue;
      code = this.walkStage2(rootPfn, topLevel2, this.guestPath[at]!, ACCESS_WRITE, control);
      if (code !== WALK_OK) return this.refuseStage2(code, this.guestPath[at]!, true, at, this.path[at]!);
      memory.writeWord(this.path[at]!, word, entry | bits);
    }
    // The walks for the tables have overwritten what the second stage says of the page itself.
    code = this.walkStage2(rootPfn, topLevel2, page, access & 7, control);
    if (code !== WALK_OK) return this.refuseStage2(code, page, false, level, table);
    const size = 9 * level + 12;
    this.pfn = this.stage2.pfn;
    this.sizeLg2 = Math.min(this.stage2.sizeLg2, size);
    this.rights = rights & this.stage2.rights;
    this.leafLow = low | used | written;
    this.tablePfn = table;
    this.tableGfn = gfn;
    this.tableLevel = level;
    this.tableAll = onAll;
    this.tableAny = onAny;
    return WALK_OK;
  }

  private walkStage2(rootPfn: number, topLevel2: number, gfn: number, access: number, control: number): number {
    return this.stage2.walk(rootPfn, topLevel2, Math.floor(gfn / 0x8000000), gfn % 0x8000000, access, control);
  }

  private refuse(code: number, level: number, table: number, index: number): number {
    this.faultStage = 1;
    return this.fail(code, level, table, index);
  }

  private refuseStage2(code: number, gfn: number, onTable: boolean, level: number, table: number): number {
    this.faultStage = 2;
    this.faultGfn = gfn;
    this.faultOnTable = onTable;
    return this.fail(code, level, table, 0);
  }
}
