/**
 * The register file of a remapping unit: what software sees, whatever stands behind it (VT-d Architecture
 * Specification, revision 4.1, chapter 11).
 *
 * Registers are 32 or 64 bits wide and are accessed so; narrower reads give their part, narrower writes are ignored.
 * Commands take effect on the scheduler. Protected memory regions, advanced fault logging, performance monitoring and
 * virtual commands are not advertised: their registers read as zero.
 */

import { fieldGet, fieldPrep } from '../bits.ts';
import type { MemoryPort } from '../memory/memory-port.ts';
import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';
import type { PageGroupResponse, PageRequest } from '../pci/transaction.ts';
import type { Scheduler } from '../scheduler.ts';
import { noTrace, type TraceSink } from '../trace.ts';
import { high32, joinU64, low32 } from '../u64.ts';
import type { VtdBackend, VtdInvalidation } from './backend.ts';
import { EventInterrupt, type MessageSender } from './event-interrupt.ts';
import { FaultLog, type VtdFault } from './fault-log.ts';
import { encodeCap, encodeEcap, type VtdFeatures } from './features.ts';
import { InvalidationQueue } from './invalidation-queue.ts';
import { PageRequestQueue } from './page-request-queue.ts';
import * as reg from './registers.ts';
import type { VtdEvent } from './trace.ts';

/** Nanoseconds from a write of a command register to its effect. */
const COMMAND_NS = 200;

const ONE_SHOT = reg.GCMD_SRTP | reg.GCMD_SIRTP | reg.GCMD_WBF | reg.GCMD_SFL;

export type VtdRegisterFileOptions = {
  features: VtdFeatures;
  /** Where queues lie and status is written. */
  memory: MemoryPort;
  scheduler: Scheduler;
  backend: VtdBackend;
  /** Sends the unit's own interrupts, which are never remapped. */
  sendMessage: MessageSender;
  trace?: TraceSink<VtdEvent>;
};

export class VtdRegisterFile implements MmioHandler {
  readonly features: VtdFeatures;
  private readonly scheduler: Scheduler;
  private readonly backend: VtdBackend;
  private readonly trace: TraceSink<VtdEvent>;
  private readonly cap: bigint;
  private readonly ecap: bigint;
  private readonly faultEvent: EventInterrupt;
  private readonly invalidationEvent: EventInterrupt;
  private readonly pageRequestEvent: EventInterrupt;
  private readonly faults: FaultLog;
  private readonly queue: InvalidationQueue;
  private readonly pageRequests: PageRequestQueue;
  /** GSTS, and the root and interrupt tables as last programmed. */
  private status = 0;
  private rootLow = 0;
  private rootHigh = 0;
  private interruptLow = 0;
  private interruptHigh = 0;
  /** Register-based invalidation: CCMD, IVA, IOTLB. */
  private contextLow = 0;
  private contextHigh = 0;
  private addressLow = 0;
  private addressHigh = 0;
  private iotlbHigh = 0;

  constructor(options: VtdRegisterFileOptions) {
    const { features, memory, scheduler, backend, sendMessage, trace = noTrace } = options;
    if (features.faultRecords < 1 || features.faultRecords > (reg.VTD_REGISTER_SIZE - reg.REG_FRCD) / reg.FRCD_SIZE) {
      throw new RangeError(`${features.faultRecords} fault recording registers do not fit`);
    }
    this.features = features;
    this.scheduler = scheduler;
    this.backend = backend;
    this.trace = trace;
    this.cap = encodeCap(features);
    this.ecap = encodeEcap(features);
    this.faultEvent = new EventInterrupt(sendMessage);
    this.invalidationEvent = new EventInterrupt(sendMessage);
    this.pageRequestEvent = new EventInterrupt(sendMessage);
    const faults = new FaultLog(features.faultRecords, this.faultEvent);
    const respond = (response: PageGroupResponse): void => backend.respond(response);
    const pageRequests = new PageRequestQueue(memory, scheduler, this.pageRequestEvent, respond, trace);
    const event = this.invalidationEvent;
    this.faults = faults;
    this.pageRequests = pageRequests;
    this.queue = new InvalidationQueue({ memory, scheduler, features, backend, faults, pageRequests, event, trace });
  }

  /** Records a fault and raises the fault event, as overflow and what software has serviced allow. */
  recordFault(fault: VtdFault): void {
    const recorded = this.faults.record(fault);
    if (!this.trace.enabled) return;
    const { reason, rid, pasid, access, addressType } = fault;
    const iova = joinU64(fault.addressLow, fault.addressHigh);
    this.trace.emit({ name: 'io_page_fault', reason, rid, pasid, iova, access, addressType, recorded });
  }

  /**
   * Puts a page request in the queue and raises the page-request event. When the queue has overflowed the backend is
   * asked to answer the last request of the group with success, so that the function tries again.
   */
  enqueuePageRequest(request: PageRequest): void {
    this.pageRequests.enqueue(request);
  }

  read(offset: number, width: AccessWidth): bigint {
    if (offset >= reg.VTD_REGISTER_SIZE) return 0n;
    const aligned = offset & ~3;
    if (width === 8) return joinU64(this.readWord(aligned), this.readWord(aligned + 4));
    const word = this.readWord(aligned) >>> (8 * (offset & 3));
    return BigInt(width === 4 ? word : word & (width === 2 ? 0xffff : 0xff));
  }

  write(offset: number, width: AccessWidth, value: bigint): void {
    if (offset >= reg.VTD_REGISTER_SIZE || width < 4) return;
    this.writeWord(offset, low32(value));
    if (width === 8) this.writeWord(offset + 4, high32(value));
  }

  private readWord(offset: number): number {
    switch (offset) {
      case reg.REG_VER:
        return this.features.version;
      case reg.REG_CAP:
        return low32(this.cap);
      case reg.REG_CAP + 4:
        return high32(this.cap);
      case reg.REG_ECAP:
        return low32(this.ecap);
      case reg.REG_ECAP + 4:
        return high32(this.ecap);
      case reg.REG_GSTS:
        return this.status;
      case reg.REG_RTADDR:
        return this.rootLow;
      case reg.REG_RTADDR + 4:
        return this.rootHigh;
      case reg.REG_CCMD:
        return this.contextLow;
      case reg.REG_CCMD + 4:
        return this.contextHigh;
      case reg.REG_FSTS:
        return this.faults.register;
      case reg.REG_IRTA:
        return this.interruptLow;
      case reg.REG_IRTA + 4:
        return this.interruptHigh;
      case reg.REG_IVA:
        return this.addressLow;
      case reg.REG_IVA + 4:
        return this.addressHigh;
      case reg.REG_IOTLB + 4:
        return this.iotlbHigh;
    }
    if (offset >= reg.REG_FRCD) return this.faults.readRecord((offset - reg.REG_FRCD) >> 2);
    const event = this.eventAt(offset);
    if (event !== null) return event.read((offset >> 2) - (eventBase(offset) >> 2));
    if (offset >= reg.REG_PQH) return this.features.pageRequests ? this.pageRequests.read(offset) : 0;
    return this.features.queuedInvalidation ? this.queue.read(offset) : 0;
  }

  private writeWord(offset: number, value: number): void {
    switch (offset) {
      case reg.REG_GCMD:
        this.scheduler.schedule(COMMAND_NS, () => this.command(value));
        return;
      case reg.REG_RTADDR:
        this.rootLow = value & (~0xfff | reg.RTADDR_LO_TTM);
        return;
      case reg.REG_RTADDR + 4:
        this.rootHigh = value;
        return;
      case reg.REG_CCMD:
        this.contextLow = value;
        return;
      case reg.REG_CCMD + 4:
        this.contextCommand(value);
        return;
      case reg.REG_FSTS:
        this.faults.clear(value);
        this.queue.kick();
        return;
      case reg.REG_IRTA:
        if (this.features.interruptRemapping) this.interruptLow = value & (~0xfff | this.interruptTableBits());
        return;
      case reg.REG_IRTA + 4:
        if (this.features.interruptRemapping) this.interruptHigh = value;
        return;
      case reg.REG_IVA:
        this.addressLow = value & (~0xfff | reg.IVA_LO_AM | reg.IVA_LO_IH);
        return;
      case reg.REG_IVA + 4:
        this.addressHigh = value;
        return;
      case reg.REG_IOTLB + 4:
        this.iotlbCommand(value);
        return;
    }
    if (offset >= reg.REG_FRCD) {
      this.faults.writeRecord((offset - reg.REG_FRCD) >> 2, value);
      return;
    }
    const event = this.eventAt(offset);
    if (event !== null) event.write((offset >> 2) - (eventBase(offset) >> 2), value);
    else if (offset >= reg.REG_PQH) {
      if (this.features.pageRequests) this.pageRequests.write(offset, value);
    } else if (this.features.queuedInvalidation) this.queue.write(offset, value);
  }

  /** The event whose four registers hold `offset`. */
  private eventAt(offset: number): EventInterrupt | null {
    const base = eventBase(offset);
    if (base === reg.REG_FECTL) return this.faultEvent;
    if (base === reg.REG_IECTL) return this.features.queuedInvalidation ? this.invalidationEvent : null;
    if (base === reg.REG_PECTL) return this.features.pageRequests ? this.pageRequestEvent : null;
    return null;
  }

  private interruptTableBits(): number {
    return reg.IRTA_LO_S | (this.features.extendedInterruptMode ? reg.IRTA_LO_EIME : 0);
  }

  /** Carries out a write of GCMD: what differs from GSTS, and the one-shot commands. */
  private command(value: number): void {
    const { features, backend } = this;
    let sticky = reg.GCMD_TE;
    if (features.queuedInvalidation) sticky |= reg.GCMD_QIE;
    if (features.interruptRemapping) sticky |= reg.GCMD_IRE | reg.GCMD_CFI;
    const changed = (value ^ this.status) & sticky;
    if ((value & reg.GCMD_SRTP) !== 0) this.setRootTable();
    if (features.interruptRemapping && (value & reg.GCMD_SIRTP) !== 0) this.setInterruptTable();
    this.status = (this.status & ~sticky) | (value & sticky & ~ONE_SHOT);
    if ((changed & reg.GCMD_TE) !== 0) backend.setTranslation((value & reg.GCMD_TE) !== 0);
    if ((changed & reg.GCMD_CFI) !== 0) backend.setCompatibilityInterrupts((value & reg.GCMD_CFI) !== 0);
    if ((changed & reg.GCMD_IRE) !== 0) backend.setInterruptRemapping((value & reg.GCMD_IRE) !== 0);
    if ((changed & reg.GCMD_QIE) !== 0) this.queue.setEnabled((value & reg.GCMD_QIE) !== 0);
    if (this.trace.enabled) this.trace.emit({ name: 'global_status', status: this.status >>> 0 });
  }

  private setRootTable(): void {
    const mode = fieldGet(reg.RTADDR_LO_TTM, this.rootLow);
    const address = joinU64(this.rootLow & ~0xfff, this.rootHigh);
    this.status |= reg.GCMD_SRTP;
    this.queue.scalable = mode === reg.TTM_SCALABLE && this.features.scalableMode;
    if (this.trace.enabled) this.trace.emit({ name: 'set_root_table', address, mode });
    this.backend.setRootTable(address, mode);
  }

  private setInterruptTable(): void {
    const address = joinU64(this.interruptLow & ~0xfff, this.interruptHigh);
    const entries = 2 << fieldGet(reg.IRTA_LO_S, this.interruptLow);
    this.status |= reg.GCMD_SIRTP;
    if (this.trace.enabled) this.trace.emit({ name: 'set_interrupt_table', address, entries });
    this.backend.setInterruptTable(address, entries, (this.interruptLow & reg.IRTA_LO_EIME) !== 0);
  }

  /** While the queue is enabled register-based invalidation does nothing and reports granularity 0. */
  private contextCommand(value: number): void {
    const fields = value & (reg.CCMD_HI_FM | reg.CCMD_HI_CIRG);
    this.contextHigh = fields | (value & reg.CCMD_HI_ICC);
    if ((value & reg.CCMD_HI_ICC) === 0) return;
    this.scheduler.schedule(COMMAND_NS, () => {
      const granularity = this.usesQueue() ? 0 : fieldGet(reg.CCMD_HI_CIRG, value);
      const did = fieldGet(reg.CCMD_LO_DID, this.contextLow);
      const sid = fieldGet(reg.CCMD_LO_SID, this.contextLow);
      const functionMask = fieldGet(reg.CCMD_HI_FM, value);
      const finish = (): void => {
        this.contextHigh = fields | fieldPrep(reg.CCMD_HI_CAIG, granularity);
      };
      const kind = 'context-cache';
      if (granularity === reg.GRANULARITY_GLOBAL) this.invalidate({ kind, granularity: 'global' }, finish);
      else if (granularity === reg.GRANULARITY_DOMAIN) this.invalidate({ kind, granularity: 'domain', did }, finish);
      else if (granularity === reg.GRANULARITY_PAGE) {
        this.invalidate({ kind, granularity: 'device', did, sid, functionMask }, finish);
      } else finish();
    });
  }

  private iotlbCommand(value: number): void {
    const fields = value & (reg.IOTLB_HI_DID | reg.IOTLB_HI_IIRG);
    this.iotlbHigh = fields | (value & reg.IOTLB_HI_IVT);
    if ((value & reg.IOTLB_HI_IVT) === 0) return;
    this.scheduler.schedule(COMMAND_NS, () => {
      let granularity = this.usesQueue() ? 0 : fieldGet(reg.IOTLB_HI_IIRG, value);
      const did = fieldGet(reg.IOTLB_HI_DID, value);
      const mask = fieldGet(reg.IVA_LO_AM, this.addressLow);
      const selective = this.features.pageSelective && mask <= this.features.maxAddressMask;
      if (granularity === reg.GRANULARITY_PAGE && !selective) granularity = reg.GRANULARITY_DOMAIN;
      const finish = (): void => {
        this.iotlbHigh = fields | fieldPrep(reg.IOTLB_HI_IAIG, granularity);
      };
      const kind = 'iotlb';
      if (granularity === reg.GRANULARITY_GLOBAL) this.invalidate({ kind, granularity: 'global' }, finish);
      else if (granularity === reg.GRANULARITY_DOMAIN) this.invalidate({ kind, granularity: 'domain', did }, finish);
      else if (granularity === reg.GRANULARITY_PAGE) {
        const sizeLg2 = 12 + mask;
        const address = (joinU64(this.addressLow, this.addressHigh) >> BigInt(sizeLg2)) << BigInt(sizeLg2);
        const leafOnly = (this.addressLow & reg.IVA_LO_IH) !== 0;
        this.invalidate({ kind, granularity: 'page', did, address, sizeLg2, leafOnly }, finish);
      } else finish();
    });
  }

  private invalidate(request: VtdInvalidation, finish: () => void): void {
    this.backend.invalidate(request, finish);
  }

  private usesQueue(): boolean {
    return (this.status & reg.GCMD_QIE) !== 0;
  }
}

/** Offset of the event's first register, of those whose four registers could hold `offset`. */
function eventBase(offset: number): number {
  return ((offset - 8) & ~15) + 8 === reg.REG_FECTL ? reg.REG_FECTL : offset & ~15;
}
