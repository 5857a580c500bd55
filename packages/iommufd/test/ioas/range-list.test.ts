import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type IndexRange, RangeList } from '../../src/ioas/range-list.ts';

const SIZE = 4000;

/** Every `step`-th index of [first, last], by itself. */
function singles(first: number, last: number, step: number): IndexRange[] {
  const ranges: IndexRange[] = [];
  for (let index = first; index <= last; index += step) ranges.push({ first: index, last: index });
  return ranges;
}

test('random stretches replaced and searched agree with an array, in hundreds of intervals', () => {
  const step = fc.record({
    first: fc.nat(SIZE - 1),
    length: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: SIZE })),
    /** Nothing comes in place of what goes, one interval, or one in so many indexes. */
    fresh: fc.integer({ min: 0, max: 4 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40, size: 'max' }), (steps) => {
      const list = new RangeList<IndexRange>();
      let naive: IndexRange[] = [];
      for (const { first, length, fresh } of steps) {
        const last = Math.min(first + length, SIZE) - 1;
        const meets = (range: IndexRange): boolean => range.first <= last && range.last >= first;
        const met = naive.filter(meets);
        expect(list.meeting(first, last)).toEqual(met);
        const put = fresh === 0 ? [] : fresh === 1 ? [{ first, last }] : singles(first, last, fresh);
        list.replace(first, last, put);
        naive = [...naive.filter((range) => !meets(range)), ...put].sort((a, b) => a.first - b.first);
        expect(list.all()).toEqual(naive);
        expect(list.size).toBe(naive.length);
      }
    }),
    { numRuns: 150 },
  );
});

test('a replacement of two hundred thousand intervals at once is no deeper than one', () => {
  const list = new RangeList<IndexRange>();
  list.replace(0, 400_000, singles(0, 400_000, 2));
  expect(list.size).toBe(200_001);
  expect(list.meeting(99_999, 100_001)).toEqual([{ first: 100_000, last: 100_000 }]);
  list.replace(1, 399_999, singles(1, 399_999, 2));
  expect(list.all()).toEqual([{ first: 0, last: 0 }, ...singles(1, 399_999, 2), { first: 400_000, last: 400_000 }]);
});
