/**
 * Walks the tables of a binding, from the paging-structure cache where it can, and says as a fault reason why it could
 * not (VT-d Architecture Specification, revision 4.1, sections 3.6 to 3.8, 6.2.5, 7.1.3).
 */

import type { PhysicalMemory } from '../memory/physical-memory.ts';
import { TranslationCache } from '../page-table/translation-cache.ts';
import { VtdNestedWalker } from '../page-table/vtd-nested-walker.ts';
import { VtdSecondStageWalker } from '../page-table/vtd-second-stage-walker.ts';
import * as w from '../page-table/walk.ts';
import type { WalkResult } from '../page-table/walk-result.ts';
import { X86Walker } from '../page-table/x86-walker.ts';
import { ACCESS_WRITE, MSI_FIRST_PFN, MSI_LAST_PFN } from '../pci/transaction.ts';
import { joinPage, splitHigh, splitLow } from '../u64.ts';
import * as fault from './fault-reason.ts';
import type { VtdFeatures } from './features.ts';
import { type AtomicSupport, FlagUpdates } from './flag-updates.ts';
import type { Binding } from './remapping-tables.ts';
import { PGTT_FIRST_STAGE, PGTT_NESTED, PGTT_PASS_THROUGH, SS_SNOOP } from './tables.ts';

const STRUCTURE_SETS = 256;
/** Rights bits R, W and U or X of the entries above a cached table, and the sign bit: XD. */
const ABOVE_ALL = 7;
const ABOVE_ANY = 1 << 31;
const LAST_NEAR_FRAME = 0x7fffffff;
/** Pass-through translations are reported in pieces of this size. */
const PASS_THROUGH_SIZE_LG2 = 21;

export class AddressWalk {
  /** Frame of the page; log2 of the byte size of what is translated alike; rights. After a walk that succeeded. */
  pfn = 0;
  sizeLg2 = 0;
  rights = 0;
  /** Rights that may be cached: not those to write before the page is marked dirty. */
  cacheableRights = 0;
  /** Accesses to the page snoop caches. */
  snoop = false;
  nestedWalks = 0;
  private readonly stage1: X86Walker;
  private readonly stage2: VtdSecondStageWalker;
  private readonly nested: VtdNestedWalker;
  private readonly structures: TranslationCache;
  private readonly flags: FlagUpdates;
  private readonly ramFrames: number;
  /** Page-number bits of the high part above the host address width. */
  private readonly beyondHost: number;

  constructor(memory: PhysicalMemory, features: VtdFeatures, atomics: AtomicSupport | null) {
    const physicalBits = features.hostAddressWidth;
    this.stage1 = new X86Walker(memory, { physicalBits, page1G: features.firstStage1G });
    const { secondStage2M: page2M, secondStage1G: page1G, snoopControl } = features;
    this.stage2 = new VtdSecondStageWalker(memory, { physicalBits, page2M, page1G, snoopControl });
    this.nested = new VtdNestedWalker(memory, this.stage2, { physicalBits, page1G: features.firstStage1G });
    this.structures = new TranslationCache(STRUCTURE_SETS);
    this.flags = new FlagUpdates(memory, this.stage2, features.firstStage1G, atomics);
    this.ramFrames = memory.ramFrames;
    this.beyondHost = 0x1ffffff & -(2 ** Math.max(physicalBits - 39, 0));
  }

  get stage1Reads(): number {
    return this.stage1.reads + this.nested.reads;
  }

  get stage2Reads(): number {
    return this.stage2.reads;
  }

  /** Translates a page for `access`. Gives 0, or a fault reason. */
  walk(binding: Binding, access: number, pageHigh: number, pageLow: number): number {
    let reason = 0;
    switch (binding.kind) {
      case PGTT_FIRST_STAGE:
        reason = this.walkFirst(binding, access, pageHigh, pageLow);
        break;
      case PGTT_NESTED:
        reason = this.walkNested(binding, access, pageHigh, pageLow);
        break;
      case PGTT_PASS_THROUGH:
        reason = this.passThrough(binding, pageHigh, pageLow);
        break;
      default:
        reason = this.walkSecond(binding, access, pageHigh, pageLow);
    }
    if (reason !== 0) return reason;
    if (this.pfn >= MSI_FIRST_PFN && this.pfn <= MSI_LAST_PFN) return binding.legacy ? fault.LGN_4 : fault.SGN_8;
    if (this.sizeLg2 > 12 && this.meetsInterruptRange()) this.sizeLg2 = 12;
    return 0;
  }

  /** Why a translated address may not be used, or 0. */
  refuseTranslated(legacy: boolean, pageHigh: number, pageLow: number): number {
    if ((pageHigh & this.beyondHost) !== 0) return legacy ? fault.LGN_1 : fault.SGN_4;
    if (pageHigh === 0 && pageLow >= MSI_FIRST_PFN && pageLow <= MSI_LAST_PFN) {
      return legacy ? fault.LGN_4 : fault.SGN_8;
    }
    return 0;
  }

  /** Forgets the tables that map anything in the range. */
  invalidateStructures(epoch: number, pageHigh: number, pageLow: number, sizeLg2: number): void {
    // Keys are page numbers without their low 9 bits, in the same two parts.
    const size = sizeLg2 > 39 ? sizeLg2 : Math.max(sizeLg2 - 9, 12);
    this.structures.invalidateRange(epoch, pageHigh, pageLow >>> 9, size);
  }

  clearStructures(): void {
    this.structures.clear();
  }

  private passThrough(binding: Binding, pageHigh: number, pageLow: number): number {
    if ((pageHigh & this.beyondHost) !== 0) return binding.legacy ? fault.LGN_1 : fault.SGN_4;
    this.pfn = joinPage(pageHigh, pageLow);
    this.sizeLg2 = PASS_THROUGH_SIZE_LG2;
    this.rights = w.RIGHTS_ALL;
    this.cacheableRights = w.RIGHTS_ALL;
    this.snoop = binding.pageSnoop;
    return 0;
  }

  private walkFirst(binding: Binding, access: number, pageHigh: number, pageLow: number): number {
    const { stage1, structures } = this;
    const blocked = this.flags.blocked(binding, access, pageHigh, pageLow);
    if (blocked !== 0) return blocked;
    const { control } = binding;
    const at = structures.probe(binding.space.epoch, pageHigh, pageLow >>> 9);
    let code: number;
    if (at >= 0) {
      const above = structures.rights(at);
      const table = structures.pfn(at, pageLow >>> 9);
      code = stage1.resume(table, 0, above | ~ABOVE_ALL, above & ABOVE_ANY, pageHigh, pageLow, access, control);
    } else code = stage1.walk(binding.root1, binding.top1, pageHigh, pageLow, access, control);
    if (code !== w.WALK_OK) return firstStageReason(code, stage1.faultLevel === binding.top1);
    if (at < 0) this.keep(binding.space.epoch, stage1, 0, pageHigh, pageLow);
    this.take(stage1, stage1.cacheableRights(control));
    this.snoop = binding.pageSnoop;
    return 0;
  }

  private walkSecond(binding: Binding, access: number, pageHigh: number, pageLow: number): number {
    const { stage2, structures } = this;
    const { control, legacy } = binding;
    const blocked = this.flags.blocked(binding, access, pageHigh, pageLow);
    if (blocked !== 0) return blocked;
    const at = structures.probe(binding.space.epoch, pageHigh, pageLow >>> 9);
    let code: number;
    if (at >= 0) {
      const table = structures.pfn(at, pageLow >>> 9);
      code = stage2.resume(table, 0, structures.rights(at) | ~ABOVE_ALL, 0, pageHigh, pageLow, access & 7, control);
    } else code = stage2.walk(binding.root2, binding.top2, pageHigh, pageLow, access & 7, control);
    if (code !== w.WALK_OK) {
      if (legacy) return legacySecondStageReason(code, access);
      return this.secondStageReason(binding, code, pageHigh, pageLow);
    }
    if (at < 0) this.keep(binding.space.epoch, stage2, 0, pageHigh, pageLow);
    this.take(stage2, stage2.cacheableRights(control));
    this.snoop = binding.pageSnoop || (stage2.leafLow & SS_SNOOP) !== 0;
    return 0;
  }

  private walkNested(binding: Binding, access: number, pageHigh: number, pageLow: number): number {
    const { nested, structures } = this;
    const { control, root1, top1, root2, top2 } = binding;
    this.nestedWalks++;
    const blocked = this.flags.blocked(binding, access, pageHigh, pageLow);
    if (blocked !== 0) return blocked;
    const at = structures.probe(binding.space.epoch, pageHigh, pageLow >>> 9);
    let code: number;
    if (at >= 0) {
      const above = structures.rights(at);
      const table = structures.pfn(at, pageLow >>> 9);
      const gfn = structures.extra(at);
      const all = above | ~ABOVE_ALL;
      code = nested.resume(gfn, table, 0, all, above & ABOVE_ANY, root2, top2, pageHigh, pageLow, access, control);
    } else code = nested.walk(root1, top1, root2, top2, pageHigh, pageLow, access, control);
    if (code !== w.WALK_OK) return this.nestedReason(binding, code);
    if (at < 0) this.keep(binding.space.epoch, nested, nested.tableGfn, pageHigh, pageLow);
    this.take(nested, nested.cacheableRights(control));
    this.snoop = binding.pageSnoop || (this.stage2.leafLow & SS_SNOOP) !== 0;
    return 0;
  }

  private take(result: WalkResult, cacheable: number): void {
    this.pfn = result.pfn;
    this.sizeLg2 = result.sizeLg2;
    this.rights = result.rights;
    this.cacheableRights = cacheable;
  }

  /** Remembers the last-level table that a walk ended in. */
  private keep(epoch: number, result: WalkResult, tableGfn: number, pageHigh: number, pageLow: number): void {
    const table = result.tablePfn;
    if (result.tableLevel !== 0 || table >= this.ramFrames || tableGfn > LAST_NEAR_FRAME) return;
    const above = (result.tableAll & ABOVE_ALL) | (result.tableAny & ABOVE_ANY);
    this.structures.insert(epoch, pageHigh, pageLow >>> 9, 12, table, above, tableGfn);
  }

  private meetsInterruptRange(): boolean {
    const pages = 2 ** (this.sizeLg2 - 12);
    const first = this.pfn - (this.pfn % pages);
    return first <= MSI_LAST_PFN && first + pages > MSI_FIRST_PFN;
  }

  /** Of a scalable-mode second stage, for the page that was to be reached. */
  private secondStageReason(binding: Binding, code: number, pageHigh: number, pageLow: number): number {
    switch (code) {
      case w.WALK_OUT_OF_RANGE:
        return fault.SGN_5;
      case w.WALK_UNREACHABLE:
        return this.stage2.faultLevel === binding.top2 ? fault.SSS_4 : fault.SSS_1;
      case w.WALK_RESERVED:
        return fault.SSS_3;
      case w.WALK_NOT_PRESENT:
        return fault.SSS_2;
      case w.WALK_EXECUTE_DENIED:
        return fault.SGN_3;
      default: {
        // Entries that together allow neither to read nor to write count as not present.
        const quiet = binding.control & ~w.CONTROL_STAGE2_ACCESSED_DIRTY;
        const again = this.stage2.walk(binding.root2, binding.top2, pageHigh, pageLow, 0, quiet);
        if (again === w.WALK_OK && (this.stage2.rights & 3) === 0) return fault.SSS_2;
        return code === w.WALK_WRITE_DENIED ? fault.SGN_6 : fault.SGN_7;
      }
    }
  }

  private nestedReason(binding: Binding, code: number): number {
    const { nested } = this;
    if (nested.faultStage === 1) return firstStageReason(code, nested.faultLevel === binding.top1);
    const gfn = nested.faultGfn;
    const onTable = nested.faultOnTable;
    const reason = this.secondStageReason(binding, code, splitHigh(gfn), splitLow(gfn));
    if (!onTable) return reason;
    if (reason === fault.SGN_5) return fault.SFS_5;
    if (reason === fault.SGN_6) return fault.SFS_8;
    if (reason === fault.SGN_7) return gfn === binding.root1 ? fault.SFS_6 : fault.SFS_7;
    return reason;
  }
}

function firstStageReason(code: number, atRoot: boolean): number {
  switch (code) {
    case w.WALK_OUT_OF_RANGE:
      return fault.SGN_1;
    case w.WALK_UNREACHABLE:
      return atRoot ? fault.SFS_4 : fault.SFS_1;
    case w.WALK_RESERVED:
      return fault.SFS_3;
    case w.WALK_NOT_PRESENT:
      return fault.SFS_2;
    case w.WALK_PRIVILEGE_DENIED:
      return fault.SGN_2;
    case w.WALK_EXECUTE_DENIED:
      return fault.SGN_3;
    default:
      return code === w.WALK_WRITE_DENIED ? fault.SGN_6 : fault.SGN_7;
  }
}

function legacySecondStageReason(code: number, access: number): number {
  switch (code) {
    case w.WALK_OUT_OF_RANGE:
      return fault.LGN_1;
    case w.WALK_UNREACHABLE:
      return fault.LSS_1;
    case w.WALK_RESERVED:
      return fault.LSS_2;
    case w.WALK_WRITE_DENIED:
      return fault.LGN_2;
    case w.WALK_NOT_PRESENT:
      return (access & ACCESS_WRITE) !== 0 ? fault.LGN_2 : fault.LGN_3;
    default:
      return fault.LGN_3;
  }
}
