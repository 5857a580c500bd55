import { describe, expect, test } from 'vitest';
import * as reg from '../../src/vtd/registers.ts';
import { Bench, type BenchOptions, PAGE, PAGE_QUEUE, RID, STATUS } from './bench.ts';

const PASID = 0x12345;

function started(options: BenchOptions = {}): Bench {
  const bench = new Bench(options);
  bench.enable(1);
  bench.context(RID, 0x1dn | (7n << 9n), 5n);
  return bench;
}

/** The four 64-bit words of descriptor `index`. */
function descriptor(bench: Bench, index: number): bigint[] {
  return [0n, 8n, 16n, 24n].map((word) => bench.get64(PAGE_QUEUE * PAGE + BigInt(32 * index) + word));
}

describe('the page-request queue', () => {
  test('holds what was asked and by whom', () => {
    const bench = started();
    bench.pageRequest({ pasid: PASID, access: 0xf, group: 0x155, address: 0xffff_8123_4567_8000n });
    bench.run();
    expect(descriptor(bench, 0)).toEqual([
      1n | (1n << 8n) | (BigInt(RID) << 16n) | (BigInt(PASID) << 32n) | (3n << 52n),
      0xffff_8123_4567_8000n | (0x155n << 3n) | 7n,
      0n,
      0n,
    ]);
    bench.pageRequest({ access: 1, last: false, group: 1, address: 0x5000n });
    bench.run();
    expect(descriptor(bench, 1)).toEqual([1n | (BigInt(RID) << 16n), 0x5009n, 0n, 0n]);
    expect(bench.read64(reg.REG_PQT)).toBe(64n);
    expect(bench.unit.counters.pageRequests).toBe(1);
  });

  test('raises its event once until PPR is cleared', () => {
    const bench = started();
    bench.pageRequest({ pasid: 1 });
    bench.pageRequest({ pasid: 1 });
    bench.run();
    expect(bench.messages).toEqual([{ address: 0xfee00000, data: 0x33 }]);
    expect(bench.read32(reg.REG_PRS)).toBe(reg.PRS_PPR);
    bench.write32(reg.REG_PRS, reg.PRS_PPR);
    bench.pageRequest({ pasid: 1 });
    bench.run();
    expect(bench.messages.length).toBe(2);
  });

  test('wraps, and one place stays free', () => {
    const bench = started();
    for (let i = 0; i < 600; i++) {
      bench.pageRequest({ pasid: 1, group: i & 0x1ff });
      bench.run();
      bench.write64(reg.REG_PQH, bench.read64(reg.REG_PQT));
    }
    expect(bench.read64(reg.REG_PQT)).toBe(BigInt((600 % 256) * 32));
    expect(bench.read32(reg.REG_PRS) & reg.PRS_PRO).toBe(0);
  });

  test('overflow: requests are dropped, the last of a group is answered with success, until PRO is cleared', () => {
    const bench = started();
    for (let i = 0; i < 255; i++) bench.pageRequest({ pasid: 1, group: i });
    bench.run();
    expect(bench.responses).toEqual([]);
    bench.pageRequest({ pasid: 1, group: 300, last: false });
    bench.pageRequest({ pasid: 1, group: 300 });
    bench.pageRequest({ pasid: 1, access: 0, group: 0 });
    bench.run();
    expect(bench.read32(reg.REG_PRS)).toBe(reg.PRS_PPR | reg.PRS_PRO);
    expect(bench.responses).toEqual([{ rid: RID, pasid: 1, group: 300, code: 0 }]);
    bench.write64(reg.REG_PQH, bench.read64(reg.REG_PQT));
    bench.pageRequest({ pasid: 1, group: 301 });
    bench.run();
    expect(bench.responses.length).toBe(2);
    expect(bench.unit.counters).toMatchObject({ pageRequests: 257, pageResponses: 2 });
    bench.write32(reg.REG_PRS, reg.PRS_PRO | reg.PRS_PPR);
    bench.pageRequest({ pasid: 1, group: 302 });
    bench.run();
    expect(bench.responses.length).toBe(2);
    expect(bench.read64(reg.REG_PQT)).toBe(0n);
  });

  test('a wait descriptor with drain completes after what was taken in before', () => {
    const bench = started();
    bench.post([5n | 0x20n | 0x80n | (9n << 32n), STATUS * PAGE]);
    bench.pageRequest({ pasid: 1, group: 7 });
    let seen = -1n;
    while (bench.scheduler.runNext()) {
      if (seen < 0n && bench.get64(STATUS * PAGE) === 9n) seen = bench.read64(reg.REG_PQT);
    }
    expect(seen).toBe(32n);
  });

  test('a queue without memory behind it overflows', () => {
    const bench = started();
    bench.write64(reg.REG_PQA, 0x7000_0000n);
    bench.pageRequest({ pasid: 1 });
    bench.run();
    expect(bench.read32(reg.REG_PRS)).toBe(reg.PRS_PRO);
    expect(bench.responses).toEqual([{ rid: RID, pasid: 1, group: 0, code: 0 }]);
  });
});

describe('requests that never reach the queue', () => {
  test('are answered invalid while translation is off', () => {
    const bench = new Bench();
    bench.pageRequest({ pasid: 1, group: 3 });
    bench.pageRequest({ pasid: 1, group: 3, last: false });
    bench.pageRequest({ pasid: 1, access: 0 });
    expect(bench.responses).toEqual([{ rid: RID, pasid: 1, group: 3, code: 1 }]);
    expect(bench.faults()).toEqual([]);
  });

  test('are answered invalid when page requests are not advertised', () => {
    const bench = started({ features: { pageRequests: false } });
    bench.pageRequest({ pasid: 1 });
    expect(bench.responses.map((response) => response.code)).toEqual([1]);
    bench.write64(reg.REG_PQA, 0x5000n);
    expect(bench.read64(reg.REG_PQA)).toBe(0n);
  });
});
