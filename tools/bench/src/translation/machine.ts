/** The machine that the TypeScript side measures on; c/translation.c has the same memory and draws the same numbers. */

import {
  FrameAllocator,
  GCMD_SRTP,
  GCMD_TE,
  PASID0_PRESENT,
  type PageTableFormat,
  PasidCapability,
  PciFabric,
  PciFunction,
  PGTT_FIRST_STAGE,
  PhysicalMemory,
  REG_GCMD,
  REG_RTADDR,
  Scheduler,
  TTM_SCALABLE,
  VtdUnit,
} from '@iommukit/hw';
import { IOMMU_READ, IOMMU_WRITE, Kernel, PageTableEditor } from '@iommukit/iommu-core';
import { draws, shuffle } from '../random.ts';

export const PAGES = 4096;
export const WALKS = 262144;
/** First frame of the pages that tables map, and of those that DMA reads. */
export const DATA = 0x8000;
export const SOURCE = 0x3000;
/** First page of a table with four or five levels, and of one with three. */
export const FIRST_PAGE = 0x12345000;
export const FIRST_PAGE_39 = 0x2345000;
const FRAMES = 65536;

export const memory: PhysicalMemory = new PhysicalMemory({ ramBytes: FRAMES * 4096, reservedBytes: 64 << 20 });
const scheduler = new Scheduler();
const frames = new FrameAllocator(memory);
const interrupts = {
  allocate(): never {
    throw new RangeError('nothing interrupts here');
  },
  free() {},
};
export const kernel: Kernel = new Kernel({ memory, frames, scheduler, interrupts });

/** In the order in which the C side draws them. */
export const permutation: Int32Array = shuffle(PAGES);
export const order: Int32Array = draws(WALKS, PAGES);
export const kinds: Int32Array = draws(WALKS, 5);
const hostFrames = shuffle(16384).map((index) => index + 0x4000);

const RW = IOMMU_READ | IOMMU_WRITE;

/** A table that maps PAGES pages from `first` to the permuted data frames. */
export function buildTable(format: PageTableFormat, levels: number, first: number): PageTableEditor {
  const table = new PageTableEditor(kernel, format, levels, [12]);
  for (let i = 0; i < PAGES; i++) {
    const page = first + i;
    table.map(page << 12, page >>> 20, (DATA + permutation[i]!) << 12, 0, 4096, RW);
  }
  return table;
}

/** Guest frame of the root of the guest's table, whose other tables follow it. */
export const GUEST_ROOT = 8192;

/** The same pages through a guest table in guest frames; guest frames lie behind shuffled host frames. */
export function buildNested(secondStage: PageTableFormat): PageTableEditor {
  const stage2 = new PageTableEditor(kernel, secondStage, 4, [12]);
  hostFrames.forEach((frame, gfn) => {
    stage2.map(gfn << 12, 0, frame << 12, 0, 4096, RW);
  });
  const { words } = memory;
  let next = GUEST_ROOT + 1;
  for (let i = 0; i < PAGES; i++) {
    const page = FIRST_PAGE + i;
    let gfn = GUEST_ROOT;
    for (let level = 3; level > 0; level--) {
      const word = (hostFrames[gfn]! << 10) | (((page / 2 ** (9 * level)) & 511) << 1);
      if (words[word] === 0) words[word] = (next++ << 12) | 0x67;
      gfn = words[word]! >>> 12;
    }
    words[(hostFrames[gfn]! << 10) | ((page & 511) << 1)] = (permutation[i]! << 12) | 0x67;
  }
  return stage2;
}

/** A function that can send requests with PASID. */
class Requester extends PciFunction {
  constructor() {
    super({ vendorId: 0x696f, deviceId: 0x10, classCode: 0xff0000 });
    this.add(new PasidCapability({ width: 20 }));
    this.config.write(4, 2, 4);
    this.config.write(0x106, 2, 1);
  }

  protected override onReset(): void {}
}

/** Requesters of four functions with four PASIDs each, numbered alike on both sides. */
export const RIDS: readonly number[] = [8, 16, 24, 32];
const PASIDS = [1, 2, 3, 4];

/** A unit in scalable mode over `root`, with the functions of RIDS, every PASID of theirs translated by that table. */
export function buildUnit(rootPfn: number): { unit: VtdUnit; functions: PciFunction[] } {
  const quiet = { deliver() {} };
  const fabric = new PciFabric({ memory, scheduler, interrupts: quiet });
  const unit = new VtdUnit({ memory, scheduler, port: fabric, interrupts: quiet });
  fabric.setAgent(unit);
  const put = (address: number, ...values: bigint[]): void => {
    values.forEach((value, index) => {
      memory.store(address + 8 * index, 8, value);
    });
  };
  const page = (): number => kernel.allocateFrame('unit') * 4096;
  const [rootTable, contextTable] = [page(), page()];
  put(rootTable, BigInt(contextTable) | 1n);
  let domain = 1;
  for (const rid of RIDS) {
    const [directory, table] = [page(), page()];
    put(contextTable + 32 * rid, BigInt(directory) | 0b1001n);
    put(directory, BigInt(table) | 1n);
    for (const pasid of PASIDS) {
      const entry0 = BigInt(PASID0_PRESENT | (PGTT_FIRST_STAGE << 6));
      // WPE and NXE, page walks snoop.
      put(table + 64 * pasid, entry0, BigInt(domain++) | (1n << 23n), (BigInt(rootPfn) << 12n) | 0x30n);
    }
  }
  unit.registers.write(REG_RTADDR, 8, BigInt(rootTable) | BigInt(TTM_SCALABLE << 10));
  for (const command of [GCMD_SRTP, GCMD_TE]) {
    unit.registers.write(REG_GCMD, 4, BigInt(command >>> 0));
    while (scheduler.runNext());
  }
  const functions = RIDS.map((rid) => fabric.plug(new Requester(), rid));
  return { unit, functions };
}
