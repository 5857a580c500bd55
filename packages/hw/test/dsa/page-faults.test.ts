import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DSA_FLAG as FLAG, DSA_OPERATION as OP, DSA_STATUS as STATUS } from '../../src/dsa/descriptor-format.ts';
import { DSA_REGISTER as REG } from '../../src/dsa/registers.ts';
import {
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  COMPLETION_ABORT,
  PRG_INVALID_REQUEST,
  PRG_RESPONSE_FAILURE,
  PRG_SUCCESS,
} from '../../src/pci/transaction.ts';
import { answer, type Descriptor, dsaMachine, PASID, RECORD_PAGE, RECORD_PFN, RID } from './support.ts';

const BOTH = FLAG.recordValid | FLAG.requestRecord;
const BLOCK = BOTH | FLAG.blockOnFault;
const WRITE = 0x80;
/** Source pages 0x100..0x103, destination pages 0x140..0x143, in the frames 0x100 above. */
const SOURCE = 0x10_0000;
const DESTINATION = 0x14_0000;
const copy: Descriptor = { operation: OP.move, source: SOURCE, destination: DESTINATION, size: 0x4000 };

function setUp(missing: number[] = [], queue = {}) {
  const test = dsaMachine({ chunkBytes: 8192 });
  test.mapRecords(PASID).start([queue]);
  for (let page = 0; page < 4; page++) {
    for (const at of [0x100, 0x140]) {
      if (!missing.includes(at + page)) test.agent.map(RID, PASID, at + page, at + 0x100 + page);
    }
  }
  for (let i = 0; i < 0x4000; i++) test.memory.bytes[0x20_0000 + i] = (i * 7 + (i >> 8)) | 1;
  return { ...test, copied, resolve };

  /** Bytes of the destination that equal the source, from the start. */
  function copied(): number {
    for (let i = 0; i < 0x4000; i++)
      if (test.memory.bytes[0x20_0000 + i] !== test.memory.bytes[0x24_0000 + i]) return i;
    return 0x4000;
  }
  /** Runs to the end, filling in each page that is asked for. Gives the number of page requests. */
  function resolve(): number {
    let requests = 0;
    for (;;) {
      test.settle();
      const answered = answer(test, (page) => page + 0x100);
      if (answered === 0) return requests;
      requests += answered;
    }
  }
}

describe('without block on fault', () => {
  test.each([
    ['the first source page', 0x100, 0, 0x10_0000n, STATUS.pageFault],
    ['the last source page', 0x103, 0x3000, 0x10_3000n, STATUS.pageFault],
    ['the first destination page', 0x140, 0, 0x14_0000n, STATUS.pageFault | WRITE],
    ['a destination page', 0x142, 0x2000, 0x14_2000n, STATUS.pageFault | WRITE],
  ])('%s missing ends the copy there', (_name, page, completed, fault, status) => {
    const { submit, copied, agent, dsa } = setUp([page]);
    expect(submit({ ...copy, flags: BOTH })).toEqual({ status, result: 0, completed, fault, detail: 0 });
    expect(copied()).toBe(completed);
    expect(agent.pageRequests).toEqual([]);
    expect([dsa.faults, dsa.blocked, dsa.failures]).toEqual([1, 0, 1]);
  });

  test('a read-only destination is a write fault', () => {
    const { submit, agent } = setUp();
    agent.map(RID, PASID, 0x141, 0x241, ACCESS_READ);
    expect(submit(copy)).toMatchObject({ status: STATUS.pageFault | WRITE, completed: 0x1000, fault: 0x14_1000n });
  });

  test('the fault address is that of the first byte not reached, and software can go on there', () => {
    const { submit, agent, memory } = setUp([0x101]);
    const first = submit({ ...copy, source: SOURCE + 0x10, destination: DESTINATION + 0x10, size: 0x3000 });
    expect(first).toMatchObject({ status: STATUS.pageFault, completed: 0xff0, fault: 0x10_1000n });
    agent.map(RID, PASID, 0x101, 0x201);
    const size = 0x3000 - first.completed;
    const at = 0x10 + first.completed;
    expect(submit({ ...copy, source: SOURCE + at, destination: DESTINATION + at, size }).status).toBe(STATUS.success);
    const part = (start: number) => memory.bytes.subarray(start + 0x10, start + 0x3010);
    expect(Buffer.compare(part(0x20_0000), part(0x24_0000))).toBe(0);
  });

  test('a move from the end tells so, and keeps its start when it goes on', () => {
    const { submit, agent, memory } = setUp([0x101]);
    const before = memory.bytes.slice(0x20_0000, 0x20_3000);
    const descriptor = { ...copy, destination: SOURCE + 0x800, size: 0x3000 };
    const first = submit(descriptor);
    expect(first).toMatchObject({ status: STATUS.pageFault, result: 1, completed: 0x1000, fault: 0x10_1800n });
    agent.map(RID, PASID, 0x101, 0x201);
    expect(submit({ ...descriptor, size: 0x3000 - first.completed })).toMatchObject({
      status: STATUS.success,
      result: 0,
    });
    expect(Buffer.compare(memory.bytes.subarray(0x20_0800, 0x20_3800), before)).toBe(0);
  });

  test('a comparison, a CRC and a dualcast end at the fault', () => {
    const { submit, memory } = setUp([0x102, 0x143]);
    memory.bytes.copyWithin(0x24_0000, 0x20_0000, 0x20_4000);
    const compare = submit({ ...copy, operation: OP.compare });
    expect(compare).toEqual({ status: STATUS.pageFault, result: 0, completed: 0x2000, fault: 0x10_2000n, detail: 0 });
    const crc = submit({ operation: OP.crc, source: SOURCE, size: 0x4000 });
    const part = submit({ operation: OP.crc, source: SOURCE, size: 0x2000 });
    expect(crc).toMatchObject({ status: STATUS.pageFault, completed: 0x2000, detail: part.detail });
    const dualcast = { ...copy, operation: OP.dualcast, size: 0x1000, rest: [DESTINATION + 0x3000] };
    expect(submit(dualcast)).toMatchObject({ status: STATUS.pageFault | WRITE, completed: 0, fault: 0x14_3000n });
  });

  test('a CRC seed that is not there is a fault before the first byte', () => {
    const { submit } = setUp();
    const crc = { operation: OP.crc, source: SOURCE, size: 64, flags: BOTH | FLAG.readCrcSeed, rest: [0, 0, 0x9_0000] };
    expect(submit(crc)).toMatchObject({ status: STATUS.pageFault, completed: 0, fault: 0x9_0000n });
  });
});

describe('with block on fault', () => {
  test('every missing page is asked for, and the copy is whole', () => {
    const { post, resolve, record, copied, dsa, dsaEvents, events } = setUp([0x101, 0x103, 0x140, 0x143]);
    post(0, { ...copy, flags: BLOCK });
    expect(resolve()).toBe(4);
    expect(record()).toEqual({ status: STATUS.success, result: 0, completed: 0, fault: 0n, detail: 0 });
    expect(copied()).toBe(0x4000);
    expect([dsa.faults, dsa.blocked]).toEqual([4, 4]);
    const asked = events
      .filter((event) => event.name === 'page_request')
      .map(({ iova, access, pasid }) => [iova, access, pasid]);
    expect(asked).toEqual([
      [0x14_0000n, ACCESS_WRITE, PASID],
      [0x10_1000n, ACCESS_READ, PASID],
      [0x10_3000n, ACCESS_READ, PASID],
      [0x14_3000n, ACCESS_WRITE, PASID],
    ]);
    expect(dsaEvents.filter((event) => event.name === 'dsa_fault').every((event) => event.blocked)).toBe(true);
  });

  test('a privileged descriptor asks with privilege', () => {
    const { post, settle, agent } = setUp([0x100], { privileged: true });
    post(0, { ...copy, flags: BLOCK });
    settle();
    expect(agent.pageRequests[0]!.access).toBe(ACCESS_READ | ACCESS_PRIVILEGED);
  });

  test.each([
    ['an invalid request', PRG_INVALID_REQUEST, STATUS.pageResponse],
    ['a response failure', PRG_RESPONSE_FAILURE, STATUS.translation],
  ])('%s ends the copy', (_name, code, status) => {
    const { post, settle, record, copied, agent, fabric } = setUp([0x102]);
    post(0, { ...copy, flags: BLOCK });
    settle();
    const { group } = agent.pageRequests[0]!;
    fabric.respond({ rid: RID, pasid: PASID, group, code });
    settle();
    expect(record()).toEqual({ status, result: 0, completed: 0x2000, fault: 0x10_2000n, detail: 0 });
    expect(copied()).toBe(0x2000);
  });

  test('an invalid request for a write sets the write bit', () => {
    const test = setUp([0x142]);
    test.post(0, { ...copy, flags: BLOCK });
    test.settle();
    answer(test, () => null);
    test.settle();
    expect(test.record()).toMatchObject({ status: STATUS.pageResponse | WRITE, fault: 0x14_2000n });
  });

  test('a descriptor may wait for any number of pages', () => {
    const test = dsaMachine();
    test.mapRecords(PASID).start([{}]);
    test.post(0, { operation: OP.fill, destination: SOURCE, size: 40 * 4096, flags: BLOCK });
    let requests = 0;
    for (let round = 0; round < 50; round++) {
      test.settle();
      requests += answer(test, (page) => page + 0x100);
    }
    expect([requests, test.record().status]).toEqual([40, STATUS.success]);
  });

  test('a page that never comes, though promised, ends the copy after a while', () => {
    const test = setUp([0x102]);
    test.post(0, { ...copy, flags: BLOCK });
    let promises = 0;
    for (let i = 0; i < 100; i++) {
      test.settle();
      for (const { group } of test.agent.pageRequests.splice(0)) {
        promises++;
        test.fabric.respond({ rid: RID, pasid: PASID, group, code: PRG_SUCCESS });
      }
    }
    expect(promises).toBe(16);
    expect(test.record()).toMatchObject({ status: STATUS.pageResponse, completed: 0x2000 });
  });

  test('without PRI it is a fault as without the flag', () => {
    const test = dsaMachine();
    const pri = test.config.extended().get(0x13)!;
    test.config.write(pri + 4, 2, 0);
    test.mapRecords(PASID).start([{}]);
    expect(test.submit({ ...copy, flags: BLOCK })).toMatchObject({ status: STATUS.pageFault, completed: 0 });
  });

  test('engines share the allocation and wait for it', () => {
    const test = dsaMachine();
    test.config.write(test.config.extended().get(0x13)! + 4, 2, 0);
    test.config.pri(1);
    test.mapRecords(PASID).start([{}], 4);
    for (let i = 0; i < 4; i++) {
      test.post(0, { operation: OP.fill, destination: 0x10_0000 + i * 4096, size: 4096, flags: BLOCK });
    }
    let requests = 0;
    for (let round = 0; round < 4; round++) {
      test.settle();
      expect(test.agent.pageRequests.length).toBe(1);
      requests += answer(test, (page) => page + 0x100);
    }
    test.settle();
    expect([requests, test.dsa.completions, test.dsa.failures]).toEqual([4, 4, 0]);
  });

  test('other engines go on meanwhile', () => {
    const test = dsaMachine();
    test.mapRecords(PASID).start([{}], 2);
    test.agent.map(RID, PASID, 0x140, 0x240);
    test.post(0, { operation: OP.fill, destination: 0x10_0000, size: 4096, flags: BLOCK });
    for (let i = 0; i < 3; i++) test.post(0, { operation: OP.fill, destination: 0x14_0000, size: 4096 });
    test.settle();
    expect([test.dsa.completions, test.dsa.outstanding]).toEqual([3, 1]);
  });
});

describe('completion records', () => {
  test('that fault are asked for where the queue blocks on faults', () => {
    const test = setUp();
    test.agent.unmap(RID, PASID, RECORD_PAGE);
    test.post(0, { operation: OP.noop });
    test.settle();
    expect(test.agent.pageRequests[0]).toMatchObject({ access: ACCESS_WRITE, pageLow: RECORD_PAGE });
    answer(test, () => RECORD_PFN);
    test.settle();
    expect(test.record().status).toBe(STATUS.success);
  });

  test('that fault, after the fault of a read, still tell of a read', () => {
    const test = setUp([0x101]);
    test.agent.unmap(RID, PASID, RECORD_PAGE);
    test.post(0, { ...copy, flags: BOTH });
    test.settle();
    answer(test, () => RECORD_PFN);
    test.settle();
    expect(test.record()).toMatchObject({ status: STATUS.pageFault, completed: 0x1000, fault: 0x10_1000n });
  });

  test.each([
    ['go to SWERROR where it does not', false],
    ['go to SWERROR when the page is refused', true],
  ])('that fault %s', (_name, blockOnFault) => {
    const test = setUp([], { blockOnFault });
    test.agent.unmap(RID, PASID, RECORD_PAGE);
    test.post(0, { operation: OP.noop });
    test.settle();
    if (blockOnFault) answer(test, () => null);
    test.settle();
    const word = test.read(REG.swerror);
    expect([(word >>> 8) & 0xff, word & 0x2f]).toEqual([STATUS.recordPageFault, 0x2d]);
    expect(test.read64(REG.swerror + 16)).toBe(BigInt(RECORD_PAGE * 4096));
    expect([test.dsa.outstanding, test.dsa.completions]).toEqual([0, 1]);
  });
});

describe('errors that are not page faults', () => {
  test('a refused translation request', () => {
    const { submit, agent } = setUp();
    agent.requestTranslation = (_rid, _pasid, _access, _high, low) => {
      if (low === 0x141) return COMPLETION_ABORT;
      agent.ats.pfn = low === RECORD_PAGE ? RECORD_PFN : low + 0x100;
      agent.ats.access = ACCESS_READ | ACCESS_WRITE;
      return 0;
    };
    expect(submit({ ...copy, flags: BLOCK })).toMatchObject({ status: STATUS.translation, completed: 0x1000 });
  });

  test('a read that fails, untranslated: hardware error', () => {
    const { submit, config } = setUp([0x102]);
    config.ats(false);
    expect(submit(copy)).toMatchObject({ status: STATUS.hardware, completed: 0x2000, fault: 0x10_2000n });
  });

  test('a posted write that fails, untranslated, is not noticed, but a readback notices', () => {
    const { submit, config, copied } = setUp([0x143]);
    config.ats(false);
    expect(submit(copy).status).toBe(STATUS.success);
    expect(copied()).toBe(0x3000);
    expect(submit({ ...copy, flags: BOTH | FLAG.readback })).toMatchObject({
      status: STATUS.readback,
      completed: 0x4000,
    });
  });

  test('PASIDs that the function may no longer send', () => {
    const { post, settle, config, read } = setUp();
    config.pasid(0);
    post(0, copy);
    settle();
    expect((read(REG.swerror) >>> 8) & 0xff).toBe(STATUS.hardware);
  });
});

describe('the translation cache', () => {
  test('is used, however stale, until it is invalidated', () => {
    const { submit, agent, fabric, settle } = setUp();
    expect(submit(copy).status).toBe(STATUS.success);
    const requests = agent.translationRequests;
    expect(requests).toBe(9);
    agent.unmap(RID, PASID, 0x100);
    expect(submit(copy).status).toBe(STATUS.success);
    expect(agent.translationRequests).toBe(requests);
    fabric.invalidate({ rid: RID, pasid: PASID, global: false, pageHigh: 0, pageLow: 0x100, sizeLg2: 12 }, () => {});
    settle();
    expect(submit({ ...copy, flags: BOTH })).toMatchObject({ status: STATUS.pageFault, completed: 0 });
  });
});

test('whatever is missing, a copy with block on fault is whole, and one without goes on from fault to fault', () => {
  const holes = fc.subarray([0x100, 0x101, 0x102, 0x103, 0x140, 0x141, 0x142, 0x143]);
  fc.assert(
    fc.property(holes, fc.nat(0xfff), fc.nat(0xfff), fc.integer({ min: 1, max: 0x3000 }), (missing, a, b, size) => {
      const blocking = setUp(missing);
      blocking.post(0, { ...copy, source: SOURCE + a, destination: DESTINATION + b, size, flags: BLOCK });
      const requests = blocking.resolve();
      expect(blocking.record().status).toBe(STATUS.success);

      const faulting = setUp(missing);
      let done = 0;
      let faults = 0;
      for (;;) {
        const at = { source: SOURCE + a + done, destination: DESTINATION + b + done, size: size - done };
        const record = faulting.submit({ ...copy, ...at });
        if (record.status === STATUS.success) break;
        expect(record.status & 0x7f).toBe(STATUS.pageFault);
        const page = Number(record.fault >> 12n);
        expect(missing).toContain(page);
        faulting.agent.map(RID, PASID, page, page + 0x100);
        done += record.completed;
        faults++;
      }
      expect(faults).toBe(requests);
      const expected = blocking.memory.bytes.slice(0x20_0000 + a, 0x20_0000 + a + size);
      for (const { memory } of [blocking, faulting]) {
        expect(Buffer.compare(memory.bytes.subarray(0x24_0000 + b, 0x24_0000 + b + size), expected)).toBe(0);
      }
    }),
    { numRuns: 100 },
  );
});
