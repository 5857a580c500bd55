import { expect, test } from 'vitest';
import { struct } from '../src/index.ts';

test('fields lie at multiples of their width, and the size is one of the widest', () => {
  const layout = struct({ a: 'u8', b: 'u16', c: 's32', d: 'u64', e: 'u8' });
  expect([layout.size, layout.offset('b'), layout.offset('c'), layout.offset('d'), layout.end('e')]).toEqual([
    24, 2, 4, 8, 17,
  ]);
});

test('a structure holds what is written to it, cut to the width of the field', () => {
  const layout = struct({ a: 'u8', b: 'u16', c: 's32', d: 'u64', e: 'u8' });
  const bytes = new Uint8Array(40).fill(0xee);
  layout.write({ a: 0x1ff, b: 0x12345, c: -2, d: 2n ** 64n - 1n, e: 7 }, bytes, 8);
  expect(layout.read(bytes, 8)).toEqual({ a: 0xff, b: 0x2345, c: -2, d: 2n ** 64n - 1n, e: 7 });
  expect([bytes[7], bytes[9], bytes[25], bytes[32]]).toEqual([0xee, 0xee, 0xee, 0xee]);
});
