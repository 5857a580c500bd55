import { FrameAllocator, high32, joinU64, low32, PhysicalMemory, Scheduler } from '@iommukit/hw';
import { ALLOC_DIRTY_TRACKING, IOMMU_READ, IOMMU_WRITE, Kernel, SysError } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MockDriver } from '../../src/selftest/mock-driver.ts';
import { MockPagingDomain } from '../../src/selftest/mock-paging-domain.ts';

const ITEM = 2048;
const MIB = 512;
/** First item of the aperture of the default table. */
const FIRST = 2 ** 13;

function setUp(huge: boolean) {
  const memory = new PhysicalMemory({ ramBytes: 4 << 20 });
  const frames = new FrameAllocator(memory, { debug: true });
  const interrupts = { allocate: () => ({ address: 0n, data: 0 }), free() {} };
  const kernel = new Kernel({ memory, frames, scheduler: new Scheduler(), interrupts });
  const driver = new MockDriver(kernel);
  const options = { kernel, driver, id: 1, kind: 'unmanaged', flags: ALLOC_DIRTY_TRACKING, huge } as const;
  return { kernel, domain: new MockPagingDomain(options) };
}

/** Every item on its own: where it is, to which leaf it belongs, and whether that is dirty. */
type Item = { phys: number; leaf: { first: number; items: number; dirty: boolean } };

class Model {
  readonly items: Map<number, Item> = new Map();
  readonly sizes: readonly number[];

  constructor(sizes: readonly number[]) {
    this.sizes = sizes;
  }

  map(at: number, phys: number, items: number): boolean {
    for (let item = at; item < at + items; item++) if (this.items.has(item)) return false;
    for (let done = 0; done < items; ) {
      const fits = (size: number) => (at + done) % size === 0 && (phys + done) % size === 0 && items - done >= size;
      const size = this.sizes.find(fits)!;
      const leaf = { first: at + done, items: size, dirty: false };
      for (let index = 0; index < size; index++) {
        this.items.set(at + done + index, { phys: phys + done + index, leaf });
      }
      done += size;
    }
    return true;
  }

  unmap(at: number, items: number): number {
    let gone = 0;
    for (const [item, { leaf }] of [...this.items]) {
      if (leaf.first >= at + items || leaf.first + leaf.items <= at) continue;
      this.items.delete(item);
      gone++;
    }
    return gone;
  }

  /** Items of dirty leaves that meet the range. */
  dirty(at: number, items: number): number[] {
    const meets = ({ leaf }: Item) => leaf.first < at + items && leaf.first + leaf.items > at;
    return [...this.items].filter(([, item]) => item.leaf.dirty && meets(item)).map(([item]) => item);
  }
}

const byNumber = (a: number, b: number): number => a - b;

test.each([
  ['default', false, [512 * MIB, MIB, 1]],
  ['large', true, [MIB, 1]],
] as const)('a table of the %s kind is what a list of 2 KiB items is', (_name, huge, sizes) => {
  const unit = huge ? 2 : 1;
  const place = fc.record({
    at: fc.nat(4 * MIB - 1).map((item) => item - (item % unit)),
    items: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 1400 })).map((items) => items * unit),
  });
  const step = fc.record({
    kind: fc.constantFrom('map', 'map', 'unmap', 'write', 'read', 'peek'),
    place,
    phys: fc.constantFrom(0, 2 ** 21, 2 ** 21 - 6, 2 ** 39),
    aligned: fc.boolean(),
    keep: fc.boolean(),
  });
  let mapped = 0;
  let written = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 4, maxLength: 30 }), (steps) => {
      const { kernel, domain } = setUp(huge);
      const model = new Model(sizes);
      domain.dirty!.setEnabled(true);
      for (const { kind, place, phys, aligned, keep } of steps) {
        const at = FIRST + place.at;
        const { items } = place;
        const iova = BigInt(at * ITEM);
        const [lo, hi] = [low32(iova), high32(iova)];
        if (kind === 'map') {
          const target = aligned ? phys + (at % MIB) + 6 : phys;
          const address = BigInt(target) * BigInt(ITEM);
          let code = 'ok';
          try {
            domain.map(lo, hi, low32(address), high32(address), items * ITEM, IOMMU_READ | IOMMU_WRITE);
          } catch (error) {
            if (!(error instanceof SysError)) throw error;
            ({ code } = error);
          }
          expect(code).toBe(model.map(at, target, items) ? 'ok' : 'EEXIST');
          if (code === 'ok') mapped++;
        } else if (kind === 'unmap') {
          expect(domain.unmap(lo, hi, items * ITEM)).toBe(model.unmap(at, items) * ITEM);
          domain.sync();
        } else if (kind === 'write') {
          domain.write(iova + 77n);
          const item = model.items.get(at);
          if (item !== undefined) {
            item.leaf.dirty = true;
            written++;
          }
        } else if (kind === 'read') {
          const seen: number[] = [];
          domain.dirty!.read(lo, hi, items * ITEM, keep, (startLo, startHi, bytes) => {
            const first = Number(joinU64(startLo, startHi)) / ITEM;
            for (let item = first; item < first + bytes / ITEM; item++) seen.push(item);
          });
          const expected = model.dirty(at, items).sort(byNumber);
          expect(seen).toEqual(expected);
          if (!keep) for (const item of expected) model.items.get(item)!.leaf.dirty = false;
        } else {
          for (const item of [at - 1, at, at + items - 1, at + items]) {
            const found = model.items.get(item);
            const expected = found === undefined ? null : BigInt(found.phys) * BigInt(ITEM) + 5n;
            expect(domain.iovaToPhys(BigInt(item * ITEM) + 5n)).toBe(expected);
          }
        }
      }
      domain.free();
      expect(kernel.frames.allocated).toBe(0);
    }),
    { numRuns: 150 },
  );
  expect([mapped > 100, written > 20]).toEqual([true, true]);
});

test('nothing is mapped outside the aperture, nor unmapped, nor found', () => {
  const { domain } = setUp(false);
  const code = (iova: bigint, bytes: number): string => {
    try {
      domain.map(low32(iova), high32(iova), 0, 0, bytes, IOMMU_READ);
      return 'ok';
    } catch (error) {
      return (error as SysError).code;
    }
  };
  expect([code((1n << 24n) - 2048n, 4096), code((1n << 31n) - 2048n, 4096), code(1n << 38n, 2048)]).toEqual([
    'ERANGE',
    'ERANGE',
    'ERANGE',
  ]);
  expect([code(1n << 24n, 2048), code((1n << 31n) - 2048n, 2048)]).toEqual(['ok', 'ok']);
  expect([domain.iovaToPhys(2n ** 64n - 1n), domain.unmap(0, -1, 2048)]).toEqual([null, 0]);
  domain.write(2n ** 64n - 1n);
  expect(domain.pageSizesLg2).toEqual(Array.from({ length: 26 }, (_, index) => 11 + index));
});
