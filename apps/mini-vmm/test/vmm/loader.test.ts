import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { loadGuest } from '../../src/vmm/loader.ts';

const image = new Uint8Array(readFileSync(new URL('../../guest/image/guest.elf', import.meta.url)));
const MEMORY = 16 << 20;

/** Loads into a plain array; writes outside it fail the test. */
function load(bytes: Uint8Array) {
  const memory = new Uint8Array(MEMORY);
  const state = loadGuest(bytes, new Uint8Array(48).fill(7), MEMORY, (gpa, from) => memory.set(from, gpa));
  return { memory, view: new DataView(memory.buffer), state };
}

describe('the loader', () => {
  test('starts the guest at its entry with an identity map and the boot information in RDI', () => {
    const { memory, view, state } = load(image);
    expect(state.rip).toBe(new DataView(image.buffer).getBigUint64(24, true));
    expect(memory.subarray(Number(state.rdi), Number(state.rdi) + 48).every((byte) => byte === 7)).toBe(true);
    for (const address of [0n, 0x10_0000n, BigInt(MEMORY - 1)]) {
      let entry = view.getBigUint64(Number(state.cr3), true);
      entry = view.getBigUint64(Number(entry & ~0xfffn), true);
      entry = view.getBigUint64(Number(entry & ~0xfffn) + 8 * Number(address >> 21n), true);
      expect(entry & 0x81n).toBe(0x81n);
      expect((entry & ~0x1fffffn) | (address & 0x1fffffn)).toBe(address);
    }
  });

  test.each([
    ['nothing', new Uint8Array()],
    ['zeros', new Uint8Array(4096)],
    ['half an image', image.subarray(0, 2000)],
    ['text', new TextEncoder().encode('#!/bin/sh\n'.repeat(40))],
  ])('refuses %s', (_what, bytes) => {
    expect(() => load(bytes)).toThrow(RangeError);
  });

  test('whatever bytes an image has changed, loads it into guest memory or refuses it', () => {
    const change = fc.record({ at: fc.integer({ min: 0, max: 0x200 }), byte: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 12 }), (changes) => {
        const bytes = image.slice();
        for (const { at, byte } of changes) bytes[at] = byte;
        try {
          load(bytes);
        } catch (error) {
          expect((error as Error).message).toMatch(/^guest image/);
        }
      }),
      { numRuns: 300 },
    );
  });
});
