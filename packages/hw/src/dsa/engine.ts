/**
 * An engine: takes a descriptor from its group's queues, checks it, carries it out piece by piece, writes the
 * completion record, raises the interrupt, and takes the next (Intel Data Streaming Accelerator Architecture
 * Specification, order number 341204, revision 1.0). Every step is one event of the scheduler, so
 * work can be thrown away between any two of them.
 *
 * A batch is carried out by the engine that took it, in order.
 */

import type { PhysicalMemory } from '../memory/physical-memory.ts';
import type { PciFunction } from '../pci/function.ts';
import { ACCESS_WRITE, PRG_INVALID_REQUEST, PRG_SUCCESS } from '../pci/transaction.ts';
import type { ScheduledEvent, Scheduler } from '../scheduler.ts';
import { pageHigh, pageLow } from '../u64.ts';
import { CompletionRecord } from './completion-record.ts';
import { checkDescriptor, type DescriptorRights, invalidFlags, operationOf } from './descriptor-check.ts';
import {
  DSA_COMPLETION_RECORD_SIZE,
  DSA_DESCRIPTOR_SIZE,
  DSA_DESCRIPTOR9_HANDLE,
  DSA_STATUS_WRITE,
  DSA_FLAG as FLAG,
  DSA_OPERATION as OPERATION,
  DSA_STATUS as STATUS,
} from './descriptor-format.ts';
import { DMA_DONE, DMA_FAULT, DMA_TRANSLATION_ERROR, DsaDma } from './dma.ts';
import { Operation, STEP_COMPLETE, STEP_READBACK_ERROR } from './operation.ts';
import type { DescriptorError } from './software-error.ts';
import type { Work } from './work-queue.ts';

/** What an engine asks of its device. */
export type EngineHost = PciFunction & {
  readonly memory: PhysicalMemory;
  readonly scheduler: Scheduler;
  /** Bytes that an engine moves in one event. */
  readonly chunkBytes: number;
  /** The next descriptor for engine `index`. */
  take(index: number): Work | null;
  rights(work: Work, inBatch: boolean): DescriptorRights;
  /** Whether work that `work`, a drain descriptor, waits for is under way. */
  hasEarlier(work: Work): boolean;
  faulted(work: Work, lo: number, hi: number, write: boolean, blocked: boolean): void;
  /** A descriptor is done: `words` is the work's or one of its batch. */
  completed(work: Work, words: Int32Array, batchIndex: number, status: number, bytes: number): void;
  softwareError(error: number, about: DescriptorError): void;
  raise(handle: number): void;
  /** The engine is done with `work`. */
  finished(): void;
  /** A page response arrived: requests that waited for the allocation may go out. */
  pageAnswered(): void;
};

const PICK_NS = 50;
const CHECK_NS = 50;
const RECORD_NS = 50;
const RETRY_NS = 100;
/** Bytes a nanosecond. */
const RATE = 16;
const LEAST_NS = 20;
/** Page requests for one page without an end to its fault, before the descriptor ends with it. */
const MAX_RETRIES = 16;

/** What the engine's next event does. */
const IDLE = 0;
const PICK = 1;
const CHECK = 2;
const DRAIN = 3;
const FETCH = 4;
const RUN = 5;
const RECORD = 6;

export class Engine {
  readonly index: number;
  /** What the engine is working on, or null. */
  work: Work | null = null;
  private readonly host: EngineHost;
  private readonly dma: DsaDma;
  private readonly operation: Operation;
  /** Storage for a descriptor of a batch, or a completion record. */
  private readonly staging: number;
  private readonly run = (): void => this.step();
  private event: ScheduledEvent | null = null;
  private phase = IDLE;
  /** Changes when work is thrown away: what was sent for it and is answered later belongs to nobody. */
  private ticket = 0;
  private waitsForAllocation = false;

  /** The descriptor at hand: the work's, or one of its batch. */
  private words: Int32Array = new Int32Array(16);
  /** Place of the descriptor at hand in the batch, or -1 outside one. */
  private batchIndex = -1;
  private batchFailed = false;

  /** How the descriptor at hand ends. */
  private readonly outcome = new CompletionRecord();
  private retries = 0;
  private retryLow = 0;
  private retryHigh = 0;

  constructor(host: EngineHost, index: number) {
    this.host = host;
    this.index = index;
    this.dma = new DsaDma(host);
    this.operation = new Operation(host.memory, this.dma);
    this.staging = host.memory.reserve(DSA_DESCRIPTOR_SIZE);
  }

  /** There may be something to take. */
  wake(): void {
    if (this.phase === IDLE) this.later(PICK, PICK_NS);
  }

  /** Something that this engine waits for may have happened: earlier work is done, or a page request answered. */
  recheck(): void {
    if (this.event !== null) return;
    if (this.phase === DRAIN) this.later(DRAIN, RETRY_NS);
    else if (this.waitsForAllocation) {
      this.waitsForAllocation = false;
      this.later(this.phase, RETRY_NS);
    }
  }

  /** Throws the work at hand away, without a completion. */
  drop(): void {
    if (this.event !== null) this.host.scheduler.cancel(this.event);
    this.event = null;
    this.ticket++;
    this.work = null;
    this.waitsForAllocation = false;
    this.phase = IDLE;
  }

  private later(phase: number, delay: number): void {
    this.phase = phase;
    this.event = this.host.scheduler.schedule(delay, this.run);
  }

  private step(): void {
    this.event = null;
    switch (this.phase) {
      case PICK:
        this.pick();
        break;
      case CHECK:
        this.check();
        break;
      case DRAIN:
        if (!this.host.hasEarlier(this.work!)) this.end(STATUS.success);
        break;
      case FETCH:
        this.fetch();
        break;
      case RUN:
        this.process();
        break;
      case RECORD:
        this.record();
        break;
    }
  }

  private pick(): void {
    const work = this.host.take(this.index);
    if (work === null) {
      this.phase = IDLE;
      return;
    }
    this.work = work;
    this.words = work.words;
    this.batchIndex = -1;
    this.dma.setIdentity(work.pasid, work.privileged);
    this.later(CHECK, CHECK_NS);
  }

  private check(): void {
    const work = this.work!;
    this.outcome.clear();
    this.retries = 0;
    const rights = this.host.rights(work, this.batchIndex >= 0);
    const status = checkDescriptor(this.words, rights);
    if (status !== STATUS.none) {
      if (status === STATUS.flags) this.outcome.detail = invalidFlags(this.words, rights);
      this.end(status);
      return;
    }
    const operation = operationOf(this.words);
    if (operation === OPERATION.noop) this.end(STATUS.success);
    else if (operation === OPERATION.drain) this.later(DRAIN, 0);
    else if (operation === OPERATION.batch) {
      this.batchIndex = 0;
      this.batchFailed = false;
      this.later(FETCH, CHECK_NS);
    } else {
      this.operation.begin(this.words);
      this.later(RUN, LEAST_NS);
    }
  }

  /** Reads the next descriptor of the batch. */
  private fetch(): void {
    const list = this.work!.words;
    if (this.batchIndex >= list[8]! >>> 0) {
      this.endBatch(this.batchFailed ? STATUS.batchFailed : STATUS.success);
      return;
    }
    const low = (list[4]! + this.batchIndex * DSA_DESCRIPTOR_SIZE) | 0;
    const high = (list[5]! + (low >>> 0 < list[4]! >>> 0 ? 1 : 0)) | 0;
    const outcome = this.dma.read(low, high, DSA_DESCRIPTOR_SIZE, this.staging);
    if (outcome === DMA_FAULT) {
      if (this.block(this.work!.queue.blockOnFault)) return;
      this.noteFault();
      this.endBatch(STATUS.batchPageFault);
      return;
    }
    if (outcome !== DMA_DONE) {
      this.noteFault();
      this.endBatch(outcome === DMA_TRANSLATION_ERROR ? STATUS.translation : STATUS.hardware);
      return;
    }
    this.words = this.host.memory.words.slice(this.staging >> 2, (this.staging + DSA_DESCRIPTOR_SIZE) >> 2);
    if (this.batchFailed && (this.words[1]! & FLAG.fence) !== 0) this.endBatch(STATUS.batchFailed);
    else this.later(CHECK, CHECK_NS);
  }

  /** Turns to the batch descriptor itself; what it tells as completed are descriptors. */
  private endBatch(status: number): void {
    const { outcome } = this;
    outcome.bytesCompleted = this.batchIndex;
    outcome.result = 0;
    outcome.detail = 0;
    if (status === STATUS.success || status === STATUS.batchFailed) outcome.clearFault();
    this.words = this.work!.words;
    this.batchIndex = -1;
    this.end(status);
  }

  /** Moves one chunk of a data operation. */
  private process(): void {
    const { operation, ticket } = this;
    const before = operation.done;
    const outcome = operation.step(this.host.chunkBytes);
    if (ticket !== this.ticket) return;
    if (outcome === DMA_DONE) this.later(RUN, Math.max(LEAST_NS, Math.ceil((operation.done - before) / RATE)));
    else if (outcome === STEP_COMPLETE) {
      this.outcome.bytesCompleted = operation.result === 0 ? 0 : operation.done;
      this.endOperation(operation.falsePredicate ? STATUS.falsePredicate : STATUS.success);
    } else if (outcome === STEP_READBACK_ERROR) this.endEarly(STATUS.readback);
    else if (outcome !== DMA_FAULT) {
      this.endEarly(outcome === DMA_TRANSLATION_ERROR ? STATUS.translation : STATUS.hardware);
    } else if (!this.block((this.words[1]! & FLAG.blockOnFault) !== 0)) {
      this.endEarly(this.retries === 0 ? STATUS.pageFault : STATUS.pageResponse);
    }
  }

  /** Ends a data operation where it stands. */
  private endEarly(status: number): void {
    this.noteFault();
    this.outcome.bytesCompleted = this.operation.done;
    this.endOperation(status);
    if (this.operation.backward) this.outcome.result = 1;
  }

  private endOperation(status: number): void {
    const { operation, outcome } = this;
    outcome.result = operation.result;
    if (operation.isCrc) outcome.detail = operation.crcValue;
    this.end(status);
  }

  private end(status: number): void {
    this.outcome.status = status;
    this.retries = 0;
    this.later(RECORD, RECORD_NS);
  }

  private noteFault(): void {
    this.outcome.noteFault(this.dma);
  }

  /**
   * After a denied translation: asks for the page if the descriptor may wait for it, and goes on with the same phase
   * when the answer is there. False when it has to end instead; `retries` is then 0 if nothing was ever asked.
   */
  private block(allowed: boolean): boolean {
    const { host, dma, ticket } = this;
    const { faultLow, faultHigh } = dma;
    if (faultLow !== this.retryLow || faultHigh !== this.retryHigh) this.retries = 0;
    const blocked = allowed && this.retries < MAX_RETRIES && this.requestPage(faultLow, faultHigh);
    host.faulted(this.work!, faultLow, faultHigh, dma.faultAccess === ACCESS_WRITE, blocked);
    return blocked || ticket !== this.ticket;
  }

  private requestPage(lo: number, hi: number): boolean {
    const { host } = this;
    const { pri } = host;
    if (!pri?.enabled) return false;
    const { pasid, modifiers, faultAccess } = this.dma;
    const { ticket } = this;
    const group = pri.request(host, pasid, faultAccess | modifiers, pageHigh(hi), pageLow(lo, hi), (code) => {
      if (ticket === this.ticket) this.answered(code);
      host.pageAnswered();
    });
    if (group < 0) {
      this.waitsForAllocation = pri.outstanding > 0;
      return this.waitsForAllocation;
    }
    this.retries++;
    this.retryLow = lo;
    this.retryHigh = hi;
    return true;
  }

  private answered(code: number): void {
    if (code === PRG_SUCCESS) {
      this.later(this.phase, RETRY_NS);
      return;
    }
    const status = code === PRG_INVALID_REQUEST ? STATUS.pageResponse : STATUS.translation;
    if (this.phase === RUN) this.endEarly(status);
    else if (this.phase === FETCH) {
      this.noteFault();
      this.endBatch(code === PRG_INVALID_REQUEST ? STATUS.batchPageFault : STATUS.translation);
    } else this.unrecorded(STATUS.recordPageFault);
  }

  /** Writes the completion record, where one is due. */
  private record(): void {
    const { status } = this.outcome;
    const flags = this.words[1]!;
    const failed = status !== STATUS.success && status !== STATUS.falsePredicate;
    if ((flags & FLAG.recordValid) === 0 || this.recordMisplaced()) {
      if (failed) this.unrecorded(status);
      else this.complete();
      return;
    }
    if (!failed && (flags & FLAG.requestRecord) === 0) {
      this.complete();
      return;
    }
    this.outcome.store(this.host.memory.words, this.staging >> 2);
    const { ticket } = this;
    const outcome = this.dma.write(this.words[2]!, this.words[3]!, DSA_COMPLETION_RECORD_SIZE, this.staging);
    if (ticket !== this.ticket) return;
    if (outcome === DMA_DONE) this.complete();
    else if (outcome !== DMA_FAULT) {
      this.unrecorded(outcome === DMA_TRANSLATION_ERROR ? STATUS.translation : STATUS.hardware);
    } else if (!this.block(this.work!.queue.blockOnFault)) this.unrecorded(STATUS.recordPageFault);
  }

  private recordMisplaced(): boolean {
    return (this.words[2]! & (DSA_COMPLETION_RECORD_SIZE - 1)) !== 0;
  }

  /** Completes without a record: the error goes to SWERROR. */
  private unrecorded(error: number): void {
    const { ticket, outcome } = this;
    if (error === STATUS.recordPageFault) this.noteFault();
    const write = error === STATUS.recordPageFault ? DSA_STATUS_WRITE : outcome.write;
    this.host.softwareError(error, {
      work: this.work!,
      words: this.words,
      batchIndex: this.batchIndex,
      write,
      invalidFlags: error === STATUS.flags ? outcome.detail : 0,
      faultLow: outcome.faultLow,
      faultHigh: outcome.faultHigh,
    });
    if (ticket === this.ticket) this.complete();
  }

  private complete(): void {
    const { host, ticket, words } = this;
    const { status, bytesCompleted } = this.outcome;
    const work = this.work!;
    host.completed(work, words, this.batchIndex, status, bytesCompleted);
    if ((words[1]! & FLAG.requestInterrupt) !== 0) this.interrupt(work, words[9]! & DSA_DESCRIPTOR9_HANDLE);
    if (ticket !== this.ticket) return;
    if (this.batchIndex >= 0) {
      if (status !== STATUS.success) this.batchFailed = true;
      this.batchIndex++;
      this.later(FETCH, CHECK_NS);
      return;
    }
    this.work = null;
    this.later(PICK, PICK_NS);
    host.finished();
  }

  /** Raises the completion interrupt, with whatever status, if the descriptor may have it. */
  private interrupt(work: Work, handle: number): void {
    const rights = this.host.rights(work, this.batchIndex >= 0);
    if (rights.mayInterrupt && rights.handleValid(handle)) this.host.raise(handle);
  }
}
