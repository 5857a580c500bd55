/**
 * A group: work queues, and the engines that serve them (Intel Data Streaming Accelerator Architecture Specification,
 * order number 341204, revision 1.0). Each queue gets its turns in proportion to its priority; none starves.
 */

import type { RegisterFile } from './register-file.ts';
import { DSA_REGISTER, GRPCFG_ENGINES, GRPCFG_SIZE } from './registers.ts';
import type { Work, WorkQueue } from './work-queue.ts';

export class Group {
  private readonly queues: WorkQueue[];

  constructor(queues: WorkQueue[]) {
    this.queues = queues;
  }

  /** Takes the next descriptor: smooth weighted round robin over the queues that are not empty. */
  take(): Work | null {
    let total = 0;
    let best: WorkQueue | null = null;
    for (const queue of this.queues) {
      if (queue.occupancy === 0) continue;
      queue.credit += queue.priority;
      total += queue.priority;
      if (best === null || queue.credit > best.credit) best = queue;
    }
    if (best === null) return null;
    best.credit -= total;
    return best.shift() ?? null;
  }
}

/** Bits of the queues in group `index`. */
export function groupQueues(registers: RegisterFile, index: number): number {
  return registers.get(DSA_REGISTER.grpcfg + index * GRPCFG_SIZE);
}

/** Bits of the engines in group `index`. */
export function groupEngines(registers: RegisterFile, index: number): number {
  return registers.get(DSA_REGISTER.grpcfg + index * GRPCFG_SIZE + GRPCFG_ENGINES);
}
