/**
 * The address space of a modelled process: regions, and the pages in them (Linux: mm/mmap.c, mm/mprotect.c,
 * mm/mremap.c, kernel/fork.c).
 *
 * A change takes effect in this order: regions, page table, notifiers, and only then are frames given up: a notifier
 * may let events run, and with them page requests for the same address space.
 */

import {
  ACCESS_EXECUTE,
  ACCESS_READ,
  ACCESS_WRITE,
  type AccessWidth,
  hex,
  low32,
  PAGE_SIZE,
  type U64,
} from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import { PfnRuns } from '../pfn-runs.ts';
import type { AddressSpace, AddressSpaceNotifier } from './address-space.ts';
import { USER_PAGES } from './cpu-page-table.ts';
import { MemoryFile } from './memory-file.ts';
import type { PageCounts } from './page-counts.ts';
import { BLOCK_PAGES, ProcessPages } from './process-pages.ts';
import { type Backing, type BackingMapper, type Region, RegionList } from './region.ts';
import { addressOf, alignedPage, checkPlace, FIRST_PAGE, pageOf, pagesOf, rangeOf } from './user-range.ts';

/** Where the search for a free place starts, downwards. */
const MMAP_TOP = 0x7f0000000;
const PROTECTION = ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE;

export type MapOptions = {
  /** Bytes, rounded up to pages. */
  length: U64;
  /** ACCESS_ bits. */
  protection: number;
  /** Where to map; a free place by default. */
  address?: U64;
  /** What is at `address` is unmapped first; without it, mapping over something is refused. */
  replace?: boolean;
  /** Default: anonymous memory. */
  backing?: Backing;
  /** Byte offset into the backing. */
  offset?: U64;
  /** Writes reach the backing, and forked children share the pages. */
  shared?: boolean;
};

export class ProcessMemory implements AddressSpace, BackingMapper {
  readonly id: number;
  pinnedPages = 0;
  lockedPages = 0;
  private readonly kernel: Kernel;
  private readonly counts: PageCounts;
  private readonly pages: ProcessPages;
  private readonly regions = new RegionList();
  private readonly notifiers: AddressSpaceNotifier[] = [];
  private root: number | null;
  private gone = false;

  /** @throws {SysError} ENOMEM */
  constructor(kernel: Kernel, counts: PageCounts, id: number) {
    this.kernel = kernel;
    this.counts = counts;
    this.id = id;
    this.pages = new ProcessPages(kernel, counts, (start, end) => this.notify(start, end));
    this.root = this.pages.table.rootPfn;
  }

  get alive(): boolean {
    return !this.gone;
  }

  get rootPfn(): number | null {
    return this.root;
  }

  /** The regions in use, ascending. */
  get layout(): readonly Region[] {
    return this.regions.all;
  }

  /**
   * mmap(2). Gives the address.
   * @throws {SysError} EINVAL length 0, misaligned address or offset, a private mapping of what is not memory; ENOMEM
   * no room, no memory, or the process is gone; EEXIST the place is taken and may not be replaced; EPERM below 64 KiB
   */
  map(options: MapOptions): bigint {
    const call = 'mmap';
    const { protection, address, replace = false, backing = null, shared = false } = options;
    const pages = pagesOf(call, options.length);
    const backingPage = alignedPage(call, options.offset ?? 0);
    const start = address === undefined ? this.findPlace(pages) : alignedPage(call, address);
    const end = start + pages;
    checkPlace(call, start, end);
    if (backing?.isMemory === false && !shared) throw new SysError('EINVAL', call, 'not memory, and not shared');
    if (this.gone) throw new SysError('ENOMEM', call, 'the process has exited');
    if (!replace && this.regions.within(start, end).length > 0) {
      throw new SysError('EEXIST', call, `pages ${hex(start)}..${hex(end - 1)} are in use`);
    }
    this.kernel.checkpoint('vm_area_alloc');
    const file = backing === null && shared ? new MemoryFile(this.kernel, this.counts, pages * PAGE_SIZE) : null;
    const region = { start, end, protection: protection & PROTECTION, backing: backing ?? file, backingPage, shared };
    this.exchange(start, end, [region]);
    file?.close();
    return addressOf(start);
  }

  /** munmap(2). Pages without a mapping are passed over. @throws {SysError} EINVAL misaligned, length 0, not user addresses; ENOMEM */
  unmap(address: U64, length: U64): void {
    const [start, end] = rangeOf('munmap', address, length);
    this.checkCut(start, end);
    this.exchange(start, end, []);
  }

  /** mprotect(2). Unlike Linux, nothing changes when a page has no mapping. @throws {SysError} EINVAL; ENOMEM a page has no mapping */
  protect(address: U64, length: U64, protection: number): void {
    const [start, end] = rangeOf('mprotect', address, length);
    const parts = this.covering('mprotect', 'ENOMEM', start, end);
    this.checkCut(start, end);
    const changed = parts.map((part) => ({ ...part, protection: protection & PROTECTION }));
    this.regions.replace(start, end, changed);
    for (const part of changed) this.pages.refresh(part);
    this.notify(start, end);
  }

  /**
   * mremap(2) with MREMAP_FIXED: moves [address, address + length) to `target`, where whatever was there is unmapped.
   * @throws {SysError} EINVAL misaligned or overlapping ranges; EFAULT a page has no mapping; ENOMEM; EPERM below 64 KiB
   */
  remap(address: U64, length: U64, target: U64): void {
    const call = 'mremap';
    const [start, end] = rangeOf(call, address, length);
    const [to, toEnd] = rangeOf(call, target, length);
    checkPlace(call, to, toEnd);
    if (to < end && start < toEnd) throw new SysError('EINVAL', call, `${hex(address)} and ${hex(target)} overlap`);
    const parts = this.covering(call, 'EFAULT', start, end);
    this.checkCut(start, end);
    this.pages.prepareMove(start, end, to);
    const moved = parts.map((part) => ({ ...part, start: part.start - start + to, end: part.end - start + to }));
    this.exchange(to, toEnd, moved, () => this.pages.move(start, end, to));
    this.exchange(start, end, []);
  }

  pin(va: U64, pages: number, write: boolean, into: PfnRuns): number {
    const call = 'pin_user_pages';
    this.kernel.checkpoint(call);
    const start = pageOf(va);
    const end = start + pages;
    let vpn = start;
    while (vpn < end) {
      const region = this.accessible(vpn, write ? ACCESS_WRITE : ACCESS_READ);
      if (region === null || region.backing?.isMemory === false) break;
      const last = Math.min(end, region.end);
      try {
        vpn += this.pages.pin(region, vpn, last, write, into);
      } catch (error) {
        if (!(error instanceof SysError) || vpn === start) throw error;
        break;
      }
      if (vpn < last) break;
    }
    if (vpn === start && pages > 0) {
      throw new SysError('EFAULT', call, `${hex(va)} cannot be pinned for ${write ? 'writing' : 'reading'}`);
    }
    this.pinnedPages += vpn - start;
    return vpn - start;
  }

  unpin(runs: PfnRuns, dirty: boolean): void {
    this.counts.unpin(runs, dirty);
    this.pinnedPages -= runs.pages;
  }

  pinCount(pfn: number): number {
    return this.counts.pinCount(pfn);
  }

  read(va: U64, into: Uint8Array): void {
    const { memory } = this.kernel;
    this.transfer(va, into, false, (pfn, offset, chunk) => {
      memory.read(pfn * PAGE_SIZE + offset, chunk);
    });
  }

  write(va: U64, from: Uint8Array): void {
    const { memory } = this.kernel;
    this.transfer(va, from, true, (pfn, offset, chunk) => {
      memory.write(pfn * PAGE_SIZE + offset, chunk);
    });
  }

  /** One naturally aligned load, as an instruction of the process makes it. @throws {SysError} EFAULT, ENOMEM */
  load(va: U64, width: AccessWidth): bigint {
    return this.kernel.memory.load(this.resolve(va, ACCESS_READ), width);
  }

  /** One naturally aligned store. @throws {SysError} EFAULT, ENOMEM */
  store(va: U64, width: AccessWidth, value: U64): void {
    this.kernel.memory.store(this.resolve(va, ACCESS_WRITE), width, value);
  }

  /** MOVDIR64B to a 64-byte aligned address. @throws {SysError} EFAULT, ENOMEM */
  store64(va: U64, data: Uint8Array): void {
    this.kernel.memory.store64(this.resolve(va, ACCESS_WRITE), data);
  }

  /**
   * ENQCMDS to a 64-byte aligned address: `data` carries PASID and privilege already. True: accepted, false: retry.
   * @throws {SysError} EFAULT, ENOMEM
   */
  enqueue64(va: U64, data: Uint8Array): boolean {
    return this.kernel.memory.enqueue64(this.resolve(va, ACCESS_WRITE), data);
  }

  /** @throws {SysError} ENOMEM */
  handleFault(va: U64, access: number): boolean {
    const vpn = pageOf(va);
    const region = this.gone ? null : this.accessible(vpn, access & PROTECTION);
    return region !== null && this.pages.frame(region, vpn, (access & ACCESS_WRITE) !== 0, false) >= 0;
  }

  addNotifier(notifier: AddressSpaceNotifier): void {
    this.notifiers.push(notifier);
  }

  removeNotifier(notifier: AddressSpaceNotifier): void {
    const index = this.notifiers.indexOf(notifier);
    if (index >= 0) this.notifiers.splice(index, 1);
  }

  /**
   * Gives `child`, which is empty, the same regions. Private pages are shared until one side writes; pinned ones are
   * copied at once. @throws {SysError} ENOMEM; the child is then to be released, and nothing else has changed
   */
  forkTo(child: ProcessMemory): void {
    this.kernel.checkpoint('dup_mmap');
    const copied = this.regions.all.filter((region) => !region.shared);
    for (const region of this.regions.all) child.exchange(region.start, region.end, [region]);
    for (const region of copied) this.pages.share(region, child.pages);
    for (const region of copied) {
      this.pages.refresh(region);
      this.notify(region.start, region.end);
    }
  }

  /** The process ends: everything goes but what is pinned. Never fails; a second call does nothing. */
  release(): void {
    if (this.gone) return;
    this.gone = true;
    for (const notifier of [...this.notifiers]) notifier.release?.();
    this.notifiers.length = 0;
    this.exchange(0, USER_PAGES, []);
    this.pages.table.free();
    this.root = null;
  }

  dropPages(backing: Backing, first: number, end: number): void {
    for (const region of this.regions.all) {
      if (region.backing !== backing) continue;
      const from = Math.max(region.start, region.start + (first - region.backingPage));
      const to = Math.min(region.end, region.start + (end - region.backingPage));
      if (from < to) this.dropRange(from, to);
    }
  }

  /** Puts `parts` in place of what is mapped in [start, end); `enter` may bring pages in before anyone hears of it. */
  private exchange(start: number, end: number, parts: readonly Region[], enter: () => void = () => {}): void {
    const before = this.regions.within(start, end);
    this.regions.replace(start, end, parts);
    for (const { backing } of parts) backing?.mapped(this);
    if (before.length > 0) this.dropRange(start, end, enter);
    else enter();
    for (const { backing } of before) {
      if (backing !== null && !this.regions.all.some((region) => region.backing === backing)) backing.unmapped(this);
    }
  }

  private dropRange(start: number, end: number, enter: () => void = () => {}): void {
    const gathered = new PfnRuns();
    this.pages.drop(start, end, gathered);
    enter();
    this.notify(start, end);
    this.pages.release(start, end, gathered);
  }

  /** The parts of the regions in [start, end), which they must fill. */
  private covering(call: string, code: 'ENOMEM' | 'EFAULT', start: number, end: number): Region[] {
    const parts = this.regions.within(start, end);
    let vpn = start;
    for (const part of parts) {
      if (part.start !== vpn) break;
      vpn = part.end;
    }
    if (vpn !== end) throw new SysError(code, call, `page ${hex(vpn)} has no mapping`);
    return parts;
  }

  /** A change that starts or ends inside a region needs a new one. */
  private checkCut(start: number, end: number): void {
    const first = this.regions.find(start);
    const last = this.regions.find(end - 1);
    if ((first !== null && first.start < start) || (last !== null && last.end > end)) {
      this.kernel.checkpoint('vm_area_split');
    }
  }

  /** The region of page `vpn` if it allows every bit of `access`. */
  private accessible(vpn: number, access: number): Region | null {
    const region = this.gone ? null : this.regions.find(vpn);
    return region !== null && (access & ~region.protection) === 0 ? region : null;
  }

  /** The physical address behind `va`. */
  private resolve(va: U64, access: number): bigint {
    const vpn = pageOf(va);
    const region = this.accessible(vpn, access);
    const pfn = region === null ? -1 : this.pages.frame(region, vpn, access === ACCESS_WRITE, false);
    if (pfn < 0) throw new SysError('EFAULT', 'page_fault', `${hex(va)} is not accessible`);
    return addressOf(pfn) | BigInt(low32(va) & 0xfff);
  }

  /** Faults in every page before the first byte moves, so that a transfer that is refused moves nothing. */
  private transfer(
    va: U64,
    buffer: Uint8Array,
    write: boolean,
    move: (pfn: number, offset: number, chunk: Uint8Array) => void,
  ): void {
    if (buffer.length === 0) return;
    const start = pageOf(va);
    const offset = low32(va) & 0xfff;
    const end = start + Math.ceil((offset + buffer.length) / PAGE_SIZE);
    const reach = (vpn: number): number => {
      const region = this.accessible(vpn, write ? ACCESS_WRITE : ACCESS_READ);
      const pfn = region === null ? -1 : this.pages.frame(region, vpn, write, false);
      if (pfn >= 0) return pfn;
      const call = write ? 'copy_to_user' : 'copy_from_user';
      throw new SysError('EFAULT', call, `${buffer.length} bytes at ${hex(va)}`);
    };
    if (end === start + 1) {
      move(reach(start), offset, buffer);
      return;
    }
    const frames = new PfnRuns();
    for (let vpn = start; vpn < end; vpn++) frames.push(reach(vpn), 1);
    let at = -offset;
    for (let run = 0; run < frames.count; run++) {
      const from = Math.max(at, 0);
      at += frames.lengths[run]! * PAGE_SIZE;
      move(frames.starts[run]!, run === 0 ? offset : 0, buffer.subarray(from, Math.min(at, buffer.length)));
    }
  }

  private findPlace(pages: number): number {
    const alignment = pages >= BLOCK_PAGES ? BLOCK_PAGES : 1;
    const start = this.regions.findGap(pages, alignment, FIRST_PAGE, MMAP_TOP);
    if (start < 0) throw new SysError('ENOMEM', 'mmap', `no room for ${hex(pages)} pages`);
    return start;
  }

  private notify(start: number, end: number): void {
    for (const notifier of [...this.notifiers]) notifier.invalidate?.(addressOf(start), addressOf(end) - 1n);
  }
}
