/**
 * One remapping unit: taken over from whatever firmware left, with queued invalidation, interrupt remapping and
 * scalable-mode translation on, and everything blocked (Intel VT-d specification, revision 4.1, chapters 6 and 11;
 * Linux: init_dmars, drivers/iommu/intel/iommu.c).
 */

import {
  fieldPrep,
  GCMD_IRE,
  GCMD_QIE,
  GCMD_SRTP,
  GCMD_TE,
  noTrace,
  REG_CAP,
  REG_ECAP,
  REG_RTADDR,
  RTADDR_LO_TTM,
  type TraceSink,
  TTM_SCALABLE,
} from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import type { IommuEvent } from '../trace.ts';
import { readCapabilities, type UnitCapabilities } from './capabilities.ts';
import { ContextTables } from './context-table.ts';
import * as describe from './descriptors.ts';
import { DomainIds } from './domain-ids.ts';
import { FaultLog, type FaultRecord } from './fault-log.ts';
import type { IntelDevice } from './intel-device.ts';
import { InterruptRemapping } from './interrupt-remapping.ts';
import { InvalidationQueue } from './invalidation-queue.ts';
import { PageRequestQueue } from './page-request-queue.ts';
import { RegisterAccess } from './register-access.ts';
import { unrecoverableReason } from './unrecoverable-reason.ts';

export type IntelUnitOptions = {
  kernel: Kernel;
  /** Physical address of the unit's registers. */
  registerBase: bigint;
  trace?: TraceSink<IommuEvent>;
  /** Frames of the page-request queue, a power of two up to 128, with 128 requests each; 4 by default. */
  pageRequestFrames?: number;
};

export class IntelUnit {
  readonly kernel: Kernel;
  readonly trace: TraceSink<IommuEvent>;
  readonly capabilities: UnitCapabilities;
  /** Levels of second-stage tables on this unit. */
  readonly stage2Levels: number;
  readonly queue: InvalidationQueue;
  readonly domainIds: DomainIds;
  readonly contexts: ContextTables;
  readonly faultLog: FaultLog;
  /** Null when the unit takes no page requests. */
  readonly pageRequests: PageRequestQueue | null;
  /** Null when the unit does not remap interrupts. */
  readonly interrupts: InterruptRemapping | null;
  /** Devices under control, by requester id. */
  readonly devices: Map<number, IntelDevice> = new Map();
  private readonly registers: RegisterAccess;
  /** What takes back each step of the set-up so far. */
  private readonly undo: (() => void)[] = [];

  /** @throws {SysError} ENODEV the unit lacks what this driver stands on; ENOMEM; ETIMEDOUT */
  constructor(options: IntelUnitOptions) {
    const { kernel, trace = noTrace } = options;
    this.kernel = kernel;
    this.trace = trace;
    const registers = new RegisterAccess(kernel, options.registerBase);
    this.registers = registers;
    const capabilities = readCapabilities(registers.read64(REG_CAP), registers.read64(REG_ECAP));
    this.capabilities = capabilities;
    requireCapabilities(capabilities);
    this.stage2Levels = chooseLevels(capabilities);
    this.domainIds = new DomainIds(kernel, capabilities.domainIds);
    try {
      registers.command(GCMD_TE, false);
      registers.command(GCMD_IRE, false);
      registers.command(GCMD_QIE, false);
      this.faultLog = new FaultLog(kernel, registers, capabilities, trace, (fault) => this.reportFault(fault));
      this.undo.push(() => this.faultLog.free());
      this.queue = new InvalidationQueue(kernel, registers, true, trace);
      this.undo.push(() => this.queue.free());
      this.queue.onUnresponsive = (rid) => this.isolate(rid);
      this.queue.enable();
      this.contexts = new ContextTables(kernel);
      this.undo.push(() => this.contexts.free());
      this.setRootTable();
      this.interrupts = capabilities.interruptRemapping ? new InterruptRemapping(kernel, this.queue) : null;
      this.undo.push(() => this.interrupts?.shutdown(registers));
      this.interrupts?.enable(registers);
      this.pageRequests = capabilities.pageRequests ? this.makePageRequestQueue(options) : null;
      this.undo.push(() => this.pageRequests?.free());
      registers.command(GCMD_TE, true);
    } catch (error) {
      this.shutdown();
      throw error;
    }
  }

  /** Stores the context entry of a device, for which there is room, and makes it take effect. */
  setContext(own: IntelDevice): void {
    const { device, pasidTable, deviceTlb, pageRequests } = own;
    this.contexts.write(device.rid, {
      directoryPfn: pasidTable.directoryPfn,
      directorySize: pasidTable.directorySize,
      pasids: device.maxPasids > 0,
      deviceTlb,
      pageRequests,
    });
    this.flushContext(device.rid);
  }

  /**
   * A device has not answered an invalidation. Whatever it has cached stays there, so from now on the unit refuses
   * its translated requests and its requests for translations; those it sends untranslated go on.
   */
  private isolate(rid: number): void {
    const own = this.devices.get(rid);
    if (own === undefined || !own.deviceTlb) return;
    own.deviceTlb = false;
    this.setContext(own);
    if (this.trace.enabled) this.trace.emit({ name: 'device_tlb_timeout', rid });
  }

  /** Makes the context entry of a device take effect, or its absence. */
  flushContext(rid: number): void {
    // A scalable-mode entry has no domain: its cached copies are tagged 0.
    this.queue
      .add(describe.flushContext(0, rid))
      .add(describe.fence())
      .add(describe.flushPasidCache())
      .add(describe.fence())
      .add(describe.flushIotlb())
      .submit();
  }

  /** Turns everything off and frees the unit's tables. No device is under control. */
  shutdown(): void {
    this.registers.command(GCMD_TE, false);
    for (const undo of this.undo.splice(0).reverse()) undo();
  }

  private reportFault({ rid, pasid, address, access, reason }: FaultRecord): void {
    const why = unrecoverableReason(reason);
    if (why !== null) this.devices.get(rid)?.device.onUnrecoverableFault?.({ pasid, address, access, reason: why });
  }

  private setRootTable(): void {
    const mode = BigInt(fieldPrep(RTADDR_LO_TTM, TTM_SCALABLE));
    this.registers.write64(REG_RTADDR, (BigInt(this.contexts.rootPfn) << 12n) | mode);
    this.registers.command(GCMD_SRTP, true);
    this.queue
      .add(describe.flushContextCache())
      .add(describe.fence())
      .add(describe.flushPasidCache())
      .add(describe.fence())
      .add(describe.flushIotlb())
      .submitChecked('intel_iommu_init');
  }

  private makePageRequestQueue({ pageRequestFrames = 4 }: IntelUnitOptions): PageRequestQueue {
    const { kernel, registers, queue, trace } = this;
    return new PageRequestQueue({
      kernel,
      registers,
      queue,
      trace,
      frames: pageRequestFrames,
      find: (rid) => this.devices.get(rid) ?? null,
      all: () => this.devices.values(),
    });
  }
}

function requireCapabilities(capabilities: UnitCapabilities): void {
  const missing = [
    capabilities.scalableMode ? null : 'scalable mode',
    capabilities.queuedInvalidation ? null : 'queued invalidation',
    capabilities.firstStage || capabilities.secondStage ? null : 'translation stage',
    capabilities.coherent ? null : 'coherent table accesses',
  ].filter((what) => what !== null);
  if (missing.length > 0) throw new SysError('ENODEV', 'intel_iommu_init', `the unit has no ${missing.join(', no ')}`);
}

/** Four levels reach every address that the kernel hands out; more only make walks longer. */
function chooseLevels({ stage2Levels }: UnitCapabilities): number {
  return stage2Levels.includes(4) ? 4 : (stage2Levels.at(-1) ?? 4);
}
