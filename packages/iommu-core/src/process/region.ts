/** The parts of an address space that are in use (Linux: struct vm_area_struct and its tree). */

/** What stands behind a region that is not anonymous memory. */
export type Backing = {
  /** False for device registers and for memory of the kernel, which are never pinned or copied, and always shared. */
  readonly isMemory: boolean;
  /**
   * Frame of page `index`, or -1 when there is none now (Linux: SIGBUS). Called in a fault.
   * @throws {SysError} ENOMEM
   */
  frame(index: number): number;
  /** `mapper` has a region of it; it is to be told when frames go away. */
  mapped(mapper: BackingMapper): void;
  /** `mapper` has no region of it left. */
  unmapped(mapper: BackingMapper): void;
};

/** An address space, as what it maps sees it. */
export type BackingMapper = {
  /** Takes pages [first, end) of `backing` out of the page table; the next use faults. Never fails. */
  dropPages(backing: Backing, first: number, end: number): void;
};

/** Pages [start, end) of an address space, in page numbers. Never changed once it is in a list. */
export type Region = {
  readonly start: number;
  readonly end: number;
  /** hw's ACCESS_ bits (equal to PROT_ bits). */
  readonly protection: number;
  /** Null: anonymous, private memory. */
  readonly backing: Backing | null;
  /** Page of the backing at `start`. */
  readonly backingPage: number;
  /** Writes reach the backing. False: they reach a private copy. */
  readonly shared: boolean;
};

/** Page of the backing that lies at page `vpn` of the region. */
export function backingIndex(region: Region, vpn: number): number {
  return region.backingPage + (vpn - region.start);
}

/** The part of `region` in [start, end). */
export function clip(region: Region, start: number, end: number): Region {
  const first = Math.max(start, region.start);
  return { ...region, start: first, end: Math.min(end, region.end), backingPage: backingIndex(region, first) };
}

function continues(left: Region, right: Region): boolean {
  return (
    left.end === right.start &&
    left.protection === right.protection &&
    left.backing === right.backing &&
    left.shared === right.shared &&
    (left.backing === null || backingIndex(left, left.end) === right.backingPage)
  );
}

/** Regions in ascending order, none overlapping another; neighbours that continue each other are one. */
export class RegionList {
  private regions: Region[] = [];

  get all(): readonly Region[] {
    return this.regions;
  }

  /** The region that holds page `vpn`, or null. */
  find(vpn: number): Region | null {
    const region = this.regions[this.firstEndingAfter(vpn)];
    return region !== undefined && region.start <= vpn ? region : null;
  }

  /** Regions that meet [start, end), clipped to it. */
  within(start: number, end: number): Region[] {
    const found: Region[] = [];
    for (let index = this.firstEndingAfter(start); index < this.regions.length; index++) {
      const region = this.regions[index]!;
      if (region.start >= end) break;
      found.push(clip(region, start, end));
    }
    return found;
  }

  /** Puts `parts` (ascending) in place of everything in [start, end). */
  replace(start: number, end: number, parts: readonly Region[]): void {
    const from = this.firstEndingAfter(start);
    let to = from;
    while (to < this.regions.length && this.regions[to]!.start < end) to++;
    const fresh: Region[] = [];
    const left = this.regions[from];
    const right = this.regions[to - 1];
    if (to > from && left!.start < start) fresh.push(clip(left!, left!.start, start));
    fresh.push(...parts);
    if (to > from && right!.end > end) fresh.push(clip(right!, end, right!.end));
    const before = this.regions[from - 1];
    const after = this.regions[to];
    const joined: Region[] = [];
    for (const region of [before, ...fresh, after]) {
      if (region === undefined) continue;
      const last = joined[joined.length - 1];
      if (last !== undefined && continues(last, region)) joined[joined.length - 1] = { ...last, end: region.end };
      else joined.push(region);
    }
    const first = before === undefined ? from : from - 1;
    this.regions.splice(first, (after === undefined ? to : to + 1) - first, ...joined);
  }

  /** Highest free place for `pages` pages in [first, end), its start a multiple of `alignment`; -1 when there is none. */
  findGap(pages: number, alignment: number, first: number, end: number): number {
    let top = end;
    for (let index = this.regions.length - 1; index >= -1; index--) {
      const region = index < 0 ? null : this.regions[index]!;
      const bottom = Math.max(region?.end ?? first, first);
      const start = Math.floor((top - pages) / alignment) * alignment;
      if (start >= bottom) return start;
      top = Math.min(top, region?.start ?? first);
    }
    return -1;
  }

  private firstEndingAfter(vpn: number): number {
    let low = 0;
    let high = this.regions.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.regions[middle]!.end <= vpn) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
