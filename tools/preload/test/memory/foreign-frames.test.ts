import { PhysicalMemory } from '@iommukit/hw';
import { PfnRuns } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ForeignFrames, type PageSource } from '../../src/memory/foreign-frames.ts';

/** Pages that hold their own number. */
class NumberedPages implements PageSource {
  uses = 0;

  read(position: number, into: Uint8Array): void {
    new DataView(into.buffer, into.byteOffset).setUint32(0, Math.floor(position / 4096), true);
  }

  write(): void {}

  unused(): void {
    this.uses++;
  }
}

const PAGES = 2 ** 18 + 600;

describe('frames of pages that lie elsewhere', () => {
  test('a page has one frame while it is pinned, its own bytes, and as many pins as were made', () => {
    const step = fc.record({
      source: fc.nat(1),
      first: fc.oneof(fc.nat(1200), fc.integer({ min: 2 ** 18 - 600, max: PAGES })),
      pages: fc.integer({ min: 1, max: 1100 }),
      release: fc.nat(3),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const memory = new PhysicalMemory({ ramBytes: 0, reservedBytes: 0 });
        const frames = new ForeignFrames(memory);
        const sources = [new NumberedPages(), new NumberedPages()];
        const pinned: { source: number; first: number; runs: PfnRuns }[] = [];
        const pins = [new Map<number, number>(), new Map<number, number>()];
        const count = (source: number, first: number, pages: number, change: number): void => {
          for (let page = first; page < first + pages; page++) {
            pins[source]!.set(page, (pins[source]!.get(page) ?? 0) + change);
          }
        };
        const check = ({ source, first, runs }: (typeof pinned)[number]): void => {
          const bytes = new Uint8Array(4);
          for (const index of [0, runs.pages >> 1, runs.pages - 1]) {
            const pfn = runs.at(index);
            expect(frames.pinCount(pfn)).toBe(pins[source]!.get(first + index));
            expect(memory.read(BigInt(pfn) * 4096n, bytes)).toBe(true);
            expect(new DataView(bytes.buffer).getUint32(0, true)).toBe(first + index);
          }
        };
        for (const { source, first, pages, release } of steps) {
          const runs = new PfnRuns();
          frames.pin(sources[source]!, first, pages, runs);
          const last = first + pages - 1;
          if (Math.floor(first / 2 ** 18) === Math.floor(last / 2 ** 18)) expect(runs.count).toBe(1);
          expect(runs.pages).toBe(pages);
          pinned.push({ source, first, runs });
          count(source, first, pages, 1);
          if (release > 0) pinned.forEach(check);
          else {
            const gone = pinned.shift()!;
            frames.unpin(gone.runs);
            count(gone.source, gone.first, gone.runs.pages, -1);
          }
        }
        for (const { runs } of pinned) frames.unpin(runs);
        expect(frames.pinned).toBe(0);
        for (const { runs } of pinned) expect(memory.isMemory(runs.at(0))).toBe(false);
        sources.forEach((source) => expect(frames.holds(source)).toBe(false));
      }),
      { numRuns: 60 },
    );
  });

  test('pages that adjoin in their source have adjoining frames, from a multiple of 1 GiB', () => {
    const frames = new ForeignFrames(new PhysicalMemory({ ramBytes: 0, reservedBytes: 0 }));
    const source = new NumberedPages();
    const [first, second] = [new PfnRuns(), new PfnRuns()];
    frames.pin(source, 100, 10, first);
    frames.pin(source, 0, 100, second);
    expect(second.at(99) + 1).toBe(first.at(0));
    expect(second.at(0) % 2 ** 18).toBe(0);
    frames.unpin(first);
    expect(source.uses).toBe(0);
    frames.unpin(second);
    expect(source.uses).toBe(1);
  });
});
