import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type GapRequest, IntervalTree } from '../../src/ioas/interval-tree.ts';

const TOP = 2n ** 64n - 1n;
type Range = { start: bigint; last: bigint };

const page = (at: bigint): number => Number(at >> 12n);
const byte = (at: bigint): number => Number(at & 0xfffn);
const insert = (tree: IntervalTree<Range>, range: Range): void =>
  tree.insert(page(range.start), byte(range.start), page(range.last), byte(range.last), range);
const request = (length: bigint, alignment = 1n, pageOffset = 0n): GapRequest => ({
  pages: page(length - 1n),
  bytes: byte(length - 1n),
  alignment: Number(alignment),
  pageOffset: Number(pageOffset),
});

function listed(tree: IntervalTree<Range>): Range[] {
  const all: Range[] = [];
  tree.walk((range) => all.push(range));
  return all;
}

/** First fit over a sorted array, in bigints. */
function naiveGap(
  ranges: Range[],
  from: bigint,
  to: bigint,
  length: bigint,
  alignment: bigint,
  pageOffset: bigint,
): bigint | null {
  let cursor = from;
  const tryGap = (last: bigint): bigint | null => {
    const start = ((cursor + alignment - 1n) & ~(alignment - 1n)) | pageOffset;
    return start >= last || last - start < length - 1n ? null : start;
  };
  for (const { start, last } of ranges) {
    if (last < cursor) continue;
    if (start > to) break;
    if (start > cursor) {
      const found = tryGap(start - 1n < to ? start - 1n : to);
      if (found !== null) return found;
    }
    cursor = last + 1n;
    if (cursor > TOP) return null;
  }
  return cursor > to ? null : tryGap(to);
}

function treeGap(
  tree: IntervalTree<Range>,
  from: bigint,
  to: bigint,
  length: bigint,
  alignment: bigint,
  pageOffset: bigint,
): bigint | null {
  const found = tree.findGap(page(from), byte(from), page(to), byte(to), request(length, alignment, pageOffset));
  return found ? BigInt(tree.foundPage) * 4096n + BigInt(tree.foundByte) : null;
}

function overlaps(ranges: Range[], start: bigint, last: bigint): boolean {
  return ranges.some((range) => range.start <= last && start <= range.last);
}

describe('interval tree against a sorted array', () => {
  const position = fc.oneof(
    fc.bigInt(0n, 0x40000n),
    fc.bigInt(0n, 0x4000n).map((below) => TOP - below),
    fc.bigInt(0n, TOP),
    fc.integer({ min: 0, max: 300 }).map((at) => BigInt(at) * 4096n),
  );
  const length = fc.oneof(fc.bigInt(1n, 64n), fc.bigInt(1n, 0x3000n), fc.constant(4096n), fc.bigInt(1n, 2n ** 62n));
  const operation = fc.oneof(
    { weight: 6, arbitrary: fc.record({ op: fc.constant('insert' as const), at: position, length }) },
    { weight: 3, arbitrary: fc.record({ op: fc.constant('remove' as const), at: position, length }) },
    { weight: 2, arbitrary: fc.record({ op: fc.constant('find' as const), at: position, length }) },
    { weight: 2, arbitrary: fc.record({ op: fc.constant('gap' as const), at: position, length }) },
  );

  test('a search that ends inside a node of many finds the gap before its end', () => {
    const tree = new IntervalTree<Range>();
    for (let at = 0n; at < 200n; at++) {
      const start = at * 0x2000n;
      insert(tree, { start, last: start + 0xfffn });
    }
    for (let at = 1n; at < 200n; at++) {
      const to = at * 0x2000n - 1n;
      expect(treeGap(tree, (at - 1n) * 0x2000n, to, 0x1000n, 0x1000n, 0n)).toBe(to - 0xfffn);
    }
  });

  test('random operations agree, the top of the address space included', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 400, size: 'max' }), fc.nat(21), (operations, shift) => {
        const tree = new IntervalTree<Range>();
        const naive: Range[] = [];
        for (const { op, at, length: bytes } of operations) {
          const last = at + bytes - 1n > TOP ? TOP : at + bytes - 1n;
          const first = naive.find((range) => range.last >= at) ?? null;
          if (op === 'insert' && !overlaps(naive, at, last)) {
            const range = { start: at, last };
            insert(tree, range);
            naive.push(range);
            naive.sort((a, b) => (a.start < b.start ? -1 : 1));
          } else if (op === 'remove' && first !== null) {
            expect(tree.remove(page(first.start), byte(first.start))).toBe(first);
            naive.splice(naive.indexOf(first), 1);
          } else if (op === 'find') expect(tree.firstFrom(page(at), byte(at))).toBe(first);
          else if (op === 'gap') {
            const alignment = 1n << BigInt(shift);
            const offset = at & 0xfffn & ~(alignment - 1n);
            for (const to of [TOP, TOP - 4096n, last]) {
              expect(treeGap(tree, at, to, bytes, alignment, offset)).toBe(
                naiveGap(naive, at, to, bytes, alignment, offset),
              );
            }
          }
        }
        expect(tree.size).toBe(naive.length);
        expect(listed(tree)).toEqual(naive);
      }),
      { numRuns: 150 },
    );
  });

  test('thousands of intervals, inserted and removed in random order, keep every summary', () => {
    const random = fc.sample(fc.noShrink(fc.infiniteStream(fc.nat(2 ** 20 - 1))), { seed: 7, numRuns: 1 })[0]!;
    const next = (): number => random.next().value as number;
    const tree = new IntervalTree<Range>();
    const taken = new Map<number, Range>();
    for (let step = 0; step < 12_000; step++) {
      const slot = next() % 4096;
      const present = taken.get(slot);
      if (present !== undefined && next() % 3 === 0) {
        expect(tree.remove(page(present.start), byte(present.start))).toBe(present);
        taken.delete(slot);
      } else if (present === undefined) {
        const start = BigInt(slot) * 8192n + BigInt(next() % 4096);
        const range = { start, last: start + BigInt(next() % 4096) };
        insert(tree, range);
        taken.set(slot, range);
      }
      if (step % 400 !== 0) continue;
      const naive = [...taken.values()].sort((a, b) => (a.start < b.start ? -1 : 1));
      expect(listed(tree)).toEqual(naive);
      for (const bytes of [1n, 5000n, 9000n, 20_000n, 60_000n, 2n ** 40n]) {
        for (const alignment of [1n, 4096n, 65536n]) {
          const from = BigInt(next()) * 16n;
          expect(treeGap(tree, from, TOP, bytes, alignment, 0n)).toBe(naiveGap(naive, from, TOP, bytes, alignment, 0n));
        }
      }
    }
    for (const range of taken.values()) expect(tree.remove(page(range.start), byte(range.start))).toBe(range);
    expect(tree.size).toBe(0);
    expect(treeGap(tree, 0n, TOP, TOP, 1n, 0n)).toBe(0n);
  });
});

describe('gap search', () => {
  test('is found among 200,000 packed intervals', () => {
    const tree = new IntervalTree<Range>();
    for (let at = 0; at < 200_000; at++) if (at !== 150_000) tree.insert(at, 0, at, 4095, { start: 0n, last: 0n });
    const wide = tree.findGap(0, 0, 2 ** 52 - 1, 4095, request(4096n));
    expect([wide, tree.foundPage, tree.foundByte]).toEqual([true, 150_000, 0]);
  });

  test('an absent interval is not removed and the last byte of the address space can be an interval', () => {
    const tree = new IntervalTree<Range>();
    insert(tree, { start: TOP, last: TOP });
    expect(tree.remove(1, 0)).toBeNull();
    expect(tree.remove(page(TOP), 4094)).toBeNull();
    expect(tree.firstFrom(page(TOP), 4095)).toEqual({ start: TOP, last: TOP });
    expect(treeGap(tree, TOP, TOP, 1n, 1n, 0n)).toBeNull();
  });
});
