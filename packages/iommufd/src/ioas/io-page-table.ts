/**
 * The page table of an IOAS: areas by address, and the hardware domains that show them (Linux: struct io_pagetable,
 * drivers/iommu/iommufd/io_pagetable.c).
 *
 * All domains translate alike: every area is in every domain. While there is no domain nothing is pinned. The order of
 * mapping is cover (pin and charge), insert, fill the tables; of unmapping: clear the tables, flush, take out the area,
 * uncover (unpin).
 */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { IOMMU_WRITE, type Kernel, type PagingDomain, SysError } from '@iommukit/iommu-core';
import { Area, mapArea, type PagesSlice, pageOf, unmapArea } from './area.ts';
import { IntervalTree } from './interval-tree.ts';
import { allocateIova } from './iova-allocator.ts';
import { type IovaRange, ReservedRanges } from './reserved.ts';

export class IoPageTable {
  private readonly kernel: Kernel;
  private readonly tree = new IntervalTree<Area>();
  private readonly reserved = new ReservedRanges();
  private readonly filled: PagingDomain[] = [];
  private alignment = 1;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
  }

  /** Bytes; address, length and page offset of every area are multiples of it. */
  get iovaAlignment(): number {
    return this.alignment;
  }

  get areaCount(): number {
    return this.tree.size;
  }

  get domains(): readonly PagingDomain[] {
    return this.filled;
  }

  get reservedRanges(): readonly (IovaRange & { readonly owner: object })[] {
    return this.reserved.all();
  }

  /** Calls `visit` for every area, ascending. */
  forEachArea(visit: (area: Area) => void): void {
    this.tree.walk(visit);
  }

  /** The areas that meet [iova, last], ascending. */
  areasIn(iova: bigint, last: bigint): Area[] {
    const areas: Area[] = [];
    for (let area = this.areaAt(iova); area !== null && area.iova <= last; area = this.after(area)) areas.push(area);
    return areas;
  }

  /** Addresses that are not reserved; areas are not subtracted. */
  holes(): IovaRange[] {
    return this.reserved.holes();
  }

  /**
   * Maps slices one after another, `length` bytes in all, at `iova`, or where it fits when that is null. The new areas
   * take over the caller's references on the slices' pages. On failure nothing changes.
   * @throws {SysError} EINVAL length 0, misaligned or reserved; EOVERFLOW; EEXIST an area is in the way; ENOSPC no
   * place; EPERM writable areas of pages that are not; EFAULT, ENOMEM from pinning; and the domains' errors
   */
  map(slices: readonly PagesSlice[], length: bigint, iova: bigint | null, prot: number): Area[] {
    for (const _ of slices) this.kernel.checkpoint('iopt_area');
    if (length === 0n || (length & BigInt(this.alignment - 1)) !== 0n) {
      throw new SysError('EINVAL', 'iopt_map', `length ${hex(length)} is not a positive multiple of ${this.alignment}`);
    }
    const address = iova ?? this.findPlace(slices[0]!, length);
    if (iova !== null) this.checkPlace(iova, length);
    const areas: Area[] = [];
    try {
      let next = address;
      for (const slice of slices) {
        areas.push(this.insert(slice, next, prot));
        next += slice.length;
      }
      this.fill(areas);
    } catch (error) {
      for (const area of areas) this.tree.remove(area.iovaPage, area.iovaByte);
      throw error;
    }
    return areas;
  }

  /**
   * The slices behind [iova, iova + length), to be mapped elsewhere: one for each area, with a reference taken on its
   * pages that the caller gives on or puts.
   * @throws {SysError} EINVAL length 0; EOVERFLOW; ENOENT a part of the range has no area
   */
  slices(iova: bigint, length: bigint): PagesSlice[] {
    const last = checkRange('iopt_get_pages', iova, length);
    const found: PagesSlice[] = [];
    for (let at = iova; at <= last; ) {
      const area = this.areaAt(at);
      if (area === null || area.iova > at) {
        throw new SysError('ENOENT', 'iopt_get_pages', `nothing is mapped at ${hex(at)}`);
      }
      const end = lower(area.last, last);
      found.push({ pages: area.pages, startByte: area.startByte + (at - area.iova), length: end - at + 1n });
      at = end + 1n;
    }
    this.kernel.checkpoint('iopt_pages_list');
    for (const { pages } of found) pages.get();
    return found;
  }

  /**
   * Unmaps every area in the range, handing each to `gone` once no device can reach it. Areas are never cut: one that
   * is in the range only in part stops the walk, and those before it stay unmapped.
   * @returns bytes unmapped
   * @throws {SysError} EINVAL length 0; EOVERFLOW; ENOENT nothing was there, or an area is not wholly in the range
   */
  unmap(iova: bigint, length: bigint, gone: (area: Area) => void): bigint {
    const last = checkRange('iopt_unmap_iova', iova, length);
    const areas: Area[] = [];
    let cut: Area | null = null;
    for (let area = this.areaAt(iova); area !== null && area.iova <= last; area = this.after(area)) {
      if (area.iova < iova || area.last > last) {
        cut = area;
        break;
      }
      areas.push(area);
    }
    this.drop(areas, gone);
    const range = `${hex(iova)}..${hex(last)}`;
    if (cut !== null) {
      throw new SysError('ENOENT', 'iopt_unmap_iova', `${range} cuts the area ${hex(cut.iova)}..${hex(cut.last)}`);
    }
    if (areas.length === 0) throw new SysError('ENOENT', 'iopt_unmap_iova', `nothing is mapped in ${range}`);
    return total(areas);
  }

  /** True when an area lies in [iova, last] in part, and in part outside. */
  cuts(iova: bigint, last: bigint): boolean {
    const head = this.areaAt(iova);
    if (head !== null && head.iova < iova) return true;
    const tail = this.areaAt(last);
    return tail !== null && tail.iova <= last && tail.last > last;
  }

  /** Unmaps everything; there may be nothing. @returns bytes unmapped */
  unmapAll(gone: (area: Area) => void): bigint {
    const areas: Area[] = [];
    this.tree.walk((area) => areas.push(area));
    this.drop(areas, gone);
    return total(areas);
  }

  /**
   * Reserves a range for `owner`. Reserved ranges may overlap each other.
   * @throws {SysError} EADDRINUSE an area is there; ENOMEM
   */
  reserve(start: bigint, last: bigint, owner: object): void {
    const area = this.areaAt(start);
    if (area !== null && area.iova <= last) {
      const range = `${hex(start)}..${hex(last)}`;
      throw new SysError(
        'EADDRINUSE',
        'iopt_reserve_iova',
        `${range} meets the area ${hex(area.iova)}..${hex(area.last)}`,
      );
    }
    this.kernel.checkpoint('iopt_reserved');
    this.reserved.add(start, last, owner);
  }

  /** Takes back every range reserved for `owner`. */
  unreserve(owner: object): void {
    this.reserved.removeOwner(owner);
  }

  /**
   * Fills `domain` with every area and keeps it filled from now on. What lies outside its aperture becomes reserved.
   * On failure nothing changes.
   * @throws {SysError} EINVAL it cannot map single pages; EADDRINUSE areas do not fit its page size or aperture; and
   * the errors of pinning and mapping
   */
  addDomain(domain: PagingDomain): void {
    const call = 'iopt_table_add_domain';
    const alignment = Math.max(smallestPage(domain), this.alignment);
    if (alignment > PAGE_SIZE) throw new SysError('EINVAL', call, `pages of ${alignment} bytes are the smallest`);
    if (alignment !== this.alignment) this.checkAlignment(alignment, call);
    const { first, last } = domain.aperture;
    try {
      if (first !== 0n) this.reserve(0n, first - 1n, domain);
      if (last !== U64_MAX) this.reserve(last + 1n, U64_MAX, domain);
      this.kernel.checkpoint('iopt_domain');
      this.fillDomain(domain);
    } catch (error) {
      this.reserved.removeOwner(domain);
      throw error;
    }
    this.alignment = alignment;
    this.filled.push(domain);
  }

  /** Empties `domain` and forgets it. With the last domain everything is unpinned. Never fails. */
  removeDomain(domain: PagingDomain): void {
    this.filled.splice(this.filled.indexOf(domain), 1);
    this.tree.walk((area) => unmapArea(domain, area));
    domain.sync();
    if (this.filled.length === 0) this.tree.walk((area) => area.pages.uncover(area.firstIndex, area.lastIndex));
    this.reserved.removeOwner(domain);
    this.alignment = Math.max(1, ...this.filled.map(smallestPage));
  }

  private areaAt(iova: bigint): Area | null {
    return this.tree.firstFrom(pageOf(iova), Number(iova & 0xfffn));
  }

  private after(area: Area): Area | null {
    return area.last === U64_MAX ? null : this.areaAt(area.last + 1n);
  }

  private findPlace(slice: PagesSlice, length: bigint): bigint {
    const address = slice.pages.origin + slice.startByte;
    return allocateIova(this.tree, this.reserved, address, length, this.alignment);
  }

  private checkPlace(iova: bigint, length: bigint): void {
    if ((iova & BigInt(this.alignment - 1)) !== 0n) {
      throw new SysError('EINVAL', 'iopt_map', `${hex(iova)} is not a multiple of ${this.alignment}`);
    }
    const last = checkRange('iopt_map', iova, length);
    const reserved = this.reserved.find(iova, last);
    if (reserved !== null) {
      const where = `${hex(reserved.start)}..${hex(reserved.last)}`;
      throw new SysError('EINVAL', 'iopt_map', `${hex(iova)}..${hex(last)} meets the reserved range ${where}`);
    }
    const area = this.areaAt(iova);
    if (area !== null && area.iova <= last) {
      const where = `${hex(area.iova)}..${hex(area.last)}`;
      throw new SysError('EEXIST', 'iopt_map', `${hex(iova)}..${hex(last)} meets the area ${where}`);
    }
  }

  private insert(slice: PagesSlice, iova: bigint, prot: number): Area {
    if ((prot & IOMMU_WRITE) !== 0 && !slice.pages.writable) {
      throw new SysError('EPERM', 'iopt_map', `pages ${slice.pages.id} were made read-only`);
    }
    const area = new Area(slice, iova, prot);
    if ((area.pageOffset & (this.alignment - 1)) !== 0) {
      throw new SysError(
        'EINVAL',
        'iopt_map',
        `page offset ${hex(area.pageOffset)} is not a multiple of ${this.alignment}`,
      );
    }
    this.tree.insert(area.iovaPage, area.iovaByte, area.lastPage, area.lastByte, area);
    return area;
  }

  /** Pins new areas and puts them into all domains, or nothing. */
  private fill(areas: readonly Area[]): void {
    if (this.filled.length === 0) return;
    const covered: Area[] = [];
    const mapped: { domain: PagingDomain; area: Area }[] = [];
    try {
      for (const area of areas) {
        area.pages.cover(area.firstIndex, area.lastIndex);
        covered.push(area);
        for (const domain of this.filled) {
          mapArea(domain, area);
          mapped.push({ domain, area });
        }
      }
    } catch (error) {
      for (const { domain, area } of mapped) unmapArea(domain, area);
      for (const domain of this.filled) domain.sync();
      for (const area of covered) area.pages.uncover(area.firstIndex, area.lastIndex);
      throw error;
    }
  }

  /** Puts every area into a domain that is about to be added, or nothing; pins when it is the first. */
  private fillDomain(domain: PagingDomain): void {
    const first = this.filled.length === 0;
    const covered: Area[] = [];
    const mapped: Area[] = [];
    try {
      this.tree.walk((area) => {
        if (first) {
          area.pages.cover(area.firstIndex, area.lastIndex);
          covered.push(area);
        }
        mapArea(domain, area);
        mapped.push(area);
      });
    } catch (error) {
      for (const area of mapped) unmapArea(domain, area);
      domain.sync();
      for (const area of covered) area.pages.uncover(area.firstIndex, area.lastIndex);
      throw error;
    }
  }

  private drop(areas: readonly Area[], gone: (area: Area) => void): void {
    if (areas.length === 0) return;
    for (const domain of this.filled) {
      for (const area of areas) unmapArea(domain, area);
      domain.sync();
    }
    for (const area of areas) {
      this.tree.remove(area.iovaPage, area.iovaByte);
      if (this.filled.length > 0) area.pages.uncover(area.firstIndex, area.lastIndex);
      area.pages.put();
      gone(area);
    }
  }

  private checkAlignment(alignment: number, call: string): void {
    this.tree.walk((area) => {
      if (area.isAligned(alignment)) return;
      const where = `${hex(area.iova)}..${hex(area.last)}`;
      throw new SysError('EADDRINUSE', call, `the area ${where} is not aligned to ${alignment}`);
    });
  }
}

/** Last address of the range. @throws {SysError} EINVAL, EOVERFLOW */
function checkRange(call: string, iova: bigint, length: bigint): bigint {
  if (length === 0n) throw new SysError('EINVAL', call, 'length 0');
  const last = iova + length - 1n;
  if (last > U64_MAX) throw new SysError('EOVERFLOW', call, `${hex(length)} bytes from ${hex(iova)}`);
  return last;
}

function lower(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function smallestPage(domain: PagingDomain): number {
  return 2 ** domain.pageSizesLg2[0]!;
}

/** Bytes of all areas, as the 64 bits that the interface has for it. */
function total(areas: readonly Area[]): bigint {
  let bytes = 0n;
  for (const area of areas) bytes += area.length;
  return BigInt.asUintN(64, bytes);
}
