/**
 * The invalidation queue: fetches descriptors from memory, one at a time on the scheduler, and hands them on; orders
 * wait descriptors after what comes before them (VT-d Architecture Specification, revision 4.1, sections 6.5.2, 7.2.2,
 * 11.4.8).
 *
 * An error stops the queue with the head at the descriptor that caused it, until software clears the error in FSTS. A
 * device-TLB time-out stops it too and aborts the wait descriptors in flight: their status is never written.
 */

import { fieldPrep } from '../bits.ts';
import type { MemoryPort } from '../memory/memory-port.ts';
import type { Scheduler } from '../scheduler.ts';
import type { TraceSink } from '../trace.ts';
import { joinU64 } from '../u64.ts';
import type { VtdBackend, VtdInvalidation } from './backend.ts';
import { descriptorType } from './descriptors.ts';
import type { EventInterrupt } from './event-interrupt.ts';
import type { FaultLog } from './fault-log.ts';
import type { VtdFeatures } from './features.ts';
import { decodeDescriptor, type WaitDescriptor } from './invalidation-descriptor.ts';
import type { PageRequestQueue } from './page-request-queue.ts';
import * as reg from './registers.ts';
import type { VtdEvent } from './trace.ts';

/** Nanoseconds from a write of the tail, or from one descriptor, to the next descriptor. */
const DESCRIPTOR_NS = 100;
/** Invalidations and wait descriptors that may be in flight; the queue fetches no more until some have ended. */
const IN_FLIGHT = 256;

export type InvalidationQueueParts = {
  memory: MemoryPort;
  scheduler: Scheduler;
  features: VtdFeatures;
  backend: VtdBackend;
  faults: FaultLog;
  pageRequests: PageRequestQueue;
  /** The invalidation completion event. */
  event: EventInterrupt;
  trace: TraceSink<VtdEvent>;
};

/** A wait descriptor that has been fetched: complete once `before` invalidations have ended. */
type PendingWait = { readonly wait: WaitDescriptor; readonly order: number; before: number };

export class InvalidationQueue {
  /** The root table in use is a scalable-mode one. */
  scalable = false;
  private readonly parts: InvalidationQueueParts;
  private readonly bytes: Uint8Array = new Uint8Array(32);
  private readonly words: Int32Array = new Int32Array(this.bytes.buffer);
  private readonly statusBytes: Uint8Array = new Uint8Array(4);
  private enabled = false;
  private scheduled = false;
  private head = 0;
  private tail = 0;
  private addressLow = 0;
  private addressHigh = 0;
  private completion = 0;
  private errorInfo = 0;
  private errorSource = 0;
  private order = 0;
  private outstanding = 0;
  private waits: PendingWait[] = [];

  constructor(parts: InvalidationQueueParts) {
    this.parts = parts;
  }

  setEnabled(enabled: boolean): void {
    this.enabled = enabled;
    if (enabled) this.kick();
    else this.head = 0;
  }

  /** Goes on when there is anything to do: after a new tail or a cleared error. */
  kick(): void {
    if (this.scheduled || !this.runnable()) return;
    this.scheduled = true;
    this.parts.scheduler.schedule(DESCRIPTOR_NS, () => {
      this.scheduled = false;
      if (this.runnable()) this.step();
      this.kick();
    });
  }

  read(offset: number): number {
    switch (offset) {
      case reg.REG_IQH:
        return this.head;
      case reg.REG_IQT:
        return this.tail;
      case reg.REG_IQA:
        return this.addressLow;
      case reg.REG_IQA + 4:
        return this.addressHigh;
      case reg.REG_ICS:
        return this.completion;
      case reg.REG_IQERCD:
        return this.errorInfo;
      case reg.REG_IQERCD + 4:
        return this.errorSource;
      default:
        return 0;
    }
  }

  write(offset: number, value: number): void {
    switch (offset) {
      case reg.REG_IQT:
        this.tail = value & reg.IQ_OFFSET;
        this.kick();
        break;
      case reg.REG_IQA:
        if (!this.enabled) this.addressLow = value & (~0xfff | reg.IQA_LO_DW | reg.IQA_LO_QS);
        break;
      case reg.REG_IQA + 4:
        if (!this.enabled) this.addressHigh = value;
        break;
      case reg.REG_ICS:
        if ((value & reg.ICS_IWC) === 0) break;
        this.completion = 0;
        this.parts.event.withdraw();
        break;
    }
  }

  private runnable(): boolean {
    if (!this.enabled || this.head === this.tail || this.parts.faults.queueErrors !== 0) return false;
    if (this.outstanding + this.waits.length >= IN_FLIGHT) return false;
    return !this.waits.some((pending) => pending.wait.fence);
  }

  /** Fetches and executes the descriptor at the head; on an error leaves it there and stops. */
  private step(): void {
    const error = this.execute();
    if (error === 0) return;
    const { faults, trace } = this.parts;
    this.errorInfo = fieldPrep(reg.IQERCD_LO_IQEI, error);
    if (trace.enabled) trace.emit({ name: 'invalidation_error', status: reg.FSTS_IQE, info: error });
    faults.set(reg.FSTS_IQE);
  }

  /** Gives 0, or an IQEI_ value. */
  private execute(): number {
    const { memory, features, trace } = this.parts;
    const wide = (this.addressLow & reg.IQA_LO_DW) !== 0;
    const size = 4096 << (this.addressLow & reg.IQA_LO_QS);
    if (wide ? !features.scalableMode : this.scalable) return reg.IQEI_INVALID_WIDTH;
    if (this.tail >= size) return reg.IQEI_INVALID_TAIL;
    if (wide && (this.tail & 16) !== 0) return reg.IQEI_TAIL_MISALIGNED;
    const length = wide ? 32 : 16;
    const address = joinU64(this.addressLow & ~0xfff, this.addressHigh) + BigInt(this.head & (size - length));
    if (!memory.read(address, this.bytes.subarray(0, length))) return reg.IQEI_FETCH_ERROR;
    const words = this.words.subarray(0, length >> 2);
    const decoded = decodeDescriptor(words, features, this.scalable);
    if (decoded.what === 'error') return decoded.error;
    if (trace.enabled) trace.emit({ name: 'qi_submit', type: descriptorType(words[0]!), words: [...words] });
    this.head = (this.head + length) & (size - 1);
    if (decoded.what === 'wait') this.startWait(decoded.wait);
    else if (decoded.what === 'response') this.parts.backend.respond(decoded.response);
    else this.invalidate(decoded.request);
    return 0;
  }

  private invalidate(request: VtdInvalidation): void {
    const order = this.order++;
    let ended = false;
    this.outstanding++;
    this.parts.backend.invalidate(request, (completed) => {
      if (ended) return;
      ended = true;
      this.outstanding--;
      if (!completed && request.kind === 'device-tlb') this.timeOut(request.sid);
      for (const pending of this.waits) if (pending.order > order) pending.before--;
      this.finishWaits();
    });
  }

  private timeOut(sid: number): void {
    const { faults, trace } = this.parts;
    this.waits = [];
    if ((faults.queueErrors & reg.FSTS_ITE) === 0) this.errorSource = fieldPrep(reg.IQERCD_HI_ITESID, sid);
    if (trace.enabled) trace.emit({ name: 'invalidation_error', status: reg.FSTS_ITE, info: sid });
    faults.set(reg.FSTS_ITE);
  }

  private startWait(wait: WaitDescriptor): void {
    if (wait.drain) this.parts.pageRequests.drain();
    this.waits.push({ wait, order: this.order++, before: this.outstanding });
    this.finishWaits();
  }

  private finishWaits(): void {
    while (this.waits.length > 0 && this.waits[0]!.before === 0) this.complete(this.waits.shift()!.wait);
    this.kick();
  }

  private complete(wait: WaitDescriptor): void {
    const { memory, event, trace } = this.parts;
    if (wait.writeStatus) {
      new DataView(this.statusBytes.buffer).setUint32(0, wait.data, true);
      memory.write(wait.status, this.statusBytes);
    }
    if (trace.enabled) {
      trace.emit({ name: 'invalidation_wait', status: wait.status, data: wait.data, interrupt: wait.interrupt });
    }
    if (!wait.interrupt || this.completion !== 0) return;
    this.completion = reg.ICS_IWC;
    event.raise();
  }
}
