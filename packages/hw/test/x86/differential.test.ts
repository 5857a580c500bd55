/** The core against the processor of this machine: the same random sequences leave the same state. */

import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { CpuFixture, PRESENT, USER, WRITABLE } from '../support/cpu-fixture.ts';
import { Random } from '../support/random.ts';
import {
  buildRunner,
  DATA,
  DATA_BYTES,
  hostFeatures,
  NATIVE_CODE,
  type NativeCase,
  type Outcome,
  runNatively,
  STACK,
  STACK_BYTES,
  WINDOW,
} from './native-runner.ts';
import { CodeWriter, FORMS } from './random-code.ts';

const SEQUENCES = 6000;
const LENGTH = 12;
const SLICES = [100_000, 1, 2, 7];
const COMPARED_FLAGS = 0xcd5n;
/** Guest physical addresses behind the areas of the runner. */
const DATA_GPA = 0x40000n;
const STACK_GPA = 0x44000n;
const CODE_GPA = 0x46000n;
const SIGNALS: Record<number, number> = { 0: 8, 3: 5, 6: 4, 13: 11, 14: 11 };

const runner = buildRunner();
const features = runner.path === null ? new Set<string>() : hostFeatures();
const forms = FORMS.filter((form) => form.feature === undefined || features.has(form.feature));
const skipped = FORMS.filter((form) => !forms.includes(form)).map((form) => form.name);

function makeCase(seed: number): { test: NativeCase; names: string[] } {
  const random = new Random(seed);
  const writer = new CodeWriter(random);
  const registers = BigUint64Array.from({ length: 16 }, () => writer.randomValue());
  registers[4] = BigInt(STACK + 2048);
  writer.write(forms, LENGTH);
  const window = Uint8Array.from({ length: WINDOW }, () => random.below(256));
  return { test: { registers, flags: BigInt(random.bits() & 0x8d5), code: writer.bytes, window }, names: writer.names };
}

class Guest {
  private readonly fixture = new CpuFixture();

  constructor() {
    const { fixture } = this;
    const mapPages = (gva: number, gpa: bigint, bytes: number): void => {
      for (let at = 0; at < bytes; at += 4096) {
        fixture.map(BigInt(gva + at), (gpa + BigInt(at)) | USER | WRITABLE | PRESENT);
      }
    };
    mapPages(DATA, DATA_GPA, DATA_BYTES);
    mapPages(STACK, STACK_GPA, STACK_BYTES);
    mapPages(NATIVE_CODE, CODE_GPA, 4096);
    for (const vector of [3]) fixture.setGate(vector, 0x8000n + 16n * BigInt(vector), { dpl: 3 });
    fixture.reset(0n);
  }

  run(test: NativeCase, slice: number): Outcome {
    const { fixture } = this;
    const { cpu, memory } = fixture;
    memory.write(DATA_GPA, new Uint8Array(DATA_BYTES));
    memory.write(DATA_GPA + BigInt((DATA_BYTES - WINDOW) / 2), test.window);
    memory.write(STACK_GPA, new Uint8Array(STACK_BYTES));
    memory.write(CODE_GPA, new Uint8Array(4096).fill(0xcc));
    memory.write(CODE_GPA, Uint8Array.from(test.code));
    fixture.reset(BigInt(NATIVE_CODE));
    fixture.enterUser(BigInt(NATIVE_CODE));
    const registers = cpu.readRegisters();
    registers.gpr.set(test.registers);
    registers.rflags = 0x202n | test.flags;
    cpu.writeRegisters(registers);
    // Slices of any length, down to single steps, give the same.
    let exit = cpu.run(slice);
    for (let slices = 0; exit === 'budget' && slices < 2000; slices++) exit = cpu.run(slice);
    expect(exit).toBe('dead');
    const vector = fixture.haltedVector();
    const frame = fixture.frame(vector === 13 || vector === 14);
    const after = cpu.readRegisters().gpr;
    after[4] = frame.rsp;
    return {
      registers: after,
      rip: frame.rip,
      flags: frame.rflags & COMPARED_FLAGS,
      signal: SIGNALS[vector] ?? -vector,
      data: memory.bytes.slice(Number(DATA_GPA), Number(DATA_GPA) + DATA_BYTES),
      stack: memory.bytes.slice(Number(STACK_GPA), Number(STACK_GPA) + STACK_BYTES),
    };
  }
}

function summary(outcome: Outcome, compareFlags: boolean): unknown {
  return {
    signal: outcome.signal,
    rip: outcome.rip.toString(16),
    flags: compareFlags ? (outcome.flags & COMPARED_FLAGS).toString(16) : '',
    registers: Array.from(outcome.registers, (value) => value.toString(16)),
  };
}

const title = `${SEQUENCES} random sequences leave what this processor leaves`;

if (runner.path === null) {
  test.skip(`${title} (skipped: ${runner.reason})`, () => {});
} else {
  const { path } = runner;
  afterAll(() => rmSync(dirname(path), { recursive: true }));
  const lacking = skipped.length === 0 ? '' : ` (not on this processor: ${skipped.join('; ')})`;
  test(`${title}${lacking}`, { timeout: 120_000 }, () => {
    const guest = new Guest();
    const BATCH = 1000;
    let faults = 0;
    for (let first = 0; first < SEQUENCES; first += BATCH) {
      const cases = Array.from({ length: BATCH }, (_, index) => makeCase(first + index + 1));
      const native = runNatively(
        path,
        cases.map((each) => each.test),
      );
      cases.forEach(({ test: each, names }, index) => {
        const expected = native[index] as Outcome;
        const found = guest.run(each, SLICES[index % SLICES.length] as number);
        // A division error leaves the flags undefined.
        const compareFlags = expected.signal !== 8;
        if (expected.signal !== 5) faults++;
        const message = `seed ${first + index + 1}: ${names.join(', ')}`;
        expect(summary(found, compareFlags), message).toEqual(summary(expected, compareFlags));
        expect(Buffer.compare(found.data, expected.data), `data of ${message}`).toBe(0);
        expect(Buffer.compare(found.stack, expected.stack), `stack of ${message}`).toBe(0);
      });
    }
    // Some sequences end early, in #DE, #UD or #PF, most do not.
    expect(faults).toBeGreaterThan(0);
    expect(faults).toBeLessThan(SEQUENCES / 4);
  });
}
