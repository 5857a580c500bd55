import { describe, expect, test } from 'vitest';
import { DSA_OPERATION as OP, DSA_STATUS as STATUS } from '../../src/dsa/descriptor-format.ts';
import { DSA_COMMAND as COMMAND, DSA_PORTAL as PORTAL, DSA_REGISTER as REG } from '../../src/dsa/registers.ts';
import { ACCESS_PRIVILEGED, NO_PASID } from '../../src/pci/transaction.ts';
import { BAR2, dsaMachine, encode, PASID, RECORD_PAGE, RECORD_PFN, RID } from './support.ts';

const NOOP = { operation: OP.noop };

describe('dedicated queues', () => {
  test('take posted writes and give descriptors the PASID of the queue', () => {
    const { mapRecords, submit, agent, config } = dsaMachine();
    config.ats(false);
    mapRecords(PASID).start([{}]);
    expect(submit({ ...NOOP, pasid: 99 }).status).toBe(STATUS.success);
    expect(agent.translations.map(({ pasid }) => pasid)).toEqual([PASID]);
    expect(agent.translations[0]!.access & ACCESS_PRIVILEGED).toBe(0);
  });

  test('without PASID send none', () => {
    const { start, agent, submit, config } = dsaMachine();
    config.ats(false);
    agent.map(RID, NO_PASID, RECORD_PAGE, RECORD_PFN);
    start([{ pasidEnable: false }]);
    expect(submit({ ...NOOP, pasid: 99 }).status).toBe(STATUS.success);
    expect(agent.translations.map(({ pasid }) => pasid)).toEqual([NO_PASID]);
  });

  test('with privilege send it, untranslated or not', () => {
    const { start, agent, submit, config, mapRecords } = dsaMachine();
    config.ats(false);
    mapRecords(PASID);
    start([{ privileged: true }]);
    expect(submit(NOOP).status).toBe(STATUS.success);
    expect(agent.translations[0]!.access & ACCESS_PRIVILEGED).toBe(ACCESS_PRIVILEGED);
  });

  test('drop what comes when they are full, whatever the portal, and Retry a non-posted write', () => {
    const { start, mapRecords, post, enqueue, dsa, read, settle } = dsaMachine();
    mapRecords(PASID);
    start([{ size: 4 }]);
    for (let i = 0; i < 6; i++) post(0, NOOP, i % 4);
    expect([dsa.submitted, dsa.dropped, read(REG.wqcfg + 24) & 0xffff]).toEqual([4, 2, 4]);
    expect(enqueue(0, NOOP)).toBe(false);
    expect(dsa.retried).toBe(1);
    settle();
    expect([dsa.completions, read(REG.wqcfg + 24) & 0xffff, dsa.outstanding]).toEqual([4, 0, 0]);
  });
});

describe('shared queues', () => {
  test('take non-posted writes with PASID and privilege of the descriptor, and drop posted ones', () => {
    const { mapRecords, agent, enqueue, post, settle, record, clearRecord, dsa, config } = dsaMachine();
    config.ats(false);
    mapRecords(7, 8).start([{ dedicated: false, threshold: 8 }]);
    for (const pasid of [7, 8]) {
      clearRecord();
      expect(enqueue(0, { ...NOOP, pasid, privileged: pasid === 8 })).toBe(true);
      settle();
      expect(record().status).toBe(STATUS.success);
    }
    expect(agent.translations.map(({ pasid }) => pasid)).toEqual([7, 8]);
    expect(agent.translations.map(({ access }) => access & ACCESS_PRIVILEGED)).toEqual([0, ACCESS_PRIVILEGED]);
    post(0, NOOP);
    expect(dsa.dropped).toBe(1);
  });

  test('answer Retry at the threshold on a limited portal, at the size on an unlimited one', () => {
    const { start, mapRecords, enqueue, settle, dsa, dsaEvents } = dsaMachine();
    mapRecords(0);
    start([{ dedicated: false, size: 6, threshold: 4 }]);
    const accepted = Array.from({ length: 5 }, () => enqueue(0, NOOP, PORTAL.limited));
    expect(accepted).toEqual([true, true, true, true, false]);
    expect(enqueue(0, NOOP, PORTAL.limitedIms)).toBe(false);
    expect([0, 2, 0].map((portal) => enqueue(0, NOOP, portal))).toEqual([true, true, false]);
    expect(dsaEvents.filter((event) => event.name === 'dsa_submit').map((event) => event.outcome)).toEqual([
      'queued',
      'queued',
      'queued',
      'queued',
      'retry',
      'retry',
      'queued',
      'queued',
      'retry',
    ]);
    settle();
    expect(enqueue(0, NOOP, PORTAL.limited)).toBe(true);
    settle();
    expect(dsa.completions).toBe(7);
  });

  test('have the threshold of now, and at most their size', () => {
    const { start, enqueue, write } = dsaMachine();
    start([{ dedicated: false, size: 2, threshold: 0 }]);
    expect(enqueue(0, NOOP)).toBe(false);
    write(REG.wqcfg + 4, 1);
    expect([enqueue(0, NOOP), enqueue(0, NOOP)]).toEqual([true, false]);
    write(REG.wqcfg + 4, 100);
    expect([enqueue(0, NOOP), enqueue(0, NOOP)]).toEqual([true, false]);
  });
});

describe('portals', () => {
  test('take a descriptor at any multiple of 64 bytes, and nothing narrower', () => {
    const { start, mapRecords, memory, dsa, settle } = dsaMachine();
    mapRecords(PASID);
    start([{}]);
    for (let at = 0; at < 0x1000; at += 0x400) memory.store64(BAR2 + 0x1000 + at, encode(NOOP));
    memory.store(BAR2 + 0x1000, 8, 0n);
    settle();
    expect([dsa.submitted, dsa.dropped, dsa.completions]).toEqual([4, 0, 4]);
  });

  test('of disabled queues, and of queues that do not exist, take nothing', () => {
    const { post, enqueue, dsa, start, command } = dsaMachine({ queues: 3 });
    post(0, NOOP);
    expect([0, 1, 2, 3].map((queue) => enqueue(queue, NOOP))).toEqual([false, false, false, false]);
    start([{}, { dedicated: false, threshold: 4 }]);
    command(COMMAND.disableQueues, 3);
    post(0, NOOP);
    expect(enqueue(1, NOOP)).toBe(false);
    expect([dsa.submitted, dsa.dropped, dsa.retried]).toEqual([0, 2, 4]);
  });
});

describe('arbitration', () => {
  test('gives queues turns in proportion to their priority', () => {
    const { start, mapRecords, post, settle, completions } = dsaMachine({ totalSize: 256 });
    mapRecords(PASID);
    start([
      { size: 60, priority: 1 },
      { size: 60, priority: 5 },
    ]);
    for (let i = 0; i < 60; i++) for (const queue of [0, 1]) post(queue, NOOP);
    settle();
    const order = completions().map(({ queue }) => queue);
    expect(order.slice(0, 60).filter((queue) => queue === 0).length).toBe(10);
    expect(order.length).toBe(120);
    expect(order.indexOf(0)).toBeLessThan(6);
  });

  test('keeps the engines of one group away from the queues of another', () => {
    const test = dsaMachine();
    test.mapRecords(PASID);
    for (const queue of [0, 1]) test.configureQueue(queue, {});
    test.configureGroup(0, 1, 1, 48 << 20);
    test.configureGroup(1, 2, 2, 48 << 20);
    for (const [code, operand] of [
      [1, 0],
      [6, 0],
      [6, 1],
    ] as const)
      expect(test.command(code, operand)).toBe(0);
    test.agent.map(RID, PASID, 0x100, 0x200);
    for (let i = 0; i < 8; i++) test.post(0, { operation: OP.fill, destination: 0x10_0000, size: 4096 });
    test.post(1, NOOP);
    test.settle();
    expect(test.completions().map(({ queue }) => queue)).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test('several engines work at once', () => {
    const busy = (engines: number) => {
      const test = dsaMachine();
      test.mapRecords(PASID).start([{}], engines);
      for (let page = 0; page < 8; page++) test.agent.map(RID, PASID, 0x100 + page, 0x200 + page);
      const begin = test.scheduler.now;
      for (let i = 0; i < 8; i++) test.post(0, { operation: OP.fill, destination: 0x10_0000, size: 32768 });
      test.settle();
      expect(test.dsa.completions).toBe(8);
      return test.scheduler.now - begin;
    };
    expect(busy(1)).toBeGreaterThan(3 * busy(4));
  });
});

describe('Drain descriptors', () => {
  test('complete after everything before them in their queue with their PASID', () => {
    const { mapRecords, start, agent, enqueue, settle, completions } = dsaMachine();
    mapRecords(7, 8);
    start([{ dedicated: false, threshold: 16 }], 4);
    for (const pasid of [7, 8]) for (let page = 0; page < 8; page++) agent.map(RID, pasid, 0x100 + page, 0x200 + page);
    const fill = { operation: OP.fill, destination: 0x10_0000 };
    enqueue(0, { ...fill, size: 32768, pasid: 8 });
    enqueue(0, { ...fill, size: 8192, pasid: 7 });
    enqueue(0, { operation: OP.drain, pasid: 7 });
    enqueue(0, { operation: OP.drain, pasid: 8 });
    settle();
    expect(completions().map(({ pasid, operation }) => [pasid, operation])).toEqual([
      [7, OP.fill],
      [7, OP.drain],
      [8, OP.fill],
      [8, OP.drain],
    ]);
  });

  test('one after the other in an engine each end', () => {
    const { mapRecords, start, post, settle, dsa } = dsaMachine();
    mapRecords(PASID);
    start([{}], 2);
    for (let i = 0; i < 5; i++) post(0, { operation: OP.drain });
    settle();
    expect([dsa.completions, dsa.failures]).toEqual([5, 0]);
  });
});
