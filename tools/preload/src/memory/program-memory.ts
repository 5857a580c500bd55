/**
 * The address space of a program that runs beside the models: its memory is reached through /proc/PID/mem, and its
 * pinned pages have foreign frames.
 *
 * Pages of a shared mapping are pages of its file. Private pages have no name but their address: they are reached there
 * as long as the program has them mapped, and strict mode refuses to pin them.
 */

import { closeSync, fstatSync } from 'node:fs';
import { ACCESS_READ, ACCESS_WRITE, hex, PAGE_SIZE, toU64, type U64 } from '@iommukit/hw';
import {
  type AddressSpace,
  type AddressSpaceNotifier,
  type Kernel,
  type PfnRuns,
  SysError,
} from '@iommukit/iommu-core';
import type { ForeignFrames, PageSource } from './foreign-frames.ts';
import { fileName, findMapping, type Mapping } from './mapping.ts';
import type { Proc } from './proc.ts';
import type { SharedFiles } from './shared-file.ts';

/** User addresses end below this. */
const USER_END = 2n ** 52n;

export type ProgramMemoryOptions = {
  kernel: Kernel;
  frames: ForeignFrames;
  files: SharedFiles;
  proc: Proc;
  id: number;
  /** Refuse to pin private memory. */
  strict: boolean;
};

export class ProgramMemory implements AddressSpace {
  readonly id: number;
  readonly rootPfn = null;
  pinnedPages = 0;
  lockedPages = 0;
  private readonly kernel: Kernel;
  private readonly frames: ForeignFrames;
  private readonly files: SharedFiles;
  private readonly proc: Proc;
  private readonly strict: boolean;
  private readonly notifiers: AddressSpaceNotifier[] = [];
  /** What was mapped when it was last asked; wrong only about what has changed since. */
  private layout: Mapping[] = [];
  private layoutVersion = -1;
  private gone = false;
  private readonly privatePages: PrivatePages;

  constructor(options: ProgramMemoryOptions) {
    this.kernel = options.kernel;
    this.frames = options.frames;
    this.files = options.files;
    this.proc = options.proc;
    this.id = options.id;
    this.strict = options.strict;
    this.privatePages = new PrivatePages(options.proc);
  }

  get alive(): boolean {
    return !this.gone;
  }

  /** The program says that its mappings may have changed when `version` differs from the last. */
  noteLayout(version: number): void {
    if (version !== this.layoutVersion) this.layout = [];
    this.layoutVersion = version;
  }

  pin(va: U64, pages: number, write: boolean, into: PfnRuns): number {
    this.kernel.checkpoint('pin_user_pages');
    const first = this.page(va);
    const end = first + pages;
    this.layout = this.gone ? [] : this.proc.mappings();
    let vpn = first;
    while (first >= 0 && vpn < end) {
      const mapping = findMapping(this.layout, vpn);
      if (mapping === null || !allows(mapping, write ? ACCESS_WRITE : ACCESS_READ)) break;
      const last = Math.min(end, mapping.end);
      vpn += this.pinMapping(mapping, vpn, last - vpn, write, into);
      if (vpn < last) break;
    }
    if (vpn === first && pages > 0) {
      const why = whyNot(findMapping(this.layout, first), write, this.strict);
      throw new SysError('EFAULT', 'pin_user_pages', `${hex(va)} cannot be pinned for ${accessName(write)}: ${why}`);
    }
    this.pinnedPages += vpn - first;
    return vpn - first;
  }

  unpin(runs: PfnRuns, _dirty: boolean): void {
    this.pinnedPages -= runs.pages;
    this.frames.unpin(runs);
  }

  pinCount(pfn: number): number {
    return this.frames.pinCount(pfn);
  }

  read(va: U64, into: Uint8Array): void {
    this.transfer(toU64(va), into, ACCESS_READ);
  }

  write(va: U64, from: Uint8Array): void {
    this.transfer(toU64(va), from, ACCESS_WRITE);
  }

  /** Whether the program maps some of the file `name` now. */
  maps(name: string): boolean {
    this.layout = this.gone ? [] : this.proc.mappings();
    return this.layout.some(({ file }) => file === name);
  }

  /** @throws {SysError} EFAULT the program could not store `length` bytes at `va` */
  checkWritable(va: bigint, length: number): void {
    if (length > 0 && !this.isAllowed(va, length, ACCESS_WRITE)) throw fault(ACCESS_WRITE, va, length);
  }

  handleFault(va: U64, access: number): boolean {
    return this.isAllowed(toU64(va), 1, access & (ACCESS_READ | ACCESS_WRITE));
  }

  addNotifier(notifier: AddressSpaceNotifier): void {
    this.notifiers.push(notifier);
  }

  removeNotifier(notifier: AddressSpaceNotifier): void {
    const index = this.notifiers.indexOf(notifier);
    if (index >= 0) this.notifiers.splice(index, 1);
  }

  /** The program has ended or is another now. Never fails; a second call does nothing. */
  release(): void {
    if (this.gone) return;
    this.gone = true;
    for (const notifier of this.notifiers.splice(0)) notifier.release?.();
    this.proc.release();
  }

  /** Pins pages of one mapping, as far as there is something behind them. Gives the pages pinned. */
  private pinMapping(mapping: Mapping, vpn: number, pages: number, write: boolean, into: PfnRuns): number {
    const { file } = mapping;
    if (!mapping.shared || file === null) return this.pinPrivate(mapping, vpn, pages, into);
    const page = mapping.filePage + (vpn - mapping.start);
    return this.files.use(
      file,
      () => this.openMapped(mapping),
      (shared) => {
        if (write && !shared.isMemory) return 0;
        const count = Math.max(0, Math.min(pages, shared.pages - page));
        if (count === 0) return 0;
        this.frames.pin(shared, page, count, into);
        shared.addView({ proc: this.proc, vpn, page, pages: count });
        return count;
      },
    );
  }

  private pinPrivate(mapping: Mapping, vpn: number, pages: number, into: PfnRuns): number {
    if (this.strict) return 0;
    const count = mapping.file === null ? pages : this.readablePages(vpn, pages);
    if (count === 0) return 0;
    if (!this.frames.holds(this.privatePages)) this.proc.hold();
    this.frames.pin(this.privatePages, vpn, count, into);
    return count;
  }

  /** Pages from `vpn` that can be read: a mapping may reach behind the end of its file. */
  private readablePages(vpn: number, pages: number): number {
    const byte = new Uint8Array(1);
    let low = 0;
    for (let high = pages; low < high; ) {
      const middle = low === 0 && high === pages ? high : Math.ceil((low + high) / 2);
      if (this.proc.read((vpn + middle - 1) * PAGE_SIZE, byte)) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The file behind a mapping, where the system lets it be opened; null otherwise, or when something else is there now. */
  private openMapped(mapping: Mapping): number | null {
    const descriptor = this.proc.open(`map_files/${mapping.range}`);
    if (descriptor === null) return null;
    const { dev, ino } = fstatSync(descriptor);
    if (fileName(dev, ino) === mapping.file) return descriptor;
    closeSync(descriptor);
    return null;
  }

  private transfer(va: bigint, buffer: Uint8Array, access: number): void {
    const allowed = this.isAllowed(va, buffer.length, access);
    const move = access === ACCESS_WRITE ? this.proc.write : this.proc.read;
    if (!allowed || !move.call(this.proc, Number(va), buffer)) throw fault(access, va, buffer.length);
  }

  /** Whether the program could access [va, va + length) so. Asks again before it says no. */
  private isAllowed(va: bigint, length: number, access: number): boolean {
    if (this.gone || va + BigInt(length) > USER_END) return false;
    const start = Math.floor(Number(va) / PAGE_SIZE);
    const end = Math.ceil((Number(va) + length) / PAGE_SIZE);
    if (covers(this.layout, start, end, access)) return true;
    this.layout = this.proc.mappings();
    return covers(this.layout, start, end, access);
  }

  /** The page of a user address, or -1. */
  private page(va: U64): number {
    const address = toU64(va);
    return address < USER_END ? Number(address / BigInt(PAGE_SIZE)) : -1;
  }
}

/** Memory that only one process has, by its addresses there. What is not mapped any more reads as zeros. */
class PrivatePages implements PageSource {
  private readonly proc: Proc;

  constructor(proc: Proc) {
    this.proc = proc;
  }

  read(position: number, into: Uint8Array): void {
    if (!this.proc.read(position, into)) into.fill(0);
  }

  write(position: number, from: Uint8Array): void {
    this.proc.write(position, from);
  }

  unused(): void {
    this.proc.release();
  }
}

function allows(mapping: Mapping, access: number): boolean {
  return (access & ~mapping.access) === 0;
}

function covers(mappings: readonly Mapping[], start: number, end: number, access: number): boolean {
  for (let vpn = start; vpn < end; ) {
    const mapping = findMapping(mappings, vpn);
    if (mapping === null || !allows(mapping, access)) return false;
    vpn = mapping.end;
  }
  return true;
}

function fault(access: number, va: bigint, length: number): SysError {
  return new SysError(
    'EFAULT',
    access === ACCESS_WRITE ? 'copy_to_user' : 'copy_from_user',
    `${length} bytes at ${hex(va)}`,
  );
}

/** Why the first page of a range could not be pinned. */
function whyNot(mapping: Mapping | null, write: boolean, strict: boolean): string {
  if (mapping === null) return 'nothing is mapped there';
  if (!allows(mapping, write ? ACCESS_WRITE : ACCESS_READ)) return 'the mapping does not allow it';
  if (!mapping.shared) return strict ? 'it is private memory, in strict mode' : 'it is behind the end of its file';
  return 'it is behind the end of its file, or the file is on a disk and not in memory';
}

function accessName(write: boolean): string {
  return write ? 'writing' : 'reading';
}
