/** Compiles and drives native-runner.c: instruction sequences on the processor that runs the tests. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const DATA = 0x1000_0000;
export const DATA_BYTES = 8192;
export const WINDOW = 1024;
export const STACK = 0x1001_0000;
export const STACK_BYTES = 4096;
export const NATIVE_CODE = 0x1100_0000;
const CODE_ROOM = 1024;

export type NativeCase = { registers: BigUint64Array; flags: bigint; code: number[]; window: Uint8Array };

export type Outcome = {
  registers: BigUint64Array;
  rip: bigint;
  flags: bigint;
  /** 5 for INT3, else the signal of the exception. */
  signal: number;
  data: Uint8Array;
  stack: Uint8Array;
};

const INPUT_BYTES = 18 * 8 + CODE_ROOM + WINDOW;
const OUTCOME_BYTES = 19 * 8 + DATA_BYTES + STACK_BYTES;

/** The runner's path, or null and the reason. */
export function buildRunner(): { path: string; reason: null } | { path: null; reason: string } {
  if (process.arch !== 'x64' || process.platform !== 'linux') return { path: null, reason: 'not an x86-64 Linux' };
  const path = join(mkdtempSync(join(tmpdir(), 'native-runner-')), 'runner');
  const source = fileURLToPath(new URL('native-runner.c', import.meta.url));
  const { status, error } = spawnSync('cc', ['-O1', '-o', path, source], { encoding: 'utf8' });
  if (error !== undefined || status !== 0) return { path: null, reason: 'no working C compiler' };
  return { path, reason: null };
}

/** Feature names of the host processor, as /proc/cpuinfo spells them. */
export function hostFeatures(): Set<string> {
  const flags = /^flags\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '';
  return new Set(flags.split(' '));
}

export function runNatively(path: string, cases: NativeCase[]): Outcome[] {
  const input = new Uint8Array(cases.length * INPUT_BYTES);
  const view = new DataView(input.buffer);
  cases.forEach((test, index) => {
    const at = index * INPUT_BYTES;
    for (let i = 0; i < 16; i++) view.setBigUint64(at + i * 8, test.registers[i] as bigint, true);
    view.setBigUint64(at + 128, test.flags, true);
    if (test.code.length > CODE_ROOM) throw new RangeError('the sequence is too long');
    view.setBigUint64(at + 136, BigInt(test.code.length), true);
    input.set(test.code, at + 144);
    input.set(test.window, at + 144 + CODE_ROOM);
  });
  const { stdout, status, signal } = spawnSync(path, [], { input, maxBuffer: cases.length * OUTCOME_BYTES + 4096 });
  if (status !== 0) throw new Error(`the native runner ended with ${status ?? signal}`);
  const output = new DataView(stdout.buffer, stdout.byteOffset, stdout.length);
  return cases.map((_, index) => {
    const at = index * OUTCOME_BYTES;
    const registers = BigUint64Array.from({ length: 16 }, (_unused, i) => output.getBigUint64(at + i * 8, true));
    const data = new Uint8Array(stdout.buffer, stdout.byteOffset + at + 152, DATA_BYTES);
    const stack = new Uint8Array(stdout.buffer, stdout.byteOffset + at + 152 + DATA_BYTES, STACK_BYTES);
    return {
      registers,
      rip: output.getBigUint64(at + 128, true),
      flags: output.getBigUint64(at + 136, true),
      signal: Number(output.getBigUint64(at + 144, true)),
      data,
      stack,
    };
  });
}
