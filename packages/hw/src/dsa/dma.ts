/**
 * Memory accesses of one engine on behalf of a descriptor. Each lies in one page. With ATS the page is translated
 * first, without it requests go out untranslated (PCI Express Base Specification 6.0, chapter 10).
 *
 * Writes are posted: what becomes of one that left the function is not known here, only a readback tells. Denied and
 * failed translations, and failed reads, are.
 */

import type { PciFunction } from '../pci/function.ts';
import { ACCESS_PRIVILEGED, ACCESS_READ, ACCESS_WRITE, COMPLETION_SUCCESS, NO_PASID } from '../pci/transaction.ts';
import { AT_CACHED, TRANSLATION_DENIED } from '../pci/upstream-port.ts';
import { pageHigh, pageLow } from '../u64.ts';

export const DMA_DONE = 0;
/** The translation does not grant the access: a page request may help. */
export const DMA_FAULT = 1;
/** The translation request itself was refused. */
export const DMA_TRANSLATION_ERROR = 2;
/** The request could not be sent, or a read did not complete successfully. */
export const DMA_ERROR = 3;

export class DsaDma {
  pasid: number = NO_PASID;
  /** ACCESS_PRIVILEGED or 0. */
  modifiers = 0;
  /** Address and ACCESS_ bit of the last access that was not DMA_DONE. */
  faultLow = 0;
  faultHigh = 0;
  faultAccess = 0;
  private readonly fn: PciFunction;

  constructor(fn: PciFunction) {
    this.fn = fn;
  }

  setIdentity(pasid: number, privileged: boolean): void {
    this.pasid = pasid;
    this.modifiers = privileged && pasid !== NO_PASID ? ACCESS_PRIVILEGED : 0;
  }

  /** Reads `length` bytes, all in one page, to byte offset `at` of `PhysicalMemory.bytes`. */
  read(lo: number, hi: number, length: number, at: number): number {
    const status = this.fn.upstream.read(AT_CACHED, this.pasid, this.modifiers, lo, hi, length, at);
    return status === COMPLETION_SUCCESS ? DMA_DONE : this.failed(status, ACCESS_READ, lo, hi);
  }

  /** Writes `length` bytes, all in one page, from byte offset `at` of `PhysicalMemory.bytes`. */
  write(lo: number, hi: number, length: number, at: number): number {
    const status = this.fn.upstream.write(AT_CACHED, this.pasid, this.modifiers, lo, hi, length, at);
    return status === COMPLETION_SUCCESS ? DMA_DONE : this.failed(status, ACCESS_WRITE, lo, hi);
  }

  private failed(status: number, access: number, lo: number, hi: number): number {
    const { fn, pasid, modifiers } = this;
    this.faultLow = lo;
    this.faultHigh = hi;
    this.faultAccess = access;
    if (status === TRANSLATION_DENIED) return DMA_FAULT;
    if (!fn.upstream.mayRequest(pasid, access | modifiers)) return DMA_ERROR;
    const ats = fn.ats;
    if (ats?.enabled && !ats.cache.lookup(pasid, access | modifiers, pageHigh(hi), pageLow(lo, hi))) {
      return DMA_TRANSLATION_ERROR;
    }
    return access === ACCESS_WRITE ? DMA_DONE : DMA_ERROR;
  }
}
