/** A device uses a process's addresses through VT-d: what the notifiers and the page table are there for. */

import { describe, expect, test } from 'vitest';
import { Processes } from '../../src/process/process.ts';
import { Machine } from '../support/machine.ts';
import { PAGE, R, W } from './support.ts';

function setUp() {
  const machine = new Machine();
  const device = machine.add();
  const processes = new Processes(machine.kernel);
  const start = machine.frames.allocated;
  const process = processes.spawn();
  const memory = process.memory!;
  const handle = machine.core.sva.bind(device.device, memory);
  const dma = { pasid: handle.pasid, addressing: 'cached', requestPages: true } as const;
  const va = memory.map({ length: 4 * PAGE, protection: R | W });
  return { machine, device, processes, start, process, memory, handle, dma, va, byteAt };

  function byteAt(address: bigint, space = memory): number {
    const byte = new Uint8Array(1);
    space.read(address, byte);
    return byte[0]!;
  }
}

describe('shared virtual addressing', () => {
  test('a page never touched is faulted in by the device, read and written', () => {
    const { device, memory, dma, va, byteAt } = setUp();
    expect(device.write(va + 5n, 42, dma)).toBe(true);
    expect(byteAt(va + 5n)).toBe(42);
    memory.write(va + 4096n, new Uint8Array([9]));
    expect(device.read(va + 4096n, dma)).toBe(9);
  });

  test('munmap, mprotect and a read-only region stop the device at once, cached translations or not', () => {
    const { device, memory, dma, va, byteAt } = setUp();
    expect(device.write(va, 1, dma)).toBe(true);
    memory.protect(va, PAGE, R);
    expect(device.write(va, 2, dma)).toBe(false);
    expect(device.read(va, dma)).toBe(1);
    expect(byteAt(va)).toBe(1);
    memory.unmap(va, PAGE);
    expect(device.read(va, dma)).toBe(null);
    memory.map({ address: va, length: PAGE, protection: R | W });
    expect(device.read(va, dma)).toBe(0);
  });

  test('after fork the device writes to the process copy and never to the child page', () => {
    const { device, processes, process, dma, va, byteAt } = setUp();
    expect(device.write(va, 1, dma)).toBe(true);
    const child = processes.fork(process);
    expect(device.write(va, 2, dma)).toBe(true);
    expect([byteAt(va), byteAt(va, child.memory!)]).toEqual([2, 1]);
    child.memory!.write(va, new Uint8Array([3]));
    expect(device.read(va, dma)).toBe(2);
    child.exit();
  });

  test('after the process has written to a shared page the device reads what it wrote', () => {
    const { device, memory, processes, process, dma, va } = setUp();
    memory.write(va, new Uint8Array([1]));
    const child = processes.fork(process);
    expect(device.read(va, dma)).toBe(1);
    memory.write(va, new Uint8Array([2]));
    expect(device.read(va, dma)).toBe(2);
    child.exit();
  });

  test('exit ends all of it, and unbinding afterwards leaves nothing', () => {
    const { machine, device, start, process, handle, dma, va } = setUp();
    expect(device.write(va, 1, dma)).toBe(true);
    process.exit();
    expect(device.write(va, 2, dma)).toBe(false);
    machine.core.sva.unbind(handle);
    machine.settle();
    expect(machine.frames.allocated).toBe(start);
  });
});
