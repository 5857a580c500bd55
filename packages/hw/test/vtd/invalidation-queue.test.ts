import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { VtdInvalidation } from '../../src/vtd/backend.ts';
import * as reg from '../../src/vtd/registers.ts';
import { Bench, PAGE, QUEUE, STATUS } from './bench.ts';

const LEGACY = 0;
const SCALABLE = 1;

function started(mode = SCALABLE, options: ConstructorParameters<typeof Bench>[0] = {}, wide = true): Bench {
  const bench = new Bench(options);
  bench.wide = wide;
  bench.enable(mode);
  return bench;
}

function requests(bench: Bench): VtdInvalidation[] {
  return bench.events.flatMap((event) => (event.name === 'invalidate' ? [event.request] : []));
}

describe('descriptors', () => {
  const did = 0x77n << 16n;
  const cases: [string, bigint[], VtdInvalidation][] = [
    ['context cache, global', [0x11n], { kind: 'context-cache', granularity: 'global' }],
    ['context cache, domain', [0x21n | did], { kind: 'context-cache', granularity: 'domain', did: 0x77 }],
    [
      'context cache, device',
      [0x31n | did | (0x1234n << 32n) | (2n << 48n)],
      { kind: 'context-cache', granularity: 'device', did: 0x77, sid: 0x1234, functionMask: 2 },
    ],
    ['PASID cache, domain', [0x07n | did], { kind: 'pasid-cache', granularity: 'domain', did: 0x77 }],
    [
      'PASID cache, PASID',
      [0x17n | did | (0xabcden << 32n)],
      { kind: 'pasid-cache', granularity: 'pasid', did: 0x77, pasid: 0xabcde },
    ],
    ['PASID cache, global', [0x37n], { kind: 'pasid-cache', granularity: 'global' }],
    ['IOTLB, global', [0xd2n], { kind: 'iotlb', granularity: 'global' }],
    ['IOTLB, domain', [0x22n | did], { kind: 'iotlb', granularity: 'domain', did: 0x77 }],
    [
      'IOTLB, pages; the address is aligned down to the mask',
      [0x32n | did, 0x123457000n | 3n],
      { kind: 'iotlb', granularity: 'page', did: 0x77, address: 0x123450000n, sizeLg2: 15, leafOnly: false },
    ],
    [
      'PASID-based IOTLB, PASID',
      [0x26n | did | (5n << 32n)],
      { kind: 'pasid-iotlb', granularity: 'pasid', did: 0x77, pasid: 5 },
    ],
    [
      'PASID-based IOTLB, pages, leaves only',
      [0x36n | did | (5n << 32n), 0xffffffffff000n | 0x40n],
      {
        kind: 'pasid-iotlb',
        granularity: 'page',
        did: 0x77,
        pasid: 5,
        address: 0xffffffffff000n,
        sizeLg2: 12,
        leafOnly: true,
      },
    ],
    [
      'device TLB, one page',
      [0x03n | (0x0108n << 32n), 0x5000n],
      { kind: 'device-tlb', sid: 0x0108, pasid: -1, global: false, address: 0x5000n, sizeLg2: 12 },
    ],
    [
      'device TLB, 8 pages',
      [0x03n | (0x0108n << 32n), 0x13000n | 1n],
      { kind: 'device-tlb', sid: 0x0108, pasid: -1, global: false, address: 0x10000n, sizeLg2: 15 },
    ],
    [
      'device TLB, everything',
      [0x03n | (0x0108n << 32n), 0x7ffffffffffff001n],
      { kind: 'device-tlb', sid: 0x0108, pasid: -1, global: false, address: 0n, sizeLg2: 64 },
    ],
    [
      'PASID-based device TLB',
      [0x08n | (0x0108n << 16n) | (9n << 32n), 0x5000n],
      { kind: 'device-tlb', sid: 0x0108, pasid: 9, global: false, address: 0x5000n, sizeLg2: 12 },
    ],
    [
      'PASID-based device TLB, 2 pages of every PASID',
      [0x08n | (0x0108n << 16n) | (9n << 32n), 0x4801n],
      { kind: 'device-tlb', sid: 0x0108, pasid: 9, global: true, address: 0x4000n, sizeLg2: 13 },
    ],
    ['interrupt entries, global', [0x04n], { kind: 'interrupt-entry-cache', granularity: 'global' }],
    [
      'interrupt entries by index',
      [0x14n | (2n << 27n) | (0x47n << 32n)],
      { kind: 'interrupt-entry-cache', granularity: 'index', index: 0x44, count: 4 },
    ],
  ];
  test.each(cases)('%s', (_name, words, request) => {
    const bench = started();
    expect(bench.submit(words)).toBe(true);
    expect(requests(bench)).toEqual([request]);
    expect(bench.unit.counters.invalidations[request.kind]).toBe(1);
  });

  test('a page-group response goes to its function', () => {
    const bench = started();
    expect(bench.submit([0x09n | 0x10n | (1n << 12n) | (0x0108n << 16n) | (33n << 32n), 5n << 3n])).toBe(true);
    expect(bench.responses).toEqual([{ rid: 0x0108, pasid: 33, group: 5, code: 1 }]);
    bench.submit([0x09n | (0x0108n << 16n) | (33n << 32n)]);
    expect(bench.responses[1]).toEqual({ rid: 0x0108, pasid: -1, group: 0, code: 0 });
  });

  test('128-bit descriptors in legacy mode', () => {
    const bench = started(LEGACY, {}, false);
    expect(bench.submit([0x11n], [0xd2n])).toBe(true);
    expect(requests(bench).map((request) => request.kind)).toEqual(['context-cache', 'iotlb']);
    expect(bench.read64(reg.REG_IQH)).toBe(48n);
  });

  test.each([
    [true, LEGACY],
    [true, SCALABLE],
    [false, LEGACY],
  ])('the queue wraps: wide %s, mode %i', (wide, mode) => {
    const bench = started(mode, {}, wide);
    for (let i = 0; i < 700; i++) expect(bench.submit([0x11n])).toBe(true);
    expect(requests(bench).length).toBe(700);
  });
});

describe('errors stop the queue at the descriptor that caused them', () => {
  const cases: [string, number, (bench: Bench) => void][] = [
    ['1 tail beyond the queue', reg.IQEI_INVALID_TAIL, (b) => b.write64(reg.REG_IQT, 0x4000n)],
    ['3 type 0', reg.IQEI_INVALID_TYPE, (b) => b.post([0n])],
    ['3 type 10', reg.IQEI_INVALID_TYPE, (b) => b.post([10n])],
    ['3 type 0x15: high type bits', reg.IQEI_INVALID_TYPE, (b) => b.post([0x205n])],
    ['4 reserved bit of word 0', reg.IQEI_RESERVED_FIELD, (b) => b.post([0x51n])],
    ['4 reserved second half', reg.IQEI_RESERVED_FIELD, (b) => b.post([0x11n, 0n, 0n, 1n])],
    ['4 granularity 0', reg.IQEI_RESERVED_FIELD, (b) => b.post([0x02n])],
    ['4 PASID-cache granularity 2', reg.IQEI_RESERVED_FIELD, (b) => b.post([0x27n])],
    ['4 address mask beyond MAMV', reg.IQEI_RESERVED_FIELD, (b) => b.post([0x32n, 19n])],
    ['6 misaligned tail', reg.IQEI_TAIL_MISALIGNED, (b) => b.write64(reg.REG_IQT, 0x30n)],
  ];
  test.each(cases)('IQEI %s', (_name, info, cause) => {
    const bench = started();
    const head = bench.read64(reg.REG_IQH);
    cause(bench);
    bench.run();
    expect(bench.read32(reg.REG_FSTS)).toBe(reg.FSTS_IQE);
    expect(bench.read32(reg.REG_IQERCD)).toBe(info);
    expect(bench.read64(reg.REG_IQH)).toBe(head);
    expect(bench.messages).toEqual([{ address: 0xfee00000, data: 0x31 }]);
  });

  test('IQEI 2 descriptor that cannot be fetched', () => {
    const bench = new Bench();
    bench.write64(reg.REG_IQA, 0x7000_0000n | 0x800n);
    bench.command(reg.GCMD_QIE);
    bench.write64(reg.REG_IQT, 32n);
    bench.run();
    expect(bench.read32(reg.REG_IQERCD)).toBe(reg.IQEI_FETCH_ERROR);
  });

  test('IQEI 5 narrow descriptors under a scalable root table', () => {
    const bench = started(SCALABLE, {}, false);
    bench.post([0x11n]);
    bench.run();
    expect(bench.read32(reg.REG_IQERCD)).toBe(reg.IQEI_INVALID_WIDTH);
  });

  test('IQEI 5 wide descriptors without scalable mode', () => {
    const bench = started(LEGACY, { features: { scalableMode: false } });
    bench.post([0x11n]);
    bench.run();
    expect(bench.read32(reg.REG_IQERCD)).toBe(reg.IQEI_INVALID_WIDTH);
  });

  test.each([
    ['PASID cache', 0x37n],
    ['PASID-based IOTLB', 0x26n],
  ])('IQEI 7 %s under a legacy root table', (_name, word) => {
    const bench = started(LEGACY);
    bench.post([word]);
    bench.run();
    expect(bench.read32(reg.REG_IQERCD)).toBe(reg.IQEI_INVALID_TTM);
  });

  test.each([
    ['device TLB', { deviceTlb: false }, 0x03n],
    ['interrupt entry cache', { interruptRemapping: false }, 0x04n],
    ['page-group response', { pageRequests: false }, 0x09n],
    ['PASID cache', { scalableMode: false }, 0x37n],
    ['PASID-based device TLB', { pasid: false }, 0x08n],
  ])('IQEI 3 %s when it is not advertised', (_name, features, word) => {
    const bench = started(LEGACY, { features }, false);
    bench.post([word]);
    bench.run();
    expect(bench.read32(reg.REG_IQERCD)).toBe(reg.IQEI_INVALID_TYPE);
  });

  test('IQEI 4 page-request drain when it is not advertised', () => {
    const bench = started(SCALABLE, { features: { pageRequestDrain: false } });
    bench.post([0x85n]);
    bench.run();
    expect(bench.read32(reg.REG_IQERCD)).toBe(reg.IQEI_RESERVED_FIELD);
  });

  test('software repairs the descriptor, clears IQE, and the queue goes on without a new tail', () => {
    const bench = started();
    bench.post([0x51n], [0xd2n]);
    bench.run();
    expect(requests(bench)).toEqual([]);
    bench.put64(QUEUE * PAGE, 0x11n);
    bench.write32(reg.REG_FSTS, reg.FSTS_IQE);
    bench.run();
    expect(requests(bench).map((request) => request.kind)).toEqual(['context-cache', 'iotlb']);
    expect(bench.read32(reg.REG_FSTS)).toBe(0);
    expect(bench.read64(reg.REG_IQH)).toBe(64n);
  });
});

describe('wait descriptors', () => {
  const wait = (flags: bigint, data: bigint, address = STATUS * PAGE): bigint[] => [
    5n | flags | (data << 32n),
    address,
  ];
  const DEVICE = [0x03n | (0x0108n << 32n), 0x5000n];
  const SW = 0x20n;

  test('write the status and raise the event once until IWC is cleared', () => {
    const bench = started();
    bench.post(wait(SW | 0x10n, 0xfeedn), wait(0x10n, 0n));
    bench.run();
    expect(bench.get64(STATUS * PAGE)).toBe(0xfeedn);
    expect(bench.messages).toEqual([{ address: 0xfee00000, data: 0x32 }]);
    expect(bench.read32(reg.REG_ICS)).toBe(1);
    bench.write32(reg.REG_ICS, 1);
    bench.post(wait(0x10n, 0n));
    bench.run();
    expect(bench.messages.length).toBe(2);
  });

  test('raise no interrupt where the event address is outside the interrupt range', () => {
    const bench = started();
    bench.write32(reg.REG_IEADDR, 0x1000);
    bench.post(wait(0x10n, 0n));
    bench.run();
    expect(bench.messages).toEqual([]);
    expect([bench.read32(reg.REG_ICS), bench.read32(reg.REG_IECTL)]).toEqual([1, 0]);
  });

  test('complete after the invalidations before them, whatever comes after', () => {
    const bench = started();
    const finish: ((completed: boolean) => void)[] = [];
    bench.answer = (done) => finish.push(done);
    bench.post(DEVICE, wait(SW, 1n), DEVICE, wait(SW, 2n, STATUS * PAGE + 8n));
    bench.run();
    expect(finish.length).toBe(2);
    finish[1]!(true);
    bench.run();
    expect(bench.get64(STATUS * PAGE + 8n)).toBe(0n);
    finish[0]!(true);
    bench.run();
    expect(bench.get64(STATUS * PAGE)).toBe(1n);
    expect(bench.get64(STATUS * PAGE + 8n)).toBe(2n);
  });

  test('with a fence hold back what comes after them', () => {
    const bench = started();
    const finish: ((completed: boolean) => void)[] = [];
    bench.answer = (done) => finish.push(done);
    bench.post(DEVICE, wait(SW | 0x40n, 1n), [0x11n]);
    bench.run();
    expect(requests(bench).map((request) => request.kind)).toEqual(['device-tlb']);
    finish[0]!(true);
    bench.run();
    expect(requests(bench).map((request) => request.kind)).toEqual(['device-tlb', 'context-cache']);
    expect(bench.get64(STATUS * PAGE)).toBe(1n);
  });

  test.each([
    ['invalidations', DEVICE],
    ['wait descriptors', wait(SW, 1n)],
  ])('no more than 256 %s are in flight; the rest stay in the queue', (_, descriptor) => {
    const bench = started();
    const finish: ((completed: boolean) => void)[] = [];
    bench.answer = (done) => finish.push(done);
    bench.post(DEVICE, ...new Array<bigint[]>(400).fill(descriptor), wait(SW, 0xfeedn, STATUS * PAGE + 8n));
    bench.run();
    expect(bench.read64(reg.REG_IQH)).toBe(256n * 32n);
    while (finish.length > 0) {
      finish.shift()!(true);
      bench.run();
    }
    expect(bench.read64(reg.REG_IQH)).toBe(402n * 32n);
    expect(bench.get64(STATUS * PAGE + 8n)).toBe(0xfeedn);
  });

  test('a status address without memory behind it is lost, not fatal', () => {
    const bench = started();
    bench.post(wait(SW, 1n, 0x7000_0000n), [0x11n]);
    bench.run();
    expect(bench.read32(reg.REG_FSTS)).toBe(0);
    expect(requests(bench).length).toBe(1);
  });

  test('a device-TLB time-out sets ITE, aborts the wait and stops the queue until ITE is cleared', () => {
    const bench = started();
    bench.answer = (done) => bench.scheduler.schedule(1000, () => done(false));
    bench.post(DEVICE, wait(SW, 1n));
    bench.run();
    expect(bench.read32(reg.REG_FSTS)).toBe(reg.FSTS_ITE);
    expect(Number(bench.read64(reg.REG_IQERCD) >> 32n) & 0xffff).toBe(0x0108);
    expect(bench.messages).toEqual([{ address: 0xfee00000, data: 0x31 }]);
    bench.post([0x11n]);
    bench.run();
    expect(bench.get64(STATUS * PAGE)).toBe(0n);
    expect(requests(bench).length).toBe(1);
    bench.write32(reg.REG_FSTS, reg.FSTS_ITE);
    expect(bench.submit([0x11n])).toBe(true);
    expect(requests(bench).length).toBe(3);
  });
});

test('random bytes in the queue never throw, hang or reach beyond memory', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.bigInt(0n, (1n << 64n) - 1n), fc.bigInt(0n, (1n << 64n) - 1n)), { maxLength: 40 }),
      fc.array(fc.nat(15), { minLength: 40, maxLength: 40 }),
      fc.nat(0x7ffff),
      fc.boolean(),
      (words, types, tail, wide) => {
        const bench = started(wide ? SCALABLE : LEGACY, {}, wide);
        const size = wide ? 4n : 2n;
        words.forEach(([low, high], i) => {
          const at = QUEUE * PAGE + 8n * size * BigInt(i);
          // Half of them are valid but for their reserved bits, so that they are executed too.
          const type = BigInt(types[i]!);
          bench.put64(at, type < 10n ? (low & 0xffff0030n) | type : low);
          bench.put64(at + 8n, type < 10n ? high & ~0xfffn : high);
        });
        bench.write64(reg.REG_IQT, BigInt(tail));
        for (let i = 0; i < 50; i++) {
          bench.run();
          if (bench.read32(reg.REG_FSTS) === 0) break;
          const head = bench.read64(reg.REG_IQH);
          bench.put64(QUEUE * PAGE + (head & 0x3fffn), 0x11n);
          bench.put64(QUEUE * PAGE + (head & 0x3fffn) + 8n, 0n);
          bench.write32(reg.REG_FSTS, -1);
        }
      },
    ),
    { numRuns: 300 },
  );
});
