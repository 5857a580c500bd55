/**
 * A bitmap of pages that have been written to, in the caller's memory (Linux: drivers/iommu/iommufd/iova_bitmap.c).
 *
 * Bit n of the bytes from `address`, which need not be aligned to anything, stands for page n of the range. Bits are
 * only ever set. They are gathered for one page of the bitmap at a time; those of a page that cannot be written are lost
 * without an error.
 */

import { high32, low32, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { type AddressSpace, SysError } from '@iommukit/iommu-core';

/** Where a bitmap lies. */
export type BitmapMemory = Pick<AddressSpace, 'read' | 'write'>;

export type DirtyBitmapOptions = {
  memory: BitmapMemory;
  /** Of bit 0. */
  address: bigint;
  /** First and last address that the bitmap describes. */
  iova: bigint;
  last: bigint;
  /** Bytes for each bit; of a number that is no power of two the lowest bit that is set counts. */
  pageSize: bigint;
};

const BITS_PER_PAGE = PAGE_SIZE * 8;

export class DirtyBitmap {
  private readonly memory: BitmapMemory;
  /** Address of the page of the bitmap's memory that holds bit 0, and the position of bit 0 in it. */
  private readonly base: bigint;
  private readonly skip: number;
  private readonly iovaLo: number;
  private readonly iovaHi: number;
  /**
   * Bytes of the range, and bits for each byte: a power of two, so that products with it are exact. Distances from the
   * start of the range are doubles: what a table can hold ends at multiples of 2 KiB, so they are exact up to 2^64.
   */
  private readonly length: number;
  private readonly bitsPerByte: number;
  /** Number of the page that is gathered, from `base`; its bits; and the first and last of its bytes that have any. */
  private page = -1;
  private readonly gathered = new Uint8Array(PAGE_SIZE);
  private firstByte = PAGE_SIZE;
  private lastByte = -1;

  constructor({ memory, address, iova, last, pageSize }: DirtyBitmapOptions) {
    this.memory = memory;
    this.base = address & ~BigInt(PAGE_SIZE - 1);
    this.skip = Number(address - this.base) * 8;
    this.iovaLo = low32(iova) >>> 0;
    this.iovaHi = high32(iova) >>> 0;
    this.length = Number(last - iova + 1n);
    this.bitsPerByte = 1 / Number(pageSize & -pageSize);
  }

  /** Sets the bits of the part of a written range that lies within the bitmap's. */
  record(iovaLo: number, iovaHi: number, bytes: number): void {
    const distance = ((iovaHi >>> 0) - this.iovaHi) * 2 ** 32 + ((iovaLo >>> 0) - this.iovaLo);
    const end = Math.min(distance + bytes, this.length);
    const start = Math.max(distance, 0);
    if (start >= end) return;
    const last = Math.ceil(end * this.bitsPerByte) - 1 + this.skip;
    for (let at = Math.floor(start * this.bitsPerByte) + this.skip; at <= last; ) {
      const page = Math.floor(at / BITS_PER_PAGE);
      const first = at - page * BITS_PER_PAGE;
      const count = Math.min(last - at + 1, BITS_PER_PAGE - first);
      if (page !== this.page) this.turnTo(page);
      this.set(first, first + count - 1);
      at += count;
    }
  }

  /** Stores what is still gathered. */
  flush(): void {
    const { gathered, firstByte, lastByte } = this;
    if (lastByte < 0) return;
    const fresh = gathered.subarray(firstByte, lastByte + 1);
    merge(this.memory, this.base + BigInt(this.page) * BigInt(PAGE_SIZE) + BigInt(firstByte), fresh);
    fresh.fill(0);
    this.firstByte = PAGE_SIZE;
    this.lastByte = -1;
  }

  private turnTo(page: number): void {
    this.flush();
    this.page = page;
  }

  /** Sets bits [first, last] of the gathered page. */
  private set(first: number, last: number): void {
    const { gathered } = this;
    const firstByte = first >> 3;
    const lastByte = last >> 3;
    const head = 0xff << (first & 7);
    const tail = 0xff >> (7 - (last & 7));
    if (firstByte === lastByte) gathered[firstByte]! |= head & tail;
    else {
      gathered[firstByte]! |= head;
      gathered.fill(0xff, firstByte + 1, lastByte);
      gathered[lastByte]! |= tail;
    }
    if (firstByte < this.firstByte) this.firstByte = firstByte;
    if (lastByte > this.lastByte) this.lastByte = lastByte;
  }
}

/** Sets bits in memory of one page; where it cannot be written, nothing happens. */
function merge(memory: BitmapMemory, address: bigint, bits: Uint8Array): void {
  if (address > U64_MAX) return;
  const bytes = new Uint8Array(bits.length);
  try {
    memory.read(address, bytes);
    for (let at = 0; at < bits.length; at++) bytes[at]! |= bits[at]!;
    memory.write(address, bytes);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}

/** An array as memory from address 0; what is written past its end is lost. */
export function arrayMemory(bytes: Uint8Array): BitmapMemory {
  return {
    read: (address, into) => into.set(bytes.subarray(Number(address), Number(address) + into.length)),
    write: (address, from) => {
      const at = Math.min(Number(address), bytes.length);
      bytes.set(from.subarray(0, bytes.length - at), at);
    },
  };
}
