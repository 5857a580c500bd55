/**
 * Memory of the kernel that programs map: a plain file stands for it in the program, and is kept like it. What the
 * program has stored is taken over before each call, and what the kernel has stored is shown after it. Registers have
 * effects at each access, so they cannot be stood in for.
 */

import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, readSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { PAGE_SIZE } from '@iommukit/hw';
import { type BackingMapper, type Kernel, SysError } from '@iommukit/iommu-core';
import type { Mapping } from '@iommukit/iommufd';
import { fileName } from './mapping.ts';
import type { ProgramMemory } from './program-memory.ts';

type Window = {
  readonly number: number;
  readonly space: ProgramMemory;
  readonly backing: Mapping['backing'];
  readonly frames: readonly number[];
  readonly descriptor: number;
  readonly file: string;
  /** What both sides had when they were last the same. */
  readonly known: Uint8Array;
  readonly mapper: BackingMapper;
};

export class Windows {
  private readonly kernel: Kernel;
  private readonly folder: string;
  private readonly windows = new Map<number, Window>();
  private nextNumber = 1;

  /** Files are made in `folder`. */
  constructor(kernel: Kernel, folder: string) {
    this.kernel = kernel;
    this.folder = folder;
    mkdirSync(folder, { recursive: true });
  }

  /**
   * Makes a file for what a program is about to map. @returns its number, by which it is named
   * @throws {SysError} ENODEV it is not memory of the kernel, or private; ENOMEM
   */
  open(space: ProgramMemory, { backing, offset }: Mapping, length: bigint): number {
    const call = 'mmap';
    this.kernel.checkpoint(call);
    const first = Number(offset) / PAGE_SIZE;
    const frames = Array.from({ length: Number(length) / PAGE_SIZE }, (_, index) => backing.frame(first + index));
    if (frames.some((pfn) => pfn < 0 || pfn >= this.kernel.memory.ramFrames)) {
      throw new SysError('ENODEV', call, 'registers cannot be mapped by a program outside the models');
    }
    const number = this.nextNumber++;
    const descriptor = openSync(this.path(number), 'wx+', 0o600);
    const { dev, ino } = fstatSync(descriptor);
    const mapper = { dropPages: () => ftruncateSync(descriptor, 0) };
    const known = new Uint8Array(frames.length * PAGE_SIZE);
    const window = { number, space, backing, frames, descriptor, file: fileName(dev, ino), known, mapper };
    ftruncateSync(descriptor, known.length);
    this.windows.set(number, window);
    backing.mapped(mapper);
    this.show(window);
    return number;
  }

  /** The program has changed its mappings: what it has nothing of any more goes. */
  review(space: ProgramMemory): void {
    for (const window of this.windows.values()) {
      if (window.space === space && !space.maps(window.file)) this.close(window);
    }
  }

  /** The process is gone. */
  release(space: ProgramMemory): void {
    for (const window of this.windows.values()) if (window.space === space) this.close(window);
  }

  /** Takes over what programs have stored. */
  takeStores(): void {
    for (const { frames, descriptor, known } of this.windows.values()) {
      const bytes = new Uint8Array(PAGE_SIZE);
      frames.forEach((pfn, index) => {
        const start = index * PAGE_SIZE;
        if (readSync(descriptor, bytes, 0, PAGE_SIZE, start) < PAGE_SIZE) return;
        for (let i = 0; i < PAGE_SIZE; i++) {
          if (bytes[i] === known[start + i]) continue;
          known[start + i] = bytes[i]!;
          this.kernel.memory.bytes[pfn * PAGE_SIZE + i] = bytes[i]!;
        }
        this.kernel.memory.noteWrite(pfn);
      });
    }
  }

  /** Shows programs what the kernel has stored. */
  showStores(): void {
    for (const window of this.windows.values()) this.show(window);
  }

  private show({ frames, descriptor, known }: Window): void {
    if (fstatSync(descriptor).size === 0) return;
    frames.forEach((pfn, index) => {
      const page = this.kernel.memory.bytes.subarray(pfn * PAGE_SIZE, (pfn + 1) * PAGE_SIZE);
      const before = known.subarray(index * PAGE_SIZE, (index + 1) * PAGE_SIZE);
      if (Buffer.compare(page, before) === 0) return;
      before.set(page);
      writeSync(descriptor, before, 0, PAGE_SIZE, index * PAGE_SIZE);
    });
  }

  private close({ number, backing, descriptor, mapper }: Window): void {
    this.windows.delete(number);
    unlinkSync(this.path(number));
    closeSync(descriptor);
    backing.unmapped(mapper);
  }

  private path(number: number): string {
    return join(this.folder, `${number}`);
  }
}
