import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { AccessWidth } from '../../src/memory/mmio.ts';
import { PhysicalMemory } from '../../src/memory/physical-memory.ts';
import type { PageGroupResponse } from '../../src/pci/transaction.ts';
import { Scheduler } from '../../src/scheduler.ts';
import type { VtdInvalidation } from '../../src/vtd/backend.ts';
import { DEFAULT_FEATURES, encodeCap, encodeEcap } from '../../src/vtd/features.ts';
import { VtdRegisterFile } from '../../src/vtd/register-file.ts';
import * as reg from '../../src/vtd/registers.ts';
import { Bench, PAGE, ROOT } from './bench.ts';

describe('capabilities', () => {
  test('say what Linux reads out of them', () => {
    const cap = encodeCap(DEFAULT_FEATURES);
    const ecap = encodeEcap(DEFAULT_FEATURES);
    const field = (value: bigint, high: number, low: number): number =>
      Number((value >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n));
    expect(field(cap, 2, 0)).toBe(6);
    expect(field(cap, 7, 7)).toBe(0);
    expect(field(cap, 12, 8)).toBe(0b1110);
    expect(field(cap, 21, 16) + 1).toBe(57);
    expect(field(cap, 33, 24) * 16).toBe(reg.REG_FRCD);
    expect(field(cap, 37, 34)).toBe(3);
    expect(field(cap, 39, 39)).toBe(1);
    expect(field(cap, 47, 40) + 1).toBe(8);
    expect(field(cap, 53, 48)).toBe(18);
    expect([field(cap, 56, 56), field(cap, 60, 60)]).toEqual([1, 1]);
    expect([5, 6, 3].map((bit) => field(cap, bit, bit))).toEqual([0, 0, 0]);
    expect(field(ecap, 17, 8) * 16).toBe(reg.REG_IVA);
    for (const bit of [0, 1, 2, 3, 4, 6, 7, 26, 29, 31, 34, 40, 42, 43, 45, 46, 47, 48]) {
      expect(field(ecap, bit, bit), `bit ${bit}`).toBe(1);
    }
    expect(field(ecap, 39, 35)).toBe(19);
  });

  test('read back at their places in every width', () => {
    const bench = new Bench({ features: { cachingMode: true } });
    const cap = encodeCap({ ...DEFAULT_FEATURES, cachingMode: true });
    expect(bench.read64(reg.REG_CAP)).toBe(cap);
    expect(bench.unit.registers.read(reg.REG_CAP + 4, 4)).toBe(cap >> 32n);
    expect(bench.unit.registers.read(reg.REG_CAP + 2, 2)).toBe((cap >> 16n) & 0xffffn);
    expect(bench.unit.registers.read(reg.REG_CAP, 1)).toBe(cap & 0xffn);
    expect(bench.read32(reg.REG_VER)).toBe(0x40);
  });

  test('a guest width that no table has is refused', () => {
    expect(() => new Bench({ features: { guestAddressWidth: 46 } })).toThrow(RangeError);
  });
});

describe('global commands', () => {
  test('take effect later, one status bit each', () => {
    const bench = new Bench();
    bench.write32(reg.REG_GCMD, reg.GCMD_QIE);
    expect(bench.read32(reg.REG_GSTS)).toBe(0);
    bench.run();
    expect(bench.read32(reg.REG_GSTS)).toBe(reg.GCMD_QIE);
    bench.command(reg.GCMD_TE);
    expect(bench.read32(reg.REG_GSTS) >>> 0).toBe((reg.GCMD_QIE | reg.GCMD_TE) >>> 0);
    bench.write32(reg.REG_GCMD, reg.GCMD_TE);
    bench.run();
    expect(bench.read32(reg.REG_GSTS) >>> 0).toBe(reg.GCMD_TE >>> 0);
  });

  test('SRTP and SIRTP stay in the status; what is not advertised does nothing', () => {
    const bench = new Bench({ features: { interruptRemapping: false, queuedInvalidation: false } });
    bench.command(reg.GCMD_SRTP | reg.GCMD_SIRTP | reg.GCMD_IRE | reg.GCMD_QIE | reg.GCMD_EAFL | reg.GCMD_WBF);
    expect(bench.read32(reg.REG_GSTS)).toBe(reg.GCMD_SRTP);
    bench.write64(reg.REG_IRTA, 0x1234_5007n);
    bench.write64(reg.REG_IQA, 0x1234_5000n);
    expect(bench.read64(reg.REG_IRTA)).toBe(0n);
    expect(bench.read64(reg.REG_IQA)).toBe(0n);
  });

  test('disabling the queue puts its head back to 0', () => {
    const bench = new Bench();
    bench.enable(1);
    bench.submit([0x11n]);
    expect(bench.read64(reg.REG_IQH)).not.toBe(0n);
    bench.write32(reg.REG_GCMD, reg.GCMD_TE);
    bench.run();
    expect(bench.read64(reg.REG_IQH)).toBe(0n);
  });
});

describe('register-based invalidation', () => {
  function legacy(): { bench: Bench; slot: bigint; context: bigint } {
    const bench = new Bench();
    const root = bench.frame() * PAGE;
    const context = bench.legacyContext(0x0108, root | 1n, 2n | (7n << 8n));
    const slot = bench.map(root, 4, 0x5000n, (50n * PAGE) | 3n, 3n);
    bench.setRoot(0, ROOT * PAGE);
    bench.command(reg.GCMD_TE);
    expect(bench.dma(0x0108, -1, 1, 0x5000n)).toBe(0);
    return { bench, slot, context };
  }

  test.each([
    ['global', 1, 1, 0],
    ['domain', 2, 2, 7],
    ['another domain', 2, 2, 8],
    ['page', 3, 3, 7],
  ])('IOTLB %s reports granularity %i', (_name, granularity, actual, did) => {
    const { bench, slot } = legacy();
    bench.put64(slot, (60n * PAGE) | 3n);
    bench.write64(reg.REG_IVA, 0x5000n);
    bench.write64(reg.REG_IOTLB, (1n << 63n) | (BigInt(granularity) << 60n) | (BigInt(did) << 32n));
    expect(bench.read64(reg.REG_IOTLB) >> 63n).toBe(1n);
    bench.run();
    expect(bench.read64(reg.REG_IOTLB) >> 63n).toBe(0n);
    expect(Number(bench.read64(reg.REG_IOTLB) >> 57n) & 3).toBe(actual);
    bench.dma(0x0108, -1, 1, 0x5000n);
    expect(bench.unit.pfn).toBe(did === 8 ? 50 : 60);
  });

  test.each([
    ['global', 1, 0n],
    ['domain', 2, 7n],
    ['device', 3, 0x0108n << 16n],
  ])('context cache %s', (_name, granularity, fields) => {
    const { bench, context } = legacy();
    bench.put64(context, 0n);
    bench.write64(reg.REG_CCMD, (1n << 63n) | (BigInt(granularity) << 61n) | fields);
    bench.run();
    expect(bench.read64(reg.REG_CCMD) >> 63n).toBe(0n);
    expect(Number(bench.read64(reg.REG_CCMD) >> 59n) & 3).toBe(granularity);
    expect(bench.dma(0x0108, -1, 1, 0x5000n)).not.toBe(0);
  });

  test('does nothing while the queue is enabled', () => {
    const { bench, context } = legacy();
    bench.command(reg.GCMD_QIE);
    bench.put64(context, 0n);
    bench.write64(reg.REG_CCMD, (1n << 63n) | (1n << 61n));
    bench.run();
    expect(Number(bench.read64(reg.REG_CCMD) >> 59n)).toBe(4);
    expect(bench.dma(0x0108, -1, 1, 0x5000n)).toBe(0);
  });
});

test('a register file serves another back end, which finishes invalidations when it likes', () => {
  const memory = new PhysicalMemory({ ramBytes: 1 << 16, reservedBytes: 65536 });
  const scheduler = new Scheduler();
  const pending: { request: VtdInvalidation; done: (completed: boolean) => void }[] = [];
  const calls: unknown[] = [];
  const responses: PageGroupResponse[] = [];
  const messages: number[] = [];
  const file = new VtdRegisterFile({
    features: { ...DEFAULT_FEATURES, cachingMode: true },
    memory,
    scheduler,
    sendMessage: (_lo, _hi, data) => messages.push(data),
    backend: {
      setRootTable: (address, mode) => calls.push(['root', address, mode]),
      setTranslation: (enabled) => calls.push(['translation', enabled]),
      setInterruptTable: () => {},
      setInterruptRemapping: () => {},
      setCompatibilityInterrupts: () => {},
      invalidate: (request, done) => pending.push({ request, done }),
      respond: (response) => responses.push(response),
    },
  });
  const settle = (): void => {
    while (scheduler.runNext());
  };
  file.write(reg.REG_RTADDR, 8, 0x3400n);
  file.write(reg.REG_GCMD, 4, BigInt(reg.GCMD_SRTP));
  settle();
  file.write(reg.REG_GCMD, 4, 0x80000000n);
  file.write(reg.REG_IQA, 8, 0x4800n);
  file.write(reg.REG_GCMD, 4, 0x84000000n);
  settle();
  expect(calls).toEqual([
    ['root', 0x3000n, 1],
    ['translation', true],
  ]);
  memory.store(0x4000, 8, 0x17n | (7n << 16n) | (5n << 32n));
  memory.store(0x4020, 8, 5n | 0x20n | (9n << 32n));
  memory.store(0x4028, 8, 0x8000n);
  file.write(reg.REG_IQT, 8, 0x40n);
  settle();
  expect(pending.map((entry) => entry.request)).toEqual([
    { kind: 'pasid-cache', granularity: 'pasid', did: 7, pasid: 5 },
  ]);
  expect(memory.load(0x8000, 4)).toBe(0n);
  pending[0]!.done(true);
  expect(memory.load(0x8000, 4)).toBe(9n);
  file.recordFault({
    reason: 0x71,
    rid: 8,
    pasid: 5,
    access: 2,
    addressType: 0,
    pageRequest: false,
    addressLow: 0x5abc,
    addressHigh: 1,
  });
  expect(file.read(reg.REG_FRCD, 8)).toBe(0x1_0000_5000n);
  expect(file.read(reg.REG_FRCD + 8, 8)).toBe((1n << 63n) | (5n << 40n) | (0x71n << 32n) | (1n << 31n) | 8n);
});

test('random register accesses never throw or hang', () => {
  const offsets = [0x18, 0x20, 0x28, 0x2c, 0x34, 0x38, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0xb8, 0xc0, 0xc8, 0xd0, 0xdc];
  offsets.push(0xe0, 0xf0, 0xf8, 0xfc, 0x400, 0x40c, 0x47c, 0xffc, 0x1000, 0xfff8);
  const access = fc.record({
    offset: fc.oneof(fc.constantFrom(...offsets), fc.nat(0x1fff)),
    width: fc.constantFrom<AccessWidth>(1, 2, 4, 8),
    value: fc.bigInt(0n, (1n << 64n) - 1n),
    write: fc.boolean(),
    run: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(access, { maxLength: 60 }), (accesses) => {
      const bench = new Bench({ ramBytes: 1 << 16 });
      for (const { offset, width, value, write, run } of accesses) {
        const at = offset - (offset % width);
        const mask = (1n << BigInt(8 * width)) - 1n;
        if (write) bench.unit.registers.write(at, width, value & mask);
        else expect(bench.unit.registers.read(at, width) & ~mask).toBe(0n);
        if (run) for (let i = 0; i < 300 && bench.scheduler.runNext(); i++);
      }
      bench.dma(0x0108, -1, 1, 0x5000n);
      bench.dma(0x0108, 5, 3, 0x5000n);
      bench.pageRequest({ pasid: 5 });
      bench.unit.writeInterrupt(0x0108, 0xfee00030, 0, 0);
      for (let i = 0; i < 300 && bench.scheduler.runNext(); i++);
    }),
    { numRuns: 400 },
  );
});
