import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PhysicalMemory } from '../../src/memory/physical-memory.ts';

test('copies as Uint8Array.copyWithin does, overlap and all', () => {
  const memory = new PhysicalMemory({ ramBytes: 1 << 16, reservedBytes: 0 });
  const at = fc.integer({ min: 0, max: 4095 });
  fc.assert(
    fc.property(at, at, fc.integer({ min: 0, max: 4096 }), fc.integer(), (to, from, count, seed) => {
      for (let i = 0; i < 8192; i++) memory.bytes[i] = Math.imul(i + 1, seed | 1) >>> 13;
      const expected = memory.bytes.slice(0, 8192).copyWithin(to, from, from + count);
      memory.copy(to, from, count);
      expect(Buffer.compare(memory.bytes.subarray(0, 8192), expected)).toBe(0);
    }),
  );
});

test('reaches the top of a memory of 4 GiB, and nothing behind it', () => {
  const memory = new PhysicalMemory({ ramBytes: 3 * 2 ** 30, reservedBytes: 2 ** 30 - (1 << 20) });
  const last = memory.bytes.length - 8;
  memory.bytes.set([1, 2, 3, 4, 5, 6, 7, 8], 16);
  memory.copy(last, 16, 8);
  expect([...memory.bytes.subarray(last)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  memory.copy(64, last, 8);
  expect(memory.bytes[71]).toBe(8);
  expect(() => memory.copy(last, 16, 9)).toThrow(/out of bounds/);
});
