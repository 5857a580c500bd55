import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as reg from '../../src/vtd/registers.ts';
import { Bench, INTERRUPT_TABLE, PAGE, RID } from './bench.ts';

const TABLE = INTERRUPT_TABLE * PAGE;
/** Handle 3, remappable. */
const MESSAGE = 0xfee00070;

function started(eime = false): Bench {
  const bench = new Bench();
  bench.enable(1);
  bench.write64(reg.REG_IRTA, TABLE | 7n | (eime ? 0x800n : 0n));
  bench.command(reg.GCMD_SIRTP);
  bench.command(reg.GCMD_IRE);
  return bench;
}

/** Vector, flags of word 0, destination word. */
function entry(bench: Bench, index: number, vector: number, flags = 0n, destination = 0n, high = 0n): void {
  bench.put64(TABLE + 16n * BigInt(index), 1n | flags | (BigInt(vector) << 16n) | (destination << 32n));
  bench.put64(TABLE + 16n * BigInt(index) + 8n, high);
}

describe('remapped interrupts', () => {
  test.each([
    ['fixed, physical', 0n, 0x0300n, 0xfee03000, 0x41],
    ['logical, lowest priority with hint', 0x2cn, 0x0300n, 0xfee0300c, 0x141],
    ['level', 0x10n, 0n, 0xfee00000, 0xc041],
  ])('%s', (_name, flags, destination, address, data) => {
    const bench = started();
    entry(bench, 3, 0x41, flags, destination);
    bench.unit.writeInterrupt(RID, MESSAGE, 0, 0);
    expect(bench.messages).toEqual([{ address, data }]);
  });

  test('a subhandle is added to the handle', () => {
    const bench = started();
    entry(bench, 5, 0x51);
    bench.unit.writeInterrupt(RID, MESSAGE | 8, 0, 2);
    expect(bench.messages).toEqual([{ address: 0xfee00000, data: 0x51 }]);
  });

  test('destinations are whole words in extended mode', () => {
    const bench = started(true);
    entry(bench, 3, 0x41, 0n, 7n);
    bench.unit.writeInterrupt(RID, MESSAGE, 0, 0);
    expect(bench.messages).toEqual([{ address: 0xfee07000, data: 0x41 }]);
  });

  test.each([
    ['the SID', (1n << 18n) | BigInt(RID), true],
    ['another function with the mask', (1n << 18n) | (3n << 16n) | BigInt(RID ^ 7), true],
    ['another function without the mask', (1n << 18n) | (1n << 16n) | BigInt(RID ^ 1), false],
    ['a bus in the range', (2n << 18n) | 0x0001n, true],
    ['a bus outside the range', (2n << 18n) | 0x0203n, false],
    ['no verification', 0n, true],
  ])('source verification: %s', (_name, high, delivered) => {
    const bench = started();
    entry(bench, 3, 0x41, 0n, 0n, high);
    bench.unit.writeInterrupt(RID, MESSAGE, 0, 0);
    expect(bench.messages[0]!.data).toBe(delivered ? 0x41 : 0x31);
  });

  test.each([
    ['global', [0x04n], 0x42],
    ['the index', [0x14n | (3n << 32n)], 0x42],
    ['a range with it', [0x14n | (2n << 27n) | (1n << 32n)], 0x42],
    ['another index', [0x14n | (4n << 32n)], 0x41],
  ])('the entry cache is used until it is invalidated: %s', (_name, descriptor, vector) => {
    const bench = started();
    entry(bench, 3, 0x41);
    bench.unit.writeInterrupt(RID, MESSAGE, 0, 0);
    entry(bench, 3, 0x42);
    bench.unit.writeInterrupt(RID, MESSAGE, 0, 0);
    expect(bench.messages.map((message) => message.data)).toEqual([0x41, 0x41]);
    bench.submit(descriptor);
    bench.unit.writeInterrupt(RID, MESSAGE, 0, 0);
    expect(bench.messages[2]!.data).toBe(vector);
  });
});

describe('compatibility format', () => {
  test('passes while remapping is off', () => {
    const bench = new Bench();
    bench.unit.writeInterrupt(RID, 0xfee01000, 0, 0x99);
    expect(bench.messages).toEqual([{ address: 0xfee01000, data: 0x99 }]);
  });

  test('passes when CFI is set, but not in extended mode', () => {
    const bench = started();
    bench.command(reg.GCMD_CFI);
    bench.unit.writeInterrupt(RID, 0xfee01000, 0, 0x99);
    expect(bench.messages).toEqual([{ address: 0xfee01000, data: 0x99 }]);
    const extended = started(true);
    extended.command(reg.GCMD_CFI);
    extended.unit.writeInterrupt(RID, 0xfee01000, 0, 0x99);
    expect(extended.messages.map((message) => message.data)).toEqual([0x31]);
  });
});

test('random interrupt tables and messages never throw; what is delivered is a compatibility message', () => {
  fc.assert(
    fc.property(
      fc.array(fc.bigInt(0n, (1n << 64n) - 1n), { minLength: 32, maxLength: 32 }),
      fc.array(fc.tuple(fc.nat(0xfffff), fc.nat(0xffffffff)), { maxLength: 20 }),
      fc.boolean(),
      (words, messages, eime) => {
        const bench = started(eime);
        words.forEach((word, i) => {
          const low = i % 4 === 0 ? word & 0xffff_00ff_0fffn : word;
          bench.put64(TABLE + BigInt(8 * i), low);
        });
        for (const [address, data] of messages) {
          bench.unit.writeInterrupt(RID, 0xfee00000 | (address & 0xff1ff) | 0, 0, data | 0);
          bench.unit.writeInterrupt(RID, 0xfee00010 | ((address & 15) << 5), 0, 0);
        }
        for (const message of bench.messages) expect(message.address >>> 20).toBe(0xfee);
      },
    ),
    { numRuns: 200 },
  );
});
