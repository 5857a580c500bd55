/**
 * A physical VT-d remapping unit: its register file in front, what the specification calls the remapping hardware
 * behind it (VT-d Architecture Specification, revision 4.1, chapters 3 to 7). To the PCI fabric it is the translation
 * agent.
 *
 * A DMA request is translated at once: request cache, IOTLB, and only then tables. What is cached is used until software
 * invalidates it.
 */

import type { MmioHandler } from '../memory/mmio.ts';
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
  type DownstreamPort,
  type InterruptSink,
  MSI_FIRST_PFN,
  MSI_LAST_PFN,
  NO_PASID,
  type PageGroupResponse,
  type PageRequest,
  PRG_INVALID_REQUEST,
  type TranslationAgent,
  type TranslationCompletion,
} from '../pci/transaction.ts';
import type { Scheduler } from '../scheduler.ts';
import { noTrace, type TraceSink } from '../trace.ts';
import { addressHigh, addressLow, high32, low32, pageHigh, pageLow } from '../u64.ts';
import { AddressWalk } from './address-walk.ts';
import type { VtdBackend, VtdInvalidation } from './backend.ts';
import {
  type Binding,
  DeviceContexts,
  REQUEST_PAGE,
  REQUEST_TRANSLATED,
  REQUEST_TRANSLATION,
  REQUEST_UNTRANSLATED,
} from './device-context.ts';
import { ATS_NOTHING_GRANTED, ATS_UNSUPPORTED_REQUEST, atsOutcome, isQualified, SPT_5, SPT_6 } from './fault-reason.ts';
import { DEFAULT_FEATURES, type VtdFeatures } from './features.ts';
import type { AtomicSupport } from './flag-updates.ts';
import { InterruptRemapper } from './interrupt-remapper.ts';
import { VtdRegisterFile } from './register-file.ts';
import { SpaceTable } from './space.ts';
import { PGTT_PASS_THROUGH } from './tables.ts';
import type { VtdEvent } from './trace.ts';

const IOTLB_SETS = 512;
/** Entries of the request cache: which binding serves a (requester, PASID). */
const REQUESTS = 256;
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

/** Function-number bits that a function mask of 0..3 ignores. */
const FUNCTION_MASKS = [0, 4, 6, 7];

export type VtdUnitOptions = {
  memory: PhysicalMemory;
  scheduler: Scheduler;
  /** The way to the functions below the unit. */
  port: DownstreamPort;
  /** Where interrupts go, remapped ones and the unit's own. */
  interrupts: InterruptSink;
  /** What differs from DEFAULT_FEATURES. */
  features?: Partial<VtdFeatures>;
  /** Which memory takes atomic updates of accessed and dirty flags; all of it by default. */
  atomics?: AtomicSupport;
  trace?: TraceSink<VtdEvent>;
};

/** Counts since the unit was made. */
export type VtdCounters = {
  /** Untranslated and translated requests, and translation requests. */
  translations: number;
  iotlbHits: number;
  /** Paging entries read. */
  stage1Reads: number;
  stage2Reads: number;
  nestedWalks: number;
  /** Page-request groups that came in (their last request), and responses that went out. */
  pageRequests: number;
  pageResponses: number;
  invalidations: Record<VtdInvalidation['kind'], number>;
};

export class VtdUnit implements TranslationAgent, VtdBackend {
  readonly features: VtdFeatures;
  /** The register space; the machine maps it. */
  readonly registers: MmioHandler;
  pfn = 0;
  readonly ats: TranslationCompletion = {
    pfn: 0,
    sizeLg2: 12,
    access: 0,
    global: false,
    noSnoop: false,
    untranslatedOnly: false,
  };

  private readonly registerFile: VtdRegisterFile;
  private readonly port: DownstreamPort;
  private readonly trace: TraceSink<VtdEvent>;
  private readonly interrupts: InterruptRemapper;
  private readonly spaces: SpaceTable;
  private readonly contexts: DeviceContexts;
  private readonly iotlb: TranslationCache;
  private readonly walker: AddressWalk;
  /** Request cache: requester id and PASID, two words an entry, and the binding. */
  private readonly requestTags: Int32Array = new Int32Array(2 * REQUESTS).fill(NOBODY);
  private readonly requestBindings: (Binding | null)[] = new Array<Binding | null>(REQUESTS).fill(null);
  /** The request that was looked up last in the request cache. */
  private lastRid = NOBODY;
  private lastPasid = NOBODY;
  private lastBinding: Binding | null = null;
  private enabled = false;
  /** Requests answered by `translate` from request cache and IOTLB, other requests, other IOTLB hits. */
  private fastHits = 0;
  private translations = 0;
  private slowHits = 0;
  private pageRequests = 0;
  private pageResponses = 0;
  private readonly invalidations: VtdCounters['invalidations'] = {
    'context-cache': 0,
    'pasid-cache': 0,
    iotlb: 0,
    'pasid-iotlb': 0,
    'device-tlb': 0,
    'interrupt-entry-cache': 0,
  };

  /** @throws {RangeError} when features contradict each other */
  constructor(options: VtdUnitOptions) {
    const { memory, scheduler, port, interrupts, trace = noTrace } = options;
    const features = { ...DEFAULT_FEATURES, ...options.features };
    const widest = 12 + 9 * Math.max(...features.secondStageLevels);
    if (features.guestAddressWidth !== widest) {
      throw new RangeError(
        `guest address width ${features.guestAddressWidth}, not that of the widest table: ${widest}`,
      );
    }
    this.features = features;
    this.port = port;
    this.trace = trace;
    this.interrupts = new InterruptRemapper(memory, interrupts);
    this.iotlb = new TranslationCache(IOTLB_SETS, () => this.dropAll());
    this.spaces = new SpaceTable(
      () => this.iotlb.newEpoch(),
      () => this.dropAll(),
    );
    this.contexts = new DeviceContexts(memory, features, this.spaces);
    this.walker = new AddressWalk(memory, features, options.atomics ?? null);
    this.registerFile = new VtdRegisterFile({
      features,
      memory,
      scheduler,
      backend: this,
      sendMessage: (lo, _hi, data) => interrupts.deliver(lo, data),
      trace,
    });
    this.registers = this.registerFile;
  }

  get counters(): VtdCounters {
    const { fastHits, pageRequests, pageResponses } = this;
    const { stage1Reads, stage2Reads, nestedWalks } = this.walker;
    const invalidations = { ...this.invalidations };
    return {
      translations: fastHits + this.translations,
      iotlbHits: fastHits + this.slowHits,
      stage1Reads,
      stage2Reads,
      nestedWalks,
      pageRequests,
      pageResponses,
      invalidations,
    };
  }

  translate(rid: number, pasid: number, access: number, addressType: number, high: number, low: number): number {
    if (addressType === 0 && low >>> 8 !== INTERRUPT_RANGE) {
      const same = rid === this.lastRid && pasid === this.lastPasid;
      const binding = same ? this.lastBinding : this.recall(rid, pasid);
      if (binding !== null) {
        const wanted = access | binding.implied;
        const entry = this.iotlb.probe(binding.space.epoch, high, low);
        if (entry >= 0 && (wanted & binding.refused) === 0 && allows(this.iotlb.rights(entry), wanted)) {
          this.fastHits++;
          this.pfn = this.iotlb.pfn(entry, low);
          return COMPLETION_SUCCESS;
        }
      }
    }
    this.translations++;
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

  requestPage(request: PageRequest): void {
    const { rid, pasid, access, last, group } = request;
    const expectsAnswer = last && (access & (ACCESS_READ | ACCESS_WRITE)) !== 0;
    if (expectsAnswer) this.pageRequests++;
    const known = this.enabled && this.features.pageRequests;
    if (known && this.contexts.admits(rid, pasid, REQUEST_PAGE)) {
      this.registerFile.enqueuePageRequest(request);
      return;
    }
    if (known) {
      const { reason, fpd } = this.contexts;
      this.record(reason, fpd, rid, pasid, access, AT_UNTRANSLATED, request.pageHigh, request.pageLow, true);
    }
    if (expectsAnswer) this.respond({ rid, pasid, group, code: PRG_INVALID_REQUEST });
  }

  writeInterrupt(rid: number, lo: number, _hi: number, data: number): void {
    const reason = this.interrupts.write(rid, lo, data);
    if (reason === 0 || (this.interrupts.fpd && isQualified(reason))) return;
    this.registerFile.recordFault({
      reason,
      rid,
      pasid: NO_PASID,
      access: ACCESS_WRITE,
      addressType: AT_UNTRANSLATED,
      pageRequest: false,
      addressLow: 0,
      addressHigh: this.interrupts.index << 16,
    });
  }

  setRootTable(address: bigint, mode: number): void {
    if (this.contexts.setRootTable(address, mode) || this.features.enhancedSetRoot) this.dropAll();
  }

  setTranslation(enabled: boolean): void {
    this.enabled = enabled;
    this.clearRequests();
  }

  setInterruptTable(address: bigint, entries: number, extended: boolean): void {
    this.interrupts.setTable(address, entries, extended);
    if (this.features.enhancedSetInterruptRoot) this.interrupts.invalidate();
  }

  setInterruptRemapping(enabled: boolean): void {
    this.interrupts.enabled = enabled;
  }

  setCompatibilityInterrupts(allowed: boolean): void {
    this.interrupts.compatibilityAllowed = allowed;
  }

  invalidate(request: VtdInvalidation, done: (completed: boolean) => void): void {
    this.invalidations[request.kind]++;
    if (this.trace.enabled) this.trace.emit({ name: 'invalidate', request });
    switch (request.kind) {
      case 'context-cache':
        if (request.granularity === 'global') this.contexts.invalidateContexts();
        else if (request.granularity === 'domain') this.contexts.invalidateContextsOfDomain(request.did);
        else this.contexts.invalidateContexts(request.sid, FUNCTION_MASKS[request.functionMask]!);
        this.clearRequests();
        break;
      case 'pasid-cache':
        if (request.granularity === 'global') this.contexts.invalidatePasids();
        else if (request.granularity === 'domain') this.contexts.invalidatePasids(request.did);
        else this.contexts.invalidatePasids(request.did, request.pasid);
        this.clearRequests();
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
      case 'interrupt-entry-cache':
        if (request.granularity === 'global') this.interrupts.invalidate();
        else this.interrupts.invalidateRange(request.index, request.count);
        break;
      case 'device-tlb': {
        const { sid: rid, pasid, global, address, sizeLg2 } = request;
        const hi = high32(address);
        const page = { pageHigh: pageHigh(hi), pageLow: pageLow(low32(address), hi) };
        this.port.invalidate({ rid, pasid, global, sizeLg2, ...page }, done);
        return;
      }
    }
    done(true);
  }

  respond(response: PageGroupResponse): void {
    this.pageResponses++;
    if (this.trace.enabled) this.trace.emit({ name: 'page_group_response', ...response });
    this.port.respond(response);
  }

  /** The binding of a request as the request cache has it; null when it has not. */
  private recall(rid: number, pasid: number): Binding | null {
    const slot = slotOf(rid, pasid);
    if (this.requestTags[2 * slot] !== rid || this.requestTags[2 * slot + 1] !== pasid) return null;
    this.lastRid = rid;
    this.lastPasid = pasid;
    this.lastBinding = this.requestBindings[slot]!;
    return this.lastBinding;
  }

  private remember(rid: number, pasid: number, binding: Binding): void {
    const slot = slotOf(rid, pasid);
    this.requestTags[2 * slot] = rid;
    this.requestTags[2 * slot + 1] = pasid;
    this.requestBindings[slot] = binding;
    this.recall(rid, pasid);
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
    if (!this.enabled) {
      if (addressType !== AT_UNTRANSLATED || pasid !== NO_PASID) return COMPLETION_UNSUPPORTED_REQUEST;
      this.pfn = high * 0x8000000 + low;
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
    const admitted = contexts.admits(rid, pasid, REQUEST_TRANSLATED);
    const reason = admitted ? walker.refuseTranslated(contexts.legacy, high, low) : contexts.reason;
    if (reason !== 0) {
      this.record(reason, contexts.fpd, rid, pasid, access, AT_TRANSLATED, high, low, false);
      return COMPLETION_UNSUPPORTED_REQUEST;
    }
    this.pfn = high * 0x8000000 + low;
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

  private record(
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
    this.registerFile.recordFault({
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
    this.requestTags.fill(NOBODY);
    this.requestBindings.fill(null);
    this.lastRid = NOBODY;
    this.lastBinding = null;
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

function slotOf(rid: number, pasid: number): number {
  return (rid ^ (pasid << 1) ^ (pasid >> 7)) & (REQUESTS - 1);
}

function isInterruptPage(high: number, low: number): boolean {
  return high === 0 && low >= MSI_FIRST_PFN && low <= MSI_LAST_PFN;
}
