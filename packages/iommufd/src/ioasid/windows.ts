/**
 * What a child IOASID of software nesting has mapped: windows from its own addresses onto its parent's. They are kept as
 * they were asked for, whatever the parent maps behind them at the moment (software-nesting.ts shows that).
 */

import { hex } from '@iommukit/hw';
import { type PagingDomain, type ReservedRegion, SysError } from '@iommukit/iommu-core';
import { byteOf, pageOf } from '../ioas/area.ts';
import { IntervalTree } from '../ioas/interval-tree.ts';
import type { IovaRange } from '../ioas/reserved.ts';

/** [iova, last] onto as many of the parent's addresses from `target`. */
export type Window = {
  readonly iova: bigint;
  readonly last: bigint;
  readonly target: bigint;
  readonly targetLast: bigint;
  /** IOMMU_ bits. */
  readonly prot: number;
};

export class Windows {
  private readonly tree = new IntervalTree<Window>();

  get size(): number {
    return this.tree.size;
  }

  all(): Window[] {
    const windows: Window[] = [];
    this.tree.walk((window) => windows.push(window));
    return windows;
  }

  /** Windows that meet [iova, last], ascending. */
  at(iova: bigint, last: bigint): Window[] {
    const windows: Window[] = [];
    let next = this.tree.firstFrom(pageOf(iova), byteOf(iova));
    while (next !== null && next.iova <= last) {
      windows.push(next);
      const after = next.last + 1n;
      next = after >> 64n > 0n ? null : this.tree.firstFrom(pageOf(after), byteOf(after));
    }
    return windows;
  }

  /** Windows onto a part of [first, last] of the parent. Looks at all of them. */
  onto(first: bigint, last: bigint): Window[] {
    return this.all().filter(({ target, targetLast }) => target <= last && first <= targetLast);
  }

  /** Adds a window that meets no other. */
  add(window: Window): void {
    const { iova, last } = window;
    this.tree.insert(pageOf(iova), byteOf(iova), pageOf(last), byteOf(last), window);
  }

  remove({ iova }: Window): void {
    this.tree.remove(pageOf(iova), byteOf(iova));
  }

  /** @throws {SysError} EADDRINUSE a window lies where a device of the domain or region could not be translated */
  checkOutside(call: string, ranges: readonly IovaRange[]): void {
    for (const { start, last } of ranges) {
      const [window] = this.at(start, last);
      if (window === undefined) continue;
      const where = `${hex(window.iova)}..${hex(window.last)}`;
      throw new SysError('EADDRINUSE', call, `the window ${where} meets ${hex(start)}..${hex(last)}`);
    }
  }
}

/** What lies outside the addresses that a domain can map. */
export function outside({ aperture }: PagingDomain): IovaRange[] {
  const { first, last } = aperture;
  const ranges: IovaRange[] = [];
  if (first > 0n) ranges.push({ start: 0n, last: first - 1n });
  if (last < 0xffff_ffff_ffff_ffffn) ranges.push({ start: last + 1n, last: 0xffff_ffff_ffff_ffffn });
  return ranges;
}

/** The regions in which a device's requests must not be translated. */
export function reservedRanges(regions: readonly ReservedRegion[]): IovaRange[] {
  return regions.filter(({ kind }) => kind !== 'direct-relaxable').map(({ first, last }) => ({ start: first, last }));
}
