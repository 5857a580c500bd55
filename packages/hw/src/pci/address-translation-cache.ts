/**
 * The address translation cache of a function (PCI Express Base Specification 6.0, sections 10.2 and 10.3): what it
 * holds is used, however stale, until an invalidation request, a change of ATS Enable or a reset takes it away.
 *
 * Set-associative with round-robin replacement; every entry is one 4 KiB page, whatever the size of the translation it
 * came from. Words of an entry: vpn[26:0], vpn[51:27], PASID + 1 with the privileged bit, access with the global bit,
 * generation, pfn[26:0], pfn[51:27], unused. An entry of an older generation is empty.
 *
 * It is no TranslationCache: a global invalidation reaches every PASID in a range, and a global mapping answers any
 * PASID, where the tag of that cache is one address space alone.
 */

import { joinPage, splitHigh, splitLow } from '../u64.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  type AtsInvalidation,
  NO_PASID,
  type TranslationCompletion,
} from './transaction.ts';

const ENTRY_LG2 = 3;
const PAGE_LOW = 0;
const PAGE_HIGH = 1;
const TAG = 2;
const FLAGS = 3;
const GENERATION = 4;
const PFN_LOW = 5;
const PFN_HIGH = 6;

const TAG_PRIVILEGED = 1 << 24;
const TAG_PASID = 0x1fffff;
const FLAG_GLOBAL = 1 << 8;
const LAST_GENERATION = 0x3fffffff;

export type AddressTranslationCacheOptions = {
  /** Number of sets, a power of two; 64 by default. */
  sets?: number;
  /** Entries a set; 4 by default. */
  ways?: number;
};

export class AddressTranslationCache {
  /** Frame number of the last hit. */
  pfn = 0;
  private readonly entries: Int32Array;
  private readonly victims: Uint8Array;
  private readonly setMask: number;
  private readonly ways: number;
  private generation = 1;

  constructor(options: AddressTranslationCacheOptions = {}) {
    const { sets = 64, ways = 4 } = options;
    if (sets < 1 || (sets & (sets - 1)) !== 0) throw new RangeError(`number of sets is not a power of two: ${sets}`);
    this.setMask = sets - 1;
    this.ways = ways;
    this.entries = new Int32Array((sets * ways) << ENTRY_LG2);
    this.victims = new Uint8Array(sets);
  }

  /** True when the page is cached for `pasid` with at least these ACCESS_ bits; its frame is then in `pfn`. */
  lookup(pasid: number, access: number, pageHigh: number, pageLow: number): boolean {
    const entries = this.entries;
    const tag = tagOf(pasid, access);
    const need = access & (ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE);
    let at = ((pageLow & this.setMask) * this.ways) << ENTRY_LG2;
    for (let way = this.ways; way > 0; way--, at += 1 << ENTRY_LG2) {
      if (
        entries[at + PAGE_LOW] === pageLow &&
        entries[at + PAGE_HIGH] === pageHigh &&
        entries[at + GENERATION] === this.generation &&
        (entries[at + FLAGS]! & need) === need &&
        matches(entries[at + TAG]!, entries[at + FLAGS]!, tag)
      ) {
        this.pfn = joinPage(entries[at + PFN_HIGH]!, entries[at + PFN_LOW]!);
        return true;
      }
    }
    return false;
  }

  /** Stores what a completion granted for a page, in place of what was cached of it; `access` is that of the request. */
  fill(pasid: number, access: number, pageHigh: number, pageLow: number, completion: TranslationCompletion): void {
    const { entries, ways } = this;
    const set = pageLow & this.setMask;
    const first = (set * ways) << ENTRY_LG2;
    const tag = tagOf(pasid, access);
    let target = -1;
    for (let way = 0; way < ways; way++) {
      const at = first + (way << ENTRY_LG2);
      if (entries[at + GENERATION] !== this.generation) target = at;
      else if (
        entries[at + PAGE_LOW] === pageLow &&
        entries[at + PAGE_HIGH] === pageHigh &&
        entries[at + TAG] === tag
      ) {
        target = at;
        break;
      }
    }
    if (target < 0) {
      const victim = this.victims[set]!;
      this.victims[set] = victim + 1 < ways ? victim + 1 : 0;
      target = first + (victim << ENTRY_LG2);
    }
    entries[target + PAGE_LOW] = pageLow;
    entries[target + PAGE_HIGH] = pageHigh;
    entries[target + TAG] = tag;
    entries[target + FLAGS] =
      (completion.access & (ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE)) |
      (completion.global && pasid !== NO_PASID ? FLAG_GLOBAL : 0);
    entries[target + GENERATION] = this.generation;
    entries[target + PFN_LOW] = splitLow(completion.pfn);
    entries[target + PFN_HIGH] = splitHigh(completion.pfn);
  }

  /**
   * Drops every page of the range that was cached for the request's PASID: none (without PASID prefix), that one, or
   * with `global` every PASID. A global mapping goes with the PASID it was asked for, or with `global`.
   */
  invalidate(request: AtsInvalidation): void {
    const entries = this.entries;
    const bits = Math.min(Math.max(request.sizeLg2 - 12, 0), 52);
    const lowMask = bits >= 27 ? 0 : (-1 << bits) & 0x7ffffff;
    const highMask = bits <= 27 ? -1 : -1 << (bits - 27);
    const pasidTag = request.pasid + 1;
    for (let at = 0; at < entries.length; at += 1 << ENTRY_LG2) {
      const pasid = entries[at + TAG]! & TAG_PASID;
      if (
        ((entries[at + PAGE_LOW]! ^ request.pageLow) & lowMask) === 0 &&
        ((entries[at + PAGE_HIGH]! ^ request.pageHigh) & highMask) === 0 &&
        (pasid === pasidTag || (request.global && pasid !== 0 && pasidTag !== 0))
      ) {
        entries[at + GENERATION] = 0;
      }
    }
  }

  /** Drops everything. */
  flush(): void {
    if (this.generation === LAST_GENERATION) {
      this.entries.fill(0);
      this.generation = 0;
    }
    this.generation++;
  }
}

function tagOf(pasid: number, access: number): number {
  return (pasid + 1) | ((access & ACCESS_PRIVILEGED) === 0 ? 0 : TAG_PRIVILEGED);
}

/** The tag of the request itself, or a global mapping and any PASID with the same privilege. */
function matches(entry: number, flags: number, tag: number): boolean {
  return (
    entry === tag || ((flags & FLAG_GLOBAL) !== 0 && (tag & TAG_PASID) !== 0 && ((entry ^ tag) & TAG_PRIVILEGED) === 0)
  );
}
