import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { reverse32, reverseBytes, updateCrc32c } from '../../src/dsa/crc32c.ts';

function crc(bytes: readonly number[] | Uint8Array): number {
  const buffer = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
  buffer.set(bytes);
  return ~updateCrc32c(-1, new Int32Array(buffer.buffer), buffer, 0, bytes.length) >>> 0;
}

describe('CRC-32C', () => {
  const ascending = Array.from({ length: 32 }, (_, i) => i);
  const vectors: [string, number[], number][] = [
    ['nothing', [], 0],
    ['"123456789" (the usual check value)', [...'123456789'].map((c) => c.charCodeAt(0)), 0xe3069283],
    ['32 zeros (RFC 3720, B.4)', new Array(32).fill(0), 0x8a9136aa],
    ['32 ones (RFC 3720, B.4)', new Array(32).fill(0xff), 0x62a8ab43],
    ['0 to 31 (RFC 3720, B.4)', ascending, 0x46dd794e],
    ['31 to 0 (RFC 3720, B.4)', [...ascending].reverse(), 0x113fdb5c],
  ];
  test.each(vectors)('of %s', (_name, bytes, value) => {
    expect(crc(bytes)).toBe(value);
  });

  test('of two parts is the CRC of the whole', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 200 }), fc.nat(200), (bytes, cut) => {
        const first = bytes.slice(0, Math.min(cut, bytes.length));
        const second = bytes.slice(first.length);
        const parts = new Uint8Array(512);
        parts.set(first);
        parts.set(second, 256);
        const words = new Int32Array(parts.buffer);
        const middle = updateCrc32c(-1, words, parts, 0, first.length);
        expect(~updateCrc32c(middle, words, parts, 256, second.length) >>> 0).toBe(crc(bytes));
      }),
    );
  });

  test('mirrors words and bytes', () => {
    expect(reverse32(1) >>> 0).toBe(0x8000_0000);
    expect(reverse32(0x0000_00d2) >>> 0).toBe(0x4b00_0000);
    const bytes = Uint8Array.from([0x80, 0x01, 0xd2, 0x80]);
    reverseBytes(bytes, 1, 2);
    expect([...bytes]).toEqual([0x80, 0x80, 0x4b, 0x80]);
  });
});
