/**
 * The page-request queue: descriptors in memory, head and tail registers, status and overflow (VT-d Architecture
 * Specification, revision 4.1, sections 7.4.1, 7.5, 11.4.11).
 *
 * A request first lies in a buffer of the unit and is written to memory by a scheduled event, or by a drain.
 */

import { fieldPrep } from '../bits.ts';
import type { MemoryPort } from '../memory/memory-port.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  NO_PASID,
  type PageGroupResponse,
  type PageRequest,
  PRG_SUCCESS,
} from '../pci/transaction.ts';
import type { Scheduler } from '../scheduler.ts';
import type { TraceSink } from '../trace.ts';
import { addressHigh, addressLow, joinU64 } from '../u64.ts';
import * as d from './descriptors.ts';
import type { EventInterrupt } from './event-interrupt.ts';
import * as reg from './registers.ts';
import type { VtdEvent } from './trace.ts';

/** Nanoseconds from a page request's arrival to its descriptor in memory. */
const QUEUE_NS = 100;

export class PageRequestQueue {
  private readonly memory: MemoryPort;
  private readonly scheduler: Scheduler;
  private readonly event: EventInterrupt;
  private readonly respond: (response: PageGroupResponse) => void;
  private readonly trace: TraceSink<VtdEvent>;
  private readonly buffer: PageRequest[] = [];
  private readonly bytes: Uint8Array = new Uint8Array(d.PAGE_REQUEST_SIZE);
  private readonly words: Int32Array = new Int32Array(this.bytes.buffer);
  private scheduled = false;
  private head = 0;
  private tail = 0;
  private addressLow = 0;
  private addressHigh = 0;
  private status = 0;

  constructor(
    memory: MemoryPort,
    scheduler: Scheduler,
    event: EventInterrupt,
    respond: (response: PageGroupResponse) => void,
    trace: TraceSink<VtdEvent>,
  ) {
    this.memory = memory;
    this.scheduler = scheduler;
    this.event = event;
    this.respond = respond;
    this.trace = trace;
  }

  /** Takes a request in. */
  enqueue(request: PageRequest): void {
    this.buffer.push({ ...request });
    if (this.scheduled) return;
    this.scheduled = true;
    this.scheduler.schedule(QUEUE_NS, () => {
      this.scheduled = false;
      this.drain();
    });
  }

  /** Writes everything that has been taken in to memory, or drops it as overflow demands. */
  drain(): void {
    for (let request = this.buffer.shift(); request !== undefined; request = this.buffer.shift()) this.store(request);
  }

  read(offset: number): number {
    switch (offset) {
      case reg.REG_PQH:
        return this.head;
      case reg.REG_PQT:
        return this.tail;
      case reg.REG_PQA:
        return this.addressLow;
      case reg.REG_PQA + 4:
        return this.addressHigh;
      case reg.REG_PRS:
        return this.status;
      default:
        return 0;
    }
  }

  write(offset: number, value: number): void {
    switch (offset) {
      case reg.REG_PQH:
        this.head = value & reg.PQ_OFFSET;
        break;
      case reg.REG_PQT:
        this.tail = value & reg.PQ_OFFSET;
        break;
      case reg.REG_PQA:
        this.addressLow = value & (~0xfff | reg.PQA_LO_PQS);
        break;
      case reg.REG_PQA + 4:
        this.addressHigh = value;
        break;
      case reg.REG_PRS:
        this.status &= ~(value & (reg.PRS_PPR | reg.PRS_PRO));
        if (this.status === 0) this.event.withdraw();
        break;
    }
  }

  private store(request: PageRequest): void {
    const size = 4096 << (this.addressLow & reg.PQA_LO_PQS);
    const tail = this.tail & (size - 1);
    const next = (tail + d.PAGE_REQUEST_SIZE) & (size - 1);
    let queued = (this.status & reg.PRS_PRO) === 0 && next !== (this.head & (size - 1));
    if (queued) {
      this.encode(request);
      queued = this.memory.write(joinU64(this.addressLow & ~0xfff, this.addressHigh) + BigInt(tail), this.bytes);
    }
    if (this.trace.enabled) this.report(request, queued);
    if (queued) {
      this.tail = next;
      this.set(reg.PRS_PPR);
      return;
    }
    this.set(reg.PRS_PRO);
    // The function is told to try again; a stop marker expects no answer.
    const { rid, pasid, group, access, last } = request;
    if (last && (access & (ACCESS_READ | ACCESS_WRITE)) !== 0) this.respond({ rid, pasid, group, code: PRG_SUCCESS });
  }

  private set(bit: number): void {
    const idle = this.status === 0;
    this.status |= bit;
    if (idle) this.event.raise();
  }

  private encode(request: PageRequest): void {
    const { access, pasid } = request;
    const words = this.words.fill(0);
    words[0] = d.PAGE_REQUEST_TYPE | fieldPrep(d.PAGE_REQUEST0_RID, request.rid);
    if (pasid !== NO_PASID) {
      words[0] |= d.PAGE_REQUEST0_PP;
      words[1] = fieldPrep(d.PAGE_REQUEST1_PASID, pasid);
      if ((access & ACCESS_EXECUTE) !== 0) words[1] |= d.PAGE_REQUEST1_EXE;
      if ((access & ACCESS_PRIVILEGED) !== 0) words[1] |= d.PAGE_REQUEST1_PRIV;
    }
    let word2 = addressLow(request.pageLow) | fieldPrep(d.PAGE_REQUEST2_GROUP, request.group);
    if ((access & ACCESS_READ) !== 0) word2 |= d.PAGE_REQUEST2_READ;
    if ((access & ACCESS_WRITE) !== 0) word2 |= d.PAGE_REQUEST2_WRITE;
    if (request.last) word2 |= d.PAGE_REQUEST2_LAST;
    words[2] = word2;
    words[3] = addressHigh(request.pageLow, request.pageHigh);
  }

  private report(request: PageRequest, queued: boolean): void {
    const { rid, pasid, access, last, group, pageLow, pageHigh } = request;
    const iova = joinU64(addressLow(pageLow), addressHigh(pageLow, pageHigh));
    this.trace.emit({ name: 'prq_report', rid, pasid, iova, access, last, group, queued });
  }
}
