import { high32, low32, toU64, type U64 } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type BitmapMemory, DirtyBitmap } from '../src/dirty-bitmap.ts';
import { FakeAddressSpace } from './support/fakes.ts';

const U64_MAX = 2n ** 64n - 1n;
const BASE = 0x10_0000n;

/** Memory of 4 pages at BASE, of which those in `missing` cannot be written. */
function memoryWithout(missing: readonly number[] = []): FakeAddressSpace {
  const space = new FakeAddressSpace();
  space.map(Number(BASE >> 12n), 4);
  for (const page of missing) space.pages.get(Number(BASE >> 12n) + page)!.writable = false;
  return space;
}

function contents(space: FakeAddressSpace): Uint8Array {
  const bytes = new Uint8Array(4 * 4096);
  space.read(BASE, bytes);
  return bytes;
}

test('bits lie in little-endian words from the address of the bitmap, wherever that is', () => {
  const space = memoryWithout();
  const iova = 0x7_0000_0000n;
  const bitmap = new DirtyBitmap({
    memory: space,
    address: BASE + 0xff1n,
    iova,
    last: iova + 0xf_ffffn,
    pageSize: 4096n,
  });
  const record = (page: number, pages = 1): void =>
    bitmap.record(low32(iova) + page * 4096, high32(iova), pages * 4096);
  record(0);
  record(63, 3);
  record(120, 136);
  bitmap.flush();
  const view = new DataView(contents(space).buffer, 0xff1);
  const words = [0, 8, 16, 24].map((at) => view.getBigUint64(at, true));
  expect(words).toEqual([(1n << 63n) | 1n, (0xffn << 56n) | 3n, U64_MAX, U64_MAX]);
  expect([view.getUint8(32), contents(space)[0xff0]]).toEqual([0, 0]);
});

test('a flush writes what was gathered once', () => {
  const written: [bigint, number[]][] = [];
  const memory: BitmapMemory = {
    read: (_va, into) => into.fill(0x80),
    write: (va, from) => written.push([toU64(va), [...from]]),
  };
  const bitmap = new DirtyBitmap({ memory, address: 0x1fffn, iova: 0n, last: 0xf_ffffn, pageSize: 4096n });
  bitmap.flush();
  bitmap.record(0x7000, 0, 0x2000);
  bitmap.flush();
  bitmap.flush();
  expect(written).toEqual([
    [0x1fffn, [0x80]],
    [0x2000n, [0x81]],
  ]);
});

test('only what lies in the range is recorded, of a leaf that begins before it or ends behind it too', () => {
  const space = memoryWithout();
  const iova = 0x4000_4000n;
  const bitmap = new DirtyBitmap({ memory: space, address: BASE, iova, last: iova + 0x5fffn, pageSize: 4096n });
  bitmap.record(0x4000_0000, 0, 0x2000);
  bitmap.record(0x4000_a000, 0, 0x20_0000);
  bitmap.record(low32(iova), 1, 0x1000);
  bitmap.flush();
  expect(contents(space).every((byte) => byte === 0)).toBe(true);
  bitmap.record(0x4000_0000, 0, 0x20_0000);
  bitmap.flush();
  expect([...contents(space).subarray(0, 2)]).toEqual([0x3f, 0]);
});

test('a range at the top of the address space, in the smallest and the largest unit', () => {
  for (const [pageSize, first, last] of [
    [2048n, 0, 3],
    [1n << 63n, 0, 0],
    [3n << 12n, 0, 1],
  ] as const) {
    const space = memoryWithout();
    const iova = pageSize === 1n << 63n ? 1n << 63n : U64_MAX - 0x1fffn;
    const bitmap = new DirtyBitmap({ memory: space, address: BASE, iova, last: U64_MAX, pageSize });
    bitmap.record(-0x2000, -1, 0x2000);
    bitmap.flush();
    const expected = Array.from({ length: last - first + 1 }, (_, bit) => 1 << (bit + first)).reduce((a, b) => a | b);
    expect([pageSize, ...contents(space).subarray(0, 2)]).toEqual([pageSize, expected, 0]);
  }
});

test('bits that would lie behind the end of memory are lost', () => {
  const written: U64[] = [];
  const memory: BitmapMemory = { read() {}, write: (va) => written.push(va) };
  const address = U64_MAX - 1n;
  const bitmap = new DirtyBitmap({ memory, address, iova: 0n, last: U64_MAX, pageSize: 4096n });
  bitmap.record(0, 0, 0x40000);
  bitmap.record(0, 64, 0x40000);
  bitmap.flush();
  expect(written).toEqual([address]);
});

test('what is not an error of the caller is not swallowed', () => {
  const memory: BitmapMemory = {
    read() {},
    write() {
      throw new RangeError('a bug');
    },
  };
  const bitmap = new DirtyBitmap({ memory, address: 0n, iova: 0n, last: 0xfffn, pageSize: 4096n });
  bitmap.record(0, 0, 4096);
  expect(() => bitmap.flush()).toThrow(RangeError);
});

describe('against a naive model', () => {
  const range = fc.record({ start: fc.nat(100_000), units: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.nat(70_000)) });

  test('any ranges, units and addresses; bits are only ever set, and lost by the page of the bitmap', () => {
    const check = fc.property(
      fc.array(range, { maxLength: 12 }),
      fc.constantFrom(11, 12, 13, 16, 21),
      fc.integer({ min: 0, max: 0x1fff }),
      fc.subarray([0, 1, 2, 3]),
      fc.bigInt(0n, 2n ** 42n),
      fc.integer({ min: 1, max: 60_000 }),
      (ranges, unitLg2, offset, missing, page, length) => {
        const unit = 2 ** unitLg2;
        const iova = page * BigInt(unit);
        const space = memoryWithout(missing);
        const before = new Uint8Array(4 * 4096).map((_, index) => (index * 37) & 0xff);
        for (const [index, { pfn }] of [...space.pages.values()].entries()) {
          space.bytes.set(pfn, before.slice(index * 4096, (index + 1) * 4096));
        }
        const expected = before.slice();
        const last = iova + BigInt(length * unit) - 1n;
        const bitmap = new DirtyBitmap({
          memory: space,
          address: BASE + BigInt(offset),
          iova,
          last,
          pageSize: BigInt(unit),
        });
        for (const { start, units } of ranges.map((each) => ({ ...each, units: each.units + 1 }))) {
          // In steps of 2 KiB, which need not be whole units.
          const from = iova + BigInt(start * 2048);
          bitmap.record(low32(from), high32(from), units * 2048);
          const end = Math.min((start + units) * 2048, length * unit);
          for (let bit = Math.floor((start * 2048) / unit); bit * unit < end; bit++) {
            const at = offset + (bit >> 3);
            if (!missing.includes(at >> 12) && at < expected.length) expected[at]! |= 1 << (bit & 7);
          }
        }
        bitmap.flush();
        expect(Buffer.from(contents(space)).equals(Buffer.from(expected))).toBe(true);
      },
    );
    fc.assert(check, { numRuns: 300 });
  });
});
