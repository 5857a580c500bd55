/**
 * The physical address space of one machine: 52 bits of byte addresses, 40 bits of frame numbers.
 *
 * RAM lies at physical address 0 and is one flat WebAssembly.Memory, created at its final size and never grown, so
 * that CPU cores, page-table walkers and devices see the same bytes and no view is ever detached. Behind the RAM in
 * the same WebAssembly.Memory lies reserved storage that has no physical address: core state, device buffers. All
 * other frames are MMIO (handlers) or foreign (read and write functions), found in a sorted directory.
 *
 * Hot paths index `words` and `bytes` directly while `pfn < ramFrames`; everything else takes the methods here.
 * Who writes RAM through the views calls `noteWrite` for each frame written.
 */

import { hex, high32, low32, pageNumber, toU64, type U64 } from '../u64.ts';
import { type BlockCopy, blockCopyOf } from './block-copy.ts';
import type { MemoryPort } from './memory-port.ts';
import type { AccessWidth, MmioHandler } from './mmio.ts';

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
/** Highest frame number of a 52-bit physical address space. */
export const LAST_PFN: number = 2 ** 40 - 1;
/** Frame flag: a CPU core holds decoded instructions of this frame and must hear of writes to it. */
export const FRAME_HAS_CODE = 1;

/** A frame whose bytes live elsewhere, another process's memory for instance. Offsets are within the range. */
export type ForeignMemory = {
  read(offset: number, into: Uint8Array): void;
  write(offset: number, from: Uint8Array): void;
};

type Range = {
  readonly first: number;
  readonly last: number;
  readonly mmio: MmioHandler | null;
  readonly foreign: ForeignMemory | null;
};

export type PhysicalMemoryOptions = {
  /** Bytes of RAM from physical address 0: a multiple of 64 KiB; 0 for an address space whose memory is all foreign. */
  ramBytes: number;
  /** Bytes of storage without a physical address, for `reserve`: a multiple of 64 KiB; 16 MiB by default. */
  reservedBytes?: number;
};

const WASM_PAGE = 65536;

export class PhysicalMemory implements MemoryPort {
  readonly wasm: WebAssembly.Memory;
  /** RAM and reserved storage as 32-bit words; word index of frame `pfn` is `pfn << 10`. */
  readonly words: Int32Array;
  /** RAM and reserved storage as bytes. */
  readonly bytes: Uint8Array;
  /** Copies within `bytes`; the caller notes the frames written. */
  readonly copy: BlockCopy;
  /** Number of RAM frames; frames [0, ramFrames) are RAM. */
  readonly ramFrames: number;
  /** One byte of FRAME_ flags for each RAM frame, in reserved storage at `frameFlagsOffset`. */
  readonly frameFlags: Uint8Array;
  readonly frameFlagsOffset: number;
  private nextReserved: number;
  private readonly ranges: Range[] = [];
  private readonly writeListeners: ((pfn: number) => void)[] = [];
  private readonly word = new Uint8Array(8);
  private readonly wordView: DataView = new DataView(this.word.buffer);

  constructor(options: PhysicalMemoryOptions) {
    const { ramBytes, reservedBytes = 16 << 20 } = options;
    if (ramBytes < 0 || ramBytes % WASM_PAGE !== 0 || reservedBytes % WASM_PAGE !== 0) {
      throw new RangeError(`memory sizes must be multiples of 64 KiB: RAM ${ramBytes}, reserved ${reservedBytes}`);
    }
    this.ramFrames = ramBytes / PAGE_SIZE;
    const flagBytes = Math.ceil(this.ramFrames / WASM_PAGE) * WASM_PAGE;
    const pages = (ramBytes + flagBytes + reservedBytes) / WASM_PAGE;
    if (pages > 65536) throw new RangeError(`RAM and reserved storage exceed 4 GiB: ${pages * WASM_PAGE} bytes`);
    this.wasm = new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.words = new Int32Array(this.wasm.buffer);
    this.bytes = new Uint8Array(this.wasm.buffer);
    this.copy = blockCopyOf(this.wasm);
    this.frameFlagsOffset = ramBytes;
    this.frameFlags = this.bytes.subarray(ramBytes, ramBytes + this.ramFrames);
    this.nextReserved = ramBytes + flagBytes;
  }

  /**
   * Takes `size` bytes of storage that has no physical address, aligned to `align` (a power of two).
   * Gives the byte offset into `bytes`. It is never given back.
   * @throws {RangeError} when the reserved storage is used up
   */
  reserve(size: number, align = 64): number {
    const start = Math.ceil(this.nextReserved / align) * align;
    if (start + size > this.bytes.length) throw new RangeError(`reserved storage is used up: ${size} bytes wanted`);
    this.nextReserved = start + size;
    return start;
  }

  /** Puts a device's registers at frames [firstPfn, firstPfn + frames). @throws {RangeError} on overlap */
  mapMmio(firstPfn: number, frames: number, handler: MmioHandler): void {
    this.insert({ first: firstPfn, last: firstPfn + frames - 1, mmio: handler, foreign: null });
  }

  /** Puts another owner's bytes at frames [firstPfn, firstPfn + frames). @throws {RangeError} on overlap */
  mapForeign(firstPfn: number, frames: number, foreign: ForeignMemory): void {
    this.insert({ first: firstPfn, last: firstPfn + frames - 1, mmio: null, foreign });
  }

  /** Takes away the MMIO or foreign range that starts at `firstPfn`; nothing happens when there is none. */
  unmap(firstPfn: number): void {
    const index = this.ranges.findIndex((range) => range.first === firstPfn);
    if (index >= 0) this.ranges.splice(index, 1);
  }

  /** Hears of every write to a frame whose flags are set. */
  onFlaggedWrite(listener: (pfn: number) => void): void {
    this.writeListeners.push(listener);
  }

  /** To be called for each RAM frame written through the views. */
  noteWrite(pfn: number): void {
    if (this.frameFlags[pfn] !== 0) for (const listener of this.writeListeners) listener(pfn);
  }

  /** True when frames [firstPfn, firstPfn + frames) exist and nothing is there. */
  isFree(firstPfn: number, frames: number): boolean {
    const last = firstPfn + frames - 1;
    if (firstPfn < this.ramFrames || last > LAST_PFN) return false;
    return !this.ranges.some((range) => range.first <= last && range.last >= firstPfn);
  }

  /** True when `pfn` is RAM or foreign: memory that can be translated to, not registers. */
  isMemory(pfn: number): boolean {
    return pfn < this.ramFrames || this.find(pfn)?.foreign != null;
  }

  /** 32-bit word `index` (0..1023) of a frame; all-ones when nothing is there. */
  readWord(pfn: number, index: number): number {
    if (pfn < this.ramFrames) return this.words[(pfn << 10) | index]!;
    if (!this.access(pfn, index << 2, this.word.subarray(0, 4), false)) return -1;
    return this.wordView.getInt32(0, true);
  }

  /** Stores a 32-bit word of a frame; dropped when nothing is there. */
  writeWord(pfn: number, index: number, value: number): void {
    if (pfn < this.ramFrames) {
      this.words[(pfn << 10) | index] = value;
      this.noteWrite(pfn);
      return;
    }
    this.wordView.setInt32(0, value, true);
    this.access(pfn, index << 2, this.word.subarray(0, 4), true);
  }

  read(address: U64, into: Uint8Array): boolean {
    return this.transfer(address, into, false);
  }

  write(address: U64, from: Uint8Array): boolean {
    return this.transfer(address, from, true);
  }

  /** One naturally aligned load, as a CPU makes it; all-ones when nothing is there. */
  load(address: U64, width: AccessWidth): bigint {
    const bytes = this.word.subarray(0, width);
    if (!this.transfer(address, bytes, false)) bytes.fill(0xff);
    this.word.fill(0, width);
    return this.wordView.getBigUint64(0, true);
  }

  /** One naturally aligned store, as a CPU makes it; dropped when nothing is there. */
  store(address: U64, width: AccessWidth, value: U64): void {
    this.wordView.setBigUint64(0, toU64(value), true);
    this.transfer(address, this.word.subarray(0, width), true);
  }

  /** A 64-byte direct store to a 64-byte aligned address. */
  store64(address: U64, data: Uint8Array): void {
    const lo = low32(address);
    const pfn = pageNumber(lo, high32(address));
    const range = pfn < this.ramFrames ? undefined : this.find(pfn);
    if (range?.mmio?.store64 !== undefined) {
      range.mmio.store64((pfn - range.first) * PAGE_SIZE + (lo & 0xfff), data);
      return;
    }
    this.transfer(address, data, true);
  }

  /** A 64-byte deferrable write to a 64-byte aligned address. False: Retry (also from memory and empty addresses). */
  enqueue64(address: U64, data: Uint8Array): boolean {
    const lo = low32(address);
    const pfn = pageNumber(lo, high32(address));
    const range = this.find(pfn);
    return range?.mmio?.enqueue64?.((pfn - range.first) * PAGE_SIZE + (lo & 0xfff), data) ?? false;
  }

  private insert(range: Range): void {
    if (!(range.first >= this.ramFrames) || range.last < range.first || range.last > LAST_PFN) {
      throw new RangeError(`frames ${hex(range.first)}..${hex(range.last)} are not outside RAM and below 2^52`);
    }
    const at = this.ranges.findIndex((other) => other.last >= range.first);
    const next = at < 0 ? undefined : this.ranges[at];
    if (next !== undefined && next.first <= range.last) {
      throw new RangeError(
        `frames ${hex(range.first)}..${hex(range.last)} overlap ${hex(next.first)}..${hex(next.last)}`,
      );
    }
    this.ranges.splice(at < 0 ? this.ranges.length : at, 0, range);
  }

  private find(pfn: number): Range | undefined {
    let low = 0;
    let high = this.ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ranges[middle]!.last < pfn) low = middle + 1;
      else high = middle;
    }
    const range = this.ranges[low];
    return range !== undefined && range.first <= pfn ? range : undefined;
  }

  /** Moves bytes between a buffer and any frames. Checks that something is everywhere before the first byte moves. */
  private transfer(address: U64, buffer: Uint8Array, write: boolean): boolean {
    const lo = low32(address);
    let pfn = pageNumber(lo, high32(address));
    let offset = lo & 0xfff;
    if (buffer.length > 0 && offset + buffer.length <= PAGE_SIZE) return this.access(pfn, offset, buffer, write);
    const lastPfn = pfn + Math.floor((offset + Math.max(buffer.length, 1) - 1) / PAGE_SIZE);
    for (let frame = Math.max(pfn, this.ramFrames); frame <= lastPfn; frame++) {
      if (this.find(frame) === undefined) return false;
    }
    for (let done = 0; done < buffer.length; pfn++) {
      const length = Math.min(buffer.length - done, PAGE_SIZE - offset);
      this.access(pfn, offset, buffer.subarray(done, done + length), write);
      done += length;
      offset = 0;
    }
    return true;
  }

  /** Moves bytes that lie in one frame. */
  private access(pfn: number, offset: number, buffer: Uint8Array, write: boolean): boolean {
    if (pfn < this.ramFrames) {
      const at = pfn * PAGE_SIZE + offset;
      if (write) {
        this.bytes.set(buffer, at);
        this.noteWrite(pfn);
      } else buffer.set(this.bytes.subarray(at, at + buffer.length));
      return true;
    }
    const range = this.find(pfn);
    if (range === undefined) return false;
    const start = (pfn - range.first) * PAGE_SIZE + offset;
    if (range.foreign !== null) {
      if (write) range.foreign.write(start, buffer);
      else range.foreign.read(start, buffer);
    } else if (range.mmio !== null) mmioTransfer(range.mmio, start, buffer, write);
    return true;
  }
}

/** Splits a transfer into the largest naturally aligned register accesses. */
function mmioTransfer(handler: MmioHandler, start: number, buffer: Uint8Array, write: boolean): void {
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
  for (let done = 0; done < buffer.length; ) {
    const offset = start + done;
    let width: AccessWidth = 8;
    while (offset % width !== 0 || done + width > buffer.length) width = (width >> 1) as AccessWidth;
    if (write) handler.write(offset, width, getBytes(view, done, width));
    else setBytes(view, done, width, handler.read(offset, width));
    done += width;
  }
}

function getBytes(view: DataView, at: number, width: AccessWidth): bigint {
  if (width === 8) return view.getBigUint64(at, true);
  return BigInt(width === 4 ? view.getUint32(at, true) : width === 2 ? view.getUint16(at, true) : view.getUint8(at));
}

function setBytes(view: DataView, at: number, width: AccessWidth, value: bigint): void {
  if (width === 8) view.setBigUint64(at, value, true);
  else if (width === 4) view.setUint32(at, Number(value & 0xffffffffn), true);
  else if (width === 2) view.setUint16(at, Number(value & 0xffffn), true);
  else view.setUint8(at, Number(value & 0xffn));
}
