/**
 * The fault status register and the fault recording registers: primary fault logging with overflow, and the fault
 * event (VT-d Architecture Specification, revision 4.1, sections 7.2.1, 7.3, 11.4.7). Faults are not collapsed.
 */

import { fieldPrep } from '../bits.ts';
import { ACCESS_EXECUTE, ACCESS_PRIVILEGED, ACCESS_WRITE, NO_PASID } from '../pci/transaction.ts';
import type { EventInterrupt } from './event-interrupt.ts';
import * as reg from './registers.ts';

/** A fault to record. */
export type VtdFault = {
  /** Reason code, see fault-reason.ts. */
  reason: number;
  rid: number;
  /** NO_PASID or the PASID of the request. */
  pasid: number;
  /** ACCESS_ bits of the request. */
  access: number;
  /** 0 untranslated, 1 translation request, 2 translated. */
  addressType: number;
  /** The request was a page request. */
  pageRequest: boolean;
  /** Byte address as int32 halves; the low 12 bits are not recorded. Of an interrupt, the index << 16 in the high half. */
  addressLow: number;
  addressHigh: number;
};

const WORDS = reg.FRCD_SIZE >> 2;
const QUEUE_ERRORS = reg.FSTS_IQE | reg.FSTS_ICE | reg.FSTS_ITE;

export class FaultLog {
  private readonly event: EventInterrupt;
  private readonly records: Int32Array;
  private readonly count: number;
  private next = 0;
  private first = 0;
  private pending = 0;
  private status = 0;

  constructor(count: number, event: EventInterrupt) {
    this.count = count;
    this.records = new Int32Array(count * WORDS);
    this.event = event;
  }

  /** FSTS. */
  get register(): number {
    if (this.pending === 0) return this.status;
    return this.status | reg.FSTS_PPF | fieldPrep(reg.FSTS_FRI, this.first);
  }

  /** The FSTS bits IQE, ICE and ITE that are set. */
  get queueErrors(): number {
    return this.status & QUEUE_ERRORS;
  }

  /** Software writes ones to FSTS bits it has serviced. */
  clear(bits: number): void {
    this.status &= ~(bits & (reg.FSTS_PFO | QUEUE_ERRORS));
    this.withdrawWhenServiced();
  }

  /** The unit sets one of PFO, IQE, ICE, ITE. */
  set(bit: number): void {
    const idle = this.status === 0 && this.pending === 0;
    this.status |= bit;
    if (idle) this.event.raise();
  }

  /** Records a fault in the next register. False when it is lost: the log has overflowed. */
  record(fault: VtdFault): boolean {
    if ((this.status & reg.FSTS_PFO) !== 0) return false;
    const at = this.next * WORDS;
    const records = this.records;
    if ((records[at + 3]! & reg.FRCD3_F) !== 0) {
      this.set(reg.FSTS_PFO);
      return false;
    }
    records[at] = fault.addressLow & ~0xfff;
    records[at + 1] = fault.addressHigh;
    let word2 = fieldPrep(reg.FRCD2_SID, fault.rid);
    let word3 = reg.FRCD3_F | fieldPrep(reg.FRCD3_FR, fault.reason) | fieldPrep(reg.FRCD3_AT, fault.addressType);
    if (fault.pageRequest) word2 |= reg.FRCD2_T2;
    else if ((fault.access & ACCESS_WRITE) === 0) word3 |= reg.FRCD3_T1;
    if (fault.pasid !== NO_PASID) {
      word2 |= reg.FRCD2_PP;
      word3 |= fieldPrep(reg.FRCD3_PV, fault.pasid);
      if ((fault.access & ACCESS_EXECUTE) !== 0) word2 |= reg.FRCD2_EXE;
      if ((fault.access & ACCESS_PRIVILEGED) !== 0) word2 |= reg.FRCD2_PRIV;
    }
    records[at + 2] = word2;
    records[at + 3] = word3;
    const idle = this.status === 0 && this.pending === 0;
    if (this.pending++ === 0) this.first = this.next;
    this.next = this.next + 1 === this.count ? 0 : this.next + 1;
    if (idle) this.event.raise();
    return true;
  }

  /** 32-bit word `index` of the fault recording registers; 0 behind the last. */
  readRecord(index: number): number {
    return this.records[index] ?? 0;
  }

  /** A write to the same: only F can be cleared, by writing one. */
  writeRecord(index: number, value: number): void {
    if (index >= this.records.length || (index & 3) !== 3) return;
    if ((value & this.records[index]! & reg.FRCD3_F) === 0) return;
    this.records[index] = this.records[index]! & ~reg.FRCD3_F;
    this.pending--;
    this.withdrawWhenServiced();
  }

  private withdrawWhenServiced(): void {
    if (this.status === 0 && this.pending === 0) this.event.withdraw();
  }
}
