/**
 * Nesting without hardware for it: what a child maps onto its parent's addresses and what the parent maps there are
 * merged into the child's own table (RFC, section 5.3). The merged areas are slices of the parent's pin groups, as
 * IOAS_COPY makes them, so pages are pinned and charged at the root alone.
 *
 * Every change of either level is carried to all levels below before the call ends. A part of a window behind which the
 * parent maps nothing is not mapped, and is as soon as the parent maps it; of access, both levels have a say.
 */

import { hex, U64_MAX } from '@iommukit/hw';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, SysError } from '@iommukit/iommu-core';
import type { Area } from '../ioas/area.ts';
import type { Ioasid } from './ioasid.ts';
import type { Window } from './windows.ts';

const ACCESS = IOMMU_READ | IOMMU_WRITE;

/** Areas that one command may merge into all levels below: each level can multiply them. */
export const MERGED_AREAS_MAX = 65_536;

/** Takes back a step that has been done. */
type Undo = () => void;

/**
 * Opens a window of `child` onto its parent and shows what lies behind it. On failure nothing changes.
 * @throws {SysError} EEXIST a window is in the way; EINVAL reserved addresses; ENOSPC it would merge more than
 * MERGED_AREAS_MAX areas; EFAULT, ENOMEM; and the domains' errors
 */
export function openWindow(child: Ioasid, window: Window): void {
  const call = 'IOASID_MAP_DMA';
  const { iova, last } = window;
  const windows = child.windows!;
  const [present] = windows.at(iova, last);
  const range = `${hex(iova)}..${hex(last)}`;
  if (present !== undefined) {
    throw new SysError('EEXIST', call, `${range} meets the window ${hex(present.iova)}..${hex(present.last)}`);
  }
  const reserved = child.ioas!.table.space.reservedRanges.find(({ start, last: end }) => start <= last && iova <= end);
  if (reserved !== undefined) {
    throw new SysError(
      'EINVAL',
      call,
      `${range} meets the reserved range ${hex(reserved.start)}..${hex(reserved.last)}`,
    );
  }
  child.context.kernel.checkpoint('ioasid_window');
  undoing((undos) => show(child, window, window.target, window.targetLast, undos));
  windows.add(window);
}

/**
 * Closes the windows of `child` in [iova, last]. @returns bytes that they had
 * @throws {SysError} EINVAL a window is only partly in the range; nothing is closed then
 */
export function closeWindows(child: Ioasid, iova: bigint, last: bigint): bigint {
  const windows = child.windows!.at(iova, last);
  const cut = windows.find((window) => window.iova < iova || window.last > last);
  if (cut !== undefined) throw cutError(iova, last, cut);
  let bytes = 0n;
  for (const window of windows) {
    hide(child, window.iova, window.last);
    child.windows!.remove(window);
    bytes += window.last - window.iova + 1n;
  }
  return BigInt.asUintN(64, bytes);
}

/**
 * Unmaps what a root maps in [iova, last], and all that was merged from it before. @returns bytes unmapped
 * @throws {SysError} EINVAL an area is only partly in the range; nothing is unmapped then
 */
export function unmapRoot(root: Ioasid, iova: bigint, last: bigint): bigint {
  const areas = root.ioas!.table.space.areasIn(iova, last);
  const cut = areas.find((area) => area.iova < iova || area.last > last);
  if (cut !== undefined) throw cutError(iova, last, cut);
  if (areas.length === 0) return 0n;
  for (const area of areas) hideBelow(root, area.iova, area.last);
  return unmap(root, areas[0]!.iova, areas[areas.length - 1]!.last);
}

/** Shows to the children what `ioasid` has come to map in [first, last], all or nothing. @throws {SysError} as `openWindow` */
export function extendBelow(ioasid: Ioasid, first: bigint, last: bigint): void {
  undoing((undos) => showBelow(ioasid, first, last, undos));
}

/** Merges, into the child's table, the part [first, last] of the parent's addresses that is behind `window`. */
function show(child: Ioasid, window: Window, first: bigint, last: bigint, undos: Undo[]): void {
  for (const area of child.parent!.ioas!.table.space.areasIn(first, last)) {
    const from = higher(area.iova, first);
    const length = lower(area.last, last) - from + 1n;
    const iova = window.iova + (from - window.target);
    if (undos.length >= MERGED_AREAS_MAX) {
      throw new SysError(
        'ENOSPC',
        'IOASID_MAP_DMA',
        `more than ${MERGED_AREAS_MAX} areas to merge, at IOASID ${child.handle}`,
      );
    }
    if (!merge(child, area, from, length, iova, window.prot)) continue;
    undos.push(() => unmap(child, iova, iova + length - 1n));
    showBelow(child, iova, iova + length - 1n, undos);
  }
}

/** @returns false when there is no access that both levels allow */
function merge(child: Ioasid, area: Area, from: bigint, length: bigint, iova: bigint, prot: number): boolean {
  const access = area.prot & prot & ACCESS;
  if (access === 0) return false;
  const slice = { pages: area.pages, startByte: area.startByte + (from - area.iova), length };
  slice.pages.get();
  try {
    const areas = child.ioas!.table.map([slice], length, iova, access | IOMMU_CACHE);
    for (const merged of areas) child.ioas!.traceArea('ioas_map', merged);
    return true;
  } catch (error) {
    slice.pages.put();
    throw error;
  }
}

function showBelow(parent: Ioasid, first: bigint, last: bigint, undos: Undo[]): void {
  for (const child of parent.children) {
    for (const window of child.windows?.onto(first, last) ?? []) {
      show(child, window, higher(window.target, first), lower(window.targetLast, last), undos);
    }
  }
}

/** Unmaps what is merged in [iova, last] of a child, and below it first. The range cuts no area. */
function hide(child: Ioasid, iova: bigint, last: bigint): void {
  if (child.ioas!.table.space.areasIn(iova, last).length === 0) return;
  hideBelow(child, iova, last);
  unmap(child, iova, last);
}

function hideBelow(parent: Ioasid, first: bigint, last: bigint): void {
  for (const child of parent.children) {
    for (const window of child.windows?.onto(first, last) ?? []) {
      const from = higher(window.target, first);
      const length = lower(window.targetLast, last) - from + 1n;
      const iova = window.iova + (from - window.target);
      hide(child, iova, iova + length - 1n);
    }
  }
}

function unmap({ ioas }: Ioasid, iova: bigint, last: bigint): bigint {
  const gone = (area: Area): void => ioas!.traceArea('ioas_unmap', area);
  if (iova === 0n && last === U64_MAX) return ioas!.table.unmapAll(gone);
  return ioas!.table.unmap(iova, last - iova + 1n, gone);
}

/** Runs steps, and takes those done back, last first, when one fails. */
function undoing(steps: (undos: Undo[]) => void): void {
  const undos: Undo[] = [];
  try {
    steps(undos);
  } catch (error) {
    for (const undo of undos.reverse()) undo();
    throw error;
  }
}

function cutError(iova: bigint, last: bigint, cut: { iova: bigint; last: bigint }): SysError {
  const range = `${hex(iova)}..${hex(last)}`;
  return new SysError('EINVAL', 'IOASID_UNMAP_DMA', `${range} cuts the mapping ${hex(cut.iova)}..${hex(cut.last)}`);
}

function lower(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function higher(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
