/**
 * CRC-32C (Castagnoli, polynomial 0x1edc6f41) in its reflected form, four bytes a step: a table for each byte of a word,
 * one behind the other.
 */

const POLYNOMIAL_REFLECTED = 0x82f63b78 | 0;

const tables = new Int32Array(1024);
for (let byte = 0; byte < 256; byte++) {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? POLYNOMIAL_REFLECTED : 0);
  tables[byte] = crc;
}
for (let at = 256; at < 1024; at++) {
  const before = tables[at - 256]!;
  tables[at] = (before >>> 8) ^ tables[before & 0xff]!;
}

/** Mirrors the 32 bits of `value`. */
export function reverse32(value: number): number {
  let v = value;
  v = ((v >>> 1) & 0x55555555) | ((v & 0x55555555) << 1);
  v = ((v >>> 2) & 0x33333333) | ((v & 0x33333333) << 2);
  v = ((v >>> 4) & 0x0f0f0f0f) | ((v & 0x0f0f0f0f) << 4);
  v = ((v >>> 8) & 0x00ff00ff) | ((v & 0x00ff00ff) << 8);
  return (v >>> 16) | (v << 16);
}

/** Mirrors the bits of each of `length` bytes. */
export function reverseBytes(bytes: Uint8Array, start: number, length: number): void {
  for (let at = start; at < start + length; at++) bytes[at] = reverse32(bytes[at]!) >>> 24;
}

/**
 * The register after `length` bytes from byte offset `start`; no inversion before or after. `words` and `bytes` are
 * views of one buffer, `start` is a multiple of 4.
 */
export function updateCrc32c(crc: number, words: Int32Array, bytes: Uint8Array, start: number, length: number): number {
  let state = crc;
  const end = start + length;
  let at = start;
  for (; at + 4 <= end; at += 4) {
    state ^= words[at >>> 2]!;
    state =
      tables[768 + (state & 0xff)]! ^
      tables[512 + ((state >>> 8) & 0xff)]! ^
      tables[256 + ((state >>> 16) & 0xff)]! ^
      tables[state >>> 24]!;
  }
  for (; at < end; at++) state = (state >>> 8) ^ tables[(state ^ bytes[at]!) & 0xff]!;
  return state;
}
