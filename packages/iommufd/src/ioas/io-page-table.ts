/**
 * The page table of an IOAS: areas by address, the hardware domains that show them, and the accesses that use them
 * (Linux: struct io_pagetable, drivers/iommu/iommufd/io_pagetable.c).
 *
 * All domains translate alike: every area is in every domain. While there is no domain nothing is pinned but what
 * accesses pin. The order of mapping is cover (pin and charge), insert, fill the tables; of unmapping: have accesses let
 * go, clear the tables, flush, take out the area, uncover (unpin).
 */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { IOMMU_WRITE, type Kernel, type PagingDomain, SysError } from '@iommukit/iommu-core';
import { Area, mapArea, type PagesSlice, unmapArea } from './area.ts';
import { IovaSpace, lastOf, range } from './iova-space.ts';
import type { AreaHolder } from './pages.ts';

/** Calls to the accesses of an area, and of those that adjoin before it, after which one more is the last. */
const UNMAP_TRIES = 100;

/** What uses areas without a hardware table. */
export type AreaUser = {
  /** Bytes; a power of two. */
  readonly iovaAlignment: number;
  /** [iova, iova + length) is going: whatever is pinned of it is to be unpinned before this returns. */
  notifyUnmap(iova: bigint, length: bigint): void;
};

export class IoPageTable implements AreaHolder {
  readonly space: IovaSpace;
  private readonly kernel: Kernel;
  private readonly filled: PagingDomain[] = [];
  private readonly users = new Set<AreaUser>();
  private alignment = 1;
  private largePages = true;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.space = new IovaSpace(kernel);
  }

  /** Bytes; address, length and page offset of every area are multiples of it. */
  get iovaAlignment(): number {
    return this.alignment;
  }

  get domains(): readonly PagingDomain[] {
    return this.filled;
  }

  /** Whether domains map more than a page at a time, so that areas cannot be cut. */
  get hugePages(): boolean {
    return this.largePages;
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
    const address = iova ?? this.space.choose(slices[0]!, length, this.alignment);
    if (iova !== null) this.space.checkFree('iopt_map', iova, length, this.alignment);
    const areas: Area[] = [];
    try {
      let next = address;
      for (const slice of slices) {
        areas.push(this.insert(slice, next, prot));
        next += slice.length;
      }
      if (this.filled.length > 0) this.fill(areas, this.filled, false);
    } catch (error) {
      for (const area of areas) this.takeOut(area);
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
    const last = lastOf('iopt_get_pages', iova, length);
    const found: PagesSlice[] = [];
    this.space.forEachPart('iopt_get_pages', iova, last, (area, first, end) => {
      found.push({ pages: area.pages, startByte: area.byteAt(first), length: end - first + 1n });
    });
    this.kernel.checkpoint('iopt_pages_list');
    for (const { pages } of found) pages.get();
    return found;
  }

  /**
   * Unmaps every area in the range, handing each to `gone` once no device and no access can reach it. Areas are never
   * cut: the walk stops at one that cannot go, and those before it stay unmapped.
   * @returns bytes unmapped, none when there is nothing
   * @throws {SysError} EINVAL length 0; EOVERFLOW; ENOENT an area is not wholly in the range; EBUSY one is locked;
   * EDEADLK an access does not let go
   */
  unmap(iova: bigint, length: bigint, gone: (area: Area) => void): bigint {
    return this.unmapRange(iova, lastOf('iopt_unmap_iova', iova, length), gone);
  }

  /** Unmaps everything; there may be nothing. @returns bytes unmapped. @throws {SysError} EBUSY, EDEADLK as `unmap` */
  unmapAll(gone: (area: Area) => void): bigint {
    return this.unmapRange(0n, U64_MAX, gone);
  }

  /**
   * Makes no area lie on both sides of the boundary before `iova`, as unmapping in type1 version 1 needs; devices do not
   * notice. Nothing happens when none does.
   * @throws {SysError} EBUSY the area is being unmapped; EOPNOTSUPP it is of a dma-buf; EINVAL the boundary is
   * misaligned, accesses use the area, or it may be in large pages; ENOMEM
   */
  cutAt(iova: bigint): void {
    const call = 'iopt_area_split';
    const area = this.space.areaFrom(iova);
    // As in Linux, an area is not cut behind its first byte.
    if (area === null || area.iova >= iova - 1n) return;
    const where = `the area ${range(area.iova, area.last)}`;
    if (area.preventAccess) throw new SysError('EBUSY', call, `${where} is being unmapped`);
    if (area.pages.revocable !== null) throw new SysError('EOPNOTSUPP', call, `${where} is of a dma-buf`);
    if (((iova | area.byteAt(iova)) & BigInt(this.alignment - 1)) !== 0n) {
      throw new SysError('EINVAL', call, `${hex(iova)} in ${where} is not aligned to ${this.alignment}`);
    }
    this.kernel.checkpoint(call);
    if (area.accesses > 0) throw new SysError('EINVAL', call, `${where} has ${area.accesses} accesses`);
    if (this.filled.length > 0 && this.largePages) {
      throw new SysError('EINVAL', call, `${where} may be in large pages`);
    }
    const { pages, startByte, prot } = area;
    const head = iova - area.iova;
    this.space.remove(area);
    this.space.insert(new Area({ pages, startByte, length: head }, area.iova, prot));
    this.space.insert(new Area({ pages, startByte: startByte + head, length: area.length - head }, iova, prot));
    pages.get();
  }

  /**
   * Lets domains use large pages, or has every page mapped by itself.
   * @throws {SysError} EINVAL off, while there are both a domain and an area; EADDRINUSE off, and an area is not of
   * whole pages
   */
  setHugePages(on: boolean): void {
    const call = 'iopt_disable_large_pages';
    if (on === this.largePages) return;
    if (!on && this.filled.length > 0 && this.space.areaCount > 0) {
      throw new SysError('EINVAL', call, `${this.space.areaCount} areas are in domains`);
    }
    if (!on) this.space.checkAlignment(call, PAGE_SIZE);
    this.largePages = on;
    this.alignment = this.neededAlignment();
  }

  /** Tells `user` of what is unmapped from now on. @throws {SysError} EADDRINUSE areas do not fit its alignment; ENOMEM */
  addUser(user: AreaUser): void {
    this.kernel.checkpoint('iopt_add_access');
    if (user.iovaAlignment > this.alignment) this.space.checkAlignment('iopt_add_access', user.iovaAlignment);
    this.users.add(user);
    this.alignment = this.neededAlignment();
  }

  removeUser(user: AreaUser): void {
    this.users.delete(user);
    this.alignment = this.neededAlignment();
  }

  /**
   * Fills `domain` with every area and keeps it filled from now on. What lies outside its aperture becomes reserved.
   * On failure nothing changes.
   * @throws {SysError} EINVAL it cannot map single pages; EADDRINUSE areas, or allowed ranges, do not fit its page size
   * or aperture; and the errors of pinning and mapping
   */
  addDomain(domain: PagingDomain): void {
    const call = 'iopt_table_add_domain';
    const alignment = Math.max(smallestPage(domain), this.alignment);
    if (alignment > PAGE_SIZE) throw new SysError('EINVAL', call, `pages of ${alignment} bytes are the smallest`);
    if (alignment !== this.alignment) this.space.checkAlignment(call, alignment);
    const { first, last } = domain.aperture;
    try {
      if (first !== 0n) this.space.reserve(0n, first - 1n, domain);
      if (last !== U64_MAX) this.space.reserve(last + 1n, U64_MAX, domain);
      this.kernel.checkpoint('iopt_domain');
      this.fill(this.space.areas(), [domain], this.filled.length > 0);
    } catch (error) {
      this.space.unreserve(domain);
      throw error;
    }
    this.alignment = alignment;
    this.filled.push(domain);
  }

  /** Empties `domain` and forgets it. With the last domain what no access uses is unpinned. Never fails. */
  removeDomain(domain: PagingDomain): void {
    this.filled.splice(this.filled.indexOf(domain), 1);
    this.space.forEachArea((area) => unmapArea(domain, area));
    domain.sync();
    if (this.filled.length === 0) this.space.forEachArea((area) => area.pages.uncover(area.firstIndex, area.lastIndex));
    this.space.unreserve(domain);
    this.alignment = this.neededAlignment();
  }

  withdraw(area: Area): void {
    for (const domain of this.filled) {
      unmapArea(domain, area);
      domain.sync();
    }
  }

  private insert(slice: PagesSlice, iova: bigint, prot: number): Area {
    const { pages } = slice;
    if ((prot & IOMMU_WRITE) !== 0 && !pages.writable) {
      throw new SysError('EPERM', 'iopt_map', `pages ${pages.id} were made read-only`);
    }
    const area = new Area(slice, iova, prot);
    if ((area.pageOffset & (this.alignment - 1)) !== 0) {
      const offset = hex(area.pageOffset);
      throw new SysError('EINVAL', 'iopt_map', `page offset ${offset} is not a multiple of ${this.alignment}`);
    }
    this.space.insert(area);
    pages.revocable?.set(area, this);
    return area;
  }

  private takeOut(area: Area): void {
    this.space.remove(area);
    area.pages.revocable?.delete(area);
  }

  /**
   * Puts areas into domains, or nothing, pinning them first unless they are in a domain already.
   * @throws {SysError} the errors of pinning and mapping
   */
  private fill(areas: readonly Area[], domains: readonly PagingDomain[], pinned: boolean): void {
    const covered: Area[] = [];
    const mapped: { readonly domain: PagingDomain; readonly area: Area }[] = [];
    try {
      for (const area of areas) {
        if (!pinned) {
          area.pages.cover(area.firstIndex, area.lastIndex);
          covered.push(area);
        }
        for (const domain of domains) {
          mapArea(this.kernel, domain, area, this.runPages);
          mapped.push({ domain, area });
        }
      }
    } catch (error) {
      for (const { domain, area } of mapped) unmapArea(domain, area);
      for (const domain of domains) domain.sync();
      for (const area of covered) area.pages.uncover(area.firstIndex, area.lastIndex);
      throw error;
    }
  }

  /** Areas are gathered and dropped together, so that each domain is flushed once, except before an access is called. */
  private unmapRange(iova: bigint, last: bigint, gone: (area: Area) => void): bigint {
    const areas: Area[] = [];
    let bytes = 0n;
    let start = iova;
    let tries = 0;
    try {
      for (let area = this.space.areaFrom(iova); area !== null && area.iova <= last; ) {
        this.checkUnmap(area, iova, last);
        // As in Linux, areas that adjoin share their tries.
        if (area.iova !== start) tries = 0;
        if (area.accesses > 0) {
          this.drop(areas.splice(0), gone);
          this.revokeAccess(area, ++tries);
          // The owner of an access may have done anything meanwhile, unmapped the area too.
          start = area.iova;
          area = this.space.areaFrom(start);
          continue;
        }
        areas.push(area);
        bytes += area.length;
        start = area.last + 1n;
        area = this.space.after(area);
      }
    } finally {
      this.drop(areas, gone);
    }
    return BigInt.asUintN(64, bytes);
  }

  private checkUnmap(area: Area, iova: bigint, last: bigint): void {
    const call = 'iopt_unmap_iova';
    if (area.locks > 0) {
      throw new SysError('EBUSY', call, `the area ${range(area.iova, area.last)} has ${area.locks} locks`);
    }
    if (area.iova < iova || area.last > last) {
      throw new SysError('ENOENT', call, `${range(iova, last)} cuts the area ${range(area.iova, area.last)}`);
    }
  }

  private revokeAccess(area: Area, tries: number): void {
    area.preventAccess = true;
    for (const user of [...this.users]) if (this.users.has(user)) user.notifyUnmap(area.iova, area.length);
    if (tries <= UNMAP_TRIES) return;
    const where = `the area ${range(area.iova, area.last)}`;
    throw new SysError('EDEADLK', 'iopt_unmap_iova', `${where} keeps ${area.accesses} accesses`);
  }

  private drop(areas: readonly Area[], gone: (area: Area) => void): void {
    if (areas.length === 0) return;
    for (const domain of this.filled) {
      for (const area of areas) unmapArea(domain, area);
      domain.sync();
    }
    for (const area of areas) {
      this.takeOut(area);
      if (this.filled.length > 0) area.pages.uncover(area.firstIndex, area.lastIndex);
      area.pages.put();
      gone(area);
    }
  }

  /** Pages of one piece of a mapping. */
  private get runPages(): number {
    return this.largePages ? Number.POSITIVE_INFINITY : 1;
  }

  private neededAlignment(): number {
    let alignment = this.largePages ? 1 : PAGE_SIZE;
    for (const domain of this.filled) alignment = Math.max(alignment, smallestPage(domain));
    for (const { iovaAlignment } of this.users) alignment = Math.max(alignment, iovaAlignment);
    return alignment;
  }
}

function smallestPage(domain: PagingDomain): number {
  return 2 ** domain.pageSizesLg2[0]!;
}
