/**
 * The virtual VT-d unit's back end: it never translates anything. The guest's PASID entries become nested tables of
 * the host, one for each PASID, attached to the passed-through function; what the guest invalidates is invalidated
 * there; page requests come back through the host's fault queues.
 *
 * The unit shows caching mode, so the guest flushes its PASID cache after every change of an entry, also from absent to
 * present. That flush is the only thing that makes the VMM look at an entry.
 */

import {
  fieldGet,
  type MemoryPort,
  NO_PASID,
  PAGE_SIZE,
  PASID0_PGTT,
  type PageGroupResponse,
  PGTT_PASS_THROUGH,
  TTM_SCALABLE,
  U64_MAX,
  type VtdBackend,
  type VtdInvalidation,
} from '@iommukit/hw';
import { SysError } from '@iommukit/iommufd';
import { type ContextEntry, type PasidEntry, presentPasids, readContext, readPasidEntry } from './guest-tables.ts';
import { type Stage1Host, Stage1Shadow } from './stage1-shadow.ts';

export type VirtualIommuOptions = Stage1Host & {
  /** Guest physical memory. */
  memory: MemoryPort;
  /** The function's requester id in the guest. */
  guestRid: number;
};

export class VirtualIommu implements VtdBackend {
  private readonly options: VirtualIommuOptions;
  /** By guest PASID; NO_PASID for requests without one. */
  private readonly shadows = new Map<number, Stage1Shadow>();
  private rootTable: bigint | null = null;
  private translating = false;

  constructor(options: VirtualIommuOptions) {
    this.options = options;
    options.dma.reachMemory(null);
  }

  /** True when the guest's own entry of `pasid` is present, whatever the host has for it. */
  hasGuestEntry(pasid: number): boolean {
    const context = this.context();
    return context !== null && pasid !== NO_PASID && readPasidEntry(this.options.memory, context, pasid) !== null;
  }

  /** Only scalable-mode tables have PASIDs to shadow; with others everything stays blocked. */
  setRootTable(address: bigint, mode: number): void {
    this.rootTable = mode === TTM_SCALABLE ? address : null;
  }

  setTranslation(enabled: boolean): void {
    this.translating = enabled;
    this.syncAll();
  }

  /** Interrupt remapping is not advertised. */
  setInterruptTable(): void {}
  setInterruptRemapping(): void {}
  setCompatibilityInterrupts(): void {}

  /** The host invalidates device TLBs together with the tables above them: requests for those have nothing left to do. */
  invalidate(request: VtdInvalidation, done: (completed: boolean) => void): void {
    switch (request.kind) {
      case 'context-cache':
        this.syncAll();
        break;
      case 'pasid-cache':
        this.flushPasidCache(request.granularity === 'pasid' ? request.pasid : NO_PASID);
        break;
      case 'pasid-iotlb':
        this.invalidatePasid(request);
        break;
      case 'iotlb':
        for (const pasid of [...this.shadows.keys()]) this.invalidateStage1(pasid, 0n, U64_MAX, false);
        break;
    }
    done(true);
  }

  /** The guest answers a page request, or its unit does when the guest's queue has no room. */
  respond({ rid, pasid, group, code }: PageGroupResponse): void {
    if (rid === this.options.guestRid) this.shadows.get(pasid)?.respond(group, code);
  }

  /** Moves what the host's fault queues hold into the guest's page-request queue. */
  pumpPageRequests(): void {
    for (const shadow of this.shadows.values()) shadow.pumpPageRequests(this.options.guestRid);
  }

  /** Nothing of the guest's tables is used any more. */
  reset(): void {
    this.rootTable = null;
    this.setTranslation(false);
  }

  private flushPasidCache(pasid: number): void {
    const { trace } = this.options;
    if (trace.enabled) trace.emit({ name: 'pasid_cache_flush', pasid, present: this.hasGuestEntry(pasid) });
    const context = this.context();
    if (pasid === NO_PASID || pasid === context?.ridPasid) this.syncAll();
    else this.sync(pasid, context);
  }

  private invalidatePasid(request: VtdInvalidation & { kind: 'pasid-iotlb' }): void {
    const pasid = request.pasid === this.context()?.ridPasid ? NO_PASID : request.pasid;
    if (request.granularity === 'pasid' || request.sizeLg2 >= 64) this.invalidateStage1(pasid, 0n, U64_MAX, false);
    else {
      const pages = (1n << BigInt(request.sizeLg2)) / BigInt(PAGE_SIZE);
      this.invalidateStage1(pasid, request.address, pages, request.leafOnly);
    }
  }

  /** What the host refuses to invalidate is used no more. */
  private invalidateStage1(pasid: number, address: bigint, pages: bigint, leaf: boolean): void {
    try {
      this.shadows.get(pasid)?.invalidate(address, pages, leaf);
    } catch (error) {
      this.refuse(pasid, error);
    }
  }

  private syncAll(): void {
    const context = this.context();
    const present = context?.pasidEnabled ? presentPasids(this.options.memory, context) : [];
    for (const pasid of new Set([...this.shadows.keys(), ...present])) {
      if (pasid !== NO_PASID && pasid !== context?.ridPasid) this.sync(pasid, context);
    }
    this.syncRequester(context);
  }

  /** Makes the host's table for `pasid` what the guest's entry says now. */
  private sync(pasid: number, context: ContextEntry | null): void {
    const { memory } = this.options;
    const entry = context?.pasidEnabled ? readPasidEntry(memory, context, pasid) : null;
    if (entry === null) this.clear(pasid);
    else this.set(pasid, entry);
  }

  /** Requests without PASID reach guest physical addresses, or what the entry of RID_PASID says, or nothing. */
  private syncRequester(context: ContextEntry | null): void {
    const { dma, memory } = this.options;
    const entry = context === null ? null : readPasidEntry(memory, context, context.ridPasid);
    const passThrough = entry !== null && fieldGet(PASID0_PGTT, entry[0]!) === PGTT_PASS_THROUGH;
    if (!this.translating || passThrough) {
      try {
        dma.reachMemory(this.shadows.get(NO_PASID)?.stage1 ?? null);
        this.shadows.delete(NO_PASID);
      } catch (error) {
        this.refuse(NO_PASID, error);
      }
    } else if (entry !== null) this.set(NO_PASID, entry);
    else this.clear(NO_PASID);
  }

  private set(pasid: number, entry: PasidEntry): void {
    const { options, shadows } = this;
    const old = shadows.get(pasid) ?? null;
    if (old?.matches(entry)) return;
    try {
      shadows.set(pasid, new Stage1Shadow(options, pasid, entry, old));
    } catch (error) {
      this.refuse(pasid, error);
    }
  }

  /** The host refused something for `pasid`, which is blocked from now on. */
  private refuse(pasid: number, error: unknown): void {
    if (!(error instanceof SysError)) throw error;
    const { trace } = this.options;
    if (trace.enabled) trace.emit({ name: 'shadow_refused', pasid, message: error.message });
    this.clear(pasid);
  }

  /** Nothing reaches memory through `pasid` on return. */
  private clear(pasid: number): void {
    this.shadows.get(pasid)?.destroy();
    this.shadows.delete(pasid);
    if (pasid === NO_PASID) this.options.dma.block();
  }

  /** The guest's context entry of the function, while translation is on; PASIDs beyond the width shown do not exist. */
  private context(): ContextEntry | null {
    const { memory, guestRid, features } = this.options;
    if (!this.translating || this.rootTable === null) return null;
    const context = readContext(memory, this.rootTable, guestRid);
    return context === null ? null : { ...context, pasids: Math.min(context.pasids, 2 ** features.pasidBits) };
  }
}
