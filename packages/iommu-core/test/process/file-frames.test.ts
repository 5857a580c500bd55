import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FileFrames } from '../../src/process/file-frames.ts';

/** Pages of a file of a few tables, and of one that lies far behind. */
const FAR = 2 ** 39;
const page = fc.oneof(
  fc.nat(1600),
  fc.nat(600).map((index) => FAR + index),
);

test('random pages set, walked and cut agree with a map of frames', () => {
  const step = fc.record({
    op: fc.constantFrom('set', 'set', 'set', 'walk', 'cut'),
    first: page,
    pages: fc.integer({ min: 1, max: 700 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30, size: 'max' }), (steps) => {
      const frames = new FileFrames();
      const naive = new Map<number, number>();
      let next = 0;
      for (const { op, first, pages } of steps) {
        if (op === 'set') {
          for (let index = first; index < first + pages; index++) {
            if (naive.has(index)) continue;
            naive.set(index, next);
            frames.set(index, next++);
          }
        } else if (op === 'walk') {
          const walked: number[] = [];
          const done = frames.walk(first, pages, (pfn) => walked.push(pfn));
          const expected: number[] = [];
          for (let index = first; index < first + pages && naive.has(index); index++) expected.push(naive.get(index)!);
          expect(walked).toEqual(expected);
          expect(done).toBe(expected.length);
        } else {
          const gone: number[] = [];
          frames.cut(first, (pfn) => gone.push(pfn));
          const cut = [...naive].filter(([index]) => index >= first);
          for (const [index] of cut) naive.delete(index);
          expect(gone.sort((a, b) => a - b)).toEqual(cut.map(([, pfn]) => pfn).sort((a, b) => a - b));
        }
        expect(frames.size).toBe(naive.size);
        expect(frames.get(first)).toBe(naive.get(first) ?? -1);
      }
    }),
    { numRuns: 200 },
  );
});
