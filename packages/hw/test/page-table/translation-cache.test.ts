import { TranslationCache } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Random } from '../support/random.ts';

const SIZES = [12, 21, 30];

type Kept = { epoch: number; first: number; pages: number; pfn: number; rights: number; extra: number };

/** Every translation inserted and not invalidated: what the cache may know, never more. */
class Model {
  kept: Kept[] = [];

  insert(entry: Kept): void {
    this.kept = this.kept.filter(
      (other) => other.epoch !== entry.epoch || other.first !== entry.first || other.pages !== entry.pages,
    );
    this.kept.push(entry);
  }

  invalidate(epoch: number, first: number, pages: number): void {
    this.kept = this.kept.filter(
      (entry) => entry.epoch !== epoch || entry.first + entry.pages <= first || first + pages <= entry.first,
    );
  }
}

describe('TranslationCache', () => {
  test('every hit is a translation inserted and not invalidated since', () => {
    let hits = 0;
    const check = fc.property(fc.integer(), (seed) => {
      const random = new Random(seed);
      const cache = new TranslationCache(16);
      const epochs = [cache.newEpoch(), cache.newEpoch(), cache.newEpoch()];
      const model = new Model();
      const page = (): [number, number] => {
        const high = random.pick([0, 1, 0x1ffffff]);
        return [high, (random.below(4) << 18) | (random.below(3) << 9) | random.below(8)];
      };
      const number = (high: number, low: number): number => high * 2 ** 27 + low;
      for (let step = 0; step < 300; step++) {
        const slot = random.below(epochs.length);
        const epoch = epochs[slot]!;
        const [high, low] = page();
        const action = random.below(10);
        if (action < 4) {
          const sizeLg2 = random.pick(SIZES);
          const pages = 2 ** (sizeLg2 - 12);
          const base = random.pick([0, 3, 2 ** 13, 2 ** 22]) * 2 ** 18;
          const pfn = base + (number(high, low) % pages);
          const [rights, extra] = [random.below(256), random.bits()];
          cache.insert(epoch, high, low, sizeLg2, pfn, rights, extra);
          const first = number(high, low) - (number(high, low) % pages);
          model.insert({ epoch, first, pages, pfn: base, rights, extra });
        } else if (action === 4) {
          const sizeLg2 = random.pick([12, 13, 15, 19, 20, 21, 30, 39, 50]);
          cache.invalidateRange(epoch, high, low, sizeLg2);
          const pages = 2 ** (sizeLg2 - 12);
          model.invalidate(epoch, number(high, low) - (number(high, low) % pages), pages);
        } else if (action === 5 && random.chance(20)) {
          epochs[slot] = cache.newEpoch();
        } else if (action === 6 && random.chance(5)) {
          cache.clear();
          model.kept = [];
        } else {
          const at = cache.probe(epoch, high, low);
          if (at < 0) continue;
          hits++;
          const at4k = number(high, low);
          const found = {
            pfn: cache.pfn(at, low),
            sizeLg2: cache.sizeLg2(at),
            rights: cache.rights(at),
            extra: cache.extra(at),
          };
          const candidates = model.kept
            .filter((entry) => entry.epoch === epoch && entry.first <= at4k && at4k < entry.first + entry.pages)
            .map((entry) => ({
              pfn: entry.pfn + (at4k - entry.first),
              sizeLg2: Math.log2(entry.pages) + 12,
              rights: entry.rights,
              extra: entry.extra,
            }));
          expect(candidates).toContainEqual(found);
        }
      }
    });
    fc.assert(check, { numRuns: 150 });
    expect(hits).toBeGreaterThan(1000);
  });

  test('keeps what was inserted last until the set is full, then replaces the oldest', () => {
    const cache = new TranslationCache(1);
    const epoch = cache.newEpoch();
    for (let page = 0; page < 5; page++) cache.insert(epoch, 0, page, 12, 100 + page, 0, 0);
    expect(cache.probe(epoch, 0, 0)).toBe(-1);
    for (let page = 1; page < 5; page++) expect(cache.pfn(cache.probe(epoch, 0, page), page)).toBe(100 + page);
  });

  test('holds frame numbers of 40 bits', () => {
    const cache = new TranslationCache(8);
    const epoch = cache.newEpoch();
    const last = 2 ** 40 - 1;
    cache.insert(epoch, 0x1ffffff, 0x7ffffff, 12, last, 1, 2);
    expect(cache.pfn(cache.probe(epoch, 0x1ffffff, 0x7ffffff), 0x7ffffff)).toBe(last);
    cache.insert(epoch, 5, 0x40000, 30, 2 ** 39, 1, 2);
    expect(cache.pfn(cache.probe(epoch, 5, 0x7ffff), 0x7ffff)).toBe(2 ** 39 + 0x3ffff);
  });

  test('starts epochs over with an empty cache', () => {
    let wrapped = 0;
    const cache = new TranslationCache(8, () => wrapped++);
    const first = cache.newEpoch();
    cache.insert(first, 0, 1, 12, 1, 0, 0);
    (cache as unknown as { lastEpoch: number }).lastEpoch = 0x3fffffff;
    expect(cache.newEpoch()).toBe(first);
    expect(wrapped).toBe(1);
    expect(cache.probe(first, 0, 1)).toBe(-1);
  });
});
