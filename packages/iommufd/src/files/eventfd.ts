/** eventfd(2): a 64-bit counter that one side adds to and the other reads to zero. */

import { SysError } from '@iommukit/iommu-core';
import { type Caller, type File, POLLIN, POLLOUT } from './file.ts';

/** Highest value the counter can hold; one more would block the writer. */
const COUNTER_MAX = 0xffff_ffff_ffff_fffen;

export class EventFd implements File {
  readonly name = 'anon_inode:[eventfd]';
  private counter = 0n;
  private readonly watchers: (() => void)[] = [];

  /** Adds one, from inside the kernel (Linux: eventfd_signal). A full counter stays as it is. */
  signal(): void {
    if (this.counter < COUNTER_MAX) this.counter++;
    for (const watcher of this.watchers) watcher();
  }

  /** The value since the last call, which becomes zero (Linux: a read(2) of 8 bytes). */
  take(): bigint {
    const value = this.counter;
    this.counter = 0n;
    return value;
  }

  /** Calls `watcher` on each signal until the function given back is called (Linux: irqfd). It must only note the fact. */
  watch(watcher: () => void): () => void {
    this.watchers.push(watcher);
    return () => {
      const index = this.watchers.indexOf(watcher);
      if (index >= 0) this.watchers.splice(index, 1);
    };
  }

  read(_caller: Caller, into: Uint8Array): number {
    if (into.length < 8) throw new SysError('EINVAL', 'read', `an eventfd gives 8 bytes, not ${into.length}`);
    if (this.counter === 0n) throw new SysError('EAGAIN', 'read', 'the eventfd is zero');
    new DataView(into.buffer, into.byteOffset, 8).setBigUint64(0, this.take(), true);
    return 8;
  }

  write(_caller: Caller, from: Uint8Array): number {
    if (from.length < 8) throw new SysError('EINVAL', 'write', `an eventfd takes 8 bytes, not ${from.length}`);
    const value = new DataView(from.buffer, from.byteOffset, 8).getBigUint64(0, true);
    if (value > COUNTER_MAX) throw new SysError('EINVAL', 'write', 'the eventfd cannot hold 2^64 - 1');
    if (this.counter + value > COUNTER_MAX) throw new SysError('EAGAIN', 'write', 'the eventfd would overflow');
    this.counter += value;
    for (const watcher of this.watchers) watcher();
    return 8;
  }

  poll(): number {
    return (this.counter > 0n ? POLLIN : 0) | (this.counter < COUNTER_MAX ? POLLOUT : 0);
  }

  release(): void {
    this.watchers.length = 0;
  }
}
