/**
 * /proc/PID/task/TID/fail-nth: the n-th failure point that the thread's next calls pass fails (Linux:
 * Documentation/fault-injection). The number counts down; 0 is written to switch it off, and read when it has struck.
 */

import { type Failpoints, SysError } from '@iommukit/iommu-core';
import type { Caller, File } from '@iommukit/iommufd';

export class FailNth {
  private readonly failpoints: Failpoints;
  /** What is left of each thread's number, by tid. */
  private readonly counts = new Map<number, number>();

  constructor(failpoints: Failpoints) {
    this.failpoints = failpoints;
  }

  get(tid: number): number {
    return this.counts.get(tid) ?? 0;
  }

  set(tid: number, count: number): void {
    if (count === 0) this.counts.delete(tid);
    else this.counts.set(tid, count);
  }

  /** Runs `body` with the thread's number armed. `keep` says of its result whether what it passed counts. */
  run<T>(tid: number, body: () => T, keep: (result: T) => boolean): T {
    const { failpoints } = this;
    const count = this.get(tid);
    if (count === 0) return body();
    failpoints.arm(count);
    try {
      const result = body();
      if (keep(result)) this.set(tid, failpoints.remaining);
      return result;
    } finally {
      failpoints.arm(0);
    }
  }
}

/** The file of one thread. */
export class FailNthFile implements File {
  readonly name: string;
  private readonly failNth: FailNth;
  private readonly tid: number;
  private position = 0;

  constructor(name: string, failNth: FailNth, tid: number) {
    this.name = name;
    this.failNth = failNth;
    this.tid = tid;
  }

  read(_caller: Caller, into: Uint8Array, position: bigint | null): number {
    const text = new TextEncoder().encode(`${this.failNth.get(this.tid)}\n`);
    const start = position === null ? this.position : Number(position);
    const part = text.subarray(start, start + into.length);
    into.set(part);
    if (position === null) this.position += part.length;
    return part.length;
  }

  write(_caller: Caller, from: Uint8Array): number {
    const text = new TextDecoder().decode(from).trim();
    if (!/^\d{1,9}$/.test(text)) throw new SysError('EINVAL', 'write', `fail-nth takes a number, not ${text}`);
    this.failNth.set(this.tid, Number(text));
    return from.length;
  }

  release(): void {}
}
