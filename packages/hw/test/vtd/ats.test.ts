import { describe, expect, test } from 'vitest';
import { LCT_2, SFS_3, SPT_3 } from '../../src/vtd/fault-reason.ts';
import * as reg from '../../src/vtd/registers.ts';
import { Bench, type BenchOptions, PAGE, RID } from './bench.ts';

const READ = 1;
const WRITE = 2;
const EXECUTE = 4;
const PRIVILEGED = 8;
const SUCCESS = 0;
const UNSUPPORTED = 1;
const ABORT = 4;
const PASID = 5;
const IOVA = 0x1234_5000n;

class World extends Bench {
  readonly root1: bigint = this.frame() * PAGE;
  readonly root2: bigint = this.frame() * PAGE;
  entryAt = 0n;

  constructor(kind: bigint, flags2 = 0n, flags1 = 1n << 23n, options: BenchOptions = {}) {
    super(options);
    this.enable(1);
    const context = this.context(RID, 0x1dn, BigInt(PASID));
    const word0 = this.root2 | (2n << 2n) | (kind << 6n) | 1n;
    this.entryAt = this.pasidEntry(context, PASID, [word0, 7n | flags1, this.root1 | flags2]);
  }

  request(access: number, address = IOVA, pasid = PASID): { status: number; access: number; pfn: number } {
    const status = this.atsRequest(RID, pasid, access, address);
    return { status, access: this.unit.ats.access, pfn: this.unit.ats.pfn };
  }
}

describe('translation requests', () => {
  test.each([
    ['writable', 0x67n, READ | WRITE, READ | WRITE],
    ['read-only page, read and write asked', 0x65n, READ | WRITE, READ],
    ['no write asked', 0x67n, READ, READ],
    ['supervisor page', 0x63n, READ | WRITE, 0],
    ['not present', 0n, READ | WRITE, 0],
    ['execute without ERE', 0x67n, READ | EXECUTE, READ],
    ['privileged without SRE', 0x67n, READ | PRIVILEGED, 0],
  ])('%s', (_name, leaf, wanted, granted) => {
    const world = new World(1n);
    world.map(world.root1, 4, IOVA, leaf === 0n ? 0n : (50n * PAGE) | leaf, 0x27n);
    expect(world.request(wanted)).toEqual({ status: SUCCESS, access: granted, pfn: granted === 0 ? 0 : 50 });
    expect(world.faults()).toEqual([]);
  });

  test('execute and privilege where the entry enables them', () => {
    const world = new World(1n, 0x23n);
    world.map(world.root1, 4, IOVA, (50n * PAGE) | 0x63n, 0x27n);
    expect(world.request(READ | EXECUTE | PRIVILEGED).access).toBe(READ | EXECUTE | PRIVILEGED);
    expect(world.request(READ | EXECUTE).access).toBe(0);
  });

  test('granting write marks the page dirty, asking for no write does not', () => {
    const world = new World(1n);
    const slot = world.map(world.root1, 4, IOVA, (50n * PAGE) | 7n, 0x27n);
    world.request(READ);
    expect(world.get64(slot) & 0x60n).toBe(0x20n);
    world.request(READ | WRITE);
    expect(world.get64(slot) & 0x60n).toBe(0x60n);
  });

  test('give the size of the smaller stage, also from the IOTLB', () => {
    const world = new World(1n);
    world.map(world.root1, 4, IOVA, 0x4000_0000n | 0xe7n, 0x27n, 1);
    for (let i = 0; i < 2; i++) {
      expect(world.request(READ).pfn).toBe(0x40000 + Number((IOVA >> 12n) & 511n));
      expect(world.unit.ats.sizeLg2).toBe(21);
    }
    const nested = new World(3n);
    for (let f = 16n; f < 64n; f++) nested.map(nested.root2, 4, f * PAGE, (f * PAGE) | 7n, 7n);
    nested.map(nested.root2, 4, 0x4000_0000n, (80n * PAGE) | 7n, 7n);
    nested.map(nested.root1, 4, IOVA & ~0x1fffffn, 0x4000_0000n | 0xe7n, 0x27n, 1);
    expect(nested.request(READ, IOVA & ~0x1fffffn).pfn).toBe(80);
    expect(nested.unit.ats.sizeLg2).toBe(12);
  });

  test('a large page that holds the interrupt range is given page by page', () => {
    const world = new World(1n);
    world.map(world.root1, 4, IOVA & ~0x1fffffn, 0xfee0_0000n | 0xe7n, 0x27n, 1);
    const outside = (IOVA & ~0x1fffffn) + 0x100000n;
    expect(world.request(READ, outside)).toEqual({ status: SUCCESS, access: READ, pfn: 0xfef00 });
    expect(world.unit.ats.sizeLg2).toBe(12);
    expect(world.request(READ, IOVA & ~0x1fffffn).status).toBe(ABORT);
    expect(world.dma(RID, PASID, READ, outside)).toBe(SUCCESS);
    expect(world.dma(RID, PASID, READ, IOVA & ~0x1fffffn)).not.toBe(SUCCESS);
  });

  test('N follows PGSNP and the snoop bit of the second stage', () => {
    const world = new World(2n);
    world.map(world.root2, 4, IOVA, (50n * PAGE) | 0x803n, 7n);
    world.map(world.root2, 4, IOVA + PAGE, (51n * PAGE) | 3n, 7n);
    for (let i = 0; i < 2; i++) {
      world.request(READ);
      expect(world.unit.ats.noSnoop).toBe(true);
      world.request(READ, IOVA + PAGE);
      expect(world.unit.ats.noSnoop).toBe(false);
    }
    const forced = new World(1n, 0n, 3n << 23n);
    forced.map(forced.root1, 4, IOVA, (50n * PAGE) | 0x67n, 0x27n);
    forced.request(READ);
    expect(forced.unit.ats.noSnoop).toBe(true);
  });

  test('without PASID in the interrupt range: untranslated writes only', () => {
    const world = new World(1n);
    expect(world.request(READ | WRITE, 0xfee0_1000n, -1)).toEqual({ status: SUCCESS, access: WRITE, pfn: 0 });
    expect(world.unit.ats.untranslatedOnly).toBe(true);
    expect(world.request(READ, 0xfee0_1000n).access).toBe(0);
    expect(world.unit.ats.untranslatedOnly).toBe(false);
  });

  test('pass-through grants the address itself', () => {
    const world = new World(4n);
    expect(world.request(READ | WRITE)).toEqual({ status: SUCCESS, access: 3, pfn: Number(IOVA >> 12n) });
  });

  test('broken structures abort and are recorded, missing ones are unsupported requests', () => {
    const world = new World(1n);
    world.map(world.root1, 4, IOVA, (50n * PAGE) | 0x67n | (1n << 63n), 0x27n);
    expect(world.request(READ).status).toBe(ABORT);
    world.put64(world.entryAt + 24n, 1n);
    world.submit([0x37n]);
    expect(world.request(READ).status).toBe(ABORT);
    expect(world.faults()).toMatchObject([
      { reason: SFS_3, addressType: 1 },
      { reason: SPT_3, addressType: 1 },
    ]);
    const legacy = new Bench();
    legacy.enable(0);
    const context = legacy.legacyContext(RID, legacy.frame() * PAGE, 2n);
    expect(context).not.toBe(0n);
    expect(legacy.atsRequest(RID, -1, READ, IOVA)).toBe(UNSUPPORTED);
    expect(legacy.faults()).toMatchObject([{ reason: LCT_2, addressType: 1 }]);
  });

  test('are unsupported while translation is off or device TLBs are not advertised', () => {
    const world = new World(1n);
    world.map(world.root1, 4, IOVA, (50n * PAGE) | 0x67n, 0x27n);
    world.write32(reg.REG_GCMD, reg.GCMD_QIE);
    world.run();
    expect(world.request(READ).status).toBe(UNSUPPORTED);
    const without = new Bench({ features: { deviceTlb: false } });
    without.enable(1);
    expect(without.atsRequest(RID, -1, READ, IOVA)).toBe(UNSUPPORTED);
    expect(without.faults()).toEqual([]);
  });
});

describe('translation off', () => {
  test('untranslated requests pass unchanged; others are unsupported', () => {
    const bench = new Bench();
    expect(bench.dma(RID, -1, READ, IOVA)).toBe(SUCCESS);
    expect(bench.unit.pfn).toBe(Number(IOVA >> 12n));
    expect(bench.dma(RID, PASID, READ, IOVA)).toBe(UNSUPPORTED);
    expect(bench.dma(RID, -1, READ, IOVA, 2)).toBe(UNSUPPORTED);
  });
});

test('a read of the interrupt range without PASID is unsupported, whatever is mapped there', () => {
  const world = new World(1n);
  world.map(world.root1, 4, 0xfee0_1000n, (50n * PAGE) | 0x67n, 0x27n);
  expect(world.dma(RID, -1, READ, 0xfee0_1000n)).toBe(UNSUPPORTED);
  expect(world.dma(RID, PASID, READ, 0xfee0_1000n)).toBe(SUCCESS);
  expect(world.unit.pfn).toBe(50);
  expect(world.faults()).toEqual([]);
});

test('counters count', () => {
  const world = new World(3n);
  for (let f = 16n; f < 64n; f++) world.map(world.root2, 4, f * PAGE, (f * PAGE) | 7n, 7n);
  world.map(world.root1, 4, IOVA, (50n * PAGE) | 0x67n, 0x27n);
  for (let i = 0; i < 3; i++) world.dma(RID, PASID, READ, IOVA);
  expect(world.unit.counters).toMatchObject({
    translations: 3,
    iotlbHits: 2,
    nestedWalks: 1,
    stage1Reads: 4,
    stage2Reads: 20,
  });
});
