import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DSA_COMMAND as COMMAND, DSA_BAR_SIZE, DSA_REGISTER as REG } from '../../src/dsa/registers.ts';
import { COMPLETION_SUCCESS } from '../../src/pci/transaction.ts';
import { answer, BAR0, BAR2, type DsaMachine, dsaMachine, encode, RECORD, RID } from './support.ts';

const ECAM = 0xe000_0000 + RID * 4096;

/** Lets the machine run to its end, answering page requests. @throws when it does not end */
function finish(test: DsaMachine): void {
  for (let round = 0; round < 2000; round++) {
    test.settle();
    if (
      answer(test, (page, write) => ((page ^ round) % 3 === 0 ? null : 0x200 + ((page + Number(write)) & 0xff))) === 0
    )
      return;
  }
  throw new Error('page requests without end');
}

const word = fc.oneof(fc.constantFrom(0, 1, 8, 64, 4096, 0x10_0000, 0x10_1000, -1, RECORD), fc.integer());
const operation = fc.oneof(fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 9, 16, 17), fc.nat(255));
const flags = fc.oneof(
  fc.constantFrom(0x0c, 0x0e, 0x0c, 0x04, 0x1c, 0x00),
  fc.nat(0xffff).map((bits) => bits | 0x0c),
  fc.nat(0xffffff),
);
const size = fc.oneof(fc.constantFrom(1, 2, 3, 4096, 20_000), fc.nat(100), fc.nat(0xffff));
const address = fc.oneof(
  fc.nat(0xf).map((page) => BigInt(0x10_0000 + page * 0x1000)),
  fc.nat(0xffff).map((offset) => BigInt(0x10_0000 + offset)),
  fc.constantFrom(
    0n,
    0xffff_ffff_ffff_f000n,
    0xffff_ffff_ffff_ffffn,
    BigInt(RECORD),
    BigInt(ECAM),
    BigInt(BAR0),
    BigInt(BAR2),
  ),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);
/** Descriptors that are in order as far as the mapping lets them be. */
const plausible = fc
  .record({
    operation: fc.constantFrom(0, 1, 2, 3, 4, 5, 16),
    flags: fc.constantFrom(0x0c, 0x0e),
    page: fc.nat(14),
    other: fc.nat(14),
    offset: fc.nat(4095),
    size: fc.integer({ min: 2, max: 20_000 }),
  })
  .map(({ operation, flags, page, other, offset, size }) => {
    const source = 0x10_0000 + page * 4096 + (operation === 1 ? 0 : offset);
    const destination = 0x10_0000 + other * 4096 + offset;
    const none = operation === 0 || operation === 2;
    return encode({
      operation,
      flags: operation < 3 ? 0x0c : flags,
      source: none ? 0 : source,
      destination: none || operation === 1 || operation === 16 ? 0 : destination,
      size: none ? 0 : operation === 1 ? 2 + (size % 20) : size,
    });
  });
const wild = fc
  .record({
    operation,
    flags,
    pasid: fc.constantFrom(0, 1, 0xfffff),
    privileged: fc.boolean(),
    record: fc.oneof(fc.constantFrom(RECORD, RECORD, RECORD + 32, RECORD + 1, BAR0 + 0xa0), address),
    source: address,
    destination: address,
    size,
    handle: fc.nat(10),
    rest: fc.oneof(fc.constant<number[]>([]), fc.array(word, { maxLength: 6 })),
  })
  .map((fields) => encode(fields));
const descriptor = fc.oneof(plausible, wild);

describe('whatever software does', () => {
  test('random descriptors and batches end, with everything accounted for', () => {
    let completions = 0;
    let successes = 0;
    fc.assert(
      fc.property(
        fc.array(descriptor, { minLength: 1, maxLength: 24 }),
        fc.boolean(),
        fc.boolean(),
        (descriptors, ats, identity) => {
          const test = dsaMachine();
          test.write(REG.gencfg, 1 << 12);
          test.start(
            [
              { dedicated: false, threshold: 32, size: 32 },
              { size: 32, privileged: true },
            ],
            3,
          );
          for (const pasid of [0, 1, 5, 0xfffff]) {
            test.mapRecords(pasid);
            for (let page = 0; page < 12; page++) test.agent.map(RID, pasid, 0x100 + page, 0x200 + page);
          }
          if (!ats) test.config.ats(false);
          if (identity) test.fabric.setAgent(null);
          test.writeMsix(1, 5);
          descriptors.forEach((bytes, index) => test.memory.bytes.set(bytes, 0x20_0000 + 64 * index));
          for (const bytes of descriptors) {
            test.memory.enqueue64(BAR2 + 0x1000, bytes);
            test.memory.store64(BAR2 + 0x5000, bytes);
          }
          finish(test);
          expect(test.dsa.outstanding).toBe(0);
          const own = test.completions().filter(({ batchIndex }) => batchIndex < 0).length;
          expect(own + test.dsa.aborted).toBe(test.dsa.submitted);
          expect(test.dsa.completions).toBe(test.completions().length);
          completions += test.dsa.completions;
          successes += test.dsa.completions - test.dsa.failures;
        },
      ),
      { numRuns: 200 },
    );
    expect(completions).toBeGreaterThan(1000);
    expect(successes).toBeGreaterThan(50);
  });

  test('random register, portal and configuration writes never throw, and a reset puts everything right', () => {
    const value = fc.oneof(fc.bigInt({ min: 0n, max: 0xffffn }), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
    const command = fc.tuple(fc.nat(15), fc.constantFrom(0, 1, 2, 3, 5, 0xfffff)).map(([code, operand]) => ({
      at: BAR0 + REG.cmd,
      width: 4 as const,
      value: BigInt((code << 20) | operand),
    }));
    const access = fc.oneof(
      command,
      fc.record({
        at: fc.oneof(
          fc.nat(0x240).map((index) => BAR0 + 4 * index),
          fc.nat(DSA_BAR_SIZE / 8 - 1).map((index) => BAR0 + 8 * index),
          fc.nat(0x3fff).map((index) => BAR2 + 8 * index),
          fc.constantFrom(ECAM + 4, ECAM + 0x48),
        ),
        width: fc.constantFrom<1 | 2 | 4 | 8>(1, 2, 4, 4, 8),
        value,
      }),
    );
    const step = fc.record({ access, bytes: fc.option(descriptor), queue: fc.nat(3), time: fc.nat(400) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), fc.boolean(), (steps, running) => {
        const test = dsaMachine({ interruptHandles: true });
        if (running) test.start([{ dedicated: false, threshold: 8 }, {}], 2);
        for (let page = 0; page < 12; page++) test.agent.map(RID, 5, 0x100 + page, 0x200 + page);
        for (const { access, bytes, queue, time } of steps) {
          const at = access.at - (access.at % access.width);
          test.memory.store(at, access.width, BigInt.asUintN(8 * access.width, access.value));
          test.memory.load(at, access.width);
          if (bytes !== null) {
            test.memory.store64(BAR2 + queue * 0x4000 + 0x1000, bytes);
            test.memory.enqueue64(BAR2 + queue * 0x4000 + 0x1000, bytes);
          }
          test.scheduler.advance(time);
        }
        test.config.write(test.config.standard().get(0x10)! + 8, 2, 0x8000);
        expect(test.dsa.outstanding).toBe(0);
        test.agent.pageRequests.length = 0;
        test.bring();
        test.mapRecords(5).start([{}]);
        expect(test.submit({ operation: 0 }).status).toBe(1);
      }),
      { numRuns: 150 },
    );
  });

  test('DMA into its own registers, portals and configuration space neither recurses nor throws', () => {
    for (const target of [BAR0 + REG.cmd, BAR0 + REG.msixTable, BAR2 + 0x1000, ECAM + 4, ECAM + 0x48]) {
      for (const pattern of [0n, 0xffff_ffff_ffff_ffffn, 0x8000_8000_8000_8000n, 0x0050_0000_0050_0000n]) {
        const test = dsaMachine();
        test.fabric.setAgent(null);
        test.config.ats(false);
        test.start([{ pasidEnable: false }]);
        test.post(0, { operation: 4, source: pattern, destination: target, size: 8, record: 0x18_0000 });
        test.post(0, { operation: 4, source: pattern, destination: 0x20_0000, size: 8, record: target & ~31 });
        test.settle();
        expect(test.dsa.outstanding).toBe(0);
      }
    }
  });

  test('an interrupt that resets the device in the middle of a completion', () => {
    const test = dsaMachine();
    test.fabric.setAgent(null);
    test.config.ats(false);
    test.start([{ pasidEnable: false, privileged: true }]);
    test.writeMsix(1);
    test.memory.store(BAR0 + REG.msixTable + 16, 8, ECAM + 0x48);
    test.memory.store(BAR0 + REG.msixTable + 24, 4, 0x8000);
    test.post(0, { operation: 0, flags: 0x1c, handle: 1, record: 0x18_0000 });
    test.post(0, { operation: 0, record: 0x18_0020 });
    test.settle();
    expect([test.dsa.completions, test.dsa.outstanding, test.dsa.aborted]).toEqual([1, 0, 2]);
  });

  test('the same seed gives the same trace', () => {
    const run = () => {
      const test = dsaMachine();
      test.start([{ dedicated: false, threshold: 8 }, {}], 3);
      const times: unknown[] = [];
      for (let page = 0; page < 12; page += 2) test.agent.map(RID, 5, 0x100 + page, 0x200 + page);
      test.mapRecords(5);
      for (let i = 0; i < 8; i++) {
        const copy = { operation: 3, source: 0x10_0000, destination: 0x10_4000 + i * 64, size: 9000, flags: 0x0e };
        test.post(1, copy);
        test.enqueue(0, { ...copy, pasid: 5 });
      }
      finish(test);
      times.push(test.scheduler.now, COMPLETION_SUCCESS);
      return JSON.stringify([test.dsaEvents, times], (_key, value) => (typeof value === 'bigint' ? `${value}` : value));
    };
    expect(run()).toBe(run());
  });

  test('a command in the middle of work does not lose it', () => {
    const test = dsaMachine();
    test.mapRecords(5).start([{}]);
    for (let page = 0; page < 12; page++) test.agent.map(RID, 5, 0x100 + page, 0x200 + page);
    for (let i = 0; i < 4; i++) test.post(0, { operation: 4, destination: 0x10_0000, size: 0xc000 });
    expect(test.command(COMMAND.enableDevice)).not.toBe(0);
    test.settle();
    expect(test.dsa.completions).toBe(4);
  });
});
