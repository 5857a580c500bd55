import { describe, expect, test } from 'vitest';
import { DSA_FLAG as FLAG, DSA_OPERATION as OP, DSA_STATUS as STATUS } from '../../src/dsa/descriptor-format.ts';
import { DSA_REGISTER as REG } from '../../src/dsa/registers.ts';
import { answer, type Descriptor, dsaMachine, encode, PASID, RECORD, RECORD_PFN, RID } from './support.ts';

const LIST = 0x11_0000;
const BOTH = FLAG.recordValid | FLAG.requestRecord;
/** A fill of page 0x100 + index with a record of its own. */
const fill = (index: number, flags = BOTH): Descriptor => ({
  operation: OP.fill,
  flags,
  pasid: 77,
  record: RECORD + 32 * (index + 1),
  source: 0x0101_0101_0101_0101n * BigInt(index + 1),
  destination: 0x10_0000 + index * 4096,
  size: 4096,
});

function setUp(queue = {}) {
  const test = dsaMachine();
  test.mapRecords(PASID).start([queue]);
  for (let page = 0; page < 8; page++) test.agent.map(RID, PASID, 0x100 + page, 0x200 + page);
  for (const page of [0x110, 0x111]) test.agent.map(RID, PASID, page, page + 0x100);
  return { ...test, batch, postBatch, statusOf };

  function postBatch(descriptors: Descriptor[], at = LIST) {
    test.clearRecord();
    descriptors.forEach((descriptor, index) => test.memory.bytes.set(encode(descriptor), at + 0x10_0000 + 64 * index));
    test.post(0, { operation: OP.batch, source: at, size: descriptors.length });
  }
  function batch(descriptors: Descriptor[]) {
    postBatch(descriptors);
    test.settle();
    return test.record();
  }
  function statusOf(index: number): number {
    return test.record(RECORD_PFN * 4096 + 32 * (index + 1)).status;
  }
}

describe('batches', () => {
  test('carry out every descriptor with the PASID of the batch, in order', () => {
    const { batch, statusOf, memory, completions, dsa } = setUp();
    expect(batch([fill(0), fill(1), fill(2)])).toEqual({
      status: STATUS.success,
      result: 0,
      completed: 3,
      fault: 0n,
      detail: 0,
    });
    expect([0, 1, 2].map(statusOf)).toEqual([1, 1, 1]);
    expect([0, 1, 2].map((page) => memory.bytes[(0x200 + page) * 4096])).toEqual([1, 2, 3]);
    expect(completions().map(({ batchIndex, pasid }) => [batchIndex, pasid])).toEqual([
      [0, PASID],
      [1, PASID],
      [2, PASID],
      [-1, PASID],
    ]);
    expect(dsa.completions).toBe(4);
  });

  test('go on after a failure, and fail in the end', () => {
    const { batch, statusOf } = setUp();
    const record = batch([fill(0), { ...fill(1), size: 0 }, fill(2)]);
    expect(record).toMatchObject({ status: STATUS.batchFailed, completed: 3 });
    expect([0, 1, 2].map(statusOf)).toEqual([1, STATUS.transferSize, 1]);
  });

  test('stop at a fence after a failure, and only then', () => {
    const { batch, statusOf } = setUp();
    const fenced = fill(2, BOTH | FLAG.fence);
    expect(batch([fill(0), fill(1), fenced, fill(3)])).toMatchObject({ status: STATUS.success, completed: 4 });
    expect(batch([fill(0), { ...fill(1), size: 0 }, fenced, fill(3)])).toMatchObject({
      status: STATUS.batchFailed,
      completed: 2,
    });
    expect([0, 1, 2, 3].map(statusOf)).toEqual([1, STATUS.transferSize, 0, 0]);
  });

  test('count a false predicate as a failure', () => {
    const { batch, statusOf } = setUp();
    const compare = {
      ...fill(1, BOTH | FLAG.checkResult),
      operation: OP.comparePattern,
      source: 0x10_0000,
      destination: 0,
      rest: [1],
    };
    expect(batch([{ ...fill(0), source: 0 }, compare]).status).toBe(STATUS.batchFailed);
    expect(statusOf(1)).toBe(STATUS.falsePredicate);
  });

  test.each([
    ['a batch', { operation: OP.batch, source: LIST, size: 2 }],
    ['a drain', { operation: OP.drain }],
  ])('take no %s inside', (_name, inner) => {
    const { batch, statusOf } = setUp();
    expect(batch([{ ...inner, record: RECORD + 32 }, fill(1)]).status).toBe(STATUS.batchFailed);
    expect([0, 1].map(statusOf)).toEqual([STATUS.operation, 1]);
  });

  test('read a list that crosses a page', () => {
    const { memory, postBatch, settle, record, completions } = setUp();
    memory.bytes.fill(0, 0x21_0000, 0x21_2000);
    postBatch([fill(0), fill(1), fill(2), fill(3)], LIST + 4096 - 128);
    settle();
    expect(record()).toMatchObject({ status: STATUS.success, completed: 4 });
    expect(completions().length).toBe(5);
  });

  test('of which the list faults ask for it where the queue blocks, or end', () => {
    const list = LIST + 4096 - 64;
    const blocking = setUp();
    blocking.agent.unmap(RID, PASID, 0x111);
    blocking.postBatch([fill(0), fill(1)], list);
    blocking.settle();
    expect(blocking.agent.pageRequests[0]).toMatchObject({ pageLow: 0x111, access: 1 });
    answer(blocking, (page) => page + 0x100);
    blocking.settle();
    expect(blocking.record()).toMatchObject({ status: STATUS.success, completed: 2 });

    const refused = setUp();
    refused.agent.unmap(RID, PASID, 0x111);
    refused.postBatch([fill(0), fill(1)], list);
    refused.settle();
    answer(refused, () => null);
    refused.settle();
    expect(refused.record()).toEqual({
      status: STATUS.batchPageFault,
      result: 0,
      completed: 1,
      fault: 0x11_1000n,
      detail: 0,
    });

    const ending = setUp({ blockOnFault: false });
    ending.agent.unmap(RID, PASID, 0x111);
    ending.postBatch([fill(0), fill(1)], list);
    ending.settle();
    expect(ending.record()).toEqual({
      status: STATUS.batchPageFault,
      result: 0,
      completed: 1,
      fault: 0x11_1000n,
      detail: 0,
    });
    expect(ending.statusOf(0)).toBe(STATUS.success);
  });

  test('tell SWERROR which descriptor it is about', () => {
    const { batch, read } = setUp();
    expect(batch([fill(0), fill(1), { ...fill(2, 0), size: 0 }]).status).toBe(STATUS.batchFailed);
    expect(read(REG.swerror) & 0xff1f).toBe((STATUS.transferSize << 8) | 0x1d);
    expect(read(REG.swerror + 8)).toBe(2);
  });

  test('with the most descriptors of the queue', () => {
    const { batch, dsa } = setUp({ maxBatchLg2: 5 });
    expect(batch(Array.from({ length: 32 }, () => fill(0)))).toMatchObject({ status: 1, completed: 32 });
    expect(dsa.completions).toBe(33);
    expect(batch(Array.from({ length: 33 }, () => fill(0))).status).toBe(STATUS.descriptorCount);
  });

  test('block on a page of one of their descriptors', () => {
    const test = setUp();
    test.agent.unmap(RID, PASID, 0x101);
    test.postBatch([fill(0), fill(1, BOTH | FLAG.blockOnFault), fill(2)]);
    test.settle();
    expect(test.dsa.outstanding).toBe(1);
    answer(test, (page) => page + 0x100);
    test.settle();
    expect(test.record()).toMatchObject({ status: STATUS.success, completed: 3 });
  });
});
