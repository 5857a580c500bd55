/**
 * What the completion record of one descriptor is going to say (Intel Data Streaming Accelerator Architecture
 * Specification, order number 341204, revision 1.0; the layout is in descriptor-format.ts).
 */

import { ACCESS_WRITE } from '../pci/transaction.ts';
import { DSA_STATUS_WRITE, DSA_STATUS as STATUS } from './descriptor-format.ts';
import type { DsaDma } from './dma.ts';

export class CompletionRecord {
  status = 0;
  result = 0;
  /** Of a batch: descriptors. */
  bytesCompleted = 0;
  /** Invalid flags, or the CRC. */
  detail = 0;
  faultLow = 0;
  faultHigh = 0;
  private faultIsWrite = false;

  clear(): void {
    this.status = 0;
    this.result = 0;
    this.bytesCompleted = 0;
    this.detail = 0;
    this.clearFault();
  }

  clearFault(): void {
    this.faultLow = 0;
    this.faultHigh = 0;
    this.faultIsWrite = false;
  }

  /** Takes over the access that failed last. */
  noteFault(dma: DsaDma): void {
    this.faultLow = dma.faultLow;
    this.faultHigh = dma.faultHigh;
    this.faultIsWrite = dma.faultAccess === ACCESS_WRITE;
  }

  /** DSA_STATUS_WRITE when the descriptor ended with the page fault of a write, else 0. */
  get write(): number {
    const { status } = this;
    const faulted = status === STATUS.pageFault || status === STATUS.pageResponse;
    return faulted && this.faultIsWrite ? DSA_STATUS_WRITE : 0;
  }

  /** Lays the 32 bytes out from word `at` on. */
  store(words: Int32Array, at: number): void {
    words[at] = this.status | this.write | (this.result << 8);
    words[at + 1] = this.bytesCompleted;
    words[at + 2] = this.faultLow;
    words[at + 3] = this.faultHigh;
    words[at + 4] = this.detail;
    words.fill(0, at + 5, at + 8);
  }
}
