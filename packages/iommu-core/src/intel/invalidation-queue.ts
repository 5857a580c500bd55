/**
 * Queued invalidation: the driver's only way to make the unit forget what it has cached (Intel VT-d specification,
 * revision 4.1, section 6.5.2).
 *
 * Descriptors are collected with `add` and handed over by `submit`, which ends them with a wait descriptor and relaxes
 * until its status is written. Work that runs meanwhile may submit too: each submission has a status word of its own.
 *
 * A submission ends when the unit has carried everything out. A device that did not answer an invalidation of its own
 * cache has by then been handed to `onUnresponsive`, which keeps it from using what it has cached. A unit that does not
 * answer cannot be kept from memory at all: a flush that may not fail then stops the kernel.
 */

import {
  descriptorType,
  FSTS_ICE,
  FSTS_IQE,
  FSTS_ITE,
  fieldGet,
  GCMD_QIE,
  IQA_LO_DW,
  IQERCD_HI_ITESID,
  joinU64,
  REG_FSTS,
  REG_IQA,
  REG_IQERCD,
  REG_IQH,
  REG_IQT,
  type TraceSink,
} from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import type { IommuEvent } from '../trace.ts';
import { type Descriptor, neutral, waitStatus } from './descriptors.ts';
import type { RegisterAccess } from './register-access.ts';

const RING_FRAMES = 2;
const STATUS_MASK = 0x7fff_ffff;

export type SubmitResult =
  | 'done'
  /** The unit refused a descriptor of this submission (invalidation queue error). */
  | 'refused'
  /** A device did not answer an invalidation of its cache, and was isolated. */
  | 'timed-out';

/** A wait descriptor whose status has still to be written. */
type Wait = {
  /** Index of its word in the status frame. */
  readonly status: number;
  /** What it writes there: no two waits write the same, so one that comes late is not taken for another. */
  readonly data: number;
  readonly drain: boolean;
};

export class InvalidationQueue {
  /** Takes what the device `rid` has cached out of use. It may submit. */
  onUnresponsive: (rid: number) => void = () => {};
  private readonly kernel: Kernel;
  private readonly registers: RegisterAccess;
  private readonly trace: TraceSink<IommuEvent>;
  private readonly ringPfn: number;
  private readonly statusPfn: number;
  /** Bytes of one descriptor, 16 or 32. */
  private readonly width: number;
  private readonly entries: number;
  private tail = 0;
  private collected: Descriptor[] = [];
  /** Ring indexes whose descriptors were refused and whose submission has not noticed yet. */
  private readonly refused = new Set<number>();
  private readonly outstanding = new Set<Wait>();
  /** Waits that the unit had fetched when a device timed out, and dropped. */
  private readonly lost = new Set<Wait>();
  private sequence = 0;
  private timeouts = 0;
  /** Requester ids of devices that did not answer and have not been handed on. */
  private readonly unresponsive = new Set<number>();

  /** @throws {SysError} ENOMEM */
  constructor(kernel: Kernel, registers: RegisterAccess, wide: boolean, trace: TraceSink<IommuEvent>) {
    this.kernel = kernel;
    this.registers = registers;
    this.trace = trace;
    this.width = wide ? 32 : 16;
    this.entries = (RING_FRAMES * 4096) / this.width;
    this.ringPfn = kernel.allocateFrames('qi_ring', RING_FRAMES);
    try {
      this.statusPfn = kernel.allocateFrame('qi_status');
    } catch (error) {
      kernel.freeFrame(this.ringPfn, RING_FRAMES);
      throw error;
    }
  }

  /** Gives the ring to the unit and turns queued invalidation on. */
  enable(): void {
    const size = BigInt(Math.log2(RING_FRAMES));
    const wide = this.width === 32 ? BigInt(IQA_LO_DW) : 0n;
    this.registers.write64(REG_IQT, 0n);
    this.registers.write64(REG_IQA, (BigInt(this.ringPfn) << 12n) | wide | size);
    this.registers.command(GCMD_QIE, true);
  }

  /** Turns queued invalidation off and frees the ring. */
  free(): void {
    this.registers.command(GCMD_QIE, false);
    this.kernel.freeFrame(this.ringPfn, RING_FRAMES);
    this.kernel.freeFrame(this.statusPfn);
  }

  /** Collects a descriptor for the next `submit`. */
  add(descriptor: Descriptor): this {
    this.collected.push(descriptor);
    return this;
  }

  /**
   * Carries out what was collected, if anything, and waits for it. `drain`: page requests sent before are then in their
   * queue. @throws {Error} the unit does not answer
   */
  submit(drain = false): SubmitResult {
    try {
      return this.run(drain);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      throw new Error('the remapping unit does not answer: what it has cached cannot be taken from it', {
        cause: error,
      });
    }
  }

  private run(drain: boolean): SubmitResult {
    const batch = this.collected;
    if (batch.length === 0 && !drain) return 'done';
    this.collected = [];
    let result: SubmitResult = 'done';
    // A ring's worth at a time, with room for the wait descriptor and for the gap that tells full from empty.
    const chunk = this.entries - 2;
    for (let first = 0; first < batch.length || first === 0; first += chunk) {
      const outcome = this.submitChunk(batch.slice(first, first + chunk), drain);
      if (outcome !== 'done') result = outcome;
    }
    return result;
  }

  /** As `submit`, for operations that can fail. @throws {SysError} EIO a descriptor was refused; ETIMEDOUT */
  submitChecked(call: string): void {
    const result = this.run(false);
    if (result === 'refused') throw new SysError('EIO', call, 'the unit refused an invalidation');
    if (result === 'timed-out') throw new SysError('ETIMEDOUT', call, 'an invalidation was not completed');
  }

  private submitChunk(batch: readonly Descriptor[], drain: boolean): SubmitResult {
    const timeouts = this.timeouts;
    this.relax(() => this.room() > batch.length + 1);
    const first = this.tail;
    for (const descriptor of batch) this.put(descriptor);
    const wait = this.makeWait(drain);
    this.putWait(wait);
    const end = this.tail;
    this.registers.write64(REG_IQT, BigInt(this.tail * this.width));
    this.relax(() => this.kernel.memory.readWord(this.statusPfn, wait.status) === wait.data);
    this.outstanding.delete(wait);
    this.lost.delete(wait);
    for (const rid of this.unresponsive) {
      this.unresponsive.delete(rid);
      this.onUnresponsive(rid);
    }
    if (this.takeRefused(first, end)) return 'refused';
    return this.timeouts === timeouts ? 'done' : 'timed-out';
  }

  /** Keeps the queue going until `done()` holds. Its time starts anew with each device that times out. */
  private relax(done: () => boolean): void {
    for (let reached = false; !reached; ) {
      const { timeouts } = this;
      this.kernel.relax('qi_submit_sync', () => {
        reached = done();
        if (!reached) this.handleErrors();
        return reached || this.timeouts !== timeouts;
      });
    }
  }

  /** Descriptors that fit. */
  private room(): number {
    const head = Number(this.registers.read64(REG_IQH)) / this.width;
    return (head - this.tail - 1 + this.entries) % this.entries;
  }

  private put(descriptor: Descriptor): void {
    this.store(this.tail, descriptor);
    this.tail = (this.tail + 1) % this.entries;
    if (!this.trace.enabled) return;
    const [word0, word1, word2, word3] = descriptor;
    const type = descriptorType(word0);
    this.trace.emit({ name: 'qi_submit', type, qw0: joinU64(word0, word1), qw1: joinU64(word2, word3) });
  }

  private makeWait(drain: boolean): Wait {
    this.sequence = (this.sequence + 1) & STATUS_MASK;
    const wait = { status: this.tail, data: this.sequence, drain };
    this.outstanding.add(wait);
    return wait;
  }

  private putWait({ status, data, drain }: Wait): void {
    this.put(waitStatus((BigInt(this.statusPfn) << 12n) + BigInt(4 * status), data, drain));
  }

  private store(index: number, descriptor: Descriptor): void {
    const { memory } = this.kernel;
    const at = index * this.width;
    const pfn = this.ringPfn + (at >> 12);
    const word = (at & 0xfff) >> 2;
    for (let i = 0; i < this.width / 4; i++) memory.writeWord(pfn, word + i, descriptor[i] ?? 0);
  }

  /** Gets a queue that has stopped going again. */
  private handleErrors(): void {
    const faults = this.registers.read32(REG_FSTS);
    if ((faults & FSTS_IQE) !== 0) {
      const head = Number(this.registers.read64(REG_IQH)) / this.width;
      this.traceError(faults);
      this.refused.add(head);
      this.store(head, neutral());
      this.registers.write32(REG_FSTS, FSTS_IQE);
    }
    if ((faults & (FSTS_ITE | FSTS_ICE)) !== 0) {
      this.traceError(faults);
      this.timeouts++;
      if ((faults & FSTS_ITE) !== 0) {
        this.unresponsive.add(fieldGet(IQERCD_HI_ITESID, this.registers.read32(REG_IQERCD + 4)));
      }
      for (const wait of this.outstanding) this.lost.add(wait);
      this.registers.write32(REG_FSTS, faults & (FSTS_ITE | FSTS_ICE));
    }
    for (const wait of this.lost) {
      if (this.room() === 0) return;
      this.lost.delete(wait);
      this.putWait(wait);
      this.registers.write64(REG_IQT, BigInt(this.tail * this.width));
    }
  }

  private traceError(status: number): void {
    if (this.trace.enabled) {
      this.trace.emit({ name: 'qi_error', status, detail: this.registers.read64(REG_IQERCD) });
    }
  }

  private takeRefused(first: number, end: number): boolean {
    let any = false;
    for (let index = first; index !== end; index = (index + 1) % this.entries) {
      any = this.refused.delete(index) || any;
    }
    return any;
  }
}
