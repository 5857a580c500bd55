/**
 * A set-associative cache of translations: IOTLB, paging-structure cache, device TLB.
 *
 * The tag of an entry is an epoch: a number that stands for one address space (domain, PASID, stage) since its last
 * flush. Who flushes an address space takes a new epoch for it, and its old entries can never hit again. An entry stays
 * until it is replaced (round robin), invalidated or its epoch is given up, however the tables change meanwhile.
 *
 * An entry stands for a naturally aligned range of 2^12 to 2^39 bytes and holds the frame of its start and two words of
 * its owner.
 */

/**
 * Words of an entry: page (low; high with the size above), epoch, frame (27 bits, less the low part of the page; 13 bits
 * above), owner's words.
 */
const PAGE_HIGH = 1;
const EPOCH = 2;
const FRAME = 3;
const FRAME_HIGH = 4;
const RIGHTS = 5;
const EXTRA = 6;
const ENTRY_LG2 = 3;
const WAYS = 4;
/** Place of the size, log2 in pages, above the 25 bits of the page. */
const SIZE_SHIFT = 25;
const PAGE_HIGH_MASK = 0x1ffffff;
const FRAME_LOW_MASK = 0x7ffffff;

const LAST_EPOCH = 0x3fffffff;
/** log2 of the most pages of a range that are probed one by one; for longer ranges all entries are looked at. */
const PROBED_LG2 = 7;

export class TranslationCache {
  private readonly entries: Int32Array;
  private readonly setMask: number;
  private readonly victims: Uint8Array;
  /** Bit n is set when an entry of size 2^(12 + n) may exist. */
  private sizes = 0;
  private lastEpoch = 0;
  private readonly onWrap: () => void;

  /**
   * @param sets number of sets of four entries, a power of two
   * @param onWrap called when epochs start over, with the cache empty: every epoch in use must be taken anew
   */
  constructor(sets: number, onWrap: () => void = () => {}) {
    this.entries = new Int32Array(sets * WAYS * (1 << ENTRY_LG2));
    this.setMask = sets - 1;
    this.victims = new Uint8Array(sets);
    this.onWrap = onWrap;
  }

  /** A tag that no entry has: for a new address space, or for one that is flushed. At least 1. */
  newEpoch(): number {
    if (this.lastEpoch === LAST_EPOCH) {
      this.clear();
      this.lastEpoch = 0;
      this.onWrap();
    }
    return ++this.lastEpoch;
  }

  /** Looks up a page. Gives a handle for the methods below, valid until the cache changes, or -1. */
  probe(epoch: number, pageHigh: number, pageLow: number): number {
    const entries = this.entries;
    const set = this.setOf(epoch, pageHigh, pageLow);
    // The way whose page agrees is computed, not searched: which one it is cannot be predicted.
    const a = entries[set]! ^ pageLow;
    const b = entries[set | 8]! ^ pageLow;
    const c = entries[set | 16]! ^ pageLow;
    const notA = (a | -a) >> 31;
    const notB = notA & ((b | -b) >> 31);
    const notC = notB & ((c | -c) >> 31);
    const at = set - ((notA + notB + notC) << ENTRY_LG2);
    if (entries[at] === pageLow && entries[at | EPOCH] === epoch && entries[at | PAGE_HIGH] === pageHigh) return at;
    return this.probeAll(epoch, pageHigh, pageLow);
  }

  /** Frame number of the page that was probed. */
  pfn(at: number, pageLow: number): number {
    const frame = (this.entries[at | FRAME]! + pageLow) | 0;
    const high = this.entries[at | FRAME_HIGH]!;
    return high === 0 ? frame : high * 0x8000000 + frame;
  }

  /** log2 of the byte size of an entry's range. */
  sizeLg2(at: number): number {
    return 12 + (this.entries[at | PAGE_HIGH]! >>> SIZE_SHIFT);
  }

  /** The owner's words of an entry. */
  rights(at: number): number {
    return this.entries[at | RIGHTS]!;
  }

  extra(at: number): number {
    return this.entries[at | EXTRA]!;
  }

  /**
   * Keeps a translation: the range of `2^sizeLg2` bytes around the page is behind the range of that size around `pfn`,
   * the frame of the page. Replaces an entry for the same range.
   */
  insert(
    epoch: number,
    pageHigh: number,
    pageLow: number,
    sizeLg2: number,
    pfn: number,
    rights: number,
    extra: number,
  ): void {
    const entries = this.entries;
    const size = sizeLg2 - 12;
    const low = pageLow & -(1 << size);
    const tag = pageHigh | (size << SIZE_SHIFT);
    const set = this.setOf(epoch, tag, low);
    let at = -1;
    for (let way = set; way < set + 32; way += 8) {
      if (entries[way] === low && entries[way | EPOCH] === epoch && entries[way | PAGE_HIGH] === tag) at = way;
    }
    if (at < 0) {
      const index = set >> 5;
      const victim = this.victims[index]!;
      this.victims[index] = victim + 1;
      at = set | ((victim & (WAYS - 1)) << ENTRY_LG2);
    }
    this.sizes |= 1 << size;
    entries[at] = low;
    entries[at | PAGE_HIGH] = tag;
    entries[at | EPOCH] = epoch;
    const frameHigh = pfn < 0x8000000 ? 0 : Math.floor(pfn / 0x8000000);
    entries[at | FRAME_HIGH] = frameHigh;
    const frame = (frameHigh === 0 ? pfn : pfn % 0x8000000) & FRAME_LOW_MASK & -(1 << size);
    entries[at | FRAME] = frame - low;
    entries[at | RIGHTS] = rights;
    entries[at | EXTRA] = extra;
  }

  /** Drops the entries of `epoch` that meet the naturally aligned range of `2^sizeLg2` bytes (>= 12) around the page. */
  invalidateRange(epoch: number, pageHigh: number, pageLow: number, sizeLg2: number): void {
    const size = sizeLg2 - 12;
    if (size > PROBED_LG2) {
      this.scan(epoch, pageHigh, pageLow, size);
      return;
    }
    const first = pageLow & -(1 << size);
    if ((this.sizes & 1) !== 0) {
      for (let page = first; page < first + (1 << size); page++) this.drop(epoch, pageHigh, page);
    }
    for (let rest = this.sizes & ~1; rest !== 0; rest &= rest - 1) {
      const large = 31 - Math.clz32(rest & -rest);
      const step = 1 << large;
      for (let page = first & -step; page < first + (1 << size); page += step) {
        this.drop(epoch, pageHigh | (large << SIZE_SHIFT), page);
      }
    }
  }

  /** Drops everything. */
  clear(): void {
    this.entries.fill(0);
    this.sizes = 0;
  }

  /** Every way, and every size there may be. */
  private probeAll(epoch: number, pageHigh: number, pageLow: number): number {
    const entries = this.entries;
    for (let { sizes: rest } = this; rest !== 0; rest &= rest - 1) {
      const size = 31 - Math.clz32(rest & -rest);
      const low = pageLow & -(1 << size);
      const tag = pageHigh | (size << SIZE_SHIFT);
      const set = this.setOf(epoch, tag, low);
      for (let way = set; way < set + 32; way += 8) {
        if (entries[way] === low && entries[way | EPOCH] === epoch && entries[way | PAGE_HIGH] === tag) return way;
      }
    }
    return -1;
  }

  private drop(epoch: number, tag: number, low: number): void {
    const entries = this.entries;
    const set = this.setOf(epoch, tag, low);
    for (let way = set; way < set + 32; way += 8) {
      if (entries[way] === low && entries[way | EPOCH] === epoch && entries[way | PAGE_HIGH] === tag) {
        entries[way | EPOCH] = 0;
      }
    }
  }

  private scan(epoch: number, pageHigh: number, pageLow: number, size: number): void {
    const entries = this.entries;
    for (let at = 0; at < entries.length; at += 8) {
      if (entries[at | EPOCH] !== epoch) continue;
      const tag = entries[at | PAGE_HIGH]!;
      const larger = Math.max(size, tag >>> SIZE_SHIFT);
      const sameLow = larger >= 27 || (entries[at]! ^ pageLow) >>> larger === 0;
      const sameHigh = larger >= 52 || ((tag ^ pageHigh) & PAGE_HIGH_MASK) >>> Math.max(larger - 27, 0) === 0;
      if (sameLow && sameHigh) entries[at | EPOCH] = 0;
    }
  }

  /** Index of the first entry of the set of a page. */
  private setOf(epoch: number, tag: number, low: number): number {
    return ((low ^ (low >>> 9) ^ (low >>> 18) ^ (epoch << 4) ^ tag ^ (tag >>> SIZE_SHIFT)) & this.setMask) << 5;
  }
}
