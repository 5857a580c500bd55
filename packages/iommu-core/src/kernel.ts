/**
 * The operating system of one host: its machine's memory, time and interrupts, and the discipline of rule 12 of the
 * architecture: inside a system call only hardware runs; work that interrupts queue runs when the call ends, or while
 * the call waits for hardware.
 */

import { type FrameAllocator, hex, type PhysicalMemory, type Scheduler } from '@iommukit/hw';
import { SysError } from './errno.ts';
import { Failpoints } from './failpoint.ts';

/** How an interrupt message reaches a handler of the kernel. */
export type InterruptController = {
  /** Allocates a vector for `handler`; gives the message that a device writes to raise it. @throws {SysError} ENOSPC */
  allocate(handler: () => void): MsiMessage;
  free(message: MsiMessage): void;
};

/** Address and data of a message-signalled interrupt. */
export type MsiMessage = { readonly address: bigint; readonly data: number };

export type KernelOptions = {
  memory: PhysicalMemory;
  frames: FrameAllocator;
  scheduler: Scheduler;
  interrupts: InterruptController;
};

export class Kernel {
  readonly memory: PhysicalMemory;
  readonly frames: FrameAllocator;
  readonly scheduler: Scheduler;
  readonly interrupts: InterruptController;
  readonly failpoints: Failpoints = new Failpoints();
  private inCall = false;
  private working = false;
  private readonly work: (() => void)[] = [];

  constructor(options: KernelOptions) {
    this.memory = options.memory;
    this.frames = options.frames;
    this.scheduler = options.scheduler;
    this.interrupts = options.interrupts;
  }

  /** A zeroed frame. @throws {SysError} ENOMEM */
  allocateFrame(what: string): number {
    const pfn = this.failpoints.shouldFail(what) ? null : this.frames.allocate();
    if (pfn === null) throw new SysError('ENOMEM', what, 'no free frame');
    return pfn;
  }

  /** Adjoining zeroed frames, the first a multiple of `frames`' next power of two. @throws {SysError} ENOMEM */
  allocateFrames(what: string, frames: number): number {
    const alignment = 2 ** Math.ceil(Math.log2(frames));
    const pfn = this.failpoints.shouldFail(what) ? null : this.frames.allocateRun(frames, alignment);
    if (pfn === null) throw new SysError('ENOMEM', what, `no run of ${frames} free frames`);
    return pfn;
  }

  freeFrame(pfn: number, frames = 1): void {
    this.frames.free(pfn, frames);
  }

  /** The failpoint of an allocation that takes no frame. @throws {SysError} ENOMEM when it is armed to fail */
  checkpoint(what: string): void {
    if (this.failpoints.shouldFail(what)) throw new SysError('ENOMEM', what, 'failpoint');
  }

  /**
   * Runs `body` as a system call; queued work runs after it. Calls do not nest: one that is entered while another is
   * in progress comes from a callback that had no business calling.
   * @throws {Error} on re-entry
   */
  call<T>(name: string, body: () => T): T {
    if (this.inCall) throw new Error(`${name} entered inside another system call`);
    this.inCall = true;
    try {
      return body();
    } finally {
      try {
        this.runWork();
      } finally {
        this.inCall = false;
      }
    }
  }

  /** Queues kernel work, in order. It runs in `relax`, at the end of the outermost call, or in `runWork`. */
  queueWork(action: () => void): void {
    this.work.push(action);
  }

  /**
   * Runs queued work, and what that queues. Work does not nest: while one piece waits for hardware the others wait for
   * it, so no piece may wait for another; what it needs done it calls.
   */
  runWork(): void {
    if (this.working) return;
    this.working = true;
    try {
      for (let action = this.work.shift(); action !== undefined; action = this.work.shift()) action();
    } finally {
      this.working = false;
    }
  }

  /**
   * Waits for hardware: runs events, and the work they queue, until `done()` holds.
   * @throws {SysError} ETIMEDOUT after `timeout` nanoseconds of virtual time
   */
  relax(what: string, done: () => boolean, timeout = 1_000_000_000): void {
    const deadline = this.scheduler.now + timeout;
    while (!done()) {
      if (this.work.length > 0 && !this.working) {
        this.runWork();
        continue;
      }
      if (this.scheduler.nextDue > deadline) {
        this.scheduler.runUntil(deadline);
        if (done()) return;
        throw new SysError('ETIMEDOUT', what, `hardware did not answer within ${timeout} ns (at ${hex(deadline)})`);
      }
      this.scheduler.runNext();
    }
  }
}
