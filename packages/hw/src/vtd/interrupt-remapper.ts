/**
 * Interrupt remapping: from a remappable-format message to the interrupt that its table entry describes, with the
 * interrupt entry cache (VT-d Architecture Specification, revision 4.1, section 5.1; entries: section 9.10). Posted
 * interrupts are not modelled: an entry in that format has a reserved bit set.
 */

import { fieldGet } from '../bits.ts';
import type { PhysicalMemory } from '../memory/physical-memory.ts';
import type { InterruptSink } from '../pci/transaction.ts';
import { high32, low32, pageNumber } from '../u64.ts';
import * as fault from './fault-reason.ts';
import * as t from './tables.ts';

const ADDRESS_REMAPPABLE = 1 << 4;
const ADDRESS_SUBHANDLE_VALID = 1 << 3;
const MESSAGE_BASE = 0xfee00000 | 0;

/** Interrupt entries cached; the oldest goes first. */
const CACHE_ENTRIES = 1024;

type Entry = { word0: number; word1: number; word2: number };

export class InterruptRemapper {
  enabled = false;
  compatibilityAllowed = false;
  /** After a blocked message: its index in the table, and whether Fault Processing Disable applies. */
  index = 0;
  fpd = false;
  private readonly memory: PhysicalMemory;
  private readonly sink: InterruptSink;
  private readonly cache = new Map<number, Entry>();
  private tablePfn = 0;
  private entries = 0;
  private extended = false;

  constructor(memory: PhysicalMemory, sink: InterruptSink) {
    this.memory = memory;
    this.sink = sink;
  }

  setTable(address: bigint, entries: number, extended: boolean): void {
    this.tablePfn = pageNumber(low32(address), high32(address));
    this.entries = entries;
    this.extended = extended;
  }

  invalidate(): void {
    this.cache.clear();
  }

  invalidateRange(index: number, count: number): void {
    for (const cached of this.cache.keys()) if (cached >= index && cached < index + count) this.cache.delete(cached);
  }

  /** Delivers a message. Gives 0, or the fault reason when it was blocked. */
  write(rid: number, address: number, data: number): number {
    if (!this.enabled) {
      this.sink.deliver(address, data);
      return 0;
    }
    this.index = 0;
    this.fpd = false;
    if ((address & ADDRESS_REMAPPABLE) === 0) {
      if (this.extended || !this.compatibilityAllowed) return fault.IR_COMPATIBILITY_BLOCKED;
      this.sink.deliver(address, data);
      return 0;
    }
    let index = ((address >>> 5) & 0x7fff) | ((address & 4) << 13);
    if ((address & ADDRESS_SUBHANDLE_VALID) !== 0) index += data & 0xffff;
    this.index = index & 0xffff;
    if ((data & 0xffff0000) !== 0) return fault.IR_REQUEST_RESERVED;
    if (index >= this.entries) return fault.IR_INDEX_BEYOND_TABLE;
    let entry = this.cache.get(index);
    if (entry === undefined) {
      const read = this.readEntry(index);
      if (typeof read === 'number') return read;
      entry = read;
      if (this.cache.size >= CACHE_ENTRIES) this.cache.delete(this.cache.keys().next().value!);
      this.cache.set(index, entry);
    }
    if (!sourceAllowed(entry.word2, rid)) {
      this.fpd = (entry.word0 & t.IRTE0_FPD) !== 0;
      return fault.IR_SOURCE_ID;
    }
    this.deliver(entry);
    return 0;
  }

  /** The entry, or a fault reason. */
  private readEntry(index: number): Entry | number {
    const { memory } = this;
    const pfn = this.tablePfn + (index >> 8);
    const at = (index & 0xff) * 4;
    if (!memory.isMemory(pfn)) return fault.IR_TABLE_ACCESS;
    const word0 = memory.readWord(pfn, at);
    const word1 = memory.readWord(pfn, at + 1);
    const word2 = memory.readWord(pfn, at + 2);
    const word3 = memory.readWord(pfn, at + 3);
    this.fpd = (word0 & t.IRTE0_FPD) !== 0;
    if ((word0 & t.IRTE0_PRESENT) === 0) return fault.IR_ENTRY_NOT_PRESENT;
    let reserved = (word0 & (t.IRTE0_RESERVED | t.IRTE0_IM)) | (word2 & t.IRTE2_RESERVED) | word3;
    if (!this.extended) reserved |= word1 & ~t.IRTE1_DST_XAPIC;
    if (fieldGet(t.IRTE2_SVT, word2) === 3) reserved |= 1;
    return reserved !== 0 ? fault.IR_ENTRY_RESERVED : { word0, word1, word2 };
  }

  /** The interrupt in compatibility format; in x2APIC mode destination bits above 7..0 are lost on this machine. */
  private deliver(entry: Entry): void {
    const { word0, word1 } = entry;
    const destination = this.extended ? word1 & 0xff : fieldGet(t.IRTE1_DST_XAPIC, word1);
    let address = MESSAGE_BASE | (destination << 12);
    if ((word0 & t.IRTE0_RH) !== 0) address |= 1 << 3;
    if ((word0 & t.IRTE0_DM) !== 0) address |= 1 << 2;
    let data = fieldGet(t.IRTE0_VECTOR, word0) | (fieldGet(t.IRTE0_DLM, word0) << 8);
    if ((word0 & t.IRTE0_TM) !== 0) data |= (1 << 15) | (1 << 14);
    this.sink.deliver(address, data);
  }
}

function sourceAllowed(word2: number, rid: number): boolean {
  const sid = fieldGet(t.IRTE2_SID, word2);
  const validation = fieldGet(t.IRTE2_SVT, word2);
  if (validation === 0) return true;
  const bus = rid >> 8;
  if (validation === 2) return bus >= sid >> 8 && bus <= (sid & 0xff);
  const ignored = t.IGNORED_FUNCTION_BITS[fieldGet(t.IRTE2_SQ, word2)]!;
  return ((rid ^ sid) & ~ignored) === 0;
}
