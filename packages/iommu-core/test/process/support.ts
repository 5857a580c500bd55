/** A kernel with a little memory, and a page-table walk written from the SDM's tables rather than from the editor. */

import { FrameAllocator, PhysicalMemory, Scheduler } from '@iommukit/hw';
import { Kernel } from '../../src/kernel.ts';
import { Processes } from '../../src/process/process.ts';
import type { ProcessMemory } from '../../src/process/process-memory.ts';

export const R = 1;
export const W = 2;
export const X = 4;
export const PAGE = 4096;

const memory = new PhysicalMemory({ ramBytes: 8 << 20, reservedBytes: 1 << 16 });

/** A fresh kernel on memory that all tests of a file share, frames poisoned while free. */
export function testKernel(): { kernel: Kernel; processes: Processes } {
  const frames = new FrameAllocator(memory, { debug: true });
  const interrupts = { allocate: () => ({ address: 0n, data: 0 }), free: () => {} };
  const kernel = new Kernel({ memory, frames, scheduler: new Scheduler(), interrupts });
  return { kernel, processes: new Processes(kernel) };
}

export type Entry = { pfn: number; writable: boolean; user: boolean; executable: boolean };

/** Walks the CPU page table as hardware does; null where an entry is not present. */
export function walk(kernel: Kernel, space: ProcessMemory, va: bigint): Entry | null {
  if (space.rootPfn === null) return null;
  let table = BigInt(space.rootPfn) << 12n;
  let writable = true;
  let user = true;
  let executable = true;
  for (const shift of [39n, 30n, 21n, 12n]) {
    const entry = kernel.memory.load(table + 8n * ((va >> shift) & 511n), 8);
    if ((entry & 1n) === 0n) return null;
    writable &&= (entry & 2n) !== 0n;
    user &&= (entry & 4n) !== 0n;
    executable &&= entry >> 63n === 0n;
    table = entry & 0xf_ffff_ffff_f000n;
  }
  return { pfn: Number(table >> 12n), writable, user, executable };
}

/** Bytes of the frame's first word, as a test sees memory. */
export function firstByte(kernel: Kernel, pfn: number): number {
  return kernel.memory.bytes[pfn * PAGE]!;
}
