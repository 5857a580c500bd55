/** The naive model of one open /dev/iommu and of who uses it: what each call gives, or is refused with, and what is then. */

import { U64_MAX } from '@iommukit/hw';
import { GroupModel, type SliceModel, type SourceModel } from './group-model.ts';
import {
  type AccessModel,
  type AreaModel,
  checkLast,
  type IoasModel,
  least,
  meets,
  type PinModel,
  toRange,
} from './ioas-model.ts';
import { type BufferModel, byteOfStamp, type Cell, PAGE, type ProcessModel, Refusal } from './memory-model.ts';

/** Where a map goes and what it allows; `iova` null is any place. */
export type Target = {
  readonly ioas: IoasModel;
  readonly iova: bigint | null;
  readonly readable: boolean;
  readonly writable: boolean;
};

export class SystemModel {
  readonly ioas: readonly IoasModel[];
  readonly accesses: readonly AccessModel[];
  /** RLIMIT_MEMLOCK is of the address space, not of the user. */
  readonly accountMm: boolean;
  private groups = new Set<GroupModel>();

  constructor(ioas: readonly IoasModel[], accesses: readonly AccessModel[], accountMm: boolean) {
    this.ioas = ioas;
    this.accesses = accesses;
    this.accountMm = accountMm;
  }

  /** Groups that an area uses. */
  get live(): ReadonlySet<GroupModel> {
    return this.groups;
  }

  /** Runs one call, and lets go of the pages that nothing covers after it. */
  call<T>(body: () => T): T {
    try {
      return body();
    } finally {
      this.settle();
    }
  }

  map(caller: ProcessModel, source: SourceModel, startByte: bigint, length: bigint, target: Target): bigint {
    if (length === 0n) throw new Refusal('EINVAL');
    if (source.kind === 'dma-buf') {
      const { buffer, page } = source;
      if (BigInt(page) * PAGE + startByte + length > BigInt(buffer.frames) * PAGE) throw new Refusal('EINVAL');
      if (buffer.revoked) throw new Refusal('ENODEV');
    }
    const mode = caller.privileged ? 'none' : this.accountMm ? 'mm' : 'user';
    const group = new GroupModel(source, target.writable, mode, caller);
    return this.enter([{ group, startByte, length }], length, target);
  }

  /** The last byte of the address space cannot be named as a start. */
  copy(from: IoasModel, iova: bigint, length: bigint, target: Target): bigint {
    if (iova === U64_MAX) throw new Refusal('EOVERFLOW');
    const slices = from.parts(iova, length).map(({ area, first, last }) => {
      return { group: area.group, startByte: area.byteAt(first), length: last - first + 1n };
    });
    return this.enter(slices, length, target);
  }

  /** Areas before the one that cannot go are gone, whatever follows. */
  unmap(ioas: IoasModel, iova: bigint, last: bigint): bigint {
    let bytes = 0n;
    for (const area of ioas.areas.filter((candidate) => meets(toRange(candidate), { start: iova, last }))) {
      if (ioas.locks.some(({ parts }) => parts.some((part) => part.area === area))) throw new Refusal('EBUSY');
      if (area.iova < iova || area.last > last) throw new Refusal('ENOENT');
      if (ioas.users(area) > 0) {
        area.prevented = true;
        for (const access of ioas.accesses) {
          if (!access.stubborn) access.pins = access.pins.filter((pin) => !meets(pinRange(pin), toRange(area)));
        }
        if (ioas.users(area) > 0) throw new Refusal('EDEADLK');
      }
      ioas.areas = ioas.areas.filter((other) => other !== area);
      bytes += area.last - area.iova + 1n;
    }
    return bytes;
  }

  /** What a pin of a range holds. */
  pin(ioas: IoasModel, iova: bigint, length: bigint, write: boolean, locks: boolean): PinModel {
    const last = checkLast(iova, length);
    const pin: PinModel = { iova, last, locks, parts: [] };
    // The parts before a hole are pinned before it is found.
    for (let at = iova; at <= last; ) {
      const area = ioas.areaAt(at);
      if (area === undefined) throw new Refusal('ENOENT');
      const end = least(area.last, last);
      const ragged = area.byteAt(at) % PAGE !== 0n || (end < last && area.byteAt(area.last) % PAGE !== PAGE - 1n);
      if (area.prevented || ragged) throw new Refusal('EINVAL');
      if (!(write ? area.writable : area.readable)) throw new Refusal('EPERM');
      if (area.group.source.kind === 'dma-buf') throw new Refusal('EINVAL');
      const part = { area, first: area.indexAt(at), last: area.indexAt(end) };
      area.group.cover(part.first, part.last);
      pin.parts.push(part);
      at = end + 1n;
    }
    return pin;
  }

  /**
   * Copies `data` to or from memory, in whole halves of pages when it writes. `by` is who asks; null is a thread of the
   * kernel.
   */
  readWrite(ioas: IoasModel, iova: bigint, data: Uint8Array, stamp: number | null, by: ProcessModel | null): void {
    const last = checkLast(iova, BigInt(data.length));
    for (let at = iova; at <= last; ) {
      const area = ioas.areaAt(at);
      if (area === undefined) throw new Refusal('ENOENT');
      const end = least(area.last, last);
      if (area.prevented) throw new Refusal('EINVAL');
      if (!(stamp === null ? area.readable : area.writable)) throw new Refusal('EPERM');
      if (area.group.source.kind === 'dma-buf') throw new Refusal('EINVAL');
      const cells = this.reach(area, at, end, stamp !== null, by);
      const start = Number(area.byteAt(at));
      const bytes = data.subarray(Number(at - iova), Number(end - iova) + 1);
      for (let done = 0; done < bytes.length; done += stamp === null ? 1 : 2048) {
        const byte = start + done;
        const { halves } = cells.get(Math.floor(byte / 4096))!;
        const half = byte % 4096 < 2048 ? 0 : 1;
        if (stamp === null) bytes[done] = byteOfStamp(halves[half], byte);
        else halves[half] = stamp;
      }
      at = end + 1n;
    }
  }

  /** Takes a buffer away; groups of it stay dead. */
  revoke(buffer: BufferModel): void {
    buffer.revoked = true;
    for (const group of this.groups) {
      if (group.source.kind === 'dma-buf' && group.source.buffer === buffer) group.revoked = true;
    }
  }

  changeProcess(to: ProcessModel): void {
    if ([...this.groups].some(({ source }) => source.kind !== 'file')) throw new Refusal('EINVAL');
    const moving = [...this.groups].filter(({ payer, pinned }) => payer !== to && pinned > 0);
    const charges = new Map<{ locked: number }, number>();
    for (const { mode, pinned } of moving) {
      if (mode === 'none') continue;
      const counter = mode === 'user' ? to.user : to;
      charges.set(counter, (charges.get(counter) ?? 0) + pinned);
    }
    for (const [counter, pages] of charges) if (counter.locked + pages > to.memlock) throw new Refusal('ENOMEM');
    for (const group of this.groups) {
      const { counter: old, pinned } = group;
      group.payer = to;
      if (old !== null) old.locked -= pinned;
      if (group.counter !== null) group.counter.locked += pinned;
    }
  }

  detach(access: AccessModel): void {
    access.pins = [];
    access.ioas?.accesses.delete(access);
    access.ioas = null;
  }

  attach(access: AccessModel, ioas: IoasModel): void {
    if (access.ioas === ioas) return;
    if (access.alignment > ioas.alignment) ioas.checkAlignment(access.alignment);
    this.detach(access);
    access.ioas = ioas;
    ioas.accesses.add(access);
  }

  private enter(slices: readonly SliceModel[], length: bigint, { ioas, iova, readable, writable }: Target): bigint {
    return ioas.map(slices, length, iova, readable, writable);
  }

  /** The pages behind a part of an area: a process's own as its CPU finds them, others as a device does. */
  private reach(
    area: AreaModel,
    first: bigint,
    last: bigint,
    write: boolean,
    by: ProcessModel | null,
  ): ReadonlyMap<number, Cell> {
    const { group } = area;
    const { source } = group;
    const [from, to] = [area.indexAt(first), area.indexAt(last)];
    const cells = new Map<number, Cell>();
    for (let index = from; index <= to; index++) {
      let cell: Cell | null;
      const cpu = by === null || by === (source.kind === 'user' ? source.process : undefined) || from === to;
      if (source.kind === 'user' && source.process.alive && cpu) {
        cell = source.process.cellAt(source.page + index, write);
        if (cell === null) throw new Refusal('EFAULT');
      } else cell = group.cells.get(index) ?? group.find(index);
      cells.set(index, cell!);
    }
    return cells;
  }

  /** Pages that no area of a filled table and no pin covers are unpinned; groups without an area are gone. */
  private settle(): void {
    const covered = new Map<GroupModel, Set<number>>();
    const cover = (group: GroupModel, first: number, last: number): void => {
      const indexes = covered.get(group) ?? new Set();
      covered.set(group, indexes);
      for (let index = first; index <= last; index++) indexes.add(index);
    };
    for (const { areas, domains, pins } of this.ioas) {
      for (const { group, first, end } of areas) cover(group, first, domains.length > 0 ? end : first - 1);
      for (const { parts } of pins) for (const { area, first, last } of parts) cover(area.group, first, last);
    }
    for (const group of new Set([...this.groups, ...covered.keys()])) group.keep(covered.get(group) ?? new Set());
    this.groups = new Set(covered.keys());
  }
}

function pinRange({ iova, last }: PinModel): { start: bigint; last: bigint } {
  return { start: iova, last };
}
