/**
 * The portals in BAR 2, four pages for each queue: unlimited and limited ones, and both again for handles of an
 * interrupt-message storage (Intel Data Streaming Accelerator Architecture Specification, order number 341204, revision
 * 1.0). A portal takes a descriptor at any multiple of 64 bytes.
 *
 * A dedicated queue takes posted writes (MOVDIR64B), and drops one that comes when it is full or not enabled; a shared
 * queue takes non-posted ones (ENQCMD), and answers Retry then. The other kind of write is dropped, or gets Retry.
 */

import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';
import { NO_PASID } from '../pci/transaction.ts';
import { operationOf } from './descriptor-check.ts';
import { DSA_DESCRIPTOR_SIZE, DSA_DESCRIPTOR0_PASID, DSA_DESCRIPTOR0_PRIVILEGED } from './descriptor-format.ts';
import type { DsaFunction } from './dsa-function.ts';
import { DSA_PORTALS_SIZE, DSA_PORTAL as PORTAL, DSA_STATE as STATE } from './registers.ts';

export class Portals implements MmioHandler {
  private readonly device: DsaFunction;

  constructor(device: DsaFunction) {
    this.device = device;
  }

  /** Nothing can be read: all-ones. */
  read(_offset: number, width: AccessWidth): bigint {
    return (1n << BigInt(8 * width)) - 1n;
  }

  /** A write of less than a descriptor has no effect. */
  write(): void {}

  store64(offset: number, data: Uint8Array): void {
    this.submit(offset, data, false);
  }

  enqueue64(offset: number, data: Uint8Array): boolean {
    return this.submit(offset, data, true);
  }

  private submit(offset: number, data: Uint8Array, nonPosted: boolean): boolean {
    const { device } = this;
    const queue = device.queues[Math.floor(offset / DSA_PORTALS_SIZE)];
    if (queue === undefined || data.length !== DSA_DESCRIPTOR_SIZE) return false;
    const portal = (offset >>> 12) & 3;
    const words = new Int32Array(data.slice().buffer);
    const { dedicated } = queue;
    const own = queue.pasidEnabled ? queue.pasid : NO_PASID;
    const pasid = dedicated ? own : words[0]! & DSA_DESCRIPTOR0_PASID;
    const privileged = dedicated ? queue.privileged : (words[0]! & DSA_DESCRIPTOR0_PRIVILEGED) !== 0;
    const accepted =
      device.state === STATE.enabled &&
      queue.accepting &&
      dedicated === !nonPosted &&
      offset % DSA_DESCRIPTOR_SIZE === 0 &&
      queue.hasRoom(portal);
    if (accepted) device.accept({ queue, words, pasid, privileged, messageStorage: portal >= PORTAL.unlimitedIms });
    else if (nonPosted) device.retried++;
    else device.dropped++;
    if (device.traceSink.enabled) {
      const outcome = accepted ? 'queued' : nonPosted ? 'retry' : 'dropped';
      const operation = operationOf(words);
      const { rid } = device;
      device.traceSink.emit({ name: 'dsa_submit', rid, queue: queue.index, pasid, operation, outcome });
    }
    return accepted;
  }
}
