/** Memory to map, each page of which holds its own number, so that what a table leads to can be told from outside. */

import { ACCESS_READ, ACCESS_WRITE, PAGE_SIZE } from '@iommukit/hw';
import type { AddressSpace, PfnRuns } from '@iommukit/iommu-core';
import { shuffle } from '../random.ts';
import { GIB_PAGES, IOVA, PAGE, program } from './host.ts';

const { system, client, process } = program;
const { memory } = process;
/** Pages of a 2 MiB block. */
const BLOCK = 512;

/** In which order the pages of scattered memory are touched first. */
export const touched: Int32Array = shuffle(GIB_PAGES);

function number(va: bigint, page: number): void {
  memory!.store(va + BigInt(page) * PAGE, 4, page);
}

/** 1 GiB of anonymous memory, no two pages of which need have adjoining frames. */
export function scatteredMemory(): bigint {
  const va = system.mmap({ length: GIB_PAGES * PAGE_SIZE });
  for (const page of touched) number(va, page);
  return va;
}

/** 1 GiB of anonymous memory in frames that adjoin in blocks of 2 MiB: pinning brings in whole blocks. */
export function adjoiningMemory(): bigint {
  const length = GIB_PAGES * PAGE_SIZE;
  const va = system.mmap({ length });
  const { id: ioasId } = program.ioas(1);
  client.ioasMap({ ioasId, userVa: va, length, iova: IOVA });
  client.ioasUnmapAll(ioasId);
  for (let page = 0; page < GIB_PAGES; page++) number(va, page);
  return va;
}

/** A file of 1 GiB whose pages were written in random order. Gives a descriptor. */
export function scatteredFile(): number {
  const length = GIB_PAGES * PAGE_SIZE;
  const fd = system.memfd('bench', length);
  const va = system.mmap({ fd, length, protection: ACCESS_READ | ACCESS_WRITE });
  for (const page of touched) number(va, page);
  system.munmap(va, length);
  return fd;
}

/** Frames of memory that is not there begin here. */
export const SYNTHETIC_BASE: number = 2 ** 21;

/**
 * An address space that is larger than the machine: only its frame numbers and their pin counts are there. The frames lie
 * in shuffled blocks of 2 MiB that start one page behind such a boundary, so that no large leaf fits.
 */
export class SyntheticMemory implements AddressSpace {
  readonly id = 1000;
  readonly alive = true;
  readonly rootPfn = null;
  pinnedPages = 0;
  lockedPages = 0;
  private readonly blocks: Int32Array;
  private readonly pins: Int32Array;

  /** `pages` is a multiple of a block. */
  constructor(pages: number) {
    this.blocks = shuffle(pages / BLOCK);
    this.pins = new Int32Array(pages + BLOCK);
  }

  pin(va: bigint, pages: number, _write: boolean, into: PfnRuns): number {
    const { pins } = this;
    const first = Number(va / PAGE);
    for (let page = first; page < first + pages; ) {
      const inBlock = page & (BLOCK - 1);
      const count = Math.min(BLOCK - inBlock, first + pages - page);
      const frame = (this.blocks[(page - inBlock) / BLOCK]! * BLOCK + 1 + inBlock) | 0;
      for (let i = frame; i < frame + count; i++) pins[i] = pins[i]! + 1;
      into.push(SYNTHETIC_BASE + frame, count);
      page += count;
    }
    this.pinnedPages += pages;
    return pages;
  }

  unpin(runs: PfnRuns): void {
    const { pins } = this;
    for (let run = 0; run < runs.count; run++) {
      const frame = (runs.starts[run]! - SYNTHETIC_BASE) | 0;
      for (let i = frame; i < frame + runs.lengths[run]!; i++) {
        if (pins[i]! <= 0) throw new RangeError(`frame ${i} is not pinned`);
        pins[i] = pins[i]! - 1;
      }
    }
    this.pinnedPages -= runs.pages;
  }

  pinCount(pfn: number): number {
    return this.pins[pfn - SYNTHETIC_BASE]!;
  }

  /** Its bytes are nowhere. */
  read(): void {}

  write(): void {}

  handleFault(): boolean {
    return false;
  }

  addNotifier(): void {}

  removeNotifier(): void {}
}
