/**
 * The addresses of an IOAS: which areas use them, which are reserved, and which the user allows to be chosen (Linux: the
 * three trees of struct io_pagetable, drivers/iommu/iommufd/io_pagetable.c). Areas are disjoint and meet no reserved
 * range; no reserved range meets an allowed one.
 */

import { hex, U64_MAX } from '@iommukit/hw';
import { type Kernel, SysError } from '@iommukit/iommu-core';
import { type Area, byteOf, type PagesSlice, pageOf } from './area.ts';
import { IntervalTree } from './interval-tree.ts';
import { allocateIova } from './iova-allocator.ts';
import { type IovaRange, ReservedRanges } from './reserved.ts';

export class IovaSpace {
  private readonly kernel: Kernel;
  private readonly tree = new IntervalTree<Area>();
  private readonly reserved = new ReservedRanges();
  /** Ascending, disjoint, no two adjoining; none: all addresses may be chosen. */
  private allowed: readonly IovaRange[] = [];

  constructor(kernel: Kernel) {
    this.kernel = kernel;
  }

  get areaCount(): number {
    return this.tree.size;
  }

  get reservedRanges(): readonly (IovaRange & { readonly owner: object })[] {
    return this.reserved.all();
  }

  get allowedRanges(): readonly IovaRange[] {
    return this.allowed;
  }

  /** Calls `visit` for every area, ascending. */
  forEachArea(visit: (area: Area) => void): void {
    this.tree.walk(visit);
  }

  /** Every area, ascending. */
  areas(): Area[] {
    const areas: Area[] = [];
    this.tree.walk((area) => areas.push(area));
    return areas;
  }

  /** The first area that ends at or after `iova`. */
  areaFrom(iova: bigint): Area | null {
    return this.tree.firstFrom(pageOf(iova), byteOf(iova));
  }

  after(area: Area): Area | null {
    return area.last === U64_MAX ? null : this.areaFrom(area.last + 1n);
  }

  /** The areas that meet [iova, last], ascending. */
  areasIn(iova: bigint, last: bigint): Area[] {
    const areas: Area[] = [];
    for (let area = this.areaFrom(iova); area !== null && area.iova <= last; area = this.after(area)) areas.push(area);
    return areas;
  }

  /**
   * Calls `visit(area, first, last)` for the part of each area in [iova, last], ascending.
   * @throws {SysError} ENOENT, after the parts before it, at the first address without an area; and what `visit` throws
   */
  forEachPart(
    call: string,
    iova: bigint,
    last: bigint,
    visit: (area: Area, first: bigint, last: bigint) => void,
  ): void {
    for (let at = iova; ; ) {
      const area = this.areaFrom(at);
      if (area === null || area.iova > at) throw new SysError('ENOENT', call, `nothing is mapped at ${hex(at)}`);
      const end = area.last < last ? area.last : last;
      visit(area, at, end);
      if (end === last) return;
      at = end + 1n;
    }
  }

  /** Addresses that are not reserved; areas are not subtracted. */
  holes(): IovaRange[] {
    return this.reserved.holes();
  }

  insert(area: Area): void {
    this.tree.insert(area.iovaPage, area.iovaByte, area.lastPage, area.lastByte, area);
  }

  remove(area: Area): void {
    this.tree.remove(area.iovaPage, area.iovaByte);
  }

  /** The lowest place for a slice and what follows it, `length` bytes in all. @throws {SysError} as allocateIova */
  choose({ pages, startByte }: PagesSlice, length: bigint, alignment: number): bigint {
    const address = pages.source.start + startByte;
    return allocateIova(this.tree, this.reserved, this.allowed, address, length, alignment);
  }

  /** @throws {SysError} EINVAL misaligned, or reserved; EOVERFLOW; EEXIST an area is there */
  checkFree(call: string, iova: bigint, length: bigint, alignment: number): void {
    if ((iova & BigInt(alignment - 1)) !== 0n) {
      throw new SysError('EINVAL', call, `${hex(iova)} is not a multiple of ${alignment}`);
    }
    const last = lastOf(call, iova, length);
    const reserved = this.reserved.find(iova, last);
    if (reserved !== null) {
      throw new SysError('EINVAL', call, `${range(iova, last)} meets the reserved range ${spell(reserved)}`);
    }
    const area = this.areaFrom(iova);
    if (area !== null && area.iova <= last) {
      throw new SysError('EEXIST', call, `${range(iova, last)} meets the area ${range(area.iova, area.last)}`);
    }
  }

  /**
   * Reserves a range for `owner`. Reserved ranges may overlap each other.
   * @throws {SysError} EADDRINUSE an area is there, or the range is allowed in part; ENOMEM
   */
  reserve(start: bigint, last: bigint, owner: object): void {
    this.checkReserve(start, last);
    this.kernel.checkpoint('iopt_reserved');
    this.reserved.add(start, last, owner);
  }

  /** @throws {SysError} EADDRINUSE as `reserve` */
  checkReserve(start: bigint, last: bigint): void {
    const call = 'iopt_reserve_iova';
    const area = this.areaFrom(start);
    if (area !== null && area.iova <= last) {
      throw new SysError('EADDRINUSE', call, `${range(start, last)} meets the area ${range(area.iova, area.last)}`);
    }
    const allowed = this.allowed.find((candidate) => candidate.start <= last && start <= candidate.last);
    if (allowed !== undefined) {
      throw new SysError('EADDRINUSE', call, `${range(start, last)} meets the allowed range ${spell(allowed)}`);
    }
  }

  /** Takes back every range reserved for `owner`. */
  unreserve(owner: object): void {
    this.reserved.removeOwner(owner);
  }

  /**
   * Restricts which addresses are chosen for maps without a fixed one, in place of what was allowed before; none lifts
   * the restriction. `ranges` are ascending and disjoint, and no two adjoin.
   * @throws {SysError} EADDRINUSE one meets a reserved range
   */
  allow(ranges: readonly IovaRange[]): void {
    for (const { start, last } of ranges) {
      const reserved = this.reserved.find(start, last);
      if (reserved === null) continue;
      throw new SysError('EADDRINUSE', 'iopt_set_allow_iova', `${range(start, last)} meets ${spell(reserved)}`);
    }
    this.allowed = ranges;
  }

  /** @throws {SysError} EADDRINUSE an area is less aligned than to `alignment` bytes */
  checkAlignment(call: string, alignment: number): void {
    this.tree.walk((area) => {
      if (area.isAligned(alignment)) return;
      throw new SysError('EADDRINUSE', call, `the area ${range(area.iova, area.last)} is not aligned to ${alignment}`);
    });
  }
}

/** Last address of a range. @throws {SysError} EINVAL length 0; EOVERFLOW */
export function lastOf(call: string, iova: bigint, length: bigint): bigint {
  if (length === 0n) throw new SysError('EINVAL', call, 'length 0');
  const last = iova + length - 1n;
  if (last > U64_MAX) throw new SysError('EOVERFLOW', call, `${hex(length)} bytes from ${hex(iova)}`);
  return last;
}

/** A closed range for a message. */
export function range(first: bigint, last: bigint): string {
  return `${hex(first)}..${hex(last)}`;
}

function spell({ start, last }: IovaRange): string {
  return range(start, last);
}
