import { FrameAllocator, PhysicalMemory, Scheduler, x86_64 } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { SysError } from '../../src/errno.ts';
import { Kernel } from '../../src/kernel.ts';
import { TableTree } from '../../src/page-table/table-tree.ts';

/** Last page of a leaf table, of a table of tables and of a table of those. */
const PAGE = 2 ** 27 - 1;

function setUp() {
  const memory = new PhysicalMemory({ ramBytes: 1 << 20, reservedBytes: 0 });
  const frames = new FrameAllocator(memory, { debug: true });
  const interrupts = { allocate: () => ({ address: 0n, data: 0 }), free: () => {} };
  const kernel = new Kernel({ memory, frames, scheduler: new Scheduler(), interrupts });
  const tree = new TableTree(kernel, x86_64, 4);
  return { memory, frames, kernel, tree };
}

describe('TableTree', () => {
  test('finds no entry before its tables are there, and the same one afterwards', () => {
    const { frames, tree } = setUp();
    expect(tree.find(PAGE)).toBe(-1);
    const at = tree.ensure(PAGE);
    expect(tree.find(PAGE)).toBe(at);
    expect(tree.ensure(PAGE)).toBe(at);
    expect(tree.find(PAGE + 1)).toBe(-1);
    expect(frames.allocated).toBe(4);
  });

  test('ensure that fails at any of its tables builds nothing and keeps those that are in use', () => {
    for (const shared of [false, true]) {
      for (let nth = 1; nth <= (shared ? 1 : 3); nth++) {
        const { memory, frames, kernel, tree } = setUp();
        if (shared) tree.set(tree.ensure(PAGE - 512), 1, 0);
        const before = {
          allocated: frames.allocated,
          words: memory.words.slice(tree.rootPfn << 10, (tree.rootPfn + 1) << 10),
        };
        kernel.failpoints.arm(nth);
        expect(() => tree.ensure(PAGE)).toThrow(SysError);
        expect(frames.allocated).toBe(before.allocated);
        expect(memory.words.slice(tree.rootPfn << 10, (tree.rootPfn + 1) << 10)).toEqual(before.words);
        expect(tree.find(PAGE)).toBe(-1);
        expect(tree.find(PAGE - 512) >= 0).toBe(shared);
      }
    }
  });

  test('an entry replaced in place counts once, present or not', () => {
    const { memory, frames, kernel, tree } = setUp();
    const at = tree.ensure(PAGE);
    kernel.failpoints.arm(1);
    for (const low of [x86_64.present | 0x5000, 0x200, x86_64.present | 0x7000]) tree.set(at, low, 3);
    expect([memory.words[at], memory.words[at + 1]]).toEqual([x86_64.present | 0x7000, 3]);
    tree.freeEmpty(0, 2 ** 36 - 1);
    expect(tree.find(PAGE)).toBe(at);
    tree.clear(at);
    expect(tree.find(PAGE)).toBe(at);
    tree.freeEmpty(0, PAGE - 512);
    expect(tree.find(PAGE)).toBe(at);
    tree.freeEmpty(PAGE, PAGE);
    expect(tree.find(PAGE)).toBe(-1);
    expect(frames.allocated).toBe(1);
    expect(kernel.failpoints.hit).toBe(null);
  });

  test('free gives back every table', () => {
    const { frames, tree } = setUp();
    for (const page of [0, 511, 512, PAGE, PAGE + 1]) tree.set(tree.ensure(page), 1, 0);
    expect(frames.allocated).toBeGreaterThan(4);
    tree.free();
    expect(frames.allocated).toBe(0);
  });
});
