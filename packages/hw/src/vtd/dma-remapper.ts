/**
 * DMA remapping: untranslated, translated and translation requests, the request cache and the IOTLB (VT-d Architecture
 * Specification, revision 4.1, sections 3.4 to 3.14, 4.1, 6.2).
 *
 * A request is translated at once: request cache, IOTLB, and only then tables. What is cached is used until software
 * invalidates it.
 */

import type { PhysicalMemory } from '../memory/physical-memory.ts';
import { TranslationCache } from '../page-table/translation-cache.ts';
import { allows } from '../page-table/walk.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  AT_TRANSLATED,
  AT_UNTRANSLATED,
  COMPLETION_ABORT,
  COMPLETION_SUCCESS,
  COMPLETION_UNSUPPORTED_REQUEST,
  MSI_FIRST_PFN,
  MSI_LAST_PFN,
  NO_PASID,
  type TranslationCompletion,
} from '../pci/transaction.ts';
import { addressHigh, addressLow, high32, joinPage, low32, pageHigh, pageLow } from '../u64.ts';
import { AddressWalk } from './address-walk.ts';
import type { VtdInvalidation } from './backend.ts';
import { DeviceContexts, REQUEST_TRANSLATED, REQUEST_TRANSLATION, REQUEST_UNTRANSLATED } from './device-context.ts';
import type { VtdFault } from './fault-log.ts';
import { ATS_NOTHING_GRANTED, ATS_UNSUPPORTED_REQUEST, atsOutcome, isQualified, SPT_5, SPT_6 } from './fault-reason.ts';
import type { VtdFeatures } from './features.ts';
import type { AtomicSupport } from './flag-updates.ts';
import type { Binding } from './remapping-tables.ts';
import { SpaceTable } from './space.ts';
import { IGNORED_FUNCTION_BITS, PGTT_PASS_THROUGH } from './tables.ts';

/** On the hot path: literals of this module are part of the machine code, imported constants are loaded. */
const SUCCESS: typeof COMPLETION_SUCCESS = 0;
const UNTRANSLATED: typeof AT_UNTRANSLATED = 0;
const PRIVILEGED: typeof ACCESS_PRIVILEGED = 8;

const IOTLB_SETS = 512;
/**
 * Entries of the request cache: what a hit in the IOTLB needs of the binding that serves a (requester, PASID). Words of
 * an entry: requester id, PASID, epoch of the space, policy. The policy has the implied ACCESS_ bits, and above them
 * the refused ones.
 */
const REQUESTS = 256;
const REQUEST_LG2 = 2;
const REQUEST_PASID = 1;
const REQUEST_EPOCH = 2;
const REQUEST_POLICY = 3;
const POLICY_REFUSED_SHIFT = 4;
/** Neither a requester id nor a PASID. */
const NOBODY = -2;
/** Page numbers 0xfee00..0xfeeff without their low 8 bits. */
const INTERRUPT_RANGE = 0xfee;

/** Address type of a translation request, as fault records hold it. */
const AT_TRANSLATION_REQUEST = 1;

/** What a translation completion leaves out of the access asked for, in the order of preference. */
const GRANTS: readonly number[] = [
  0,
  ACCESS_EXECUTE,
  ACCESS_WRITE,
  ACCESS_WRITE | ACCESS_EXECUTE,
  ACCESS_READ | ACCESS_EXECUTE,
];

export abstract class DmaRemapper {
  readonly features: VtdFeatures;
  pfn = 0;
  readonly ats: TranslationCompletion = {
    pfn: 0,
    sizeLg2: 12,
    access: 0,
    global: false,
    noSnoop: false,
    untranslatedOnly: false,
  };

  /** Translation is on (GSTS.TES). */
  protected enabled = false;
  protected readonly contexts: DeviceContexts;
  protected readonly walker: AddressWalk;
  /** Requests answered by `translate` from request cache and IOTLB, other requests, other IOTLB hits. */
  protected fastHits = 0;
  protected translations = 0;
  protected slowHits = 0;
  private readonly spaces: SpaceTable;
  private readonly iotlb: TranslationCache;
  /** The request cache. Every invalidation of anything empties it, so that no epoch in it is an old one. */
  private readonly requests: Int32Array = new Int32Array(REQUESTS << REQUEST_LG2).fill(NOBODY);
  /** The function whose translated request was admitted last. */
  private admittedRid = NOBODY;

  constructor(memory: PhysicalMemory, features: VtdFeatures, atomics: AtomicSupport | null) {
    this.features = features;
    this.iotlb = new TranslationCache(IOTLB_SETS, () => this.dropAll());
    this.spaces = new SpaceTable(
      () => this.iotlb.newEpoch(),
      () => this.dropAll(),
    );
    this.contexts = new DeviceContexts(memory, features, this.spaces);
    this.walker = new AddressWalk(memory, features, atomics);
  }

  translate(rid: number, pasid: number, access: number, addressType: number, high: number, low: number): number {
    const { requests } = this;
    const at = slotOf(rid, pasid);
    // One branch for three comparisons.
    const differs = (requests[at]! ^ rid) | (requests[at | REQUEST_PASID]! ^ pasid) | (addressType ^ UNTRANSLATED);
    if (differs === 0 && low >>> 8 !== INTERRUPT_RANGE) {
      const { iotlb } = this;
      const policy = requests[at | REQUEST_POLICY]!;
      const wanted = access | (policy & PRIVILEGED);
      const entry = iotlb.probe(requests[at | REQUEST_EPOCH]!, high, low);
      if (entry >= 0) {
        // The rights of privileged accesses lie 4 bits above those of others.
        const missing = (~iotlb.rights(entry) >> ((wanted & PRIVILEGED) >> 1)) & 7;
        if (((missing | (policy >> POLICY_REFUSED_SHIFT)) & wanted) === 0) {
          this.fastHits++;
          this.pfn = iotlb.pfn(entry, low);
          return SUCCESS;
        }
      }
    }
    return this.translateSlowly(rid, pasid, access, addressType, high, low);
  }

  requestTranslation(rid: number, pasid: number, access: number, high: number, low: number): number {
    this.translations++;
    const { ats } = this;
    ats.pfn = 0;
    ats.sizeLg2 = 12;
    ats.access = 0;
    ats.noSnoop = false;
    ats.untranslatedOnly = false;
    if (!this.enabled || !this.features.deviceTlb) return COMPLETION_UNSUPPORTED_REQUEST;
    if (pasid === NO_PASID && isInterruptPage(high, low)) {
      ats.access = ACCESS_WRITE;
      ats.untranslatedOnly = true;
      return COMPLETION_SUCCESS;
    }
    const binding = this.contexts.find(rid, pasid, REQUEST_TRANSLATION);
    if (binding === null) {
      const { reason, fpd } = this.contexts;
      return this.refuseTranslation(reason, fpd, rid, pasid, access, high, low);
    }
    let wanted = access | binding.implied;
    // Without ERE nothing is executable, without SRE nothing is there for a supervisor.
    if ((binding.refused & ACCESS_EXECUTE) !== 0) wanted &= ~ACCESS_EXECUTE;
    if ((wanted & binding.refused & ACCESS_PRIVILEGED) !== 0) return COMPLETION_SUCCESS;
    // Grant what there is: a page that can be read is no fault for a request that would also write.
    let reason = 0;
    let granted = 0;
    for (const without of GRANTS) {
      if (granted === (wanted & ~without)) continue;
      granted = wanted & ~without;
      if ((granted & (ACCESS_READ | ACCESS_WRITE)) === 0) continue;
      reason = this.lookUp(binding, granted, high, low);
      if (reason === 0 || atsOutcome(reason) !== ATS_NOTHING_GRANTED) break;
    }
    if (reason !== 0) return this.refuseTranslation(reason, binding.fpd, rid, pasid, access, high, low);
    ats.pfn = this.pfn;
    ats.sizeLg2 = this.walker.sizeLg2;
    ats.access = granted & (ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE | (access & ACCESS_PRIVILEGED));
    ats.noSnoop = this.walker.snoop;
    return COMPLETION_SUCCESS;
  }

  setRootTable(address: bigint, mode: number): void {
    if (this.contexts.setRootTable(address, mode) || this.features.enhancedSetRoot) this.dropAll();
  }

  setTranslation(enabled: boolean): void {
    this.enabled = enabled;
    this.clearRequests();
  }

  /** Where faults go. */
  protected abstract report(fault: VtdFault): void;

  /** Of the unit's own caches for DMA; other kinds of request do nothing. */
  protected invalidateCaches(request: VtdInvalidation): void {
    this.clearRequests();
    switch (request.kind) {
      case 'context-cache':
        if (request.granularity === 'global') this.contexts.invalidateContexts();
        else if (request.granularity === 'domain') this.contexts.invalidateContextsOfDomain(request.did);
        else this.contexts.invalidateContexts(request.sid, IGNORED_FUNCTION_BITS[request.functionMask]!);
        break;
      case 'pasid-cache':
        if (request.granularity === 'global') this.contexts.invalidatePasids();
        else if (request.granularity === 'domain') this.contexts.invalidatePasids(request.did);
        else this.contexts.invalidatePasids(request.did, request.pasid);
        break;
      case 'iotlb':
        this.invalidateIotlb(request);
        break;
      case 'pasid-iotlb': {
        const space = this.spaces.existing(request.did, request.pasid);
        if (space === null) break;
        if (request.granularity === 'pasid') this.spaces.renew(space);
        else this.invalidatePages(space.epoch, request.address, request.sizeLg2, request.leafOnly);
        break;
      }
    }
  }

  /** Records a fault unless it is qualified and Fault Processing Disable applies. */
  protected record(
    reason: number,
    fpd: boolean,
    rid: number,
    pasid: number,
    access: number,
    addressType: number,
    high: number,
    low: number,
    pageRequest: boolean,
  ): void {
    if (fpd && isQualified(reason)) return;
    this.report({
      reason,
      rid,
      pasid,
      access,
      addressType,
      pageRequest,
      addressLow: addressLow(low),
      addressHigh: addressHigh(low, high),
    });
  }

  private remember(rid: number, pasid: number, binding: Binding): void {
    const { requests } = this;
    const at = slotOf(rid, pasid);
    requests[at] = rid;
    requests[at | REQUEST_PASID] = pasid;
    requests[at | REQUEST_EPOCH] = binding.space.epoch;
    requests[at | REQUEST_POLICY] = binding.implied | (binding.refused << POLICY_REFUSED_SHIFT);
  }

  /** A request that the request cache and the IOTLB did not answer. */
  private translateSlowly(
    rid: number,
    pasid: number,
    access: number,
    addressType: number,
    high: number,
    low: number,
  ): number {
    this.translations++;
    if (!this.enabled) {
      if (addressType !== AT_UNTRANSLATED || pasid !== NO_PASID) return COMPLETION_UNSUPPORTED_REQUEST;
      this.pfn = joinPage(high, low);
      return COMPLETION_SUCCESS;
    }
    if (addressType !== AT_UNTRANSLATED) return this.admitTranslated(rid, pasid, access, high, low);
    // Only interrupt messages go to the interrupt range, unless a PASID makes the address a virtual one.
    if (pasid === NO_PASID && isInterruptPage(high, low)) return COMPLETION_UNSUPPORTED_REQUEST;
    const binding = this.contexts.find(rid, pasid, REQUEST_UNTRANSLATED);
    if (binding === null) {
      const { reason, fpd } = this.contexts;
      this.record(reason, fpd, rid, pasid, access, AT_UNTRANSLATED, high, low, false);
      return COMPLETION_UNSUPPORTED_REQUEST;
    }
    this.remember(rid, pasid, binding);
    const reason = this.lookUp(binding, access | binding.implied, high, low);
    if (reason === 0) return COMPLETION_SUCCESS;
    this.record(reason, binding.fpd, rid, pasid, access, AT_UNTRANSLATED, high, low, false);
    return COMPLETION_UNSUPPORTED_REQUEST;
  }

  private admitTranslated(rid: number, pasid: number, access: number, high: number, low: number): number {
    const { contexts, walker } = this;
    let admitted = rid === this.admittedRid && pasid === NO_PASID && walker.refuseTranslated(false, high, low) === 0;
    if (!admitted) {
      admitted = contexts.admits(rid, pasid, REQUEST_TRANSLATED);
      this.admittedRid = admitted && pasid === NO_PASID ? rid : NOBODY;
    }
    const reason = admitted ? walker.refuseTranslated(contexts.legacy, high, low) : contexts.reason;
    if (reason !== 0) {
      this.record(reason, contexts.fpd, rid, pasid, access, AT_TRANSLATED, high, low, false);
      return COMPLETION_UNSUPPORTED_REQUEST;
    }
    this.pfn = joinPage(high, low);
    return COMPLETION_SUCCESS;
  }

  /** Translates by the IOTLB or the tables; leaves the frame in `pfn`, size and snoop in the walker. */
  private lookUp(binding: Binding, access: number, high: number, low: number): number {
    if ((access & binding.refused & ACCESS_EXECUTE) !== 0) return SPT_5;
    if ((access & binding.refused & ACCESS_PRIVILEGED) !== 0) return SPT_6;
    const { iotlb, walker } = this;
    const entry = iotlb.probe(binding.space.epoch, high, low);
    if (entry >= 0 && allows(iotlb.rights(entry), access)) {
      this.slowHits++;
      this.pfn = iotlb.pfn(entry, low);
      walker.sizeLg2 = iotlb.sizeLg2(entry);
      walker.snoop = iotlb.extra(entry) !== 0;
      return 0;
    }
    const reason = walker.walk(binding, access, high, low);
    if (reason !== 0) return reason;
    this.pfn = walker.pfn;
    if (binding.kind !== PGTT_PASS_THROUGH) {
      const { sizeLg2, pfn, cacheableRights, snoop } = walker;
      // Where the smaller range replaces a larger one, the larger must not answer first.
      if (entry >= 0 && iotlb.sizeLg2(entry) !== sizeLg2) iotlb.invalidateRange(binding.space.epoch, high, low, 12);
      iotlb.insert(binding.space.epoch, high, low, sizeLg2, pfn, cacheableRights, snoop ? 1 : 0);
    }
    return 0;
  }

  private refuseTranslation(
    reason: number,
    fpd: boolean,
    rid: number,
    pasid: number,
    access: number,
    high: number,
    low: number,
  ): number {
    const outcome = atsOutcome(reason);
    if (outcome === ATS_NOTHING_GRANTED) return COMPLETION_SUCCESS;
    this.record(reason, fpd, rid, pasid, access, AT_TRANSLATION_REQUEST, high, low, false);
    return outcome === ATS_UNSUPPORTED_REQUEST ? COMPLETION_UNSUPPORTED_REQUEST : COMPLETION_ABORT;
  }

  /** What an IOTLB descriptor reaches: of a page, second-stage entries of it and all nested ones of the domain. */
  private invalidateIotlb(request: VtdInvalidation & { kind: 'iotlb' }): void {
    if (request.granularity === 'global') {
      this.iotlb.clear();
      this.walker.clearStructures();
      return;
    }
    this.spaces.renewDomain(request.did, request.granularity === 'page');
    const space = this.spaces.existing(request.did, -1);
    if (request.granularity === 'page' && space !== null) {
      this.invalidatePages(space.epoch, request.address, request.sizeLg2, request.leafOnly);
    }
  }

  private invalidatePages(epoch: number, address: bigint, sizeLg2: number, leafOnly: boolean): void {
    const hi = high32(address);
    const low = pageLow(low32(address), hi);
    this.iotlb.invalidateRange(epoch, pageHigh(hi), low, sizeLg2);
    if (!leafOnly) this.walker.invalidateStructures(epoch, pageHigh(hi), low, sizeLg2);
  }

  private clearRequests(): void {
    this.requests.fill(NOBODY);
    this.admittedRid = NOBODY;
  }

  private dropAll(): void {
    this.spaces.clear();
    this.contexts.invalidateContexts();
    this.contexts.invalidatePasids();
    this.clearRequests();
    this.iotlb.clear();
    this.walker.clearStructures();
  }
}

/** Index of the first word of the request cache's entry. */
function slotOf(rid: number, pasid: number): number {
  return ((rid ^ (pasid << 1) ^ (pasid >> 7)) & (REQUESTS - 1)) << REQUEST_LG2;
}

function isInterruptPage(high: number, low: number): boolean {
  return high === 0 && low >= MSI_FIRST_PFN && low <= MSI_LAST_PFN;
}
