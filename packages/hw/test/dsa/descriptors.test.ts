import { describe, expect, test } from 'vitest';
import { DSA_FLAG as FLAG, DSA_OPERATION as OP, DSA_STATUS as STATUS } from '../../src/dsa/descriptor-format.ts';
import { DSA_COMMAND as COMMAND, DSA_REGISTER as REG } from '../../src/dsa/registers.ts';
import { type Descriptor, dsaMachine, PASID, RECORD, RECORD_PFN, RID } from './support.ts';

type Case = [string, number, Descriptor, number?];
const BOTH = FLAG.recordValid | FLAG.requestRecord;
const move: Descriptor = { operation: OP.move, source: 0x10_0000, destination: 0x10_4000, size: 4096 };
const compare: Descriptor = { operation: OP.compare, source: 0x10_0000, destination: 0x10_4000, size: 4096 };
const crc: Descriptor = { operation: OP.crc, source: 0x10_0000, size: 64 };

function setUp(queue = {}) {
  const test = dsaMachine();
  test.mapRecords(PASID).start([{ blockOnFault: false, maxTransferLg2: 16, maxBatchLg2: 4, ...queue }]);
  for (let page = 0; page < 16; page++) test.agent.map(RID, PASID, 0x100 + page, 0x200 + page);
  return test;
}

describe('a descriptor is refused', () => {
  const cases: Case[] = [
    ['with an operation that is reserved', STATUS.operation, { operation: 0x0b }],
    ['with a delta operation', STATUS.operation, { operation: 0x07 }],
    ['with a DIF operation', STATUS.operation, { operation: 0x12 }],
    ['with a cache flush', STATUS.operation, { operation: 0x20 }],
    ['with operation 0xff', STATUS.operation, { operation: 0xff }],
    ['with a fence outside a batch', STATUS.flags, { ...move, flags: BOTH | FLAG.fence }, FLAG.fence],
    [
      'with block on fault in a queue without',
      STATUS.flags,
      { ...move, flags: BOTH | FLAG.blockOnFault },
      FLAG.blockOnFault,
    ],
    ['with a flag of another operation', STATUS.flags, { ...move, flags: BOTH | FLAG.checkResult }, FLAG.checkResult],
    ['with a flag byte of another operation', STATUS.flags, { ...move, flags: BOTH | 0x70000 }, 0x70000],
    ['with reserved flags', STATUS.flags, { ...crc, flags: BOTH | 0xf80040 }, 0xf80040],
    [
      'with cache control and nothing to write',
      STATUS.flags,
      { ...compare, flags: BOTH | FLAG.cacheControl },
      FLAG.cacheControl,
    ],
    [
      'with a result and no record asked for',
      STATUS.flags,
      { ...compare, flags: FLAG.recordValid },
      FLAG.requestRecord,
    ],
    [
      'with an interrupt for the unprivileged',
      STATUS.flags,
      { ...move, flags: BOTH | FLAG.requestInterrupt },
      FLAG.requestInterrupt,
    ],
    ['with a drain readback', STATUS.flags, { operation: OP.drain, flags: BOTH | 0x10000 }, 0x10000],
    ['with word 0 beside PASID and privilege', STATUS.reservedField, { ...move, pasid: 1 << 20 }],
    ['with a word that the operation does not define', STATUS.reservedField, { ...move, rest: [0, 0, 0, 0, 0, 1] }],
    ['with a size that a no-op does not have', STATUS.reservedField, { operation: OP.noop, size: 1 }],
    ['with a destination that CRC does not have', STATUS.reservedField, { ...crc, destination: 1 }],
    ['with a second expected result', STATUS.reservedField, { ...compare, rest: [2] }],
    ['with size 0', STATUS.transferSize, { ...move, size: 0 }],
    ["with a size above the queue's largest", STATUS.transferSize, { ...move, size: 65537 }],
    ['with 0 descriptors in a batch', STATUS.descriptorCount, { operation: OP.batch, source: 0x10_0000, size: 0 }],
    ['with one descriptor in a batch', STATUS.descriptorCount, { operation: OP.batch, source: 0x10_0000, size: 1 }],
    [
      'with more descriptors than the queue takes',
      STATUS.descriptorCount,
      { operation: OP.batch, source: 0x10_0000, size: 17 },
    ],
    ['with a misaligned descriptor list', STATUS.listAlignment, { operation: OP.batch, source: 0x10_0020, size: 2 }],
    [
      'with dualcast destinations at different offsets',
      STATUS.dualcastAlignment,
      { ...move, operation: OP.dualcast, rest: [0x10_8001] },
    ],
    [
      'with dualcast onto its source',
      STATUS.overlap,
      { ...move, operation: OP.dualcast, source: 0x10_4fff, rest: [0x10_8000] },
    ],
    [
      'with dualcast onto its source, second',
      STATUS.overlap,
      { ...move, operation: OP.dualcast, source: 0x10_7001, rest: [0x10_8000] },
    ],
    [
      'with dualcast destinations that overlap',
      STATUS.overlap,
      { ...move, size: 4097, operation: OP.dualcast, rest: [0x10_5000] },
    ],
    ['with dualcast destinations that are one', STATUS.overlap, { ...move, operation: OP.dualcast, rest: [0x10_4000] }],
    ['with copy with CRC onto its source', STATUS.overlap, { ...move, operation: OP.copyCrc, destination: 0x10_0fff }],
    [
      'with a misaligned CRC seed',
      STATUS.addressAlignment,
      { ...crc, flags: BOTH | FLAG.readCrcSeed, rest: [0, 0, 0x10_0002] },
    ],
  ];
  test.each(cases)('%s: status %i', (_name, status, descriptor, invalid = 0) => {
    const { submit, memory, dsa, dsaEvents } = setUp();
    const before = memory.bytes.slice(0x20_0000, 0x21_0000);
    expect(submit(descriptor)).toEqual({ status, result: 0, completed: 0, fault: 0n, detail: invalid });
    expect(Buffer.compare(memory.bytes.subarray(0x20_0000, 0x21_0000), before)).toBe(0);
    expect([dsa.completions, dsa.failures, dsa.faults]).toEqual([1, 1, 0]);
    expect(dsaEvents.at(-1)).toMatchObject({ name: 'dsa_complete', status });
  });

  test('with privilege that the function may not send', () => {
    const test = dsaMachine();
    test.mapRecords(0);
    test.config.pasid(1);
    test.start([{ dedicated: false, threshold: 4 }]);
    test.enqueue(0, { operation: OP.noop, privileged: true });
    test.settle();
    expect(test.read(REG.swerror) & 0xff05).toBe((STATUS.hardware << 8) | 5);
    expect(test.completions()[0]).toMatchObject({ status: STATUS.privileged });
  });
});

describe('SWERROR', () => {
  const error = ({ memory }: ReturnType<typeof setUp>) =>
    [0, 8, 16, 24].map((at) => memory.load(0xd000_0000 + REG.swerror + at, 8));

  test('tells of an error when there is no record to put it in', () => {
    const test = setUp();
    test.submit({ ...move, flags: FLAG.fence });
    expect(error(test)).toEqual([
      BigInt(0b1101 | (STATUS.flags << 8)) | (BigInt((PASID << 8) | OP.move) << 32n),
      BigInt(FLAG.fence) << 32n,
      0n,
      0n,
    ]);
    expect(test.record().status).toBe(0);
    expect(test.dsa.softwareErrors).toBe(1);
  });

  test('tells of a misaligned completion record', () => {
    const test = setUp();
    test.submit({ ...move, record: RECORD + 16 });
    expect(error(test)[0]! & 0xffffn).toBe(BigInt(0b1101 | (STATUS.recordAlignment << 8)));
    expect(test.memory.bytes.subarray(RECORD_PFN * 4096, RECORD_PFN * 4096 + 64).every((byte) => byte === 0)).toBe(
      true,
    );
  });

  test('keeps the first error, counts others as overflow, and is free when VALID is cleared', () => {
    const test = setUp();
    const { submit, write, read } = test;
    submit({ ...move, flags: FLAG.fence });
    submit({ operation: 0x0b, flags: 0 });
    expect(error(test)[0]! & 0xffffn).toBe(BigInt(0b1111 | (STATUS.flags << 8)));
    write(REG.swerror, 2);
    expect(read(REG.swerror) & 3).toBe(1);
    write(REG.swerror, 1);
    expect(error(test)).toEqual([0n, 0n, 0n, 0n]);
    submit({ operation: 0x0b, flags: 0 });
    expect((read(REG.swerror) >>> 8) & 0xff).toBe(STATUS.operation);
  });

  test('interrupts when GENCTRL says so', () => {
    const test = setUp();
    test.writeMsix(0);
    test.submit({ ...move, flags: FLAG.fence });
    expect(test.agent.interrupts).toEqual([]);
    test.write(REG.genctrl, 1);
    test.submit({ ...move, flags: FLAG.fence });
    expect(test.agent.interrupts.length).toBe(1);
    expect(test.read(REG.intcause)).toBe(1);
  });
});

describe('completion interrupts', () => {
  const interrupting = { operation: OP.noop, flags: BOTH | FLAG.requestInterrupt, handle: 2 };
  function user() {
    const test = dsaMachine();
    test.write(REG.gencfg, 1 << 12);
    test.mapRecords(PASID).start([{}]);
    test.writeMsix(2, PASID);
    return test;
  }

  test('of an unprivileged descriptor, where they are allowed', () => {
    const { submit, agent } = user();
    expect(submit(interrupting).status).toBe(STATUS.success);
    expect(agent.interrupts).toEqual([{ rid: RID, address: 0xfee0_0000, data: 0x42 }]);
  });

  test('of a privileged one, anyway', () => {
    const test = dsaMachine();
    test.mapRecords(PASID).start([{ privileged: true }]);
    test.writeMsix(2, PASID);
    expect(test.submit(interrupting).status).toBe(STATUS.success);
    expect(test.agent.interrupts.length).toBe(1);
  });

  test('come with errors too, and without a record', () => {
    const { submit, agent } = user();
    expect(submit({ ...interrupting, size: 1 }).status).toBe(STATUS.reservedField);
    expect(submit({ ...interrupting, flags: FLAG.requestInterrupt }).status).toBe(0);
    expect(agent.interrupts.length).toBe(2);
  });

  test.each([
    ['another PASID', (9 << 12) | 8],
    ['no PASID', 0],
  ])('need a permission: not that of %s', (_name, permission) => {
    const { submit, agent, write } = user();
    write(REG.msixPermissions + 16, permission);
    expect(submit(interrupting).status).toBe(STATUS.interruptHandle);
    expect(agent.interrupts).toEqual([]);
    write(REG.msixPermissions + 16, permission | 4);
    expect(submit(interrupting).status).toBe(STATUS.success);
    expect(agent.interrupts.length).toBe(1);
  });

  test('need a handle that exists, and none of the message storage', () => {
    const { submit, post, settle, record, clearRecord } = user();
    for (const handle of [9, 0xffff]) expect(submit({ ...interrupting, handle }).status).toBe(STATUS.interruptHandle);
    clearRecord();
    post(0, interrupting, 3);
    settle();
    expect(record().status).toBe(STATUS.interruptHandle);
  });

  test('need a granted handle where handles are requested', () => {
    const test = dsaMachine({ interruptHandles: true });
    test.write(REG.gencfg, 1 << 12);
    test.mapRecords(PASID).start([{}]);
    test.writeMsix(2, PASID);
    expect(test.submit(interrupting).status).toBe(STATUS.interruptHandle);
    expect(test.command(COMMAND.requestInterruptHandle, 2)).toBe(2 << 8);
    expect(test.submit(interrupting).status).toBe(STATUS.success);
    test.command(COMMAND.releaseInterruptHandle, 2);
    expect(test.submit(interrupting).status).toBe(STATUS.interruptHandle);
  });
});
