import {
  addressHigh,
  addressLow,
  hex,
  high32,
  joinU64,
  low32,
  pageHigh,
  pageLow,
  pageNumber,
  toU64,
  U64_MAX,
} from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { joinPage, splitHigh, splitLow } from '../src/u64.ts';

const u64 = fc.bigInt({ min: 0n, max: U64_MAX });

describe('64-bit values', () => {
  test('halves are those of two-complement arithmetic and join again', () => {
    fc.assert(
      fc.property(u64, (value) => {
        expect(low32(value)).toBe(Number(BigInt.asIntN(32, value)));
        expect(high32(value)).toBe(Number(BigInt.asIntN(32, value >> 32n)));
        expect(joinU64(low32(value), high32(value))).toBe(value);
      }),
    );
  });

  test('a number below 2^53 is the same value as the bigint', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        expect(toU64(value)).toBe(BigInt(value));
        expect(low32(value)).toBe(low32(BigInt(value)));
        expect(high32(value)).toBe(high32(BigInt(value)));
      }),
    );
    expect(toU64(2 ** 53 - 1)).toBe(0x1f_ffff_ffff_ffffn);
  });

  test.each([-1n, 1n << 64n, -1, 2 ** 53, 0.5, Number.NaN, Number.POSITIVE_INFINITY])('%s is refused', (value) => {
    expect(() => toU64(value)).toThrow(RangeError);
    expect(() => low32(value)).toThrow(RangeError);
    expect(() => high32(value)).toThrow(RangeError);
  });

  test('a split page number and the offset are the address', () => {
    fc.assert(
      fc.property(u64, (address) => {
        const [lo, hi] = [low32(address), high32(address)];
        const [low, high] = [pageLow(lo, hi), pageHigh(hi)];
        expect(BigInt(low)).toBe((address >> 12n) & 0x7ffffffn);
        expect(BigInt(high)).toBe(address >> 39n);
        expect(joinU64(addressLow(low), addressHigh(low, high))).toBe((address >> 12n) << 12n);
        expect(BigInt(pageNumber(lo, hi))).toBe(address >> 12n);
      }),
    );
  });

  test('hex is lower case with its prefix', () => {
    expect(hex(0xfee0_0000)).toBe('0xfee00000');
    expect(hex(U64_MAX)).toBe('0xffffffffffffffff');
  });
});

test('a page number and its two parts are the same, up to the top of the address space', () => {
  fc.assert(
    fc.property(
      fc.maxSafeNat().map((page) => page % 2 ** 52),
      (page) => {
        const [low, high] = [splitLow(page), splitHigh(page)];
        expect([low === (low | 0), high === (high | 0), joinPage(high, low)]).toEqual([true, true, page]);
        expect([addressLow(low), addressHigh(low, high)]).toEqual([
          Number(BigInt.asIntN(32, BigInt(page) << 12n)),
          Number(BigInt.asIntN(32, (BigInt(page) << 12n) >> 32n)),
        ]);
      },
    ),
    { examples: [[2 ** 52 - 1], [2 ** 27 - 1], [2 ** 27]] },
  );
});
