/**
 * The naive model of I/O address spaces: areas in an array, pins as sets of page numbers that are counted anew each time
 * (rules 2.4 to 2.10 of the description of pages.c and io_pagetable.c). It has no trees, no stores and no undoing: what
 * is refused is refused before anything is entered.
 */

import { addressOf, type GroupModel, type SliceModel } from './group-model.ts';
import { PAGE, Refusal } from './memory-model.ts';

export const TOP: bigint = 2n ** 64n;

export type RangeModel = { readonly start: bigint; readonly last: bigint };

export class AreaModel {
  readonly iova: bigint;
  readonly last: bigint;
  readonly group: GroupModel;
  readonly startByte: bigint;
  readonly writable: boolean;
  readonly readable: boolean;
  /** Is being unmapped, and an access did not let go. */
  prevented = false;

  constructor(slice: SliceModel, iova: bigint, readable: boolean, writable: boolean) {
    this.iova = iova;
    this.last = iova + slice.length - 1n;
    this.group = slice.group;
    this.startByte = slice.startByte;
    this.readable = readable;
    this.writable = writable;
  }

  byteAt(iova: bigint): bigint {
    return this.startByte + iova - this.iova;
  }

  indexAt(iova: bigint): number {
    return Number(this.byteAt(iova) / PAGE);
  }

  get first(): number {
    return this.indexAt(this.iova);
  }

  get end(): number {
    return this.indexAt(this.last);
  }
}

/** One pin by an access, or a lock. */
export type PinModel = {
  readonly iova: bigint;
  readonly last: bigint;
  readonly locks: boolean;
  readonly parts: { readonly area: AreaModel; readonly first: number; readonly last: number }[];
};

export class AccessModel {
  readonly index: number;
  readonly alignment: number;
  /** Lets go of nothing when it is told that an area is unmapped. */
  readonly stubborn: boolean;
  ioas: IoasModel | null = null;
  pins: PinModel[] = [];

  constructor(index: number, needsPinPages: boolean, stubborn: boolean) {
    this.index = index;
    this.alignment = needsPinPages ? 4096 : 1;
    this.stubborn = stubborn;
  }
}

export type DomainModel = { readonly granule: number; readonly aperture: { first: bigint; last: bigint } };

export class IoasModel {
  readonly index: number;
  /** Ascending. */
  areas: AreaModel[] = [];
  reserved: (RangeModel & { readonly owner: object })[] = [];
  /** Ascending, adjoining ones joined. */
  allowed: RangeModel[] = [];
  readonly domains: DomainModel[] = [];
  readonly accesses = new Set<AccessModel>();
  locks: PinModel[] = [];
  hugePages = true;

  constructor(index: number) {
    this.index = index;
  }

  get alignment(): number {
    return Math.max(
      this.hugePages ? 1 : 4096,
      this.locks.length > 0 ? 4096 : 1,
      ...this.domains.map(({ granule }) => granule),
      ...[...this.accesses].map(({ alignment }) => alignment),
    );
  }

  get pins(): PinModel[] {
    return [...this.locks, ...[...this.accesses].flatMap(({ pins }) => pins)];
  }

  /** How many pins use a part of the area. */
  users(area: AreaModel): number {
    return this.pins.reduce((sum, { parts }) => sum + parts.filter((part) => part.area === area).length, 0);
  }

  areaAt(iova: bigint): AreaModel | undefined {
    return this.areas.find((area) => area.iova <= iova && iova <= area.last);
  }

  /** The areas behind a range that has no hole, with the part of it in each. */
  parts(iova: bigint, length: bigint): { area: AreaModel; first: bigint; last: bigint }[] {
    const last = checkLast(iova, length);
    const parts: { area: AreaModel; first: bigint; last: bigint }[] = [];
    for (let at = iova; at <= last; ) {
      const area = this.areaAt(at);
      if (area === undefined) throw new Refusal('ENOENT');
      const end = least(area.last, last);
      parts.push({ area, first: at, last: end });
      at = end + 1n;
    }
    return parts;
  }

  checkAlignment(alignment: number): void {
    const mask = BigInt(alignment - 1);
    for (const { iova, last, startByte } of this.areas) {
      if (((iova | (last + 1n) | startByte) & mask) !== 0n) throw new Refusal('EADDRINUSE');
    }
  }

  reserve(start: bigint, last: bigint, owner: object): void {
    if ([...this.areas.map(toRange), ...this.allowed].some((range) => meets(range, { start, last }))) {
      throw new Refusal('EADDRINUSE');
    }
    this.reserved.push({ start, last, owner });
  }

  allow(ranges: readonly RangeModel[]): void {
    const sorted = [...ranges].sort((a, b) => (a.start < b.start ? -1 : 1));
    if (ranges.some(({ start, last }) => start >= last)) throw new Refusal('EINVAL');
    if (sorted.some((range, at) => at > 0 && meets(range, sorted[at - 1]!))) throw new Refusal('EINVAL');
    if (sorted.some((range) => this.reserved.some((other) => meets(range, other)))) throw new Refusal('EADDRINUSE');
    this.allowed = [];
    for (const range of sorted) {
      const before = this.allowed.at(-1);
      if (before !== undefined && before.last + 1n === range.start) {
        this.allowed[this.allowed.length - 1] = { start: before.start, last: range.last };
      } else this.allowed.push(range);
    }
  }

  /** The lowest address that fits, as aligned as the memory behind it and the length let it be. */
  choose(address: bigint, length: bigint): bigint {
    let alignment = 1n;
    while (alignment < 0x20_0000n && alignment < length) alignment *= 2n;
    while (address % alignment !== 0n) alignment /= 2n;
    if (alignment < BigInt(this.alignment)) throw new Refusal('EINVAL');
    const busy = [...this.areas.map(toRange), ...this.reserved];
    const offset = address % PAGE;
    const spans = this.allowed.length > 0 ? this.allowed : [{ start: 0n, last: TOP - 1n }];
    const place = (start: bigint): bigint => (((start + alignment - 1n) / alignment) * alignment) | offset;
    for (const span of spans) {
      // Linux looks at what follows the first place that the span has, whatever lies before it.
      const from = place(PAGE + span.start - least(span.start, PAGE));
      const to = least(span.last, TOP - 1n - PAGE);
      const starts = [from, ...busy.map(({ last }) => last + 1n).filter((start) => start > from)];
      const fitting = starts.map(place).filter((start) => {
        // Linux passes over a place of which only the last byte is left.
        const last = start + (length > 1n ? length : 2n) - 1n;
        return last <= to && !busy.some((range) => meets(range, { start, last }));
      });
      if (fitting.length > 0) return fitting.reduce(least);
    }
    throw new Refusal('ENOSPC');
  }

  map(
    slices: readonly SliceModel[],
    length: bigint,
    iova: bigint | null,
    readable: boolean,
    writable: boolean,
  ): bigint {
    const mask = BigInt(this.alignment - 1);
    if (length === 0n || (length & mask) !== 0n) throw new Refusal('EINVAL');
    const start = iova ?? this.choose(addressOf(slices[0]!), length);
    if (iova !== null) this.checkPlace(iova, length);
    let next = start;
    const areas: AreaModel[] = [];
    for (const slice of slices) {
      if (writable && !slice.group.writable) throw new Refusal('EPERM');
      if ((slice.startByte & mask & (PAGE - 1n)) !== 0n) throw new Refusal('EINVAL');
      areas.push(new AreaModel(slice, next, readable, writable));
      next += slice.length;
    }
    if (this.domains.length > 0) for (const area of areas) area.group.cover(area.first, area.end);
    this.areas = [...this.areas, ...areas].sort((a, b) => (a.iova < b.iova ? -1 : 1));
    return start;
  }

  addDomain(domain: DomainModel): void {
    const alignment = Math.max(domain.granule, this.alignment);
    if (alignment > 4096) throw new Refusal('EINVAL');
    this.checkAlignment(alignment);
    const before = [...this.reserved];
    try {
      const { first, last } = domain.aperture;
      if (first > 0n) this.reserve(0n, first - 1n, domain);
      if (last < TOP - 1n) this.reserve(last + 1n, TOP - 1n, domain);
      for (const area of this.areas) area.group.cover(area.first, area.end);
    } catch (error) {
      this.reserved = before;
      throw error;
    }
    this.domains.push(domain);
  }

  removeDomain(domain: DomainModel): void {
    this.domains.splice(this.domains.indexOf(domain), 1);
    this.reserved = this.reserved.filter(({ owner }) => owner !== domain);
  }

  setHugePages(on: boolean): void {
    if (on === this.hugePages) return;
    if (!on && this.domains.length > 0 && this.areas.length > 0) throw new Refusal('EINVAL');
    if (!on) this.checkAlignment(4096);
    this.hugePages = on;
  }

  cut(iova: bigint): void {
    const area = this.areaAt(iova);
    // Linux does not cut behind the first byte.
    if (area === undefined || iova - area.iova <= 1n) return;
    if (area.prevented) throw new Refusal('EBUSY');
    if (area.group.source.kind === 'dma-buf') throw new Refusal('EOPNOTSUPP');
    if (((iova | area.byteAt(iova)) & BigInt(this.alignment - 1)) !== 0n) throw new Refusal('EINVAL');
    if (this.users(area) > 0 || (this.domains.length > 0 && this.hugePages)) throw new Refusal('EINVAL');
    const { group, readable, writable } = area;
    const head = new AreaModel(
      { group, startByte: area.startByte, length: iova - area.iova },
      area.iova,
      readable,
      writable,
    );
    const rest = { group, startByte: area.byteAt(iova), length: area.last - iova + 1n };
    this.areas.splice(this.areas.indexOf(area), 1, head, new AreaModel(rest, iova, readable, writable));
  }

  private checkPlace(iova: bigint, length: bigint): void {
    if ((iova & BigInt(this.alignment - 1)) !== 0n) throw new Refusal('EINVAL');
    const range = { start: iova, last: checkLast(iova, length) };
    if (this.reserved.some((other) => meets(other, range))) throw new Refusal('EINVAL');
    if (this.areas.some((area) => meets(toRange(area), range))) throw new Refusal('EEXIST');
  }
}

export function checkLast(iova: bigint, length: bigint): bigint {
  if (length === 0n) throw new Refusal('EINVAL');
  if (iova + length > TOP) throw new Refusal('EOVERFLOW');
  return iova + length - 1n;
}

export function meets(one: RangeModel, other: RangeModel): boolean {
  return one.start <= other.last && other.start <= one.last;
}

export function toRange({ iova, last }: AreaModel): RangeModel {
  return { start: iova, last };
}

/** The lesser of two. */
export function least(one: bigint, other: bigint): bigint {
  if (one < other) return one;
  return other;
}
