import { describe, expect, test } from 'vitest';
import { PfnRuns } from '../../src/pfn-runs.ts';
import { DeviceMemory } from '../../src/process/device-memory.ts';
import type { ProcessMemory } from '../../src/process/process-memory.ts';
import { firstByte, PAGE, R, testKernel, W, walk, X } from './support.ts';

const TWO_MIB = 2 << 20;

function setUp() {
  const { kernel, processes } = testKernel();
  const start = kernel.frames.allocated;
  const process = processes.spawn({ uid: 1000 });
  const memory = process.memory!;
  return { kernel, processes, counts: processes.counts, start, process, memory, map, frameAt, fill, byteAt };

  function map(pages: number, protection = R | W): bigint {
    return memory.map({ length: pages * PAGE, protection });
  }
  function frameAt(space: ProcessMemory, va: bigint): number | null {
    return walk(kernel, space, va)?.pfn ?? null;
  }
  function fill(va: bigint, value: number, space = memory): void {
    space.write(va, new Uint8Array([value]));
  }
  function byteAt(va: bigint, space = memory): number {
    const byte = new Uint8Array(1);
    space.read(va, byte);
    return byte[0]!;
  }
}

describe('pinning', () => {
  test('C5 munmap and a new mapping at the address leave a pinned page as it is, and unpin gives back that very frame', () => {
    const { kernel, counts, memory, map, fill, byteAt } = setUp();
    const va = map(1);
    fill(va, 7);
    const runs = new PfnRuns();
    memory.pin(va, 1, true, runs);
    const pfn = runs.at(0);
    memory.unmap(va, PAGE);
    memory.map({ address: va, length: PAGE, protection: R | W });
    fill(va, 9);
    expect(firstByte(kernel, pfn)).toBe(7);
    expect(kernel.frames.isAllocated(pfn)).toBe(true);
    kernel.memory.bytes[pfn * PAGE] = 8;
    expect(byteAt(va)).toBe(9);
    memory.unpin(runs, true);
    expect(kernel.frames.isAllocated(pfn)).toBe(false);
    expect(counts.pinned).toBe(0);
    expect(byteAt(va)).toBe(9);
  });

  test('C5 mprotect takes the process its access but not the device its page', () => {
    const { kernel, memory, map, frameAt, fill } = setUp();
    const va = map(1);
    const runs = new PfnRuns();
    memory.pin(va, 1, true, runs);
    memory.protect(va, PAGE, 0);
    expect(frameAt(memory, va)).toBe(null);
    expect(() => fill(va, 1)).toThrow('EFAULT');
    kernel.memory.bytes[runs.at(0) * PAGE] = 5;
    memory.protect(va, PAGE, R | W);
    fill(va, 6);
    expect(firstByte(kernel, runs.at(0))).toBe(6);
    memory.unpin(runs, false);
  });

  test('C5 mremap moves the address and not the page', () => {
    const { kernel, memory, map, frameAt, fill } = setUp();
    const va = map(2);
    const target = map(2);
    fill(va, 3);
    const runs = new PfnRuns();
    memory.pin(va, 1, true, runs);
    memory.remap(va, 2 * PAGE, target);
    expect(frameAt(memory, target)).toBe(runs.at(0));
    expect(frameAt(memory, va)).toBe(null);
    fill(target, 4);
    expect(firstByte(kernel, runs.at(0))).toBe(4);
    memory.unpin(runs, true);
  });

  test('C5 exit frees everything but what is pinned', () => {
    const { kernel, start, process, memory, map, fill } = setUp();
    const va = map(4);
    for (let page = 0; page < 4; page++) fill(va + BigInt(page * PAGE), page + 1);
    const runs = new PfnRuns();
    memory.pin(va + BigInt(PAGE), 2, false, runs);
    process.exit();
    expect(kernel.frames.allocated).toBe(start + 2);
    expect([firstByte(kernel, runs.at(0)), firstByte(kernel, runs.at(1))]).toEqual([2, 3]);
    expect(memory.rootPfn).toBe(null);
    memory.unpin(runs, true);
    expect(kernel.frames.allocated).toBe(start);
    expect(memory.pinnedPages).toBe(0);
  });

  test('C5 a read-only pin of a private file page unshares it: later writes keep the frame', () => {
    const { kernel, processes, counts, memory, frameAt, fill } = setUp();
    const file = processes.createFile(PAGE);
    const va = memory.map({ length: PAGE, protection: R | W, backing: file });
    memory.read(va, new Uint8Array(1));
    expect(counts.isCached(frameAt(memory, va)!)).toBe(true);
    const runs = new PfnRuns();
    memory.pin(va, 1, false, runs);
    expect(counts.isCached(runs.at(0))).toBe(false);
    fill(va, 42);
    expect(frameAt(memory, va)).toBe(runs.at(0));
    expect(firstByte(kernel, runs.at(0))).toBe(42);
    memory.unpin(runs, false);
  });

  test('C5 a page pinned before fork stays with the parent, and one shared by fork is copied at the pin', () => {
    const { kernel, processes, process, memory, map, frameAt, fill, byteAt } = setUp();
    const va = map(2);
    fill(va, 1);
    fill(va + 4096n, 2);
    const before = new PfnRuns();
    memory.pin(va, 1, true, before);
    const child = processes.fork(process);
    fill(va, 11);
    expect(frameAt(memory, va)).toBe(before.at(0));
    expect(byteAt(va, child.memory!)).toBe(1);
    const after = new PfnRuns();
    memory.pin(va + 4096n, 1, false, after);
    expect(frameAt(child.memory!, va + 4096n)).not.toBe(after.at(0));
    fill(va + 4096n, 12);
    expect(firstByte(kernel, after.at(0))).toBe(12);
    expect(byteAt(va + 4096n, child.memory!)).toBe(2);
    memory.unpin(before, true);
    memory.unpin(after, true);
  });

  test('stops at the first page that cannot be pinned, and refuses when that is the first', () => {
    const { counts, memory, map } = setUp();
    const va = map(3);
    memory.protect(va + 8192n, PAGE, R);
    const runs = new PfnRuns();
    expect(memory.pin(va, 9, true, runs)).toBe(2);
    expect(runs.pages).toBe(2);
    expect(() => memory.pin(va + 8192n, 1, true, runs)).toThrow('EFAULT');
    expect(() => memory.pin(0xffff_ffff_ffff_f000n, 1, true, runs)).toThrow('EFAULT');
    expect(memory.pinnedPages).toBe(2);
    memory.unpin(runs, true);
    expect(counts.pinned).toBe(0);
  });

  test('fills free 2 MiB blocks of anonymous memory with adjoining frames', () => {
    const { memory, map, counts } = setUp();
    const va = map(1024);
    expect(va % BigInt(TWO_MIB)).toBe(0n);
    const runs = new PfnRuns();
    expect(memory.pin(va, 1024, true, runs)).toBe(1024);
    expect(runs.starts[0]! % 512).toBe(0);
    expect(runs.lengths[0]! >= 512).toBe(true);
    memory.unpin(runs, true);
    expect(counts.isDirty(runs.at(5))).toBe(true);
  });

  test('unpinning what is not pinned is a bug of the caller and shows', () => {
    const { memory, map, frameAt, fill } = setUp();
    const va = map(1);
    fill(va, 1);
    const runs = new PfnRuns();
    runs.push(frameAt(memory, va)!, 1);
    expect(() => memory.unpin(runs, false)).toThrow(RangeError);
  });
});

describe('regions', () => {
  test('mmap checks its arguments', () => {
    const { memory, map } = setUp();
    const va = map(1);
    expect(() => memory.map({ length: 0, protection: R })).toThrow('EINVAL');
    expect(() => memory.map({ length: PAGE, protection: R, address: va + 1n })).toThrow('EINVAL');
    expect(() => memory.map({ length: PAGE, protection: R, offset: 12 })).toThrow('EINVAL');
    expect(() => memory.map({ length: PAGE, protection: R, address: va })).toThrow('EEXIST');
    expect(() => memory.map({ length: PAGE, protection: R, address: 0 })).toThrow('EPERM');
    expect(() => memory.map({ length: PAGE, protection: R, address: 0x7fff_ffff_f000n })).toThrow('ENOMEM');
    expect(() => memory.map({ length: 2n ** 47n, protection: R })).toThrow('ENOMEM');
    expect(() => memory.map({ length: 2n ** 64n - 1n, protection: R })).toThrow('ENOMEM');
    expect(() => memory.unmap(va, 0)).toThrow('EINVAL');
    expect(() => memory.unmap(va, 2n ** 63n)).toThrow('EINVAL');
    expect(() => memory.protect(va - 4096n, 8192, R)).toThrow('ENOMEM');
    expect(memory.layout).toHaveLength(1);
  });

  test('the highest user page can be mapped, written and unmapped', () => {
    const { memory, fill, byteAt } = setUp();
    const last = 0x7fff_ffff_e000n;
    memory.map({ address: last, length: PAGE, protection: R | W });
    fill(last + 4095n, 9);
    expect(byteAt(last + 4095n)).toBe(9);
    expect(() => memory.write(last + 4095n, new Uint8Array(2))).toThrow('EFAULT');
    memory.unmap(last, PAGE);
    expect(memory.layout).toHaveLength(0);
  });

  test('neighbours that continue each other are one region again', () => {
    const { memory, map } = setUp();
    const va = map(4);
    memory.protect(va + 4096n, PAGE, R);
    expect(memory.layout).toHaveLength(3);
    memory.protect(va + 4096n, PAGE, R | W);
    expect(memory.layout).toHaveLength(1);
  });

  test('a transfer over many pages and regions keeps every byte', () => {
    const { memory, map } = setUp();
    const va = map(5);
    memory.protect(va + 8192n, PAGE, R | W | X);
    const bytes = Uint8Array.from({ length: 4 * PAGE + 77 }, (_, i) => i * 7);
    memory.write(va + 33n, bytes);
    const back = new Uint8Array(bytes.length);
    memory.read(va + 33n, back);
    expect(back).toEqual(bytes);
  });

  test('shared anonymous memory is one with the child, private memory is not', () => {
    const { processes, process, memory, map, fill, byteAt } = setUp();
    const shared = memory.map({ length: PAGE, protection: R | W, shared: true });
    const own = map(1);
    const child = processes.fork(process);
    fill(shared, 1, child.memory!);
    fill(own, 1, child.memory!);
    expect([byteAt(shared), byteAt(own)]).toEqual([1, 0]);
    process.exit();
    expect(byteAt(shared, child.memory!)).toBe(1);
  });
});

describe('files', () => {
  test('truncation takes pages from every mapping; a pinned one stays as it was', () => {
    const { kernel, processes, memory, fill } = setUp();
    const file = processes.createFile(2 * PAGE);
    const va = memory.map({ length: 2 * PAGE, protection: R | W, backing: file, shared: true });
    fill(va + 4096n, 5);
    const runs = new PfnRuns();
    memory.pin(va + 4096n, 1, true, runs);
    file.resize(PAGE);
    expect(memory.handleFault(va + 4096n, R)).toBe(false);
    expect(() => fill(va + 4096n, 6)).toThrow('EFAULT');
    expect(firstByte(kernel, runs.at(0))).toBe(5);
    file.resize(2 * PAGE);
    memory.read(va + 4096n, new Uint8Array(1));
    expect(walk(kernel, memory, va + 4096n)!.pfn).not.toBe(runs.at(0));
    memory.unpin(runs, true);
    expect(() => file.resize(-1)).toThrow('EINVAL');
  });

  test('bytes cut off by a truncation inside a page read as zero when the file grows again', () => {
    const { processes, memory, byteAt, fill } = setUp();
    const file = processes.createFile(PAGE);
    const va = memory.map({ length: PAGE, protection: R | W, backing: file, shared: true });
    fill(va + 100n, 1);
    fill(va + 99n, 2);
    file.resize(100);
    file.resize(PAGE);
    expect([byteAt(va + 99n), byteAt(va + 100n)]).toEqual([2, 0]);
  });

  test('a closed file keeps its pages until the last mapping goes', () => {
    const { kernel, processes, memory, fill, byteAt } = setUp();
    const file = processes.createFile(PAGE);
    const va = memory.map({ length: PAGE, protection: R | W, backing: file, shared: true });
    fill(va, 1);
    file.close();
    expect(byteAt(va)).toBe(1);
    const pfn = walk(kernel, memory, va)!.pfn;
    memory.unmap(va, PAGE);
    expect(kernel.frames.isAllocated(pfn)).toBe(false);
  });
});

describe('device memory', () => {
  test('is reached by the process, never pinned, and can be taken away', () => {
    const { kernel, memory, byteAt, fill } = setUp();
    const pfn = 0x80_0000_0;
    let there = true;
    const stored = new Map<number, bigint>();
    kernel.memory.mapMmio(pfn, 1, {
      read: (offset) => stored.get(offset) ?? 0n,
      write: (offset, _width, value) => void stored.set(offset, value),
    });
    const window = new DeviceMemory((index) => (there ? pfn + index : -1));
    const va = memory.map({ length: PAGE, protection: R | W, backing: window, shared: true });
    fill(va + 8n, 3);
    expect(stored.get(8)).toBe(3n);
    expect(byteAt(va + 8n)).toBe(3);
    expect(walk(kernel, memory, va)!.pfn).toBe(pfn);
    expect(() => memory.pin(va, 1, false, new PfnRuns())).toThrow('EFAULT');
    there = false;
    window.revoke();
    expect(walk(kernel, memory, va)).toBe(null);
    expect(() => byteAt(va)).toThrow('EFAULT');
    there = true;
    expect(byteAt(va + 8n)).toBe(3);
    kernel.memory.unmap(pfn);
  });

  test('a frame of the kernel is shared with processes and their children, and stays the kernel’s', () => {
    const { kernel, processes, counts, process, memory, fill, byteAt } = setUp();
    const pfn = kernel.allocateFrames('test', 2);
    const window = new DeviceMemory((index) => (index < 2 ? pfn + index : -1));
    const options = { length: 2 * PAGE, protection: R | W, backing: window };
    expect(() => memory.map(options)).toThrow('EINVAL');
    const va = memory.map({ ...options, shared: true });
    fill(va, 1);
    fill(va + 4096n, 2);
    const child = processes.fork(process);
    fill(va + 4096n, 3, child.memory!);
    expect([byteAt(va), byteAt(va + 4096n), byteAt(va, child.memory!)]).toEqual([1, 3, 1]);
    expect([counts.mapCount(pfn), counts.mapCount(pfn + 1)]).toEqual([0, 0]);
    memory.protect(va, PAGE, R);
    expect(() => fill(va, 9)).toThrow('EFAULT');
    memory.remap(va, PAGE, va + 0x10_0000n);
    window.revoke();
    expect(byteAt(va + 0x10_0000n)).toBe(1);
    memory.unmap(va + 4096n, PAGE);
    process.exit();
    child.exit();
    expect([kernel.frames.isAllocated(pfn), kernel.frames.isAllocated(pfn + 1)]).toEqual([true, true]);
    expect([firstByte(kernel, pfn), firstByte(kernel, pfn + 1)]).toEqual([1, 3]);
    kernel.freeFrame(pfn, 2);
  });
});

describe('instructions', () => {
  test('loads and stores of a process reach memory and device registers, 64-byte stores whole', () => {
    const { kernel, memory, map } = setUp();
    const va = map(1);
    memory.store(va + 16n, 8, 0x1122_3344_5566_7788n);
    expect(memory.load(va + 20n, 2)).toBe(0x3344n);
    expect(() => memory.store(0x1000, 8, 0n)).toThrow('EFAULT');
    const pfn = 0x80_0000_1;
    const seen: string[] = [];
    kernel.memory.mapMmio(pfn, 1, {
      read: (_offset, width) => BigInt(width),
      write: (offset, width) => void seen.push(`write ${offset} ${width}`),
      store64: (offset, data) => void seen.push(`store64 ${offset} ${data.length}`),
      enqueue64: (offset) => offset === 64,
    });
    const portal = memory.map({
      length: PAGE,
      protection: R | W,
      backing: new DeviceMemory(() => pfn),
      shared: true,
    });
    memory.store(portal + 4n, 4, 1n);
    memory.store64(portal + 128n, new Uint8Array(64));
    expect(seen).toEqual(['write 4 4', 'store64 128 64']);
    expect(memory.load(portal, 4)).toBe(4n);
    expect([memory.enqueue64(portal + 64n, new Uint8Array(64)), memory.enqueue64(va, new Uint8Array(64))]).toEqual([
      true,
      false,
    ]);
    kernel.memory.unmap(pfn);
  });
});

describe('notifiers', () => {
  test('hear of every loss before the frames go, and of the end before the page table does', () => {
    const { kernel, processes, process, memory, map, fill, frameAt } = setUp();
    const va = map(4);
    fill(va, 1);
    fill(va + 4096n, 1);
    const pfn = frameAt(memory, va)!;
    const heard: string[] = [];
    memory.addNotifier({
      invalidate: (first, last) => {
        heard.push(`${first - va}..${last - va}`);
        expect(kernel.frames.isAllocated(pfn)).toBe(true);
      },
      release: () => {
        heard.push('release');
        expect(memory.rootPfn).not.toBe(null);
        expect(memory.handleFault(va, R)).toBe(false);
      },
    });
    memory.protect(va, 8192, R);
    memory.unmap(va + 8192n, 8192);
    processes.fork(process);
    memory.protect(va, 8192, R | W);
    fill(va, 2);
    expect(heard).toEqual(['0..8191', '8192..16383', '0..8191', '0..8191', '0..4095']);
    process.exit();
    expect(heard[5]).toBe('release');
  });

  test('a fault taken inside a notifier sees the new state', () => {
    const { memory, map, fill } = setUp();
    const va = map(1);
    fill(va, 1);
    const answers: boolean[] = [];
    memory.addNotifier({ invalidate: () => answers.push(memory.handleFault(va, R)) });
    memory.unmap(va, PAGE);
    expect(answers).toEqual([false]);
  });
});

describe('processes', () => {
  test('share their user, keep their capabilities and limits over fork, and run exit actions after their memory is gone', () => {
    const { processes } = setUp();
    const parent = processes.spawn({ uid: 7, capabilities: ['CAP_IPC_LOCK'], memlock: 4096 });
    const child = processes.fork(parent);
    expect(child.credentials.user).toBe(parent.credentials.user);
    expect(child.credentials.has('CAP_IPC_LOCK')).toBe(true);
    expect(child.credentials.has('CAP_SYS_RAWIO')).toBe(false);
    expect(child.limits).toEqual({ memlock: 4096 });
    expect(child.addressSpace.id).not.toBe(parent.addressSpace.id);
    const order: string[] = [];
    child.memory!.addNotifier({ release: () => order.push('memory') });
    child.onExit(() => order.push('files'));
    child.exit();
    child.exit();
    expect(order).toEqual(['memory', 'files']);
    expect(() => child.memory!.map({ length: PAGE, protection: R })).toThrow('ENOMEM');
    expect(() => child.memory!.read(0x10000, new Uint8Array(1))).toThrow('EFAULT');
  });
});
