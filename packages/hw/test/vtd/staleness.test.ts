/** Each cache is really used while memory says otherwise, and each invalidation descriptor reaches what it should. */

import { describe, expect, test } from 'vitest';
import * as reg from '../../src/vtd/registers.ts';
import { Bench, PAGE, RID } from './bench.ts';

const READ = 1;
const WRITE = 2;
const SCALABLE = 1;
const PASID = 5;
const DID = 7;
const IOVA = 0x1234_5000n;

/** Descriptors by what they say. */
const all = { context: [0x11n], pasid: [0x37n], iotlb: [0x12n] };
const contextDevice = (rid: number, mask = 0): bigint[] => [0x31n | (BigInt(rid) << 32n) | (BigInt(mask) << 48n)];
const pasidCache = (did: number, pasid: number): bigint[] => [0x17n | (BigInt(did) << 16n) | (BigInt(pasid) << 32n)];
const pasidCacheDomain = (did: number): bigint[] => [0x07n | (BigInt(did) << 16n)];
const iotlbDomain = (did: number): bigint[] => [0x22n | (BigInt(did) << 16n)];
const iotlbPages = (did: number, low: bigint): bigint[] => [0x32n | (BigInt(did) << 16n), low];
const pasidIotlb = (did: number, pasid: number): bigint[] => [0x26n | (BigInt(did) << 16n) | (BigInt(pasid) << 32n)];
const pasidPages = (did: number, pasid: number, low: bigint): bigint[] => [
  0x36n | (BigInt(did) << 16n) | (BigInt(pasid) << 32n),
  low,
];

class World extends Bench {
  readonly root1: bigint = this.frame() * PAGE;
  readonly root2: bigint = this.frame() * PAGE;
  contextAt = 0n;
  entryAt = 0n;

  constructor(kind: bigint) {
    super();
    this.enable(SCALABLE);
    this.contextAt = this.context(RID, 0x1dn, BigInt(PASID));
    const word0 = this.root2 | (2n << 2n) | (kind << 6n) | 1n;
    this.entryAt = this.pasidEntry(this.contextAt, PASID, [word0, BigInt(DID) | (1n << 23n), this.root1]);
    // Guest memory below 4 MiB, one to one, for the tables of nested translation.
    if (kind === 3n) for (let f = 16n; f < 200n; f++) this.map(this.root2, 4, f * PAGE, (f * PAGE) | 7n, 7n);
  }

  map1(frame: bigint, address = IOVA): bigint {
    return this.map(this.root1, 4, address, (frame * PAGE) | 0x67n, 0x27n);
  }

  map2(frame: bigint, address = IOVA): bigint {
    return this.map(this.root2, 4, address, (frame * PAGE) | 7n, 7n);
  }

  /** The frame that a read reaches, or -1. */
  reach(address = IOVA, pasid = PASID, rid = RID): number {
    return this.dma(rid, pasid, READ, address) === 0 ? this.unit.pfn : -1;
  }
}

describe('the context cache', () => {
  test('hides a context entry that is gone until it is invalidated', () => {
    const world = new World(1n);
    world.map1(50n);
    expect(world.reach()).toBe(50);
    world.put64(world.contextAt, 0n);
    expect(world.reach()).toBe(50);
    world.submit(all.iotlb, all.pasid);
    // PASID entry and translation are fetched anew through the context entry that only the cache still has.
    expect(world.reach()).toBe(50);
    world.submit(contextDevice(RID + 1));
    expect(world.reach()).toBe(50);
    world.submit(contextDevice(RID));
    expect(world.reach()).toBe(-1);
  });

  test.each([
    ['global', all.context],
    ['domain: scalable-mode entries name none', [0x21n | (99n << 16n)]],
    ['a function mask', contextDevice(RID ^ 7, 3)],
  ])('is emptied by: %s', (_name, descriptor) => {
    const world = new World(1n);
    world.map1(50n);
    world.reach();
    world.put64(world.contextAt, 0n);
    world.submit(descriptor);
    expect(world.reach()).toBe(-1);
  });

  test('a function mask that does not cover the difference leaves the entry', () => {
    const world = new World(1n);
    world.map1(50n);
    world.reach();
    world.put64(world.contextAt, 0n);
    world.submit(contextDevice(RID ^ 1, 2));
    expect(world.reach()).toBe(50);
  });

  test('keeps legacy entries by domain', () => {
    const world = new Bench();
    world.wide = false;
    const root = world.frame() * PAGE;
    world.enable(0);
    const at = world.legacyContext(RID, root | 1n, 2n | (BigInt(DID) << 8n));
    world.map(root, 4, IOVA, (50n * PAGE) | 3n, 3n);
    expect(world.dma(RID, -1, READ, IOVA)).toBe(0);
    world.put64(at, 0n);
    world.submit([0x21n | (8n << 16n)]);
    expect(world.dma(RID, -1, READ, IOVA)).toBe(0);
    world.submit([0x21n | (BigInt(DID) << 16n)]);
    expect(world.dma(RID, -1, READ, IOVA)).not.toBe(0);
  });
});

describe('the PASID cache', () => {
  const kill = (world: World): void => world.put64(world.entryAt, 0n);

  test('hides a PASID entry that is gone, and the context entry does not bring it back', () => {
    const world = new World(1n);
    world.map1(50n);
    world.reach();
    kill(world);
    world.submit(all.context, all.iotlb);
    expect(world.reach()).toBe(50);
    world.submit(pasidCache(DID + 1, PASID), pasidCache(DID, PASID + 1), pasidCacheDomain(DID + 1));
    expect(world.reach()).toBe(50);
    world.submit(pasidCache(DID, PASID));
    expect(world.reach()).toBe(-1);
  });

  test.each([
    ['domain', pasidCacheDomain(DID)],
    ['global', all.pasid],
  ])('is emptied by: %s', (_name, descriptor) => {
    const world = new World(1n);
    world.map1(50n);
    world.reach();
    kill(world);
    world.submit(descriptor);
    expect(world.reach()).toBe(-1);
  });

  test('requests without PASID use the entry of RID_PASID, and its PASID reaches them', () => {
    const world = new World(1n);
    world.map1(50n);
    expect(world.reach(IOVA, -1)).toBe(50);
    kill(world);
    expect(world.reach(IOVA, -1)).toBe(50);
    world.submit(pasidCache(DID, PASID));
    expect(world.reach(IOVA, -1)).toBe(-1);
  });

  test('a PASID entry that was not present is not cached', () => {
    const world = new World(1n);
    world.map1(50n);
    const word = world.get64(world.entryAt);
    kill(world);
    expect(world.reach()).toBe(-1);
    world.put64(world.entryAt, word);
    expect(world.reach()).toBe(50);
  });

  test('a changed entry with another domain translates anew only after invalidation', () => {
    const world = new World(1n);
    world.map1(50n);
    world.reach();
    const other = world.frame() * PAGE;
    world.map(other, 4, IOVA, (60n * PAGE) | 0x67n, 0x27n);
    world.put64(world.entryAt + 8n, 8n | (1n << 23n));
    world.put64(world.entryAt + 16n, other);
    expect(world.reach()).toBe(50);
    world.submit(pasidCache(DID, PASID));
    expect(world.reach()).toBe(60);
  });
});

describe('the IOTLB, first stage', () => {
  test.each([
    ['PASID', pasidIotlb(DID, PASID), 60],
    ['the page', pasidPages(DID, PASID, IOVA), 60],
    ['a range with the page', pasidPages(DID, PASID, (IOVA & ~0xffffn) | 4n), 60],
    ['a larger range than is probed', pasidPages(DID, PASID, (IOVA & ~0xffffffn) | 12n), 60],
    ['the domain', iotlbDomain(DID), 60],
    ['global', all.iotlb, 60],
    ['another PASID', pasidIotlb(DID, PASID + 1), 50],
    ['another domain of the PASID', pasidIotlb(DID + 1, PASID), 50],
    ['another page', pasidPages(DID, PASID, IOVA + PAGE), 50],
    ['a range beside the page', pasidPages(DID, PASID, (IOVA + 0x10000n) | 4n), 50],
    ['another domain', iotlbDomain(DID + 1), 50],
    ['pages of the domain: second stage only', iotlbPages(DID, IOVA), 50],
    ['context cache', all.context, 50],
    ['PASID cache', all.pasid, 50],
  ])('after a changed leaf, %s', (_name, descriptor, frame) => {
    const world = new World(1n);
    world.map1(50n);
    expect(world.reach()).toBe(50);
    world.map1(60n);
    expect(world.reach()).toBe(50);
    expect(world.submit(descriptor)).toBe(true);
    expect(world.reach()).toBe(frame);
  });

  test('an entry that allows too little is walked again', () => {
    const world = new World(1n);
    const slot = world.map1(50n);
    world.put64(slot, (50n * PAGE) | 0x65n);
    world.reach();
    expect(world.dma(RID, PASID, WRITE, IOVA)).not.toBe(0);
    world.put64(slot, (50n * PAGE) | 0x67n);
    expect(world.dma(RID, PASID, WRITE, IOVA)).toBe(0);
  });

  test('a page read is marked dirty by the first write all the same', () => {
    const world = new World(1n);
    const slot = world.map1(50n);
    world.put64(slot, (50n * PAGE) | 7n);
    world.reach();
    expect(world.get64(slot) & 0x60n).toBe(0x20n);
    world.dma(RID, PASID, WRITE, IOVA);
    expect(world.get64(slot) & 0x60n).toBe(0x60n);
  });

  test('a large page is one entry, which invalidating any of its pages takes away', () => {
    const world = new World(1n);
    const large = IOVA & ~0x1fffffn;
    const slot = world.map(world.root1, 4, large, 0x4000_0000n | 0xe7n, 0x27n, 1);
    expect(world.reach(large + 3n * PAGE)).toBe(0x40003);
    world.put64(slot, 0x8000_0000n | 0xe7n);
    expect(world.reach(large + 9n * PAGE)).toBe(0x40009);
    world.submit(pasidPages(DID, PASID, large + 100n * PAGE));
    expect(world.reach(large + 9n * PAGE)).toBe(0x80009);
  });

  test('is shared by functions with the same domain and PASID', () => {
    const world = new World(1n);
    world.map1(50n);
    const other = RID + 1;
    const context = world.context(other, world.get64(world.contextAt), BigInt(PASID));
    expect(context).not.toBe(world.contextAt);
    world.reach();
    world.map1(60n);
    expect(world.reach(IOVA, PASID, other)).toBe(50);
  });
});

describe('the IOTLB, second stage', () => {
  test.each([
    ['the page', iotlbPages(DID, IOVA), 60],
    ['the domain', iotlbDomain(DID), 60],
    ['the PASID: second-stage translations have none', pasidIotlb(DID, PASID), 50],
    ['another page', iotlbPages(DID, IOVA + PAGE), 50],
    ['a page of another domain', iotlbPages(DID + 1, IOVA), 50],
  ])('after a changed leaf, %s', (_name, descriptor, frame) => {
    const world = new World(2n);
    world.map2(50n);
    expect(world.reach()).toBe(50);
    world.map2(60n);
    expect(world.submit(descriptor)).toBe(true);
    expect(world.reach()).toBe(frame);
  });
});

describe('the IOTLB, nested', () => {
  test.each([
    ['pages of the domain: nested translations all go', iotlbPages(DID, 0n), 61],
    ['the domain', iotlbDomain(DID), 61],
    ['the PASID', pasidIotlb(DID, PASID), 61],
    ['the first-stage page', pasidPages(DID, PASID, IOVA), 61],
    ['another first-stage page', pasidPages(DID, PASID, IOVA + PAGE), 60],
    ['another domain', iotlbDomain(DID + 1), 60],
  ])('after a changed second stage, %s', (_name, descriptor, frame) => {
    const world = new World(3n);
    world.map1(60n);
    expect(world.reach()).toBe(60);
    world.map2(61n, 60n * PAGE);
    expect(world.reach()).toBe(60);
    expect(world.submit(descriptor)).toBe(true);
    expect(world.reach()).toBe(frame);
  });
});

describe('the paging-structure cache', () => {
  /** Puts a new last-level table under the region of IOVA, mapping it to frame 60. */
  function moveTable(world: World, root: bigint, levels: number, leaf: bigint): void {
    let table = root;
    for (let level = levels - 1; level > 1; level--) {
      table = world.get64(table + 8n * ((IOVA >> BigInt(12 + 9 * level)) & 511n)) & 0x000ffffffffff000n;
    }
    const slot = table + 8n * ((IOVA >> 21n) & 511n);
    const fresh = world.frame() * PAGE;
    world.put64(fresh + 8n * ((IOVA >> 12n) & 511n), (60n * PAGE) | leaf);
    world.put64(slot, fresh | (world.get64(slot) & 0xfffn));
  }

  test.each([
    ['leaf-only pages: the hint keeps it', pasidPages(DID, PASID, IOVA | 0x40n), 50],
    ['pages', pasidPages(DID, PASID, IOVA), 60],
    ['another page of the same table', pasidPages(DID, PASID, IOVA + 7n * PAGE), 50],
    ['PASID', pasidIotlb(DID, PASID), 60],
    ['domain', iotlbDomain(DID), 60],
    ['global', all.iotlb, 60],
  ])('first stage, after a changed table pointer, %s', (_name, descriptor, frame) => {
    const world = new World(1n);
    world.map1(50n);
    world.map1(51n, IOVA + PAGE);
    expect(world.reach()).toBe(50);
    moveTable(world, world.root1, 4, 0x67n);
    expect(world.submit(descriptor)).toBe(true);
    expect(world.reach()).toBe(frame);
  });

  test('is used for a page that was never translated', () => {
    const world = new World(1n);
    world.map1(50n);
    world.map1(51n, IOVA + PAGE);
    expect(world.reach()).toBe(50);
    moveTable(world, world.root1, 4, 0x67n);
    expect(world.reach(IOVA + PAGE)).toBe(51);
    world.submit(pasidPages(DID, PASID, IOVA + 9n * PAGE));
    expect(world.reach(IOVA + PAGE)).toBe(51);
    world.submit(pasidIotlb(DID, PASID));
    expect(world.reach(IOVA + PAGE)).toBe(-1);
  });

  test.each([
    ['leaf-only pages', iotlbPages(DID, IOVA | 0x40n), 50],
    ['pages', iotlbPages(DID, IOVA), 60],
  ])('second stage, after a changed table pointer, %s', (_name, descriptor, frame) => {
    const world = new World(2n);
    world.map2(50n);
    expect(world.reach()).toBe(50);
    moveTable(world, world.root2, 4, 7n);
    expect(world.submit(descriptor)).toBe(true);
    expect(world.reach()).toBe(frame);
  });

  test.each([
    ['leaf-only pages', pasidPages(DID, PASID, IOVA | 0x40n), 50],
    ['pages', pasidPages(DID, PASID, IOVA), 60],
  ])('nested, after a changed first-stage table pointer, %s', (_name, descriptor, frame) => {
    const world = new World(3n);
    world.map1(50n);
    expect(world.reach()).toBe(50);
    moveTable(world, world.root1, 4, 0x67n);
    expect(world.submit(descriptor)).toBe(true);
    expect(world.reach()).toBe(frame);
  });
});

test('without enhanced set-root-table-pointer the caches outlive a new root table', () => {
  const world = new World(1n);
  world.map1(50n);
  world.reach();
  world.setRoot(SCALABLE, world.frame() * PAGE);
  expect(world.reach()).toBe(50);
  world.submit(all.context);
  expect(world.reach()).toBe(-1);
});

test('more domains than the unit keeps apart are still translated right', () => {
  const bench = new Bench({ ramBytes: 4 << 20 });
  bench.enable(SCALABLE);
  const context = bench.context(RID, 0x1dn | (7n << 9n) | (600n * PAGE));
  const root = bench.frame() * PAGE;
  bench.map(root, 4, IOVA, (50n * PAGE) | 0x67n, 0x27n);
  for (let pasid = 0; pasid < 6000; pasid++) {
    bench.pasidEntry(context, pasid, [(1n << 6n) | 1n, BigInt(pasid) | (1n << 23n), root]);
    expect(bench.dma(RID, pasid, READ, IOVA)).toBe(0);
    expect(bench.unit.pfn).toBe(50);
  }
  bench.map(root, 4, IOVA, (60n * PAGE) | 0x67n, 0x27n);
  expect(bench.dma(RID, 5999, READ, IOVA)).toBe(0);
  expect(bench.unit.pfn).toBe(50);
});

describe('what the request cache and the IOTLB know answers no request that they may not', () => {
  test.each([1n, 2n])(
    'one without PASID in the interrupt range, which a PASID has cached (translation type %i)',
    (kind) => {
      const world = new World(kind);
      for (const address of [IOVA, 0xfee00000n]) {
        world.map1(50n, address);
        world.map2(50n, address);
      }
      expect(world.reach(IOVA, -1)).toBe(50);
      expect(world.reach(0xfee00000n)).toBe(50);
      expect(world.reach(0xfee00000n, -1)).toBe(-1);
    },
  );

  test('one that comes while translation is off', () => {
    const world = new World(1n);
    world.map1(50n);
    expect(world.reach(IOVA, -1)).toBe(50);
    world.write32(reg.REG_GCMD, reg.GCMD_QIE);
    world.run();
    expect(world.reach(IOVA, -1)).toBe(Number(IOVA / PAGE));
    expect(world.reach(IOVA, PASID)).toBe(-1);
    world.command(reg.GCMD_TE);
    expect(world.reach(IOVA, -1)).toBe(50);
  });
});
