/**
 * Base address registers as address ranges: what answers inside one, and which of them are in the physical address
 * space (PCI Express Base Specification 6.0, section 7.5.1.2.1).
 */

import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';
import { PAGE_SIZE, type PhysicalMemory } from '../memory/physical-memory.ts';

type Overlay = {
  readonly start: number;
  readonly end: number;
  readonly handler: MmioHandler;
};

/** The memory behind one BAR: the device's handler, and structures that capabilities lay over parts of it. */
export class Bar implements MmioHandler {
  /** Bytes: a power of two, 4 KiB to 4 GiB. */
  readonly size: number;
  private readonly handler: MmioHandler;
  private readonly overlays: Overlay[] = [];

  /** @throws {RangeError} when `size` is not a power of two in [4 KiB, 4 GiB] */
  constructor(size: number, handler: MmioHandler) {
    if (size < PAGE_SIZE || size > 2 ** 32 || !Number.isInteger(Math.log2(size))) {
      throw new RangeError(`BAR size is not a power of two from 4 KiB to 4 GiB: ${size}`);
    }
    this.size = size;
    this.handler = handler;
  }

  /** Lets `handler` answer for [offset, offset + length), with offsets from there. */
  overlay(offset: number, length: number, handler: MmioHandler): void {
    if (offset + length > this.size) throw new RangeError(`${offset}+${length} is outside a BAR of ${this.size} bytes`);
    this.overlays.push({ start: offset, end: offset + length, handler });
  }

  read(offset: number, width: AccessWidth): bigint {
    for (const overlay of this.overlays) {
      if (offset >= overlay.start && offset < overlay.end) return overlay.handler.read(offset - overlay.start, width);
    }
    return this.handler.read(offset, width);
  }

  write(offset: number, width: AccessWidth, value: bigint): void {
    for (const overlay of this.overlays) {
      if (offset >= overlay.start && offset < overlay.end) {
        overlay.handler.write(offset - overlay.start, width, value);
        return;
      }
    }
    this.handler.write(offset, width, value);
  }

  store64(offset: number, data: Uint8Array): void {
    const overlaid = this.overlays.some(({ start, end }) => offset < end && offset + 64 > start);
    if (this.handler.store64 !== undefined && !overlaid) {
      this.handler.store64(offset, data);
      return;
    }
    const view = new DataView(data.buffer, data.byteOffset, 64);
    for (let at = 0; at < 64; at += 8) this.write(offset + at, 8, view.getBigUint64(at, true));
  }

  enqueue64(offset: number, data: Uint8Array): boolean {
    return this.handler.enqueue64?.(offset, data) ?? false;
  }
}

/**
 * The BARs of one fabric in the physical address space. A BAR whose address collides with something else, or lies
 * outside the address space, does not answer until the collision is gone.
 */
export class BarDecoder {
  private readonly memory: PhysicalMemory;
  /** First frame each decoding BAR asks for. */
  private readonly wanted = new Map<Bar, number>();
  private readonly placed = new Map<Bar, number>();

  constructor(memory: PhysicalMemory) {
    this.memory = memory;
  }

  /** Decodes `bar` from frame `firstPfn` on; null takes it out of the address space. */
  decode(bar: Bar, firstPfn: number | null): void {
    const before = this.placed.get(bar);
    if (firstPfn === null) this.wanted.delete(bar);
    else this.wanted.set(bar, firstPfn);
    if (before !== undefined) {
      if (before === firstPfn) return;
      this.memory.unmap(before);
      this.placed.delete(bar);
    } else if (firstPfn === null) return;
    for (const [other, pfn] of this.wanted) if (!this.placed.has(other)) this.place(other, pfn);
  }

  /** True when accesses reach `bar`. */
  isDecoded(bar: Bar): boolean {
    return this.placed.has(bar);
  }

  private place(bar: Bar, firstPfn: number): void {
    const frames = bar.size / PAGE_SIZE;
    if (!this.memory.isFree(firstPfn, frames)) return;
    this.memory.mapMmio(firstPfn, frames, bar);
    this.placed.set(bar, firstPfn);
  }
}
