import { FREE_POISON, FrameAllocator, PhysicalMemory } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

const FRAMES = 64;

function makeMemory(): PhysicalMemory {
  return new PhysicalMemory({ ramBytes: FRAMES * 4096, reservedBytes: 0 });
}

describe('FrameAllocator', () => {
  test('hands out the lowest free frames, zeroed, and never one that is in use', () => {
    const step = fc.oneof(
      fc.constant({ kind: 'one' as const }),
      fc.record({
        kind: fc.constant('run' as const),
        frames: fc.integer({ min: 1, max: 9 }),
        alignment: fc.constantFrom(1, 2, 8),
      }),
      fc.record({ kind: fc.constant('free' as const), which: fc.nat() }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), fc.boolean(), (steps, debug) => {
        const memory = makeMemory();
        const frames = new FrameAllocator(memory, { firstPfn: 3, debug });
        const inUse = new Set<number>();
        const isFree = (pfn: number): boolean => pfn >= 3 && pfn < FRAMES && !inUse.has(pfn);
        const take = (pfn: number | null, expected: number | undefined, count: number): void => {
          expect(pfn).toBe(expected ?? null);
          if (pfn === null) return;
          for (let frame = pfn; frame < pfn + count; frame++) {
            inUse.add(frame);
            const bytes = memory.bytes.subarray(frame * 4096, (frame + 1) * 4096);
            expect(bytes.every((byte) => byte === 0)).toBe(true);
            bytes.fill(frame);
          }
        };
        for (const each of steps) {
          const all = Array.from({ length: FRAMES }, (_, pfn) => pfn);
          if (each.kind === 'one') take(frames.allocate(), all.find(isFree), 1);
          else if (each.kind === 'run') {
            const fits = (pfn: number): boolean =>
              pfn % each.alignment === 0 && Array.from({ length: each.frames }, (_, i) => pfn + i).every(isFree);
            take(frames.allocateRun(each.frames, each.alignment), all.find(fits), each.frames);
          } else if (inUse.size > 0) {
            const pfn = [...inUse][each.which % inUse.size]!;
            frames.free(pfn);
            inUse.delete(pfn);
          }
          expect(frames.allocated).toBe(inUse.size);
          expect(all.map((pfn) => frames.isAllocated(pfn))).toEqual(all.map((pfn) => inUse.has(pfn)));
        }
      }),
    );
  });

  test('gives null when nothing is left', () => {
    const frames = new FrameAllocator(makeMemory(), { firstPfn: 60 });
    expect([frames.allocateRun(5), frames.allocateRun(4), frames.allocate()]).toEqual([null, 60, null]);
  });

  test('a double free, and freeing what was never taken, is a bug of the caller', () => {
    const frames = new FrameAllocator(makeMemory());
    const pfn = frames.allocateRun(2)!;
    expect(() => frames.free(pfn, 3)).toThrow(RangeError);
    expect(frames.allocated).toBe(2);
    frames.free(pfn);
    expect(() => frames.free(pfn)).toThrow(RangeError);
    expect(() => frames.free(0)).toThrow(RangeError);
  });

  test('in debug mode free frames read as poison and a write to one is found', () => {
    const memory = makeMemory();
    const frames = new FrameAllocator(memory, { debug: true });
    const pfn = frames.allocate()!;
    frames.free(pfn);
    expect(memory.words[(pfn << 10) | 77]).toBe(Math.imul(FREE_POISON, 0x01010101));
    memory.bytes[pfn * 4096 + 4095] = 0;
    expect(() => frames.allocate()).toThrow(/was written/);
  });
});
