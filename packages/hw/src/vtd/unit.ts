/**
 * A physical VT-d remapping unit: its register file in front, what the specification calls the remapping hardware
 * behind it (VT-d Architecture Specification, revision 4.1, chapters 3 to 7). To the PCI fabric it is the translation
 * agent; software reaches it through `registers` and memory only.
 */

import type { MmioHandler } from '../memory/mmio.ts';
import type { PhysicalMemory } from '../memory/physical-memory.ts';
import {
  ACCESS_READ,
  ACCESS_WRITE,
  AT_UNTRANSLATED,
  type DownstreamPort,
  type InterruptSink,
  NO_PASID,
  type PageGroupResponse,
  type PageRequest,
  PRG_INVALID_REQUEST,
  type TranslationAgent,
} from '../pci/transaction.ts';
import type { Scheduler } from '../scheduler.ts';
import { noTrace, type TraceSink } from '../trace.ts';
import { high32, low32, pageHigh, pageLow } from '../u64.ts';
import type { VtdBackend, VtdInvalidation } from './backend.ts';
import { REQUEST_PAGE } from './device-context.ts';
import { DmaRemapper } from './dma-remapper.ts';
import type { VtdFault } from './fault-log.ts';
import { isQualified } from './fault-reason.ts';
import { DEFAULT_FEATURES, type VtdFeatures } from './features.ts';
import type { AtomicSupport } from './flag-updates.ts';
import { InterruptRemapper } from './interrupt-remapper.ts';
import { VtdRegisterFile } from './register-file.ts';
import type { VtdEvent } from './trace.ts';

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

export class VtdUnit extends DmaRemapper implements TranslationAgent, VtdBackend {
  /** The register space; the machine maps it. */
  readonly registers: MmioHandler;
  private readonly registerFile: VtdRegisterFile;
  private readonly port: DownstreamPort;
  private readonly trace: TraceSink<VtdEvent>;
  private readonly interrupts: InterruptRemapper;
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
    super(memory, features, options.atomics ?? null);
    this.port = port;
    this.trace = trace;
    this.interrupts = new InterruptRemapper(memory, interrupts);
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
    this.report({
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
    if (request.kind === 'device-tlb') {
      const { sid: rid, pasid, global, address, sizeLg2 } = request;
      const hi = high32(address);
      const page = { pageHigh: pageHigh(hi), pageLow: pageLow(low32(address), hi) };
      this.port.invalidate({ rid, pasid, global, sizeLg2, ...page }, done);
      return;
    }
    if (request.kind !== 'interrupt-entry-cache') this.invalidateCaches(request);
    else if (request.granularity === 'global') this.interrupts.invalidate();
    else this.interrupts.invalidateRange(request.index, request.count);
    done(true);
  }

  respond(response: PageGroupResponse): void {
    this.pageResponses++;
    if (this.trace.enabled) this.trace.emit({ name: 'page_group_response', ...response });
    this.port.respond(response);
  }

  protected report(fault: VtdFault): void {
    this.registerFile.recordFault(fault);
  }
}
