import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { describeFault, isQualified } from '../../src/vtd/fault-reason.ts';
import { NaiveVtd } from '../support/naive-vtd.ts';
import { Random, randomAddress, randomWorld } from '../support/random-vtd.ts';
import { Bench } from './bench.ts';

const RUNS = 400;
const REQUESTS = 250;

/** One world, many requests of all kinds, against the naive walker on a copy of the same memory. */
function compareWorld(seed: number, invalidate: boolean): void {
  const random = new Random(seed);
  const sample = new Bench({ ramBytes: 1 << 20 });
  const frames = sample.memory.ramFrames;
  const world = randomWorld(random, frames, (address, value) => sample.put64(address, value));
  const bench = new Bench({
    ramBytes: 1 << 20,
    features: { hostAddressWidth: world.hostAddressWidth, faultRecords: 1 },
  });
  bench.memory.bytes.set(sample.memory.bytes.subarray(0, 1 << 20));
  const copy = new DataView(sample.memory.bytes.buffer);
  const limit = BigInt(1 << 20);
  const naive = new NaiveVtd({
    memory: {
      read: (address) => (address < limit ? copy.getBigUint64(Number(address), true) : null),
      write: (address, value) => copy.setBigUint64(Number(address), value, true),
    },
    root: world.root,
    scalable: world.scalable,
    hostAddressWidth: BigInt(world.hostAddressWidth),
    secondStageLevels: [3, 4, 5],
  });
  bench.unit.setRootTable(world.root, world.scalable ? 1 : 0);
  bench.unit.setTranslation(true);
  for (let i = 0; i < REQUESTS; i++) {
    const rid = random.pick(world.rids);
    const pasid = world.scalable || random.chance(3) ? random.pick(world.pasids) : -1;
    let access = random.pick([1, 2, 3, 1, 2]);
    if (pasid >= 0) access |= random.pick([0, 0, 4, 8, 12]) & (access & 1 ? 12 : 8);
    const address = randomAddress(random);
    const kind = random.pick(['untranslated', 'untranslated', 'untranslated', 'translation', 'translated']);
    const request = { rid, pasid, access, address };
    const title = `seed ${seed} #${i} ${kind} rid ${rid} pasid ${pasid} access ${access} at ${address.toString(16)}`;
    if (invalidate) bench.unit.setRootTable(world.root, 3);
    if (invalidate) bench.unit.setRootTable(world.root, world.scalable ? 1 : 0);
    bench.events.length = 0;
    if (kind === 'translation') {
      const expected = naive.translationRequest(request);
      const status = bench.atsRequest(rid, pasid, access, address);
      if ('fault' in expected) {
        expectFault(bench, expected, status, title);
        continue;
      }
      expect({ status, access: bench.unit.ats.access & 7 }, title).toEqual({ status: 0, access: expected.access & 7 });
      if (expected.access !== 0) expect(bench.unit.ats.pfn, title).toBe(Number(expected.frame));
      expect(bench.events, title).toEqual([]);
      continue;
    }
    const plain = kind === 'translated' ? { ...request, pasid: -1, access: access & 3 } : request;
    if (kind === 'untranslated' && pasid < 0 && address >> 20n === 0xfeen) continue;
    const expected = kind === 'translated' ? naive.translated(plain) : naive.untranslated(plain);
    const status = bench.dma(rid, plain.pasid, plain.access, address, kind === 'translated' ? 2 : 0);
    if ('fault' in expected) expectFault(bench, expected, status, title);
    else {
      expect(
        status,
        `${title} ${JSON.stringify(bench.events, (_k, v) => (typeof v === 'bigint' ? String(v) : v))}`,
      ).toBe(0);
      expect(bench.unit.pfn, title).toBe(Number(expected.frame));
    }
  }
  const same = Buffer.compare(
    Buffer.from(bench.memory.bytes.buffer, 0, 1 << 20),
    Buffer.from(sample.memory.bytes.buffer, 0, 1 << 20),
  );
  expect(same, `seed ${seed}: flags in the tables`).toBe(0);
}

function expectFault(bench: Bench, expected: { fault: string; fpd: boolean }, status: number, title: string): void {
  expect(status, `${title}: ${expected.fault}`).not.toBe(0);
  const event = bench.events.find((candidate) => candidate.name === 'io_page_fault');
  if (event === undefined) {
    expect(expected.fpd, `${title}: ${expected.fault} is recorded`).toBe(true);
    return;
  }
  const name = describeFault(event.reason).split(':')[0];
  expect(name, title).toBe(expected.fault);
  expect(isQualified(event.reason) && expected.fpd, `${title}: ${name} is not recorded`).toBe(false);
}

describe('random tables against the naive walker', () => {
  test('every request ends as the specification says, with caches in use', { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => compareWorld(seed, false)),
      { numRuns: RUNS, endOnFailure: true },
    );
  });

  test('the same without anything cached', { timeout: 60_000 }, () => {
    fc.assert(
      fc.property(fc.integer(), (seed) => compareWorld(seed, true)),
      { numRuns: 50, endOnFailure: true },
    );
  });
});

test('random bytes as tables and queues never throw, hang or reach outside', { timeout: 60_000 }, () => {
  fc.assert(
    fc.property(fc.integer(), fc.nat(3), fc.boolean(), (seed, mode, sparse) => {
      const random = new Random(seed);
      const bench = new Bench({ ramBytes: 1 << 16 });
      const { words, ramFrames } = bench.memory;
      for (let i = 0; i < ramFrames << 10; i += 2) {
        // Pointers mostly stay in RAM, so that walks go on through more nonsense; flags are mostly plausible.
        words[i] = (random.below(ramFrames) << 12) | (sparse ? random.pick([0x01, 0x07, 0x0d, 0x67, 0x87, 0xc1]) : 0);
        if (!sparse || random.chance(1)) words[i] = random.below(0x100000000) | 0;
        words[i + 1] = random.chance(sparse ? 2 : 30) ? random.below(0x100000000) | 0 : 0;
      }
      bench.unit.setRootTable(BigInt(random.below(ramFrames)) << 12n, mode);
      bench.unit.setTranslation(true);
      bench.unit.setInterruptTable(
        BigInt(random.below(ramFrames + 2)) << 12n,
        2 << random.below(16),
        random.chance(50),
      );
      bench.unit.setInterruptRemapping(true);
      bench.write64(0xd0, BigInt(random.below(ramFrames + 2)) << 12n);
      for (let i = 0; i < 100; i++) {
        const rid = random.below(0x10000);
        const pasid = random.chance(30) ? -1 : random.below(0x100000) >> random.below(20);
        const access = pasid < 0 ? random.below(4) : random.below(16);
        const address = random.bits64() >> BigInt(random.below(64));
        const status = bench.dma(rid, pasid, access, address, random.chance(10) ? 2 : 0);
        if (status === 0) expect(bench.unit.pfn).toBeLessThan(2 ** 52);
        bench.atsRequest(rid, pasid, access, address);
        bench.pageRequest({ rid, pasid, access, address });
        bench.unit.writeInterrupt(rid, 0xfee00000 | random.below(0x100000), 0, random.below(0x100000000) | 0);
      }
      bench.run();
    }),
    { numRuns: 300 },
  );
});
