import { PfnRuns } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FrameStore, PIECE_PAGES, Piece } from '../../src/ioas/frame-store.ts';

const SIZE = 96;

function flatten(runs: readonly PfnRuns[]): number[] {
  return runs.flatMap((list) => Array.from({ length: list.pages }, (_, index) => list.at(index)));
}

test('random pieces put, taken and walked agree with a map of frames', () => {
  const step = fc.record({
    op: fc.constantFrom('put', 'put', 'take', 'walk'),
    first: fc.nat(SIZE - 1),
    length: fc.integer({ min: 1, max: 20 }),
    /** Frames adjoin within a stretch of so many pages. */
    stretch: fc.integer({ min: 1, max: 7 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
      const store = new FrameStore();
      const naive = new Map<number, number>();
      let next = 100;
      for (const { op, first, length, stretch } of steps) {
        const last = Math.min(first + length, SIZE) - 1;
        const indexes = Array.from({ length: last - first + 1 }, (_, index) => first + index);
        if (op === 'put' && indexes.every((index) => !naive.has(index))) {
          const runs = new PfnRuns();
          for (const index of indexes) {
            if ((index - first) % stretch === 0) next += 2;
            naive.set(index, next);
            runs.push(next++, 1);
          }
          store.put(new Piece(first, runs));
        } else if (op !== 'put' && indexes.every((index) => naive.has(index))) {
          const frames = indexes.map((index) => naive.get(index)!);
          if (op === 'take') {
            expect(flatten(store.take(first, last))).toEqual(frames);
            for (const index of indexes) naive.delete(index);
          } else {
            const walked: [number, number][] = [];
            store.forEachRun(first, last, (pfn, pages) => walked.push([pfn, pages]));
            expect(walked.flatMap(([pfn, pages]) => Array.from({ length: pages }, (_, at) => pfn + at))).toEqual(
              frames,
            );
            for (let at = 1; at < walked.length; at++) {
              expect(walked[at - 1]![0] + walked[at - 1]![1]).not.toBe(walked[at]![0]);
            }
          }
        }
        expect(store.pages).toBe(naive.size);
      }
    }),
    { numRuns: 300 },
  );
});

test('adjoining frames of two pieces are one run, so that large pages do not end at a piece', () => {
  const store = new FrameStore();
  for (let piece = 0; piece < 3; piece++) {
    const runs = new PfnRuns();
    runs.push(0x1000 + piece * PIECE_PAGES, PIECE_PAGES);
    store.put(new Piece(piece * PIECE_PAGES, runs));
  }
  const walked: number[][] = [];
  store.forEachRun(10, 3 * PIECE_PAGES - 1, (pfn, pages) => walked.push([pfn, pages]));
  expect(walked).toEqual([[0x1000 + 10, 3 * PIECE_PAGES - 10]]);
});
