import { fieldGet, fieldPrep, genmask, isPowerOfTwo } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

const field = fc.tuple(fc.nat(31), fc.nat(31)).map(([a, b]) => [Math.max(a, b), Math.min(a, b)] as const);

describe('register fields', () => {
  test('a mask has exactly the bits named', () => {
    fc.assert(
      fc.property(field, ([high, low]) => {
        const expected = Array.from({ length: 32 }, (_, bit) => bit >= low && bit <= high);
        const mask = genmask(high, low);
        expect(expected.map((_, bit) => ((mask >>> bit) & 1) === 1)).toEqual(expected);
      }),
    );
  });

  test('what is put into a field is got out of it and touches nothing else', () => {
    fc.assert(
      fc.property(field, fc.integer(), fc.nat(), ([high, low], before, value) => {
        const mask = genmask(high, low);
        const kept = (value >>> 0) % 2 ** (high - low + 1);
        const after = (before & ~mask) | fieldPrep(mask, value);
        expect(fieldGet(mask, after)).toBe(kept);
        expect(after & ~mask).toBe(before & ~mask);
      }),
    );
  });

  test('the top bit makes no field negative', () => {
    expect(fieldGet(genmask(31, 0), -1)).toBe(0xffffffff);
    expect(fieldGet(genmask(31, 31), -1)).toBe(1);
  });

  test('powers of two', () => {
    const powers = Array.from({ length: 32 }, (_, n) => 2 ** n);
    expect(powers.slice(0, 31).every(isPowerOfTwo)).toBe(true);
    expect([0, 3, 6, -1, 2 ** 30 + 1].some(isPowerOfTwo)).toBe(false);
  });
});
