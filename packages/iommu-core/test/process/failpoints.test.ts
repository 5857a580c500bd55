import { describe, expect, test } from 'vitest';
import { SysError } from '../../src/errno.ts';
import { PfnRuns } from '../../src/pfn-runs.ts';
import { PAGE, R, testKernel, W, walk } from './support.ts';

const BASE = 0x20_0000n * 1000n;
const at = (page: number): bigint => BASE + BigInt(page * PAGE);

/** A parent whose pages are in every state, and a child that shares some of them. */
function scene() {
  const { kernel, processes } = testKernel();
  const process = processes.spawn();
  const memory = process.memory!;
  const file = processes.createFile(8 * PAGE);
  memory.map({ address: at(508), length: 8 * PAGE, protection: R | W });
  memory.map({ address: at(516), length: 4 * PAGE, protection: R | W, backing: file, shared: true });
  memory.map({ address: at(520), length: 4 * PAGE, protection: R | W, backing: file, offset: 4 * PAGE });
  for (const page of [508, 509, 511, 512, 516, 521]) memory.write(at(page), new Uint8Array([page & 255]));
  memory.read(at(520), new Uint8Array(1));
  const child = processes.fork(process);
  memory.write(at(509), new Uint8Array([1]));
  const pinned = new PfnRuns();
  memory.pin(at(511), 1, true, pinned);
  return { kernel, processes, process, memory, child, file, snapshot };

  function snapshot(): unknown {
    const tables = [memory, child.memory!].map((space) =>
      Array.from({ length: 32 }, (_, i) => walk(kernel, space, at(500 + i))),
    );
    const frames = tables.flat().flatMap((entry) => (entry === null ? [] : [entry.pfn]));
    return {
      tables,
      regions: [memory.layout, child.memory!.layout].map((layout) => layout.map(({ backing: _, ...rest }) => rest)),
      counts: frames.map((pfn) => [pfn, processes.counts.mapCount(pfn), processes.counts.pinCount(pfn)]),
      bytes: frames.map((pfn) => kernel.memory.bytes.slice(pfn * PAGE, pfn * PAGE + 16)),
      allocated: kernel.frames.allocated,
      pinned: [processes.counts.pinned, memory.pinnedPages],
      cached: file.cachedPages,
    };
  }
}

type Scene = ReturnType<typeof scene>;

const operations: [string, (s: Scene) => void][] = [
  ['spawn', (s) => void s.processes.spawn()],
  ['fork', (s) => void s.processes.fork(s.process)],
  ['fork after a pin', (s) => void s.processes.fork(s.child)],
  ['mmap', (s) => void s.memory.map({ length: PAGE, protection: R })],
  ['mmap of shared memory', (s) => void s.memory.map({ length: PAGE, protection: R, shared: true })],
  ['mmap over pages', (s) => void s.memory.map({ address: at(510), length: 4 * PAGE, protection: R, replace: true })],
  ['munmap inside a region', (s) => s.memory.unmap(at(509), 2 * PAGE)],
  ['munmap over regions', (s) => s.memory.unmap(at(510), 8 * PAGE)],
  ['mprotect', (s) => s.memory.protect(at(510), 8 * PAGE, R)],
  ['mremap to new tables', (s) => s.memory.remap(at(508), 8 * PAGE, at(5000))],
  ['mremap over pages', (s) => s.memory.remap(at(508), 2 * PAGE, at(520))],
  ['a fault of a new page', (s) => void s.memory.handleFault(at(510), W)],
  ['a fault in a new table', (s) => s.memory.map({ address: at(5000), length: PAGE, protection: R, shared: true })],
  ['a copy on write', (s) => s.memory.write(at(508), new Uint8Array([2]))],
  ['a copy of a file page', (s) => s.memory.write(at(522), new Uint8Array([2]))],
  ['a write to a shared page', (s) => s.memory.write(at(517), new Uint8Array([2]))],
  ['a pin of a new page', (s) => void s.memory.pin(at(510), 1, true, new PfnRuns())],
  ['a pin that unshares', (s) => void s.memory.pin(at(520), 1, false, new PfnRuns())],
  ['a pin after fork', (s) => void s.memory.pin(at(512), 1, false, new PfnRuns())],
];

describe('an operation that fails at its n-th failpoint changes nothing', () => {
  test.each(operations)('%s', (_name, operate) => {
    let failures = 0;
    for (let nth = 1; ; nth++) {
      const s = scene();
      const before = s.snapshot();
      s.kernel.failpoints.arm(nth);
      let error: unknown = null;
      try {
        operate(s);
      } catch (thrown) {
        error = thrown;
      }
      const hit = s.kernel.failpoints.hit;
      s.kernel.failpoints.arm(0);
      if (hit === null) {
        expect(error).toBe(null);
        break;
      }
      failures++;
      expect(error).toBeInstanceOf(SysError);
      expect((error as SysError).code).toBe('ENOMEM');
      expect(s.snapshot()).toEqual(before);
    }
    expect(failures).toBeGreaterThan(0);
  });

  test('a pin of many pages gives those before the failure, each pinned once', () => {
    for (let nth = 2; ; nth++) {
      const { kernel, processes, memory } = scene();
      const va = memory.map({ length: 1030 * PAGE, protection: R | W });
      kernel.failpoints.arm(nth);
      const runs = new PfnRuns();
      let pinned = 0;
      try {
        pinned = memory.pin(va, 1030, true, runs);
      } catch (error) {
        expect((error as SysError).code).toBe('ENOMEM');
      }
      expect(runs.pages).toBe(pinned);
      expect(processes.counts.pinned).toBe(1 + pinned);
      if (kernel.failpoints.hit === null) {
        expect(pinned).toBe(1030);
        break;
      }
      memory.unpin(runs, false);
      expect(processes.counts.pinned).toBe(1);
    }
  });
});
