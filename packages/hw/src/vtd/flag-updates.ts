/**
 * Accessed and dirty flags that the unit would have to set but cannot: because its walks do not snoop caches (PASID
 * entry PWSNP clear), or because a table lies where there are no atomic updates (VT-d Architecture Specification,
 * revision 4.1, section 3.6.2, conditions SFS.9, SFS.10, SSS.5, SSS.6).
 *
 * Looked at before a walk, and only where one of the two can be; a walk that ends before it would set flags is left to
 * report why.
 */

import type { PhysicalMemory } from '../memory/physical-memory.ts';
import * as second from '../page-table/formats/vtd-second-stage.ts';
import * as first from '../page-table/formats/x86-64.ts';
import type { VtdSecondStageWalker } from '../page-table/vtd-second-stage-walker.ts';
import { allows, CONTROL_STAGE2_ACCESSED_DIRTY, entryIndex, frameOf, WALK_OK } from '../page-table/walk.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../pci/transaction.ts';
import { joinPage, splitHigh, splitLow } from '../u64.ts';
import { SFS_9, SFS_10, SSS_5, SSS_6 } from './fault-reason.ts';
import type { Binding } from './remapping-tables.ts';
import { PGTT_NESTED, PGTT_SECOND_STAGE } from './tables.ts';

/** Whether atomic updates reach the memory of a frame. */
export type AtomicSupport = (pfn: number) => boolean;

export class FlagUpdates {
  private readonly memory: PhysicalMemory;
  private readonly stage2: VtdSecondStageWalker;
  private readonly page1G: boolean;
  private readonly atomics: AtomicSupport | null;

  /** `page1G`: the first stage has leaves of 1 GiB. */
  constructor(memory: PhysicalMemory, stage2: VtdSecondStageWalker, page1G: boolean, atomics: AtomicSupport | null) {
    this.memory = memory;
    this.stage2 = stage2;
    this.page1G = page1G;
    this.atomics = atomics;
  }

  /** The fault reason of the first update that the access needs and that cannot be made; 0 when there is none. */
  blocked(binding: Binding, access: number, pageHigh: number, pageLow: number): number {
    if (binding.walkSnoop && this.atomics === null) return 0;
    if (binding.kind === PGTT_SECOND_STAGE) {
      return this.inSecondStage(binding, joinPage(pageHigh, pageLow), access);
    }
    return this.inFirstStage(binding, access, pageHigh, pageLow);
  }

  private refusal(binding: Binding, table: number, snoop: number, atomic: number): number {
    if (!binding.walkSnoop) return snoop;
    return this.atomics?.(table) === false ? atomic : 0;
  }

  private inFirstStage(binding: Binding, access: number, pageHigh: number, pageLow: number): number {
    const { control, kind } = binding;
    const nested = kind === PGTT_NESTED;
    if (!first.inRange(binding.top1, pageHigh)) return 0;
    const used = first.usedBits(control);
    const written = (access & ACCESS_WRITE) !== 0 ? first.writtenBit(control) : 0;
    let gfn = binding.root1;
    let all = -1;
    let any = 0;
    let found = 0;
    for (let level = binding.top1; ; level--) {
      let table = gfn;
      if (nested) {
        found ||= this.inSecondStage(binding, gfn, ACCESS_READ);
        table = this.throughSecondStage(binding, gfn);
        if (table < 0) return 0;
      }
      if (!this.memory.isMemory(table)) return 0;
      const index = entryIndex(level, pageHigh, pageLow);
      const low = this.memory.readWord(table, index << 1);
      const high = this.memory.readWord(table, (index << 1) | 1);
      const leaf = level === 0 || (level <= 2 && first.isLarge(low));
      if (leaf && level === 2 && !this.page1G) return 0;
      const reserved = leaf ? first.reservedLeaf(level, true) : first.reservedTable(level);
      if (!first.isPresent(low) || (low & reserved) !== 0 || (high & first.reservedHigh(control)) !== 0) return 0;
      const bits = leaf ? used | written : used;
      if ((low & bits) !== bits) {
        found ||= this.refusal(binding, table, SFS_9, SFS_10);
        if (nested) found ||= this.inSecondStage(binding, gfn, ACCESS_WRITE);
      }
      all &= low;
      any |= high;
      gfn = frameOf(low, high);
      if (!leaf) continue;
      if (!allows(first.rightsOf(all, any, control), access)) return 0;
      const inside = 2 ** (9 * level);
      gfn += (pageLow % inside) - (gfn % inside);
      if (nested) found ||= this.inSecondStage(binding, gfn, access);
      return found;
    }
  }

  /** Of one second-stage walk for the frame `gfn`. */
  private inSecondStage(binding: Binding, gfn: number, access: number): number {
    const { control, root2, top2 } = binding;
    if ((control & CONTROL_STAGE2_ACCESSED_DIRTY) === 0) return 0;
    const pageHigh = splitHigh(gfn);
    const pageLow = splitLow(gfn);
    const quiet = control & ~CONTROL_STAGE2_ACCESSED_DIRTY;
    if (this.stage2.walk(root2, top2, pageHigh, pageLow, access & 7, quiet) !== WALK_OK) return 0;
    const used = second.usedBits(control);
    const written = (access & ACCESS_WRITE) !== 0 ? second.writtenBit(control) : 0;
    let table = root2;
    for (let level = top2; ; level--) {
      const index = entryIndex(level, pageHigh, pageLow);
      const low = this.memory.readWord(table, index << 1);
      const high = this.memory.readWord(table, (index << 1) | 1);
      const leaf = level === 0 || (level <= 2 && second.isLarge(low));
      const bits = leaf ? used | written : used;
      if ((low & bits) !== bits) {
        const reason = this.refusal(binding, table, SSS_5, SSS_6);
        if (reason !== 0) return reason;
      }
      if (leaf) return 0;
      table = frameOf(low, high);
    }
  }

  /** The frame behind the guest frame of a first-stage table, or -1; sets no flags. */
  private throughSecondStage(binding: Binding, gfn: number): number {
    const { control, root2, top2 } = binding;
    const quiet = control & ~CONTROL_STAGE2_ACCESSED_DIRTY;
    const code = this.stage2.walk(root2, top2, splitHigh(gfn), splitLow(gfn), ACCESS_READ, quiet);
    return code === WALK_OK ? this.stage2.pfn : -1;
  }
}
