import { describe, expect, test } from 'vitest';
import { DSA_FLAG as FLAG, DSA_OPERATION as OP } from '../../src/dsa/descriptor-format.ts';
import { DSA_COMMAND as COMMAND, DSA_REGISTER as REG } from '../../src/dsa/registers.ts';
import { answer, type DsaMachine, dsaMachine, encode, PASID, RECORD, RID } from './support.ts';

const BLOCK = FLAG.recordValid | FLAG.requestRecord | FLAG.blockOnFault;
const LIST = 0x11_0000;

/**
 * A shared and a dedicated queue with a blocked copy, a batch, a drain, and more in line. One page of the copy and one
 * of the batch are missing.
 */
function load(): DsaMachine {
  const test = dsaMachine({ chunkBytes: 4096 });
  test.mapRecords(PASID).start([{ dedicated: false, threshold: 16 }, {}], 2);
  for (let page = 0; page < 16; page++) if (page !== 3) test.agent.map(RID, PASID, 0x100 + page, 0x200 + page);
  test.agent.map(RID, PASID, 0x110, 0x210);
  const fill = { operation: OP.fill, destination: 0x10_0000, size: 0x2000, record: RECORD + 64 };
  [fill, { ...fill, destination: 0x10_2000, flags: BLOCK }, fill].forEach((inner, index) => {
    test.memory.bytes.set(encode(inner), 0x21_0000 + 64 * index);
  });
  const copy = { operation: OP.move, source: 0x10_0000, destination: 0x10_8000, size: 0x4000, flags: BLOCK };
  test.enqueue(0, { ...copy, pasid: PASID });
  test.post(1, { operation: OP.batch, source: LIST, size: 3 });
  test.post(1, { operation: OP.drain });
  test.enqueue(0, { ...copy, pasid: PASID });
  test.post(1, { ...copy, size: 0x2000 });
  return test;
}

type Ending = { end: (test: DsaMachine) => void; bringBack: (test: DsaMachine) => void };

const again = (test: DsaMachine) => {
  test.start([{ dedicated: false, threshold: 16 }, {}], 2);
};
const resetAndStart = (test: DsaMachine) => {
  test.command(COMMAND.resetDevice);
  again(test);
};
const flr = ({ config }: DsaMachine) => config.write(config.standard().get(0x10)! + 8, 2, 0x8000);

const ENDINGS: [string, Ending][] = [
  ['Abort All', { end: (test) => test.command(COMMAND.abortAll, 0, 250), bringBack: () => {} }],
  ['Abort WQ', { end: (test) => test.command(COMMAND.abortQueues, 3, 250), bringBack: () => {} }],
  ['Abort PASID', { end: (test) => test.command(COMMAND.abortPasid, PASID, 250), bringBack: () => {} }],
  ['Reset WQ', { end: (test) => test.command(COMMAND.resetQueues, 3, 250), bringBack: resetAndStart }],
  ['Reset Device', { end: (test) => test.command(COMMAND.resetDevice, 0, 250), bringBack: again }],
  [
    'function-level reset',
    {
      end: flr,
      bringBack: (test) => {
        test.bring();
        again(test);
      },
    },
  ],
  [
    'no bus master',
    {
      end: ({ config }) => config.write(4, 2, 2),
      bringBack: (test) => {
        flr(test);
        test.bring();
        again(test);
      },
    },
  ],
];

/** Runs up to `steps` events, answering page requests when nothing else is due; false when there were fewer. */
function advance(test: DsaMachine, steps: number): boolean {
  for (let step = 0; step < steps; step++) {
    if (test.scheduler.runNext()) continue;
    if (answer(test, (page) => page + 0x100) === 0) return false;
  }
  return true;
}

describe.each(ENDINGS)('%s', (_name, { end, bringBack }) => {
  test('at every step leaves nothing under way, writes nothing more, and the device works afterwards', () => {
    let steps = 0;
    for (; ; steps++) {
      const test = load();
      if (!advance(test, steps)) break;
      end(test);
      expect(test.dsa.outstanding, `after ${steps} steps`).toBe(0);
      const done = test.dsa.completions;
      const memory = test.memory.bytes.slice(0x18_0000, 0x22_0000);
      test.settle();
      answer(test, (page) => page + 0x100);
      test.settle();
      expect([test.dsa.completions, test.dsa.outstanding]).toEqual([done, 0]);
      expect(Buffer.compare(test.memory.bytes.subarray(0x18_0000, 0x22_0000), memory)).toBe(0);
      bringBack(test);
      test.clearRecord();
      test.post(1, { operation: OP.fill, source: 0x77, destination: 0x10_4000, size: 64 });
      test.settle();
      expect(test.record().status, `after ${steps} steps`).toBe(1);
      expect(test.dsa.pri!.outstanding).toBe(0);
    }
    expect(steps).toBeGreaterThan(40);
  });
});

describe('page responses that come late', () => {
  test('do not move the work that came after', () => {
    const test = load();
    test.settle();
    expect(test.agent.pageRequests.length).toBe(2);
    const late = test.agent.pageRequests.splice(0);
    test.command(COMMAND.abortAll);
    const fill = { operation: OP.fill, source: 0x55, destination: 0x10_3000, size: 64, flags: BLOCK };
    test.post(1, fill);
    test.post(1, { ...fill, destination: 0x10_3040 });
    test.settle();
    expect([test.agent.pageRequests.length, test.dsa.outstanding]).toEqual([2, 2]);
    const { completions } = test.dsa;
    test.agent.map(RID, PASID, 0x103, 0x203);
    for (const { group } of late) test.fabric.respond({ rid: RID, pasid: PASID, group, code: 1 });
    test.settle();
    expect(test.dsa.outstanding).toBe(2);
    answer(test, (page) => page + 0x100);
    test.settle();
    expect([test.dsa.outstanding, test.dsa.completions - completions, test.dsa.failures]).toEqual([0, 2, 0]);
  });

  test('are unexpected after a function-level reset, and harmless', () => {
    const test = load();
    test.settle();
    const late = test.agent.pageRequests.splice(0);
    flr(test);
    test.bring();
    for (const { group } of late) test.fabric.respond({ rid: RID, pasid: PASID, group, code: 0 });
    test.settle();
    expect(test.dsa.outstanding).toBe(0);
    const pri = test.config.extended().get(0x13)!;
    expect(test.config.read(pri + 6, 2) & 2).toBe(2);
  });
});

test('an unplugged device stops', () => {
  const test = load();
  advance(test, 6);
  test.fabric.unplug(test.dsa);
  expect(test.dsa.outstanding).toBe(0);
  const done = test.dsa.completions;
  test.settle();
  expect(test.dsa.completions).toBe(done);
});

test('a drained process leaves: Drain PASID ends when its faults are answered with failure', () => {
  const test = load();
  test.write(REG.cmd, (COMMAND.drainPasid << 20) | PASID);
  for (let i = 0; i < 20; i++) {
    test.settle();
    answer(test, () => null);
  }
  expect(test.read(REG.cmdsts)).toBe(0);
  expect([test.dsa.outstanding, test.dsa.completions]).toEqual([0, 8]);
});
