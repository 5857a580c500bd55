/**
 * The edge between 64-bit values in public signatures and the int32 halves used inside.
 *
 * Inside the packages an address is never one JavaScript number: it is an int32 pair (`lo`, `hi`), or a page number
 * split at bit 27 (`pageLow` = vpn[26:0], `pageHigh` = vpn[51:27]) with a 12-bit offset. Three radix levels of nine
 * bits lie in `pageLow`, the others in `pageHigh`, and every part is a small integer.
 */

/** An unsigned 64-bit value: any bigint in [0, 2^64), or a number in [0, 2^53). */
export type U64 = bigint | number;

export const U64_MAX: bigint = 0xffff_ffff_ffff_ffffn;

const big = new BigUint64Array(1);
const halves = new Int32Array(big.buffer);

function load(value: U64): void {
  if (typeof value === 'bigint') {
    big[0] = value;
    if (big[0] !== value) throw new RangeError(`not an unsigned 64-bit value: ${value}`);
  } else {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not an unsigned 64-bit value: ${value}`);
    halves[0] = value | 0;
    halves[1] = (value / 4294967296) | 0;
  }
}

/** The value as a bigint. @throws {RangeError} outside [0, 2^64) */
export function toU64(value: U64): bigint {
  load(value);
  return big[0]!;
}

/** Bits 31..0 as an int32. @throws {RangeError} outside [0, 2^64) */
export function low32(value: U64): number {
  load(value);
  return halves[0]!;
}

/** Bits 63..32 as an int32. @throws {RangeError} outside [0, 2^64) */
export function high32(value: U64): number {
  load(value);
  return halves[1]!;
}

/** Joins two int32 halves. */
export function joinU64(lo: number, hi: number): bigint {
  halves[0] = lo;
  halves[1] = hi;
  return big[0]!;
}

/** vpn[26:0] of the byte address (`lo`, `hi`). */
export function pageLow(lo: number, hi: number): number {
  return ((lo >>> 12) | (hi << 20)) & 0x7ffffff;
}

/** vpn[51:27] of a byte address, from its high half. */
export function pageHigh(hi: number): number {
  return hi >>> 7;
}

/** Bits 31..0 of the byte address of a split page number. */
export function addressLow(low: number): number {
  return low << 12;
}

/** Bits 63..32 of the byte address of a split page number. */
export function addressHigh(low: number, high: number): number {
  return (high << 7) | (low >>> 20);
}

/** The page number of the byte address (`lo`, `hi`), exact up to the full 52 bits. */
export function pageNumber(lo: number, hi: number): number {
  return (hi >>> 0) * 1048576 + (lo >>> 12);
}

/** vpn[26:0] of a page number below 2^52. */
export function splitLow(page: number): number {
  return page % 0x8000000;
}

/** vpn[51:27] of a page number below 2^52. */
export function splitHigh(page: number): number {
  return Math.floor(page / 0x8000000);
}

/** The page number whose parts these are. */
export function joinPage(high: number, low: number): number {
  return high * 0x8000000 + low;
}

/** `0x` and lower-case hex digits, as messages and traces show addresses. */
export function hex(value: U64): string {
  return `0x${value.toString(16)}`;
}
