/**
 * Ranges of I/O virtual addresses that no area may use, each with an owner: a device's reserved regions, what lies
 * outside a domain's aperture. There are few, and they may overlap each other.
 */

import { U64_MAX } from '@iommukit/hw';

/** A closed interval of addresses. */
export type IovaRange = { readonly start: bigint; readonly last: bigint };

type Reserved = IovaRange & { readonly owner: object };

export class ReservedRanges {
  /** In ascending order of `start`. */
  private ranges: Reserved[] = [];

  add(start: bigint, last: bigint, owner: object): void {
    const at = this.ranges.findIndex((range) => range.start > start);
    this.ranges.splice(at < 0 ? this.ranges.length : at, 0, { start, last, owner });
  }

  removeOwner(owner: object): void {
    this.ranges = this.ranges.filter((range) => range.owner !== owner);
  }

  /** A range that meets [start, last], or null. */
  find(start: bigint, last: bigint): IovaRange | null {
    return this.ranges.find((range) => range.start <= last && start <= range.last) ?? null;
  }

  all(): readonly (IovaRange & { readonly owner: object })[] {
    return this.ranges;
  }

  /** The addresses of [start, last] in no range, ascending. */
  holes(start = 0n, last: bigint = U64_MAX): IovaRange[] {
    const holes: IovaRange[] = [];
    let next = start;
    for (const range of this.ranges) {
      if (range.last < next) continue;
      if (range.start > last) break;
      if (range.start > next) holes.push({ start: next, last: range.start - 1n });
      next = range.last + 1n;
      if (next > last) return holes;
    }
    holes.push({ start: next, last });
    return holes;
  }
}
