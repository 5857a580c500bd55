/**
 * A function's way up: memory requests with or without PASID, translation requests, interrupt messages (PCI Express
 * Base Specification 6.0, chapters 2 and 10). A transfer is cut into requests at page boundaries; each page is
 * translated and moved before the next.
 *
 * Nothing here allocates for a transfer between RAM and a buffer in `PhysicalMemory.bytes`. Results stand in fields
 * until the next call on the same port.
 */

import { LAST_PFN, PAGE_SIZE, type PhysicalMemory } from '../memory/physical-memory.ts';
import { addressHigh, addressLow, joinU64, pageHigh, pageLow, splitHigh, splitLow } from '../u64.ts';
import type { PciFabric } from './fabric.ts';
import type { PciFunction } from './function.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  AT_TRANSLATED,
  AT_UNTRANSLATED,
  COMPLETION_SUCCESS,
  COMPLETION_UNSUPPORTED_REQUEST,
  MSI_FIRST_PFN,
  MSI_LAST_PFN,
  NO_PASID,
} from './transaction.ts';

/**
 * Addressing of a transfer besides AT_UNTRANSLATED and AT_TRANSLATED: with ATS enabled each page is looked up in the
 * function's address translation cache, or asked for, and moved with a translated request; without ATS untranslated.
 */
export const AT_CACHED = 1;

/** Result of a transfer besides the COMPLETION_ codes: a translation completion did not grant the access. */
export const TRANSLATION_DENIED = 16;

const ACCESS_ANY: number = ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE;

export class UpstreamPort {
  /** Bytes of the last transfer that were moved. */
  transferred = 0;
  /** Byte address of the first byte of the last transfer that was not moved. */
  faultLow = 0;
  faultHigh = 0;
  /** ACCESS_ bits granted by the last translation request. */
  granted = 0;
  /** Frame number of the last page translated. */
  pfn = 0;
  private readonly fn: PciFunction;

  constructor(fn: PciFunction) {
    this.fn = fn;
  }

  /**
   * Whether the function may send requests at all (Bus Master Enable) and with this PASID and these ACCESS_ bits
   * (the PASID capability's controls).
   */
  mayRequest(pasid: number, access: number): boolean {
    const fn = this.fn;
    if (!fn.busMaster || fn.fabric === null) return false;
    if (fn.port !== null && !fn.port.busMaster) return false;
    return pasid === NO_PASID || (fn.pasid?.allows(pasid, access) ?? false);
  }

  /**
   * Reads `length` bytes from the address (`lo`, `hi`) to byte offset `at` of `PhysicalMemory.bytes`.
   * `addressing` is AT_UNTRANSLATED, AT_CACHED or AT_TRANSLATED; `modifiers` holds ACCESS_EXECUTE and
   * ACCESS_PRIVILEGED, which need a PASID. Gives a COMPLETION_ code or TRANSLATION_DENIED.
   */
  read(
    addressing: number,
    pasid: number,
    modifiers: number,
    lo: number,
    hi: number,
    length: number,
    at: number,
  ): number {
    const fabric = this.fn.fabric;
    if (fabric === null) return this.fail(COMPLETION_UNSUPPORTED_REQUEST, lo, hi);
    return this.transfer(fabric, ACCESS_READ, addressing, pasid, modifiers, lo, hi, length, fabric.memory.bytes, at);
  }

  /** Writes `length` bytes from byte offset `at` of `PhysicalMemory.bytes`; otherwise as `read`. */
  write(
    addressing: number,
    pasid: number,
    modifiers: number,
    lo: number,
    hi: number,
    length: number,
    at: number,
  ): number {
    const fabric = this.fn.fabric;
    if (fabric === null) return this.fail(COMPLETION_UNSUPPORTED_REQUEST, lo, hi);
    return this.transfer(fabric, ACCESS_WRITE, addressing, pasid, modifiers, lo, hi, length, fabric.memory.bytes, at);
  }

  /** As `read`, into a buffer of the caller. */
  readInto(addressing: number, pasid: number, modifiers: number, lo: number, hi: number, into: Uint8Array): number {
    const fabric = this.fn.fabric;
    if (fabric === null) return this.fail(COMPLETION_UNSUPPORTED_REQUEST, lo, hi);
    return this.transfer(fabric, ACCESS_READ, addressing, pasid, modifiers, lo, hi, into.length, into, 0);
  }

  /** As `write`, from a buffer of the caller. */
  writeFrom(addressing: number, pasid: number, modifiers: number, lo: number, hi: number, from: Uint8Array): number {
    const fabric = this.fn.fabric;
    if (fabric === null) return this.fail(COMPLETION_UNSUPPORTED_REQUEST, lo, hi);
    return this.transfer(fabric, ACCESS_WRITE, addressing, pasid, modifiers, lo, hi, from.length, from, 0);
  }

  /**
   * An ATS translation request for one page; `access` holds ACCESS_ bits, ACCESS_WRITE unless the request carries No
   * Write. On COMPLETION_SUCCESS `granted` and `pfn` hold the completion, which is cached unless it grants nothing or
   * is for untranslated use only (`granted` is then what untranslated requests may do, `pfn` -1).
   */
  requestTranslation(pasid: number, access: number, vhi: number, vlo: number): number {
    const { fabric, ats } = this.fn;
    this.granted = 0;
    this.pfn = -1;
    if (fabric === null || ats === null || !ats.enabled || !this.mayRequest(pasid, access)) {
      return COMPLETION_UNSUPPORTED_REQUEST;
    }
    if (this.fn.port?.blocksTranslated === true) return COMPLETION_UNSUPPORTED_REQUEST;
    const agent = fabric.agent;
    const status = agent.requestTranslation(this.fn.rid, pasid, access, vhi, vlo);
    if (status === COMPLETION_SUCCESS) {
      const completion = agent.ats;
      this.granted = completion.access;
      if (!completion.untranslatedOnly && (this.granted & ACCESS_ANY) !== 0) {
        this.pfn = completion.pfn;
        ats.cache.fill(pasid, access, vhi, vlo, completion);
      }
    }
    if (fabric.trace.enabled) {
      const iova = joinU64(addressLow(vlo), addressHigh(vlo, vhi));
      const { rid } = this.fn;
      fabric.trace.emit({ name: 'ats_request', rid, pasid, iova, access, status, granted: this.granted });
    }
    return status;
  }

  /** Sends an interrupt message: a write of one 32-bit word without PASID, dropped without Bus Master Enable. */
  writeMessage(lo: number, hi: number, data: number): void {
    const { fabric, rid } = this.fn;
    if (fabric === null || !this.mayRequest(NO_PASID, 0)) return;
    if (isInterruptPage(pageHigh(hi), pageLow(lo, hi))) {
      fabric.agent.writeInterrupt(rid, lo, hi, data);
      return;
    }
    const word = new Uint8Array(4);
    new DataView(word.buffer).setInt32(0, data, true);
    this.transfer(fabric, ACCESS_WRITE, AT_UNTRANSLATED, NO_PASID, 0, lo, hi, 4, word, 0);
  }

  private transfer(
    fabric: PciFabric,
    direction: number,
    addressing: number,
    pasid: number,
    modifiers: number,
    lo: number,
    hi: number,
    length: number,
    buffer: Uint8Array,
    at: number,
  ): number {
    let access = direction;
    if (pasid !== NO_PASID) access |= modifiers & (ACCESS_EXECUTE | ACCESS_PRIVILEGED);
    if (!this.mayRequest(pasid, access)) return this.fail(COMPLETION_UNSUPPORTED_REQUEST, lo, hi);
    let vlo = pageLow(lo, hi);
    let vhi = pageHigh(hi);
    let offset = lo & 0xfff;
    let done = 0;
    while (done < length) {
      const count = Math.min(length - done, PAGE_SIZE - offset);
      let status: number;
      if (
        direction === ACCESS_WRITE &&
        pasid === NO_PASID &&
        addressing !== AT_TRANSLATED &&
        isInterruptPage(vhi, vlo)
      ) {
        status = this.interrupt(fabric, (vlo << 12) | offset, length, buffer, at);
      } else {
        status = this.translate(fabric, addressing, pasid, access, vhi, vlo);
        if (status === COMPLETION_SUCCESS) {
          status = move(fabric.memory, direction, this.pfn, offset, count, buffer, at + done);
        }
      }
      if (status !== COMPLETION_SUCCESS) {
        this.transferred = done;
        this.faultLow = addressLow(vlo) | offset;
        this.faultHigh = addressHigh(vlo, vhi);
        return status;
      }
      done += count;
      offset = 0;
      vlo = (vlo + 1) & 0x7ffffff;
      if (vlo === 0) {
        vhi = (vhi + 1) & 0x1ffffff;
        if (vhi === 0 && done < length) {
          this.transferred = done;
          this.faultLow = 0;
          this.faultHigh = 0;
          return COMPLETION_UNSUPPORTED_REQUEST;
        }
      }
    }
    this.transferred = done;
    return COMPLETION_SUCCESS;
  }

  /** Finds the frame behind one page. COMPLETION_SUCCESS leaves it in `pfn`. */
  private translate(
    fabric: PciFabric,
    addressing: number,
    pasid: number,
    access: number,
    vhi: number,
    vlo: number,
  ): number {
    const { rid, ats } = this.fn;
    const agent = fabric.agent;
    if (addressing === AT_CACHED && ats?.enabled) {
      const cache = ats.cache;
      if (cache.lookup(pasid, access, vhi, vlo)) this.pfn = cache.pfn;
      else {
        const status = this.requestTranslation(pasid, access, vhi, vlo);
        if (status !== COMPLETION_SUCCESS) return status;
        const need = access & ACCESS_ANY;
        if ((this.granted & need) !== need) return TRANSLATION_DENIED;
      }
      if (this.pfn >= 0) return this.translated(fabric, access, splitHigh(this.pfn), splitLow(this.pfn));
    } else if (addressing === AT_TRANSLATED) return this.translated(fabric, access, vhi, vlo);
    const status = agent.translate(rid, pasid, access, AT_UNTRANSLATED, vhi, vlo);
    this.pfn = agent.pfn;
    return status;
  }

  /** A translated request; it carries no PASID. */
  private translated(fabric: PciFabric, access: number, vhi: number, vlo: number): number {
    const { rid, port } = this.fn;
    if (port?.blocksTranslated === true) return COMPLETION_UNSUPPORTED_REQUEST;
    const plain = access & (ACCESS_READ | ACCESS_WRITE);
    const status = fabric.agent.translate(rid, NO_PASID, plain, AT_TRANSLATED, vhi, vlo);
    this.pfn = fabric.agent.pfn;
    return status;
  }

  /** A write into the interrupt range: one aligned 32-bit word, or nothing. */
  private interrupt(fabric: PciFabric, lo: number, length: number, buffer: Uint8Array, at: number): number {
    if (length !== 4 || (lo & 3) !== 0) return COMPLETION_UNSUPPORTED_REQUEST;
    const data = buffer[at]! | (buffer[at + 1]! << 8) | (buffer[at + 2]! << 16) | (buffer[at + 3]! << 24);
    fabric.agent.writeInterrupt(this.fn.rid, lo, 0, data);
    return COMPLETION_SUCCESS;
  }

  private fail(status: number, lo: number, hi: number): number {
    this.transferred = 0;
    this.faultLow = lo;
    this.faultHigh = hi;
    return status;
  }
}

function isInterruptPage(vhi: number, vlo: number): boolean {
  return vhi === 0 && vlo >= MSI_FIRST_PFN && vlo <= MSI_LAST_PFN;
}

/** Moves bytes between a buffer and one frame. Registers of another function are reached too (peer to peer). */
function move(
  memory: PhysicalMemory,
  direction: number,
  pfn: number,
  offset: number,
  count: number,
  buffer: Uint8Array,
  at: number,
): number {
  if (pfn < memory.ramFrames) {
    const frame = (pfn | 0) * PAGE_SIZE + offset;
    if (direction === ACCESS_WRITE) {
      copy(memory, buffer, at, memory.bytes, frame, count);
      memory.noteWrite(pfn);
    } else copy(memory, memory.bytes, frame, buffer, at, count);
    return COMPLETION_SUCCESS;
  }
  if (pfn > LAST_PFN) return COMPLETION_UNSUPPORTED_REQUEST;
  const bytes = buffer.subarray(at, at + count);
  const address = pfn * PAGE_SIZE + offset;
  const done = direction === ACCESS_WRITE ? memory.write(address, bytes) : memory.read(address, bytes);
  return done ? COMPLETION_SUCCESS : COMPLETION_UNSUPPORTED_REQUEST;
}

function copy(
  memory: PhysicalMemory,
  source: Uint8Array,
  from: number,
  target: Uint8Array,
  to: number,
  count: number,
): void {
  if (source !== target) {
    target.set(source.subarray(from, from + count), to);
  } else memory.copy(to, from, count);
}
