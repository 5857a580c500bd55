import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DSA_OPERATION as OP, DSA_STATUS as STATUS } from '../../src/dsa/descriptor-format.ts';
import { type Descriptor, dsaMachine, encode, PASID, RID, VALID } from './support.ts';

/** Pages of the window that operands lie in, and their frames, shuffled. */
const PAGES = 12;
const FRAMES = [7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 4, 6];
const FIRST_PAGE = 0x20;
const BASE = FIRST_PAGE * 4096;
const BYTES = PAGES * 4096;

function setUp(chunkBytes = 16384) {
  const test = dsaMachine({ chunkBytes });
  test.mapRecords(PASID).start([{}]);
  for (let page = 0; page < PAGES; page++) test.agent.map(RID, PASID, FIRST_PAGE + page, 0x200 + FRAMES[page]!);
  return { ...test, load, store };

  /** The window as the device sees it. */
  function load(): Uint8Array {
    const window = new Uint8Array(BYTES);
    for (let page = 0; page < PAGES; page++) {
      const frame = (0x200 + FRAMES[page]!) * 4096;
      window.set(test.memory.bytes.subarray(frame, frame + 4096), page * 4096);
    }
    return window;
  }
  function store(window: Uint8Array): void {
    for (let page = 0; page < PAGES; page++) {
      test.memory.bytes.set(window.subarray(page * 4096, (page + 1) * 4096), (0x200 + FRAMES[page]!) * 4096);
    }
  }
}

function random(seed: number): Uint8Array {
  const bytes = new Uint8Array(BYTES);
  let state = seed | 1;
  for (let i = 0; i < BYTES; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** CRC-32C one bit at a time. */
function naiveCrc(bytes: Uint8Array, seed: number, raw = false, rawData = false): number {
  const mirror = (value: number, bits: number) => {
    let result = 0;
    for (let bit = 0; bit < bits; bit++) if (value & (1 << bit)) result |= 1 << (bits - 1 - bit);
    return result;
  };
  let crc = raw ? seed : mirror(~seed, 32);
  for (const byte of bytes) {
    crc ^= (rawData ? byte : mirror(byte, 8)) << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x1edc6f41 : crc << 1;
  }
  return (raw ? crc : ~mirror(crc, 32)) >>> 0;
}

const size = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 14000 }));
const offset = fc.oneof(
  fc.nat(BYTES - 14001),
  fc.nat(6).map((page) => page * 4096),
  fc.nat(6).map((page) => page * 4096 + 4095),
);
const chunk = fc.constantFrom(1000, 4096, 16384);

describe('DSA operations', () => {
  test('memory move is memmove, whatever the overlap', () => {
    let overlaps = 0;
    fc.assert(
      fc.property(
        offset,
        offset,
        size,
        fc.integer(),
        chunk,
        fc.integer({ min: -300, max: 300 }),
        (a, b, n, seed, chunkBytes, near) => {
          const { submit, load, store } = setUp(chunkBytes);
          const window = random(seed);
          store(window);
          const destination = seed % 2 === 0 ? Math.min(Math.max(a + near, 0), BYTES - n) : b;
          if (Math.abs(destination - a) < n && destination !== a) overlaps++;
          const record = submit({ operation: OP.move, source: BASE + a, destination: BASE + destination, size: n });
          expect(record).toEqual({ status: STATUS.success, result: 0, completed: 0, fault: 0n, detail: 0 });
          window.copyWithin(destination, a, a + n);
          expect(Buffer.compare(load(), window)).toBe(0);
        },
      ),
      { numRuns: 120 },
    );
    expect(overlaps).toBeGreaterThan(20);
  });

  test('fill repeats its pattern from the first byte', () => {
    fc.assert(
      fc.property(offset, size, fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), chunk, (a, n, pattern, chunkBytes) => {
        const { submit, load, store } = setUp(chunkBytes);
        const window = random(n);
        store(window);
        expect(submit({ operation: OP.fill, source: pattern, destination: BASE + a, size: n }).status).toBe(1);
        for (let i = 0; i < n; i++) window[a + i] = Number((pattern >> BigInt(8 * (i & 7))) & 0xffn);
        expect(Buffer.compare(load(), window)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('compare finds the first difference', () => {
    fc.assert(
      fc.property(
        offset,
        size,
        fc.option(fc.nat(14000)),
        chunk,
        fc.boolean(),
        fc.nat(1),
        (a, n, differs, chunkBytes, check, expected) => {
          const { submit, store } = setUp(chunkBytes);
          const window = random(n);
          const b = (a + 24576) % (BYTES - n);
          if (Math.abs(a - b) < n) return;
          window.copyWithin(b, a, a + n);
          const at = differs === null ? n : differs % n;
          if (at < n) window[b + at]! ^= 0x40;
          store(window);
          const result = at < n ? 1 : 0;
          const record = submit({
            operation: OP.compare,
            flags: 0x0c | (check ? 0x80 : 0),
            source: BASE + a,
            destination: BASE + b,
            size: n,
            rest: [expected],
          });
          const status = check && expected !== result ? STATUS.falsePredicate : STATUS.success;
          expect(record).toEqual({ status, result, completed: result ? at : 0, fault: 0n, detail: 0 });
        },
      ),
      { numRuns: 80 },
    );
  });

  test('compare pattern finds the first byte that differs from the pattern', () => {
    fc.assert(
      fc.property(offset, size, fc.option(fc.nat(14000)), chunk, (a, n, differs, chunkBytes) => {
        const { submit, store } = setUp(chunkBytes);
        const pattern = 0x1122_3344_5566_7788n;
        const window = random(n);
        for (let i = 0; i < n; i++) window[a + i] = Number((pattern >> BigInt(8 * (i & 7))) & 0xffn);
        const at = differs === null ? n : differs % n;
        if (at < n) window[a + at]! ^= 1;
        store(window);
        const record = submit({ operation: OP.comparePattern, source: BASE + a, destination: pattern, size: n });
        expect([record.status, record.result, record.completed]).toEqual([1, at < n ? 1 : 0, at < n ? at : 0]);
      }),
      { numRuns: 60 },
    );
  });

  test('dualcast writes both destinations', () => {
    fc.assert(
      fc.property(fc.nat(4095), fc.nat(4095), fc.integer({ min: 1, max: 8000 }), chunk, (a, low, n, chunkBytes) => {
        const { submit, load, store } = setUp(chunkBytes);
        const window = random(n + low);
        store(window);
        const [first, second] = [12288 + 4096 + low, 28672 + low];
        const rest = [BASE + second, 0];
        const record = submit({ operation: OP.dualcast, source: BASE + a, destination: BASE + first, size: n, rest });
        expect(record.status).toBe(STATUS.success);
        window.copyWithin(first, a, a + n);
        window.copyWithin(second, a, a + n);
        expect(Buffer.compare(load(), window)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('CRC generation and copy with CRC, with every seed and flag', () => {
    const flags = fc.record({ raw: fc.boolean(), rawData: fc.boolean(), inMemory: fc.boolean(), copy: fc.boolean() });
    fc.assert(
      fc.property(
        offset,
        fc.integer({ min: 1, max: 9000 }),
        fc.integer(),
        flags,
        chunk,
        (a, n, seed, how, chunkBytes) => {
          const { submit, load, store, memory, agent } = setUp(chunkBytes);
          const window = random(seed);
          store(window);
          const destination = (a + 24576) % (BYTES - n);
          if (Math.abs(a - destination) < n) return;
          agent.map(RID, PASID, 0x90, 0x190);
          memory.store(0x19_0ffc, 4, seed >>> 0);
          const record = submit({
            operation: how.copy ? OP.copyCrc : OP.crc,
            flags: 0x0c | (how.inMemory ? 1 << 16 : 0) | (how.raw ? 1 << 17 : 0) | (how.rawData ? 1 << 18 : 0),
            source: BASE + a,
            destination: how.copy ? BASE + destination : 0,
            size: n,
            rest: how.inMemory ? [0, 0, 0x9_0ffc, 0] : [seed],
          });
          expect(record.status).toBe(STATUS.success);
          expect(record.detail).toBe(naiveCrc(window.subarray(a, a + n), seed, how.raw, how.rawData));
          if (how.copy) window.copyWithin(destination, a, a + n);
          expect(Buffer.compare(load(), window)).toBe(0);
        },
      ),
      { numRuns: 80 },
    );
  });

  test('a CRC goes on from the value of the part before', () => {
    const { submit, store } = setUp();
    const window = random(3);
    store(window);
    const first = submit({ operation: OP.crc, source: BASE, size: 1000, rest: [0] });
    const second = submit({ operation: OP.crc, source: BASE + 1000, size: 5000, rest: [first.detail] });
    expect(second.detail).toBe(naiveCrc(window.subarray(0, 6000), 0));
  });

  test('a successful operation writes its record only when asked', () => {
    const { submit, memory } = setUp();
    expect(submit({ operation: OP.noop, flags: VALID }).status).toBe(0);
    expect(submit({ operation: OP.noop }).status).toBe(STATUS.success);
    memory.bytes.fill(0xff, 0x18_0000, 0x18_0020);
    expect(submit({ operation: OP.noop, flags: VALID, source: 1 }).status).toBe(STATUS.reservedField);
  });

  test('destination readback, cache control and the other hints are accepted', () => {
    const { submit } = setUp();
    const flags = 0x0c | 0x20 | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000;
    const copy: Descriptor = { operation: OP.move, source: BASE, destination: BASE + 8192, size: 5000 };
    expect(submit({ ...copy, flags }).status).toBe(STATUS.success);
    expect(submit({ ...copy, flags: flags | 0x40 })).toMatchObject({ status: STATUS.flags, detail: 0x40 });
  });

  test('operands, lists and overlaps may cross 4 GiB', () => {
    const { submit, agent, memory, post, settle, record } = setUp();
    const low = 0x1_ffff_f000n;
    for (let page = 0; page < 4; page++) agent.map(RID, PASID, 0x1f_ffff + page, 0x300 + page);
    for (let i = 0; i < 0x2000; i++) memory.bytes[0x30_0000 + i] = i * 13 + (i >> 8);
    const before = memory.bytes.slice(0x30_0000, 0x30_2000);
    expect(submit({ operation: OP.move, source: low, destination: low + 0x1800n, size: 0x2000 }).status).toBe(1);
    expect(Buffer.compare(memory.bytes.subarray(0x30_1800, 0x30_3800), before)).toBe(0);
    const dualcast = { operation: OP.dualcast, source: BASE, destination: low, size: 0x1001, rest: [0, 2] };
    expect(submit(dualcast).status).toBe(STATUS.overlap);
    expect(submit({ ...dualcast, size: 0x1000 }).status).toBe(STATUS.success);
    memory.bytes.set(encode({ operation: OP.noop }), 0x30_0fc0);
    memory.bytes.set(encode({ operation: OP.noop }), 0x30_1000);
    post(0, { operation: OP.batch, source: low + 0xfc0n, size: 2 });
    settle();
    expect(record()).toMatchObject({ status: STATUS.success, completed: 2 });
  });

  test('an operand that runs over the top of the address space goes on at its bottom', () => {
    const { submit, agent, memory } = setUp();
    agent.map(RID, PASID, 2 ** 52 - 1, 0x300);
    agent.map(RID, PASID, 0, 0x301);
    const fill = { operation: OP.fill, source: 0x4242_4242_4242_4242n, destination: 2n ** 64n - 64n, size: 128 };
    expect(submit(fill).status).toBe(STATUS.success);
    expect(memory.bytes.subarray(0x30_0fc0, 0x30_1040).every((byte) => byte === 0x42)).toBe(true);
    expect([memory.bytes[0x30_0fbf], memory.bytes[0x30_1040]]).toEqual([0, 0]);
  });
});
