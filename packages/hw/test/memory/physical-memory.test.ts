import { type AccessWidth, FRAME_HAS_CODE, LAST_PFN, type MmioHandler, PhysicalMemory } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

const RAM = 1 << 20;
const RAM_FRAMES = RAM / 4096;

/** Registers that remember how they were touched. */
class Recorder implements MmioHandler {
  readonly accesses: string[] = [];

  read(offset: number, width: AccessWidth): bigint {
    this.accesses.push(`r${width}@${offset}`);
    return 0x8877_6655_4433_2211n & ((1n << BigInt(width * 8)) - 1n);
  }

  write(offset: number, width: AccessWidth, value: bigint): void {
    this.accesses.push(`w${width}@${offset}=${value.toString(16)}`);
  }
}

function makeMemory(): PhysicalMemory {
  return new PhysicalMemory({ ramBytes: RAM, reservedBytes: 1 << 16 });
}

/** Foreign frames over an array. */
function mapArray(memory: PhysicalMemory, pfn: number, frames: number): Uint8Array {
  const bytes = new Uint8Array(frames * 4096);
  memory.mapForeign(pfn, frames, {
    read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
    write: (offset, from) => bytes.set(from, offset),
  });
  return bytes;
}

describe('PhysicalMemory', () => {
  test('reads give what was written, over RAM and adjoining foreign frames', () => {
    const write = fc.record({ at: fc.nat(6 * 4096), bytes: fc.uint8Array({ minLength: 1, maxLength: 9000 }) });
    fc.assert(
      fc.property(fc.array(write, { maxLength: 12 }), (writes) => {
        const memory = makeMemory();
        mapArray(memory, RAM_FRAMES, 8);
        const base = RAM - 3 * 4096;
        const model = new Uint8Array(11 * 4096);
        for (const { at, bytes } of writes) {
          const fits = at + bytes.length <= model.length;
          expect(memory.write(BigInt(base + at), bytes)).toBe(fits);
          if (fits) model.set(bytes, at);
        }
        const all = new Uint8Array(model.length);
        expect(memory.read(base, all)).toBe(true);
        expect(Buffer.compare(all, model)).toBe(0);
      }),
    );
  });

  test('a transfer that meets a hole moves nothing', () => {
    const memory = makeMemory();
    const last = new Uint8Array(2).fill(0xaa);
    expect(memory.write(RAM - 1, last)).toBe(false);
    expect(memory.bytes[RAM - 1]).toBe(0);
    expect(memory.read(RAM - 1, last)).toBe(false);
    expect(memory.read(BigInt(LAST_PFN) << 12n, last)).toBe(false);
    expect(memory.read(0xffff_ffff_ffff_ffffn, new Uint8Array(1))).toBe(false);
  });

  test('loads and stores of every width hit registers as they are', () => {
    const memory = makeMemory();
    const registers = new Recorder();
    memory.mapMmio(0xfed90, 1, registers);
    expect(memory.load(0xfed9_0010, 4)).toBe(0x4433_2211n);
    expect(memory.load(0xfed9_0018, 8)).toBe(0x8877_6655_4433_2211n);
    memory.store(0xfed9_0006, 2, 0xbeef);
    memory.store(0xfed9_0003, 1, 0xffn);
    expect(registers.accesses).toEqual(['r4@16', 'r8@24', 'w2@6=beef', 'w1@3=ff']);
  });

  test('a long transfer to registers is split into naturally aligned accesses', () => {
    const memory = makeMemory();
    const registers = new Recorder();
    memory.mapMmio(0x100000, 2, registers);
    memory.write(0x1_0000_0ff9n, new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8, 9]));
    expect(registers.accesses).toEqual(['w1@4089=1', 'w2@4090=302', 'w4@4092=7060504', 'w2@4096=908']);
  });

  test('loads from nowhere give all ones, stores to nowhere are dropped', () => {
    const memory = makeMemory();
    expect(memory.load(0xf000_0000, 4)).toBe(0xffff_ffffn);
    expect(memory.readWord(0xf0000, 1)).toBe(-1);
    expect(() => memory.store(0xf000_0000, 8, 1n)).not.toThrow();
    expect(() => memory.writeWord(0xf0000, 1, 1)).not.toThrow();
  });

  test('64-byte stores and deferrable writes', () => {
    const memory = makeMemory();
    const seen: string[] = [];
    const portal: MmioHandler = {
      read: () => 0n,
      write() {},
      store64: (offset, data) => void seen.push(`store ${offset} ${data[0]}`),
      enqueue64: (offset, data) => {
        seen.push(`enqueue ${offset} ${data[0]}`);
        return data[0] === 1;
      },
    };
    const plain = new Recorder();
    memory.mapMmio(0x100000, 1, portal);
    memory.mapMmio(0x100001, 1, plain);
    const data = new Uint8Array(64).fill(1);
    memory.store64(0x1_0000_0040n, data);
    expect(memory.enqueue64(0x1_0000_0080n, data)).toBe(true);
    expect(memory.enqueue64(0x1_0000_0080n, data.fill(2))).toBe(false);
    expect(seen).toEqual(['store 64 1', 'enqueue 128 1', 'enqueue 128 2']);
    memory.store64(0x1_0000_1000n, data);
    expect(plain.accesses).toHaveLength(8);
    expect(memory.enqueue64(0x1_0000_1000n, data)).toBe(false);
    expect(memory.enqueue64(0x1000, data)).toBe(false);
    memory.store64(0x2000, data);
    expect(memory.bytes.subarray(0x2000, 0x2040)).toEqual(data);
  });

  test('only RAM and foreign frames are memory', () => {
    const memory = makeMemory();
    memory.mapMmio(0x100000, 2, new Recorder());
    mapArray(memory, LAST_PFN - 1, 2);
    const frames = [0, RAM_FRAMES - 1, RAM_FRAMES, 0x100001, LAST_PFN - 2, LAST_PFN - 1, LAST_PFN, LAST_PFN + 1];
    expect(frames.map((pfn) => memory.isMemory(pfn))).toEqual([true, true, false, false, false, true, true, false]);
  });

  test('ranges may touch and may not overlap, and go away by their start', () => {
    const memory = makeMemory();
    memory.mapMmio(0x1000, 4, new Recorder());
    memory.mapMmio(0x1004, 4, new Recorder());
    memory.mapMmio(0xffc, 4, new Recorder());
    for (const [first, frames] of [
      [0x1000, 1],
      [0xfff, 1],
      [0xff0, 13],
      [0x1007, 2],
      [RAM_FRAMES - 1, 2],
      [LAST_PFN, 2],
      [0x2000, 0],
    ] as const) {
      expect(() => memory.mapMmio(first, frames, new Recorder())).toThrow(RangeError);
    }
    memory.unmap(0x1001);
    expect(() => memory.mapMmio(0x1001, 1, new Recorder())).toThrow(RangeError);
    memory.unmap(0x1000);
    expect(() => memory.mapMmio(0x1000, 4, new Recorder())).not.toThrow();
  });

  test('writes to flagged frames are heard, by every way of writing', () => {
    const memory = makeMemory();
    const heard: number[] = [];
    memory.onFlaggedWrite((pfn) => heard.push(pfn));
    for (const pfn of [3, 4]) memory.frameFlags[pfn] = FRAME_HAS_CODE;
    memory.write(0x2ff0, new Uint8Array(4096));
    memory.store(0x4000, 8, 1);
    memory.writeWord(4, 0, 1);
    memory.store64(0x3000, new Uint8Array(64));
    memory.store(0x5000, 8, 1);
    memory.read(0x3000, new Uint8Array(8));
    expect(heard).toEqual([3, 4, 4, 3]);
  });

  test('reserved storage is handed out aligned, and refused when it is used up', () => {
    const memory = makeMemory();
    const first = memory.reserve(10);
    const second = memory.reserve(100, 4096);
    expect([first % 64, second % 4096, first >= RAM, second >= first + 10]).toEqual([0, 0, true, true]);
    expect(() => memory.reserve(1 << 16)).toThrow(RangeError);
  });

  test.each([{ ramBytes: -65536 }, { ramBytes: 4096 }, { ramBytes: 65536, reservedBytes: 1 }, { ramBytes: 2 ** 32 }])(
    'refuses %o',
    (options) => {
      expect(() => new PhysicalMemory(options)).toThrow(RangeError);
    },
  );
});
