import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Coverage } from '../../src/ioas/coverage.ts';
import type { IndexRange } from '../../src/ioas/range-list.ts';

const SIZE = 64;

/** Maximal ranges of indexes for which `inside` holds. */
function ranges(inside: (index: number) => boolean): IndexRange[] {
  const found: { first: number; last: number }[] = [];
  for (let index = 0; index < SIZE; index++) {
    if (!inside(index)) continue;
    const before = found[found.length - 1];
    if (before?.last === index - 1) before.last = index;
    else found.push({ first: index, last: index });
  }
  return found;
}

test('counts of random intervals agree with a count for each index, in as few ranges as there can be', () => {
  const interval = fc
    .tuple(fc.nat(SIZE - 1), fc.nat(SIZE - 1))
    .map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);
  const step = fc.record({ interval, add: fc.boolean(), pick: fc.nat(1000) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80, size: 'max' }), (steps) => {
      const coverage = new Coverage();
      const counts = new Array<number>(SIZE).fill(0);
      const live: (readonly [number, number])[] = [];
      for (const { interval: fresh, add, pick } of steps) {
        const adds = add || live.length === 0;
        const [first, last] = adds ? fresh : live.splice(pick % live.length, 1)[0]!;
        const within = (index: number): boolean => index >= first && index <= last;
        expect(coverage.holes(first, last)).toEqual(ranges((index) => within(index) && counts[index] === 0));
        if (adds) {
          coverage.add(first, last);
          live.push([first, last]);
          for (let index = first; index <= last; index++) counts[index]!++;
        } else {
          const gone = coverage.remove(first, last);
          for (let index = first; index <= last; index++) counts[index]!--;
          expect(gone).toEqual(ranges((index) => within(index) && counts[index] === 0));
        }
        let runs = 0;
        for (let index = 0; index < SIZE; index++) {
          if (counts[index] !== 0 && counts[index] !== counts[index - 1]) runs++;
        }
        expect(coverage.counters).toBe(runs);
        const covered = new Set<number>();
        for (const range of coverage.covered) for (let at = range.first; at <= range.last; at++) covered.add(at);
        expect([...covered]).toEqual(counts.flatMap((count, index) => (count > 0 ? [index] : [])));
      }
    }),
    { numRuns: 300 },
  );
});
