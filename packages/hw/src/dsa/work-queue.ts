/**
 * A work queue: its configuration, which lies in the registers, and the descriptors that wait in it (Intel Data
 * Streaming Accelerator Architecture Specification, order number 341204, revision 1.0).
 */

import { fieldGet, fieldPrep } from '../bits.ts';
import type { RegisterFile } from './register-file.ts';
import {
  DSA_REGISTER,
  DSA_PORTAL as PORTAL,
  DSA_QUEUE_STATE as QUEUE_STATE,
  WQCFG_SIZE,
  WQCFG0_SIZE,
  WQCFG1_THRESHOLD,
  WQCFG2_BLOCK_ON_FAULT,
  WQCFG2_DEDICATED,
  WQCFG2_PASID,
  WQCFG2_PASID_ENABLE,
  WQCFG2_PRIORITY,
  WQCFG2_PRIVILEGED,
  WQCFG3_MAX_BATCH_LG2,
  WQCFG3_MAX_TRANSFER_LG2,
  WQCFG6_OCCUPANCY,
  WQCFG6_STATE,
} from './registers.ts';

/** A descriptor that a queue has accepted. */
export type Work = {
  readonly queue: WorkQueue;
  /** The 64 bytes as they came. */
  readonly words: Int32Array;
  /** NO_PASID or the PASID of its requests: the queue's (dedicated) or the descriptor's (shared). */
  readonly pasid: number;
  readonly privileged: boolean;
  /** It came through a portal for interrupt handles of the interrupt-message storage. */
  readonly messageStorage: boolean;
  /** Order of acceptance over all queues. */
  readonly sequence: number;
};

export class WorkQueue {
  readonly index: number;
  enabled = false;
  /** False while a command waits for the queue to become empty before it disables it. */
  accepting = false;
  /** Standing in the arbitration among the queues of a group. */
  credit = 0;
  private waiting: Work[] = [];
  private readonly registers: RegisterFile;
  private readonly base: number;

  constructor(registers: RegisterFile, index: number) {
    this.registers = registers;
    this.index = index;
    this.base = DSA_REGISTER.wqcfg + index * WQCFG_SIZE;
  }

  get size(): number {
    return fieldGet(WQCFG0_SIZE, this.registers.get(this.base));
  }

  get threshold(): number {
    return fieldGet(WQCFG1_THRESHOLD, this.registers.get(this.base + 4));
  }

  get dedicated(): boolean {
    return (this.mode & WQCFG2_DEDICATED) !== 0;
  }

  get blockOnFault(): boolean {
    return (this.mode & WQCFG2_BLOCK_ON_FAULT) !== 0;
  }

  get priority(): number {
    return fieldGet(WQCFG2_PRIORITY, this.mode);
  }

  get pasidEnabled(): boolean {
    return (this.mode & WQCFG2_PASID_ENABLE) !== 0;
  }

  get pasid(): number {
    return fieldGet(WQCFG2_PASID, this.mode);
  }

  get privileged(): boolean {
    return (this.mode & WQCFG2_PRIVILEGED) !== 0;
  }

  /** log2 of the largest transfer in bytes. */
  get maxTransferLg2(): number {
    return fieldGet(WQCFG3_MAX_TRANSFER_LG2, this.registers.get(this.base + 12));
  }

  /** log2 of the most descriptors in a batch. */
  get maxBatchLg2(): number {
    return fieldGet(WQCFG3_MAX_BATCH_LG2, this.registers.get(this.base + 12));
  }

  get occupancy(): number {
    return this.waiting.length;
  }

  /** Descriptors that wait now, first come first. */
  get entries(): readonly Work[] {
    return this.waiting;
  }

  /** Whether one more descriptor fits through portal page `portal`. */
  hasRoom(portal: number): boolean {
    const limited = !this.dedicated && (portal === PORTAL.limited || portal === PORTAL.limitedIms);
    return this.occupancy < (limited ? Math.min(this.threshold, this.size) : this.size);
  }

  setEnabled(enabled: boolean): void {
    this.enabled = enabled;
    this.accepting = enabled;
    this.publish();
  }

  push(work: Work): void {
    this.waiting.push(work);
    this.publish();
  }

  shift(): Work | undefined {
    const work = this.waiting.shift();
    this.publish();
    return work;
  }

  /** Throws the descriptors away that `doomed` names, and gives them back. */
  remove(doomed: (work: Work) => boolean): Work[] {
    const removed = this.waiting.filter(doomed);
    this.waiting = this.waiting.filter((work) => !doomed(work));
    this.publish();
    return removed;
  }

  /** Configuration as after reset, disabled; the queue must be empty. */
  resetConfiguration(): void {
    for (let offset = 0; offset < WQCFG_SIZE; offset += 4) this.registers.set(this.base + offset, 0);
    this.credit = 0;
    this.setEnabled(false);
  }

  private get mode(): number {
    return this.registers.get(this.base + 8);
  }

  private publish(): void {
    const state = this.enabled ? QUEUE_STATE.enabled : QUEUE_STATE.disabled;
    this.registers.set(this.base + 24, fieldPrep(WQCFG6_OCCUPANCY, this.occupancy) | fieldPrep(WQCFG6_STATE, state));
  }
}
