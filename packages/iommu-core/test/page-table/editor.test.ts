import {
  ACCESS_READ,
  ACCESS_WRITE,
  amdv1,
  amdv1Mock,
  CONTROL_NO_EXECUTE,
  CONTROL_STAGE2_ACCESSED_DIRTY,
  CONTROL_STAGE2_EXECUTE,
  CONTROL_WRITE_PROTECT,
  FrameAllocator,
  high32,
  joinU64,
  low32,
  type PageTableFormat,
  PhysicalMemory,
  Scheduler,
  VtdSecondStageWalker,
  vtdSecondStage,
  WALK_OK,
  X86Walker,
  x86_64,
} from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IOMMU_CACHE, IOMMU_NOEXEC, IOMMU_READ, IOMMU_WRITE } from '../../src/domain.ts';
import { SysError } from '../../src/errno.ts';
import { Kernel } from '../../src/kernel.ts';
import { PageTableEditor } from '../../src/page-table/editor.ts';
import { type Leaf, readTable } from './leaves.ts';
import { walkAmdv1 } from './naive-amdv1.ts';

const RW = IOMMU_READ | IOMMU_WRITE;
const HUGE = 2 ** 18;
const LARGE = 2 ** 9;

function makeKernel(): Kernel {
  const memory = new PhysicalMemory({ ramBytes: 4 << 20, reservedBytes: 0 });
  const frames = new FrameAllocator(memory, { debug: true });
  const interrupts = {
    allocate: () => {
      throw new RangeError('no interrupts here');
    },
    free() {},
  };
  return new Kernel({ memory, frames, scheduler: new Scheduler(), interrupts });
}

type Shape = { name: string; format: PageTableFormat; levels: number };

const shapes: Shape[] = [x86_64, vtdSecondStage, amdv1, amdv1Mock].flatMap((format) =>
  format.levels.map((levels) => ({ name: `${format.name}, ${levels} levels`, format, levels })),
);

/** One editor with arithmetic on page numbers of the address space, which may be sign-extended. */
class Table {
  readonly kernel: Kernel = makeKernel();
  readonly editor: PageTableEditor;
  readonly shape: Shape;
  /** Bytes of a page. */
  readonly pageBytes: number;

  constructor(shape: Shape, pageSizesLg2?: readonly number[]) {
    this.shape = shape;
    this.pageBytes = 2 ** shape.format.pageSizesLg2[0]!;
    this.editor = new PageTableEditor(this.kernel, shape.format, shape.levels, pageSizesLg2);
  }

  /** Byte address of a page number within the table's width. */
  address(page: number): bigint {
    const { format, levels } = this.shape;
    const upper = format.canonical && page >= 2 ** (9 * levels - 1);
    return BigInt.asUintN(64, BigInt(page) * BigInt(this.pageBytes) - (upper ? 1n << BigInt(9 * levels + 12) : 0n));
  }

  map(page: number, pfn: number, pages: number, prot = RW): void {
    const [lo, hi] = halves(this.address(page));
    const [physLo, physHi] = halves(BigInt(pfn) * BigInt(this.pageBytes));
    this.editor.map(lo, hi, physLo, physHi, pages * this.pageBytes, prot);
  }

  unmap(page: number, pages: number): number {
    return this.editor.unmap(...halves(this.address(page)), pages * this.pageBytes) / this.pageBytes;
  }

  protect(page: number, pages: number, prot: number): number {
    return this.editor.protect(...halves(this.address(page)), pages * this.pageBytes, prot) / this.pageBytes;
  }

  contents() {
    return readTable(this.kernel.memory, this.shape.format, this.editor.rootPfn, this.shape.levels);
  }

  readDirty(first: number, pages: number, keep: boolean, visit: (page: number, pages: number) => void): void {
    const unit = this.pageBytes;
    const iova = this.address(first);
    this.editor.readDirty(low32(iova), high32(iova), pages * unit, keep, (lo, hi, bytes) => {
      visit(Number(joinU64(lo, hi) / BigInt(unit)), bytes / unit);
    });
  }

  /** Leaves without their flags. */
  leaves(): Omit<Leaf, 'entry'>[] {
    return this.contents().leaves.map(({ first, pages, pfn }) => ({ first, pages, pfn }));
  }

  code(action: () => void): string {
    try {
      action();
    } catch (error) {
      if (error instanceof SysError) return error.code;
      throw error;
    }
    return 'ok';
  }
}

/** A device's access to a page below 2^27, with hardware that keeps dirty bits. */
function dma(table: Table, page: number, access: number): void {
  const { memory } = table.kernel;
  const { rootPfn } = table.editor;
  const { format, levels } = table.shape;
  if (isAmd(format)) {
    expect(walkAmdv1(memory, rootPfn, levels, page, access === ACCESS_WRITE)).not.toBe(null);
    return;
  }
  const walker = new VtdSecondStageWalker(memory);
  expect(walker.walk(rootPfn, levels - 1, 0, page, access, CONTROL_STAGE2_ACCESSED_DIRTY)).toBe(WALK_OK);
}

function isAmd(format: PageTableFormat): boolean {
  return format === amdv1 || format === amdv1Mock;
}

function halves(address: bigint): [number, number] {
  return [Number(BigInt.asIntN(32, address)), Number(BigInt.asIntN(32, address >> 32n))];
}

/** The naive model: a list of leaves, looked through from end to end. */
class Model {
  leaves: Omit<Leaf, 'entry'>[] = [];

  meets(first: number, pages: number): boolean {
    return this.leaves.some((leaf) => leaf.first < first + pages && first < leaf.first + leaf.pages);
  }

  map(page: number, pfn: number, pages: number): void {
    for (let done = 0; done < pages; ) {
      const size = [HUGE, LARGE, 1].find(
        (span) => (page + done) % span === 0 && (pfn + done) % span === 0 && pages - done >= span,
      )!;
      this.leaves.push({ first: page + done, pages: size, pfn: pfn + done });
      done += size;
    }
    this.leaves.sort((a, b) => a.first - b.first);
  }

  unmap(first: number, pages: number): { unmapped: number; first: number; last: number } {
    const gone = this.leaves.filter((leaf) => leaf.first < first + pages && first < leaf.first + leaf.pages);
    this.leaves = this.leaves.filter((leaf) => !gone.includes(leaf));
    return {
      unmapped: gone.reduce((sum, leaf) => sum + leaf.pages, 0),
      first: Math.min(...gone.map((leaf) => leaf.first)),
      last: Math.max(...gone.map((leaf) => leaf.first + leaf.pages - 1)),
    };
  }

  at(page: number): number | null {
    const leaf = this.leaves.find((each) => each.first <= page && page < each.first + each.pages);
    return leaf === undefined ? null : leaf.pfn + (page - leaf.first);
  }
}

describe.each(shapes)('PageTableEditor, $name', (shape) => {
  const width = 2 ** (9 * shape.levels);
  const region = fc.constantFrom(0, HUGE - 700, 3 * HUGE, width - HUGE - 600, width - 2 * LARGE, width - 5);
  const rangeOf = fc.oneof(
    { weight: 4, arbitrary: fc.record({ offset: fc.nat(1100), pages: fc.integer({ min: 1, max: 1300 }) }) },
    {
      weight: 2,
      arbitrary: fc.record({ offset: fc.nat(3).map((n) => n * LARGE), pages: fc.constantFrom(512, 1024, 5 * 512) }),
    },
    { weight: 1, arbitrary: fc.record({ offset: fc.constant(0), pages: fc.constantFrom(HUGE, 2 * HUGE, HUGE + 700) }) },
  );
  const operation = fc.record({
    map: fc.boolean(),
    region,
    range: rangeOf,
    frame: fc.constantFrom(0, HUGE, 5, 2 ** 20 - 512, 2 ** 20 - 3, 2 ** 32, 2 ** 39),
    aligned: fc.boolean(),
  });

  test('random maps and unmaps of all sizes leave what a list of leaves leaves', () => {
    let mapped = 0;
    const check = fc.property(fc.array(operation, { minLength: 1, maxLength: 12 }), (operations) => {
      const table = new Table(shape);
      const model = new Model();
      for (const { map, region, range, frame, aligned } of operations) {
        const page = region + range.offset;
        const pages = Math.min(range.pages, width - page);
        if (pages <= 0) continue;
        if (map) {
          // The same offset within 1 GiB makes large leaves possible; without it large ranges would be huge tables.
          const pfn = aligned || pages > 4096 ? frame - (frame % HUGE) + (page % HUGE) : frame;
          const code = table.code(() => table.map(page, pfn, pages));
          expect(code).toBe(model.meets(page, pages) ? 'EEXIST' : 'ok');
          if (code === 'ok') {
            model.map(page, pfn, pages);
            mapped++;
          }
        } else {
          const expected = model.unmap(page, pages);
          expect(table.unmap(page, pages)).toBe(expected.unmapped);
          if (expected.unmapped > 0 && expected.first % LARGE === 0 && expected.unmapped >= LARGE) {
            expect(table.editor.firstChanged).toBeLessThanOrEqual(expected.first);
            expect(table.editor.lastChanged).toBeGreaterThanOrEqual(expected.last);
          }
          table.editor.freeGathered();
        }
        const contents = table.contents();
        expect(table.leaves()).toEqual(model.leaves);
        expect(contents.emptyTables).toBe(0);
        expect(table.kernel.frames.allocated).toBe(contents.tables.length);
        for (const probe of [page - 1, page, page + pages - 1, page + pages]) {
          if (probe < 0 || probe >= width) continue;
          const pfn = model.at(probe);
          const address = table.address(probe) | 0x123n;
          expect(table.editor.iovaToPhys(address)).toBe(
            pfn === null ? null : BigInt(pfn) * BigInt(table.pageBytes) + 0x123n,
          );
        }
      }
      table.editor.free();
      expect(table.kernel.frames.allocated).toBe(0);
    });
    fc.assert(check, { numRuns: 60 });
    expect(mapped).toBeGreaterThan(60);
  });

  test('a failure at any allocation leaves the table and the frames as they were', () => {
    const table = new Table(shape);
    const { failpoints, frames } = table.kernel;
    table.map(LARGE - 3, 77, 2);
    table.map(5 * LARGE, 5 * LARGE, LARGE);
    const before = table.contents();
    const allocated = frames.allocated;
    let failures = 0;
    for (let nth = 1; ; nth++) {
      failpoints.arm(nth);
      // Misaligned by one frame: only 4 KiB leaves, in tables on both sides of a 1 GiB boundary.
      const code = table.code(() => table.map(HUGE - 3 * LARGE - 9, 8, 6 * LARGE));
      failpoints.arm(0);
      if (code === 'ok') break;
      expect(code).toBe('ENOMEM');
      expect(table.contents()).toEqual(before);
      expect(frames.allocated).toBe(allocated);
      failures++;
    }
    expect(failures).toBeGreaterThanOrEqual(8);
    expect(table.unmap(HUGE - 3 * LARGE - 9, 6 * LARGE)).toBe(6 * LARGE);
    table.editor.freeGathered();
    expect(table.contents()).toEqual(before);
    expect(frames.allocated).toBe(allocated);
  });

  test('a range that meets a mapping in its middle is refused whole', () => {
    const table = new Table(shape);
    table.map(3 * LARGE + 5, 1, 1);
    const before = table.contents();
    expect(table.code(() => table.map(0, 0, 8 * LARGE))).toBe('EEXIST');
    expect(table.code(() => table.map(3, 900, 8 * LARGE))).toBe('EEXIST');
    expect(table.code(() => table.map(0, 0, HUGE))).toBe('EEXIST');
    expect(table.contents()).toEqual(before);
    expect(table.kernel.frames.allocated).toBe(before.tables.length);
  });

  test('unmapping part of a large leaf unmaps all of it and says so', () => {
    const table = new Table(shape);
    table.map(4 * LARGE, 4 * LARGE, 2 * LARGE);
    expect(table.unmap(5 * LARGE - 1, 2)).toBe(2 * LARGE);
    expect([table.editor.firstChanged, table.editor.lastChanged]).toEqual([4 * LARGE, 6 * LARGE - 1]);
    expect(table.leaves()).toEqual([]);
  });

  test('emptied tables are kept until the flush, out of the table at once', () => {
    const table = new Table(shape);
    table.map(1, 1, 1);
    expect(table.unmap(1, 1)).toBe(1);
    expect(table.contents().tables).toEqual([table.editor.rootPfn]);
    expect(table.editor.hasGathered).toBe(true);
    expect(table.kernel.frames.allocated).toBe(shape.levels);
    table.map(1, 2, 1);
    expect(table.kernel.frames.allocated).toBe(2 * shape.levels - 1);
    table.editor.freeGathered();
    expect(table.kernel.frames.allocated).toBe(shape.levels);
    expect(table.leaves()).toEqual([{ first: 1, pages: 1, pfn: 2 }]);
  });

  test('uses only the page sizes that it was told of', () => {
    const table = new Table(shape, shape.format.pageSizesLg2.slice(0, 2));
    table.map(0, 0, HUGE);
    expect(table.contents().leaves.map((leaf) => leaf.pages)).toEqual(new Array(512).fill(LARGE));
    const small = new Table(shape, shape.format.pageSizesLg2.slice(0, 1));
    small.map(0, 0, LARGE);
    expect(small.contents().leaves).toHaveLength(LARGE);
  });

  test('refuses what it cannot hold and takes the last page of the address space', () => {
    const table = new Table(shape);
    expect(table.code(() => table.map(0, 0, 1, 0))).toBe('EINVAL');
    const half = shape.format.canonical ? width / 2 : width;
    expect(table.code(() => table.map(half - 1, 0, 2))).toBe('ERANGE');
    expect(table.code(() => table.map(width - 1, 0, 2))).toBe('ERANGE');
    expect(table.code(() => table.map(0, 2 ** 40 - 1, 2))).toBe('ERANGE');
    const bytes = table.pageBytes;
    const above = halves(BigInt(half) * BigInt(bytes));
    expect(table.code(() => table.editor.map(...above, 0, 0, bytes, RW))).toBe('ERANGE');
    expect(table.code(() => table.editor.map(1, 0, 0, 0, bytes, RW))).toBe('EINVAL');
    expect(table.code(() => table.editor.map(0, 0, bytes / 2, 0, bytes, RW))).toBe('EINVAL');
    expect(table.code(() => table.editor.map(0, 0, 0, 0, bytes / 2, RW))).toBe('EINVAL');
    expect(table.code(() => table.editor.map(0, 0, 0, 0, 0, RW))).toBe('EINVAL');
    expect(table.code(() => table.map(0, 0, 1, IOMMU_CACHE))).toBe('EINVAL');
    expect(table.editor.unmap(...above, bytes)).toBe(0);
    table.map(width - 1, 9, 1);
    expect(table.unmap(width - 1, 2 ** 39)).toBe(1);
  });

  test('protect changes the rights of whole leaves and nothing else', () => {
    const table = new Table(shape);
    table.map(0, 7, 4);
    table.map(2 * LARGE, 2 * LARGE, LARGE);
    const before = table.contents().leaves;
    const writable = BigInt(shape.format.write) | (BigInt(shape.format.writeHigh) << 32n);
    expect(table.protect(1, 2, IOMMU_READ)).toBe(2);
    expect(table.protect(2 * LARGE + 1, 1, IOMMU_READ)).toBe(LARGE);
    const after = table.contents().leaves;
    expect(after.map((leaf) => (leaf.entry & writable) !== 0n)).toEqual([true, false, false, true, false]);
    expect(after.map(({ entry, ...leaf }) => leaf)).toEqual(before.map(({ entry, ...leaf }) => leaf));
    table.protect(0, 4 * LARGE, RW);
    expect(table.contents().leaves).toEqual(before);
  });
});

describe.each(shapes.filter(({ format }) => !isAmd(format)))('walkers, $name', (shape) => {
  const width = 2 ** (9 * shape.levels);

  test('hardware finds what was mapped, with the rights it was mapped with', () => {
    const table = new Table(shape);
    const { memory } = table.kernel;
    const isX86 = shape.format === x86_64;
    const walker = isX86 ? new X86Walker(memory) : new VtdSecondStageWalker(memory);
    const control = CONTROL_NO_EXECUTE | CONTROL_WRITE_PROTECT | CONTROL_STAGE2_EXECUTE;
    const prots = [IOMMU_READ, RW, RW | IOMMU_NOEXEC, RW | IOMMU_CACHE, IOMMU_READ | IOMMU_NOEXEC, IOMMU_WRITE];
    const rights = [0x55, 0x77, 0x33, 0x77, 0x11, isX86 ? 0x77 : 0x66];
    prots.forEach((prot, index) => table.map(index * LARGE, 3 * HUGE + index * LARGE, 1, prot));
    prots.forEach((prot, index) => table.map((8 + index) * LARGE, (32 + index) * LARGE, LARGE, prot));
    const top = width - 1;
    table.map(top, 2 ** 40 - 1, 1);
    for (const [start, sizeLg2, frame] of [
      [0, 12, 3 * HUGE],
      [8 * LARGE, 21, 32 * LARGE],
    ] as const) {
      prots.forEach((_prot, index) => {
        expect(walker.walk(table.editor.rootPfn, shape.levels - 1, 0, start + index * LARGE, 0, control)).toBe(WALK_OK);
        expect([walker.pfn, walker.sizeLg2, walker.rights]).toEqual([frame + index * LARGE, sizeLg2, rights[index]]);
        expect((walker.leafLow & shape.format.snoop) !== 0).toBe(index === 3 && !isX86);
      });
    }
    const topHigh = Number(table.address(top) >> 39n);
    expect(walker.walk(table.editor.rootPfn, shape.levels - 1, topHigh, 0x7ffffff, ACCESS_WRITE, control)).toBe(
      WALK_OK,
    );
    expect(walker.pfn).toBe(2 ** 40 - 1);
  });
});

describe.each(shapes.filter(({ format }) => isAmd(format)))('walks from the specification, $name', (shape) => {
  const width = 2 ** (9 * shape.levels);

  test('hardware finds what was mapped, with the rights it was mapped with', () => {
    const table = new Table(shape);
    const walk = (page: number) => walkAmdv1(table.kernel.memory, table.editor.rootPfn, shape.levels, page);
    const prots = [IOMMU_READ, RW, IOMMU_WRITE, RW | IOMMU_CACHE, IOMMU_READ | IOMMU_NOEXEC];
    for (const [start, pages, frame] of [
      [0, 1, 3 * HUGE],
      [8 * LARGE, LARGE, 32 * LARGE],
      [3 * HUGE, HUGE, 5 * HUGE],
      [width - 6 * LARGE, 1, 2 ** 40 - 6 * LARGE],
    ] as const) {
      prots.forEach((prot, index) => {
        const at = start + index * Math.max(pages, LARGE);
        const pfn = frame + index * Math.max(pages, LARGE);
        table.map(at, pfn, pages, prot);
        expect(walk(at + pages - 1)).toEqual({
          pfn: pfn + pages - 1,
          span: pages,
          read: (prot & IOMMU_READ) !== 0,
          write: (prot & IOMMU_WRITE) !== 0,
          forceCoherent: (prot & IOMMU_CACHE) !== 0,
        });
      });
    }
    expect([walk(1), walk(LARGE + 1), walk(width - 1)]).toEqual([null, null, null]);
  });
});

describe.each(shapes.filter(({ format }) => format !== x86_64))('dirty tracking, $name', (shape) => {
  const pages = 3 * LARGE;
  const write = fc.nat(pages - 1);

  test('reports exactly the leaves that were written since they were last read', () => {
    const check = fc.property(fc.array(write), fc.array(write), fc.boolean(), (first, second, keep) => {
      const table = new Table(shape);
      table.map(0, LARGE, LARGE);
      table.map(LARGE, 7, 2 * LARGE);
      const leafOf = (page: number): [number, number] => (page < LARGE ? [0, LARGE] : [page, 1]);
      const dirty = (how: boolean, from = 0, to = pages): Set<number> => {
        const seen = new Set<number>();
        table.readDirty(from, to - from, how, (start, count) => {
          for (let page = start; page < start + count; page++) {
            expect(seen.has(page)).toBe(false);
            seen.add(page);
          }
        });
        const { firstChanged, lastChanged } = table.editor;
        const changed =
          how || seen.size === 0 ? [Number.POSITIVE_INFINITY, -1] : [Math.min(...seen), Math.max(...seen)];
        expect([firstChanged, lastChanged]).toEqual(changed);
        return seen;
      };
      const covering = (written: number[]): Set<number> => {
        const all = new Set<number>();
        for (const page of written) {
          const [start, count] = leafOf(page);
          for (let each = start; each < start + count; each++) all.add(each);
        }
        return all;
      };
      for (const page of first) dma(table, page, ACCESS_WRITE);
      for (const page of second) dma(table, page, ACCESS_READ);
      expect(dirty(keep)).toEqual(covering(first));
      for (const page of second) dma(table, page, ACCESS_WRITE);
      expect(dirty(true)).toEqual(covering(keep ? [...first, ...second] : second));
      expect(dirty(false)).toEqual(covering(keep ? [...first, ...second] : second));
      expect(dirty(false)).toEqual(new Set());
    });
    fc.assert(check, { numRuns: 40 });
  });

  test('a leaf that sticks out of the range is reported whole', () => {
    const table = new Table(shape);
    table.map(0, 0, LARGE);
    dma(table, 3, ACCESS_WRITE);
    const seen: number[][] = [];
    table.readDirty(8, 1, false, (page, pages) => seen.push([page, pages]));
    expect(seen).toEqual([[0, LARGE]]);
  });
});
