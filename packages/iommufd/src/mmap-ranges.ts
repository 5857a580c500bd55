/**
 * What can be mapped through the file of a context: pages that drivers have registered for their objects, under offsets
 * that they tell the user (Linux: iommufd_alloc_mmap, drivers/iommu/iommufd/driver.c, and iommufd_fops_mmap, main.c).
 */

import { ACCESS_EXECUTE, hex, U64_MAX } from '@iommukit/hw';
import { type Backing, type BackingMapper, type Kernel, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import type { Mapping } from './files/file.ts';
import type { IommufdObject } from './object-table.ts';

const PAGE = 4096n;

export type MmapRange = {
  /** File offset. */
  readonly offset: bigint;
  readonly length: bigint;
  /** Frame of the first page. */
  readonly pfn: number;
  /** Stays while the range is mapped. */
  readonly owner: IommufdObject;
};

export class MmapRanges {
  private readonly kernel: Kernel;
  /** Ascending, none overlapping another. */
  private readonly ranges: MmapRange[] = [];

  constructor(kernel: Kernel) {
    this.kernel = kernel;
  }

  /**
   * Takes the lowest free offsets, not below one page, for `length` bytes from physical address `base`.
   * @throws {SysError} EINVAL no whole pages; ENOMEM; EBUSY there are not so many offsets
   */
  allocate(owner: IommufdObject, base: bigint, length: bigint): MmapRange {
    const call = 'iommufd_alloc_mmap';
    if (length <= 0n || length % PAGE !== 0n || base % PAGE !== 0n) {
      throw new SysError('EINVAL', call, `${hex(length)} bytes at ${hex(base)} are no whole pages`);
    }
    this.kernel.checkpoint(call);
    let offset = PAGE;
    let index = 0;
    for (; index < this.ranges.length; index++) {
      const range = this.ranges[index]!;
      if (offset + length <= range.offset) break;
      offset = range.offset + range.length;
    }
    if (offset + length - 1n > U64_MAX) throw new SysError('EBUSY', call, `no room for ${hex(length)} bytes`);
    const range = { offset, length, pfn: Number(base / PAGE), owner };
    this.ranges.splice(index, 0, range);
    return range;
  }

  /** Takes a range back. Nothing maps it. */
  free(range: MmapRange): void {
    this.ranges.splice(this.ranges.indexOf(range), 1);
  }

  /** The range at exactly these offsets, or null. */
  find(offset: bigint, length: bigint): MmapRange | null {
    return this.ranges.find((range) => range.offset === offset && range.length === length) ?? null;
  }
}

/** One mapping of a range: its owner, and the context, stay for each process that it is in. */
class RangeBacking implements Backing {
  readonly isMemory = false;
  private readonly context: IommufdContext;
  private readonly range: MmapRange;
  private readonly mappers = new Set<BackingMapper>();

  constructor(context: IommufdContext, range: MmapRange) {
    this.context = context;
    this.range = range;
  }

  frame(index: number): number {
    const { pfn, length } = this.range;
    return BigInt(index) < length / PAGE ? pfn + index : -1;
  }

  mapped(mapper: BackingMapper): void {
    if (this.mappers.has(mapper)) return;
    this.mappers.add(mapper);
    this.range.owner.users++;
    this.context.hold();
  }

  unmapped(mapper: BackingMapper): void {
    if (!this.mappers.delete(mapper)) return;
    this.range.owner.users--;
    this.context.release();
  }
}

/**
 * A range of the context, to be mapped as a whole. `protection` holds ACCESS_ bits.
 * @throws {SysError} EINVAL no whole pages, or a private mapping; EPERM executable; ENXIO no range at exactly these offsets
 */
export function mmapContext(
  context: IommufdContext,
  length: bigint,
  protection: number,
  shared: boolean,
  offset: bigint,
): Mapping {
  const call = 'mmap';
  if (length % PAGE !== 0n) throw new SysError('EINVAL', call, `${hex(length)} bytes are no whole pages`);
  if (!shared) throw new SysError('EINVAL', call, 'pages of /dev/iommu can only be mapped shared');
  if ((protection & ACCESS_EXECUTE) !== 0) throw new SysError('EPERM', call, 'pages of /dev/iommu are not executable');
  const range = context.mmaps.find(offset, length);
  if (range === null) throw new SysError('ENXIO', call, `no range has ${hex(length)} bytes at ${hex(offset)}`);
  return { backing: new RangeBacking(context, range), offset: 0n };
}
