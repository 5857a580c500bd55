/**
 * Accesses: users of an IOAS inside the kernel that read, write and pin its memory without a hardware table, drivers of
 * software-mediated devices above all (Linux: struct iommufd_access, drivers/iommu/iommufd/device.c).
 */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { type AddressSpace, IOMMU_READ, IOMMU_WRITE, PfnRuns, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import type { Area } from './ioas/area.ts';
import type { AreaUser, IoPageTable } from './ioas/io-page-table.ts';
import { Ioas } from './ioas/ioas.ts';
import { lastOf, range } from './ioas/iova-space.ts';
import { IommufdObject, type ObjectDetails } from './object-table.ts';

export type AccessOps = {
  /** Whether it pins pages: then areas of its IOAS are of whole pages. */
  readonly needsPinPages: boolean;
  /**
   * [iova, iova + length) is being unmapped: whatever is pinned of it has to be unpinned before this returns, and none of
   * it can be pinned again. With 0 and 2^64 - 1, everything, as the access leaves its IOAS.
   */
  unmap(iova: bigint, length: bigint): void;
};

/**
 * Who copies: the memory of a process, of which what is its own is copied as its CPU would; null, a thread of the kernel,
 * which is in any process; or somebody to whom all memory is another's.
 */
export type Copier = AddressSpace | 'other' | null;

/** The driver that made it makes it go, with `close`. */
export class Access extends IommufdObject implements AreaUser {
  readonly type = 'access';
  readonly iovaAlignment: number;
  private readonly context: IommufdContext;
  private readonly ops: AccessOps;
  /** Null also while the access is leaving an IOAS, so that nothing is pinned there any more. */
  private attached: Ioas | null = null;
  /** What is used: what was attached last, until all that was pinned of it is unpinned. */
  private held: Ioas | null = null;
  /** What is pinned of the IOAS, by address and length, with how often. */
  private readonly pins = new Map<string, number>();

  constructor(id: number, context: IommufdContext, ops: AccessOps) {
    super(id);
    this.context = context;
    this.ops = ops;
    this.iovaAlignment = ops.needsPinPages ? PAGE_SIZE : 1;
    this.users++;
    context.hold();
  }

  get uses(): readonly IommufdObject[] {
    return this.held === null ? [] : [this.held];
  }

  override details(): ObjectDetails {
    return { pins: [...this.pins.keys()].map((range) => ({ range })) };
  }

  get ioas(): Ioas | null {
    return this.attached;
  }

  /**
   * @throws {SysError} EINVAL attached already; EBUSY leaving an IOAS; ENOENT no such IOAS; EADDRINUSE areas are not of
   * whole pages; ENOMEM
   */
  attach(ioasId: number): void {
    const call = 'iommufd_access_attach';
    if (this.attached !== null) {
      throw new SysError('EINVAL', call, `access ${this.id} is attached to ${this.attached.id}`);
    }
    if (this.held !== null) throw new SysError('EBUSY', call, `access ${this.id} is leaving ${this.held.id}`);
    this.change(this.context.objects.get(ioasId, Ioas));
  }

  /** Everything pinned of the old IOAS is unpinned. @throws {SysError} ENOENT not attached; and as `attach` */
  replace(ioasId: number): void {
    if (this.attached === null) {
      throw new SysError('ENOENT', 'iommufd_access_replace', `access ${this.id} is not attached`);
    }
    this.change(this.context.objects.get(ioasId, Ioas));
  }

  /** Everything pinned is unpinned. Never fails. */
  detach(): void {
    if (this.attached !== null) this.change(null);
  }

  /**
   * Pins the pages behind [iova, iova + length), which starts at the begin of a page. Undone by `unpinPages` with the
   * same range. @returns their frames
   * @throws {SysError} ENOENT not attached, or a part is not mapped; EINVAL length 0, not whole pages between two areas,
   * an area that is being unmapped, or memory of a device; EOVERFLOW; EPERM the areas do not allow it; EFAULT; ENOMEM
   */
  pinPages(iova: bigint, length: bigint, write: boolean): PfnRuns {
    const call = 'iommufd_access_pin_pages';
    lastOf(call, iova, length);
    const frames = pin(call, this.require(call), iova, length, write, false);
    const key = `${iova}+${length}`;
    this.pins.set(key, (this.pins.get(key) ?? 0) + 1);
    return frames;
  }

  /** Gives back what one `pinPages` pinned. @throws {RangeError} nothing was pinned so */
  unpinPages(iova: bigint, length: bigint): void {
    const key = `${iova}+${length}`;
    const count = this.pins.get(key) ?? 0;
    if (count === 0 || this.held === null) throw new RangeError(`access ${this.id} has not pinned ${key}`);
    if (count === 1) this.pins.delete(key);
    else this.pins.set(key, count - 1);
    unpin(this.held.table, iova, iova + length - 1n, false);
  }

  /**
   * Copies from the memory behind `iova`, on behalf of `by`.
   * @throws {SysError} ENOENT not attached, or a part is not mapped; EINVAL nothing to copy, an area that is being
   * unmapped, or memory of a device; EOVERFLOW; EPERM; EFAULT; ENOMEM. What lies before the failing area has been copied
   */
  read(iova: bigint, into: Uint8Array, by: Copier = null): void {
    this.copy(iova, into, false, by);
  }

  /** Copies to the memory behind `iova`. @throws {SysError} as `read` */
  write(iova: bigint, from: Uint8Array, by: Copier = null): void {
    this.copy(iova, from, true, by);
  }

  notifyUnmap(iova: bigint, length: bigint): void {
    this.ops.unmap(iova, length);
  }

  /** Detaches and destroys it. Never fails. */
  close(): void {
    this.detach();
    this.context.objects.putAndTryDestroy(this);
  }

  destroy(): void {
    this.context.release();
  }

  private change(ioas: Ioas | null): void {
    const old = this.attached;
    if (ioas === old) return;
    ioas?.table.addUser(this);
    if (ioas !== null) ioas.users++;
    this.attached = null;
    if (old !== null) {
      this.ops.unmap(0n, U64_MAX);
      if (this.pins.size > 0) throw new Error(`access ${this.id} keeps ${[...this.pins.keys()]} of IOAS ${old.id}`);
      old.table.removeUser(this);
      old.users--;
    }
    this.attached = ioas;
    this.held = ioas;
  }

  private copy(iova: bigint, data: Uint8Array, write: boolean, by: Copier): void {
    const call = 'iommufd_access_rw';
    const last = lastOf(call, iova, BigInt(data.length));
    const { space } = this.require(call);
    let done = 0;
    space.forEachPart(call, iova, last, (area, first, end) => {
      if (area.preventAccess) throw new SysError('EINVAL', call, `${where(area)} is being unmapped`);
      checkAllowed(call, area, write);
      const part = data.subarray(done, done + Number(end - first + 1n));
      copyArea(call, area, first, part, write, by);
      done += part.length;
    });
  }

  private require(call: string): IoPageTable {
    if (this.attached === null) throw new SysError('ENOENT', call, `access ${this.id} is not attached`);
    return this.attached.table;
  }
}

/** @throws {SysError} ENOMEM */
export function createAccess(context: IommufdContext, ops: AccessOps): Access {
  return context.objects.create((id) => new Access(id, context, ops));
}

/** Pages that an object of the kernel keeps where they are: while it does, their areas cannot be unmapped. */
export type LockedPages = {
  readonly frames: PfnRuns;
  /** Never fails. */
  release(): void;
};

/**
 * Pins whole pages of an IOAS, as they were made to be pinned, and locks their areas.
 * @throws {SysError} EINVAL length 0, misaligned, or memory of a device; EOVERFLOW; ENOENT a part is not mapped; EPERM;
 * EADDRINUSE areas of the IOAS are not of whole pages; EFAULT; ENOMEM
 */
export function lockPages(ioas: Ioas, iova: bigint, length: bigint): LockedPages {
  const call = 'iommufd_access_pin_pages';
  const last = lastOf(call, iova, length);
  const { table } = ioas;
  const user: AreaUser = { iovaAlignment: PAGE_SIZE, notifyUnmap() {} };
  table.addUser(user);
  let frames: PfnRuns;
  try {
    frames = pin(call, table, iova, length, false, true);
  } catch (error) {
    table.removeUser(user);
    throw error;
  }
  ioas.users++;
  return {
    frames,
    release() {
      unpin(table, iova, last, true);
      table.removeUser(user);
      ioas.users--;
    },
  };
}

function pin(call: string, table: IoPageTable, iova: bigint, length: bigint, write: boolean, lock: boolean): PfnRuns {
  const last = iova + length - 1n;
  const frames = new PfnRuns();
  let pinned = iova;
  try {
    table.space.forEachPart(call, iova, last, (area, first, end) => {
      if (area.preventAccess) throw new SysError('EINVAL', call, `${where(area)} is being unmapped`);
      if (!isWholePages(area, first, end === last)) {
        throw new SysError('EINVAL', call, `${where(area)} is not of whole pages at ${hex(first)}`);
      }
      checkAllowed(call, area, write);
      if (area.pages.revocable !== null) throw new SysError('EINVAL', call, `${where(area)} is of a dma-buf`);
      const firstIndex = area.indexAt(first);
      const lastIndex = area.indexAt(end);
      area.pages.cover(firstIndex, lastIndex);
      area.accesses++;
      if (lock) area.locks++;
      pinned = end + 1n;
      area.pages.forEachRun(firstIndex, lastIndex, (pfn, pages) => frames.push(pfn, pages));
    });
  } catch (error) {
    if (pinned > iova) unpin(table, iova, pinned - 1n, lock);
    throw error;
  }
  return frames;
}

function unpin(table: IoPageTable, iova: bigint, last: bigint, lock: boolean): void {
  table.space.forEachPart('iommufd_access_unpin_pages', iova, last, (area, first, end) => {
    area.accesses--;
    if (lock) area.locks--;
    area.pages.uncover(area.indexAt(first), area.indexAt(end));
  });
}

/** The part of the area from `first` starts a page, and ends one where another area follows. */
function isWholePages(area: Area, first: bigint, isLast: boolean): boolean {
  const mask = BigInt(PAGE_SIZE - 1);
  return (area.byteAt(first) & mask) === 0n && (isLast || (area.byteAt(area.last) & mask) === mask);
}

/** @throws {SysError} EPERM */
function checkAllowed(call: string, area: Area, write: boolean): void {
  if ((area.prot & (write ? IOMMU_WRITE : IOMMU_READ)) !== 0) return;
  throw new SysError('EPERM', call, `${where(area)} cannot be ${write ? 'written' : 'read'}`);
}

/** `data` is within the area from `iova`. One page of any living process is copied as its CPU would. */
function copyArea(call: string, area: Area, iova: bigint, data: Uint8Array, write: boolean, by: Copier): void {
  const { pages } = area;
  const { source } = pages;
  const startByte = area.byteAt(iova);
  if (write && !pages.writable) throw new SysError('EPERM', call, `pages ${pages.id} were made read-only`);
  if (source.kind === 'dma-buf') throw new SysError('EINVAL', call, `${where(area)} is of a dma-buf`);
  const space = source.kind === 'user' ? pages.payer.addressSpace : null;
  const onePage = (startByte & BigInt(PAGE_SIZE - 1)) + BigInt(data.length) <= BigInt(PAGE_SIZE);
  if (space?.alive && (by === null || space === by || onePage)) {
    const address = source.start + startByte;
    if (write) space.write(address, data);
    else space.read(address, data);
  } else pages.copy(startByte, data, write);
}

function where(area: Area): string {
  return `the area ${range(area.iova, area.last)}`;
}
