/**
 * Where the frames of a pin group come from: a process's memory, or a file of memory (Linux: enum iopt_address_type,
 * drivers/iommu/iommufd/io_pagetable.h).
 */

import { hex, PAGE_SIZE } from '@iommukit/hw';
import { type AddressSpace, type FilePages, type PfnRuns, SysError } from '@iommukit/iommu-core';
import type { DmaBuf } from '../files/dma-buf.ts';

export type PageSource = {
  readonly kind: 'user' | 'file' | 'dma-buf';
  /** What lies at byte 0 of the group, page-aligned: an address of the process, or an offset into the file. */
  readonly start: bigint;
  /**
   * Pins up to `pages` pages from page `index` of the group, appending their frames to `into`. @returns pages pinned
   * @throws {SysError} EFAULT the first page is not there, or not writable though `write`; EINVAL it is behind the end
   * of the file, or the file is not memory; ENOMEM
   */
  pin(index: number, pages: number, write: boolean, into: PfnRuns): number;
  /** Never fails. */
  unpin(runs: PfnRuns, dirty: boolean): void;
  /** The group is gone. Never fails. */
  release(): void;
};

/** Memory of a process from `start`. */
export class UserSource implements PageSource {
  readonly kind = 'user';
  readonly start: bigint;
  readonly addressSpace: AddressSpace;

  constructor(addressSpace: AddressSpace, start: bigint) {
    this.addressSpace = addressSpace;
    this.start = start;
  }

  pin(index: number, pages: number, write: boolean, into: PfnRuns): number {
    return this.addressSpace.pin(this.start + BigInt(index) * BigInt(PAGE_SIZE), pages, write, into);
  }

  unpin(runs: PfnRuns, dirty: boolean): void {
    this.addressSpace.unpin(runs, dirty);
  }

  release(): void {}
}

/** A file from offset `start`. Whether it is memory shows when it is pinned, as in Linux. */
export class FileSource implements PageSource {
  readonly kind = 'file';
  readonly start: bigint;
  private readonly pages: FilePages | null;
  private readonly firstPage: number;

  constructor(pages: FilePages | null, start: bigint) {
    this.pages = pages;
    this.start = start;
    this.firstPage = Number(start / BigInt(PAGE_SIZE));
    pages?.hold();
  }

  pin(index: number, pages: number, _write: boolean, into: PfnRuns): number {
    if (this.pages === null) throw new SysError('EINVAL', 'memfd_pin_folios', 'the file is not a memfd');
    return this.pages.pin(this.firstPage + index, pages, into);
  }

  unpin(runs: PfnRuns, dirty: boolean): void {
    this.pages?.unpin(runs, dirty);
  }

  release(): void {
    this.pages?.close();
  }
}

/** A dma-buf from offset `start`: memory of a device, never pinned, which its owner can take away. */
export class DmaBufSource implements PageSource {
  readonly kind = 'dma-buf';
  readonly start: bigint;
  private readonly buffer: DmaBuf;
  private readonly detach: () => void;

  /** `onRevoke` is called when the buffer is taken away. @throws {SysError} ENODEV it has been */
  constructor(buffer: DmaBuf, start: bigint, onRevoke: () => void) {
    this.buffer = buffer;
    this.start = start;
    this.detach = buffer.attach(onRevoke);
  }

  pin(index: number, pages: number, _write: boolean, into: PfnRuns): number {
    const first = Number(this.start / BigInt(PAGE_SIZE)) + index;
    if (first + pages > this.buffer.frames) {
      throw new SysError('EINVAL', 'dma_buf_map', `page ${hex(first)} is behind the end of ${this.buffer.name}`);
    }
    into.push(this.buffer.pfn + first, pages);
    return pages;
  }

  unpin(): void {}

  release(): void {
    this.detach();
  }
}
