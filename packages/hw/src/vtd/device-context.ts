/**
 * From a requester id and PASID to what translates for them, by the context cache and the PASID cache (VT-d
 * Architecture Specification, revision 4.1, sections 3.4, 6.2.2, 6.2.3). A cached entry is used until it is invalidated,
 * whatever memory says by then; an entry that is not present or wrong is not cached.
 */

import type { PhysicalMemory } from '../memory/physical-memory.ts';
import { NO_PASID } from '../pci/transaction.ts';
import { high32, low32, pageNumber } from '../u64.ts';
import * as fault from './fault-reason.ts';
import type { VtdFeatures } from './features.ts';
import { TTM_ABORT_DMA, TTM_LEGACY, TTM_SCALABLE } from './registers.ts';
import { type Binding, type Context, RemappingTables } from './remapping-tables.ts';
import type { SpaceTable } from './space.ts';

/** What kind of request is looked up. */
export const REQUEST_UNTRANSLATED = 0;
export const REQUEST_TRANSLATION = 1;
export const REQUEST_TRANSLATED = 2;
export const REQUEST_PAGE = 3;

/** Entries of either cache; the oldest goes first. */
const CACHE_ENTRIES = 1024;

export class DeviceContexts {
  /** After a failed look-up: the fault reason, and whether Fault Processing Disable applies to it. */
  reason = 0;
  fpd = false;
  private readonly features: VtdFeatures;
  private readonly tables: RemappingTables;
  private readonly contexts = new Map<number, Context>();
  private readonly bindings = new Map<number, Binding>();
  private mode = TTM_LEGACY;

  constructor(memory: PhysicalMemory, features: VtdFeatures, spaces: SpaceTable) {
    this.features = features;
    this.tables = new RemappingTables(memory, features, spaces);
  }

  /** True when the mode changes, so that nothing cached means anything any more. */
  setRootTable(address: bigint, mode: number): boolean {
    const changed = mode !== this.mode;
    this.tables.rootPfn = pageNumber(low32(address), high32(address));
    this.mode = mode;
    return changed;
  }

  /** The root table is a legacy one. */
  get legacy(): boolean {
    return this.mode === TTM_LEGACY;
  }

  /**
   * Whether the request may enter, without its PASID entry: for page requests and translated requests. If it may, `fpd`
   * is that of the context entry.
   */
  admits(rid: number, pasid: number, request: number): boolean {
    const context = this.admit(rid, pasid, request);
    if (context === null) return false;
    this.fpd = context.fpd;
    return true;
  }

  /** What translates for (`rid`, `pasid`); null after a fault, which is then in `reason` and `fpd`. */
  find(rid: number, pasid: number, request: number): Binding | null {
    const context = this.admit(rid, pasid, request);
    if (context === null) return null;
    if (context.legacy !== null) return context.legacy;
    const effective = pasid === NO_PASID ? context.ridPasid : pasid;
    const key = bindingKey(rid, pasid);
    const cached = this.bindings.get(key);
    if (cached !== undefined) return cached;
    const binding = this.tables.readPasidEntry(context, effective, pasid === NO_PASID && context.ridPrivileged);
    if (binding === null) return this.refuse(this.tables.reason, this.tables.fpd);
    if (this.bindings.size >= CACHE_ENTRIES) this.bindings.delete(this.bindings.keys().next().value!);
    this.bindings.set(key, binding);
    return binding;
  }

  /** Forgets context entries: of all functions, or of those whose id equals `sid` but for `ignore` bits. */
  invalidateContexts(sid = 0, ignore = 0xffff): void {
    for (const rid of this.contexts.keys()) if (((rid ^ sid) & ~ignore) === 0) this.contexts.delete(rid);
  }

  /** Forgets legacy context entries of a domain; scalable-mode ones name no domain and all go. */
  invalidateContextsOfDomain(did: number): void {
    for (const [rid, context] of this.contexts) {
      if (context.legacy === null || context.legacy.did === did) this.contexts.delete(rid);
    }
  }

  /** Forgets PASID entries: all, those of domain `did`, or of `did` with `pasid`. */
  invalidatePasids(did = -1, pasid = -1): void {
    for (const [key, binding] of this.bindings) {
      if ((did < 0 || binding.did === did) && (pasid < 0 || binding.pasid === pasid)) this.bindings.delete(key);
    }
  }

  private refuse(reason: number, fpd: boolean): null {
    this.reason = reason;
    this.fpd = fpd;
    return null;
  }

  /** The checks that need no PASID entry. */
  private admit(rid: number, pasid: number, request: number): Context | null {
    const { mode, features } = this;
    if (mode === TTM_ABORT_DMA && features.abortDma) return this.refuse(fault.RTA_4, false);
    if (mode !== TTM_LEGACY && (mode !== TTM_SCALABLE || !features.scalableMode)) {
      return this.refuse(fault.RTA_1, false);
    }
    const legacy = mode === TTM_LEGACY;
    if (legacy && request === REQUEST_PAGE) return this.refuse(fault.RTA_3, false);
    if (legacy && pasid !== NO_PASID) return this.refuse(fault.RTA_2, false);
    let context = this.contexts.get(rid) ?? null;
    if (context === null) {
      context = legacy ? this.tables.readLegacyContext(rid) : this.tables.readScalableContext(rid);
      if (context === null) return this.refuse(this.tables.reason, this.tables.fpd);
      if (this.contexts.size >= CACHE_ENTRIES) this.contexts.delete(this.contexts.keys().next().value!);
      this.contexts.set(rid, context);
    }
    const device = request === REQUEST_TRANSLATION || request === REQUEST_TRANSLATED;
    if (device && !context.deviceTlb) return this.refuse(legacy ? fault.LCT_5 : fault.SCT_5, context.fpd);
    if (legacy) return context;
    if (request === REQUEST_PAGE && !context.pageRequests) return this.refuse(fault.SCT_8, context.fpd);
    if (pasid === NO_PASID) {
      if (context.ridPasid >= context.pasids) return this.refuse(fault.SCT_9, context.fpd);
    } else {
      if (!context.pasidEnable) return this.refuse(fault.SCT_6, context.fpd);
      if (pasid >= context.pasids) return this.refuse(fault.SCT_7, context.fpd);
    }
    return context;
  }
}

/** Requests without PASID have their own entries: RID_PRIV is part of what they mean. */
function bindingKey(rid: number, pasid: number): number {
  return rid * 0x200000 + pasid + 1;
}
