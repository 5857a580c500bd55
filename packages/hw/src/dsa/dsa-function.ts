/**
 * An Intel Data Streaming Accelerator, 8086:0b25 (Intel Data Streaming Accelerator Architecture Specification, order
 * number 341204, revision 1.0): a PCI function with work queues that software fills through portals, engines that carry
 * the descriptors out with ATS, PRI and PASID, and registers that configure both. registers.ts has the layout of BAR 0
 * and what software does to bring a queue up.
 *
 * There are no delta, DIF and cache-flush operations, no performance monitor and no occupancy interrupts.
 */

import { fieldGet, fieldPrep } from '../bits.ts';
import type { PhysicalMemory } from '../memory/physical-memory.ts';
import { AtsCapability } from '../pci/capabilities/ats.ts';
import { MsixCapability } from '../pci/capabilities/msix.ts';
import { PageRequestInterface } from '../pci/capabilities/page-request.ts';
import { PasidCapability } from '../pci/capabilities/pasid.ts';
import { ExpressCapability } from '../pci/capabilities/pci-express.ts';
import { SiovCapability } from '../pci/capabilities/siov.ts';
import { PciFunction } from '../pci/function.ts';
import { ACCESS_PRIVILEGED, NO_PASID } from '../pci/transaction.ts';
import type { Scheduler } from '../scheduler.ts';
import { noTrace, type TraceSink } from '../trace.ts';
import { joinU64 } from '../u64.ts';
import { CommandUnit } from './command-unit.ts';
import { type DescriptorRights, operationOf, SUPPORTED_OPERATIONS } from './descriptor-check.ts';
import { DSA_STATUS as STATUS } from './descriptor-format.ts';
import { Engine, type EngineHost } from './engine.ts';
import { Group, groupEngines, groupQueues } from './group.ts';
import { Portals } from './portals.ts';
import { type DsaFeatures, RegisterFile } from './register-file.ts';
import {
  DSA_BAR_SIZE,
  DSA_COMMAND,
  DSA_DEVICE_ID,
  DSA_PORTALS_SIZE,
  DSA_REGISTER,
  DSA_RESET_TYPE_FLR,
  DSA_VENDOR_ID,
  GENCFG_USER_INTERRUPTS,
  GENCTRL_HALT,
  GENCTRL_SOFTWARE_ERROR,
  GENSTS_RESET_TYPE,
  GENSTS_STATE,
  INTCAUSE_HALT,
  INTCAUSE_SOFTWARE_ERROR,
  MSIX_PERMISSION_IGNORE,
  MSIX_PERMISSION_PASID,
  MSIX_PERMISSION_PASID_ENABLE,
  MSIX_PERMISSION_SIZE,
  DSA_STATE as STATE,
  SWERROR_PCI_CONFIGURATION,
} from './registers.ts';
import { type DescriptorError, recordSoftwareError } from './software-error.ts';
import type { DsaEvent } from './trace.ts';
import { type Work, WorkQueue } from './work-queue.ts';

const COMMAND_REGISTER = 0x04;
const CLASS_CODE = 0x088000;
/** Vector of commands, software errors and halts. */
const MISCELLANEOUS_VECTOR = 0;
const ALL_COMMANDS = 0x1ffe;
const HANDLE_COMMANDS: number = (1 << DSA_COMMAND.requestInterruptHandle) | (1 << DSA_COMMAND.releaseInterruptHandle);

export type DsaOptions = {
  memory: PhysicalMemory;
  scheduler: Scheduler;
  trace?: TraceSink<DsaEvent>;
  /** Work queues, 1..16; 8 by default. */
  queues?: number;
  /** Entries of all queues together; 128 by default. */
  totalSize?: number;
  /** 1..8; 4 by default. */
  groups?: number;
  /** 1..32; 4 by default. */
  engines?: number;
  /** log2 of the largest transfer in bytes, up to 31 (the default). */
  maxTransferLg2?: number;
  /** False leaves block on fault out of the capabilities. */
  blockOnFault?: boolean;
  /** Interrupt handles have to be requested by command; else a handle is an MSI-X table index. False by default. */
  interruptHandles?: boolean;
  /** Page requests that can be outstanding; 32 by default. */
  pageRequests?: number;
  /** Bytes that an engine moves in one event; 16 KiB by default. */
  chunkBytes?: number;
};

export class DsaFunction extends PciFunction implements EngineHost {
  readonly memory: PhysicalMemory;
  readonly scheduler: Scheduler;
  readonly chunkBytes: number;
  readonly queues: readonly WorkQueue[];
  readonly traceSink: TraceSink<DsaEvent>;

  /** Descriptors accepted by a queue, answered Retry, dropped at the portal. */
  submitted = 0;
  retried = 0;
  dropped = 0;
  /** Descriptors completed, those of batches included; of them, with a status other than success. */
  completions = 0;
  failures = 0;
  /** Work thrown away by aborts and resets. */
  aborted = 0;
  /** Denied translations, and those of them that became page requests or wait for one. */
  faults = 0;
  blocked = 0;
  softwareErrors = 0;
  /** Place in the order of acceptance that the next descriptor gets. */
  nextSequence = 0;

  private readonly registers: RegisterFile;
  private readonly commands: CommandUnit;
  private readonly engines: readonly Engine[];
  private readonly interrupts: MsixCapability;
  /** By engine; made when the device is enabled. */
  private groups: (Group | null)[] = [];

  constructor(options: DsaOptions) {
    super({
      vendorId: DSA_VENDOR_ID,
      deviceId: DSA_DEVICE_ID,
      classCode: CLASS_CODE,
      subsystemVendorId: DSA_VENDOR_ID,
    });
    const { memory, scheduler, queues = 8, engines = 4, chunkBytes = 16384 } = options;
    const features = featuresOf(options, queues, engines);
    this.memory = memory;
    this.scheduler = scheduler;
    this.chunkBytes = chunkBytes;
    this.traceSink = options.trace ?? noTrace;
    this.registers = new RegisterFile(features, (value) => this.commands.submit(value));
    this.commands = new CommandUnit(this, this.registers, scheduler);
    this.queues = Array.from({ length: queues }, (_, index) => new WorkQueue(this.registers, index));
    this.engines = Array.from({ length: engines }, (_, index) => new Engine(this, index));
    this.addBar(0, { size: DSA_BAR_SIZE, handler: this.registers, prefetchable: true });
    this.addBar(2, { size: portalBytes(queues), handler: new Portals(this), prefetchable: true });
    this.add(new ExpressCapability());
    this.interrupts = this.add(
      new MsixCapability({
        vectors: features.vectors,
        bar: 0,
        tableOffset: DSA_REGISTER.msixTable,
        pendingOffset: DSA_REGISTER.msixPending,
      }),
    );
    this.add(new AtsCapability());
    this.add(new PasidCapability({ width: 20, privileged: true }));
    this.add(new PageRequestInterface({ capacity: options.pageRequests ?? 32 }));
    this.add(new SiovCapability());
    this.config.onWrite(COMMAND_REGISTER, 2, () => this.checkBusMaster());
  }

  /** Descriptors that are queued or under way. */
  get outstanding(): number {
    let count = 0;
    for (const queue of this.queues) count += queue.occupancy;
    for (const engine of this.engines) if (engine.work !== null) count++;
    return count;
  }

  /** Enables the device with the groups as configured; the configuration has been checked. */
  enable(): void {
    const { features } = this.registers;
    this.groups = new Array<Group | null>(features.engines).fill(null);
    for (let index = 0; index < features.groups; index++) {
      const queueBits = groupQueues(this.registers, index);
      const engineBits = groupEngines(this.registers, index);
      const group = new Group(this.queues.filter((queue) => (queueBits & (1 << queue.index)) !== 0));
      for (const engine of this.engines)
        if ((engineBits & (1 << engine.index)) !== 0) this.groups[engine.index] = group;
    }
    for (const queue of this.queues) queue.credit = 0;
    this.setState(STATE.enabled);
  }

  /** Disables the device and its queues; nothing is under way any more. */
  disable(): void {
    for (const queue of this.queues) queue.setEnabled(false);
    this.setState(STATE.disabled);
  }

  /** Throws all work away and brings every register to its value after reset. */
  resetDevice(): void {
    this.abort(() => true);
    this.registers.reset();
    for (const queue of this.queues) queue.resetConfiguration();
  }

  get state(): number {
    return this.registers.state;
  }

  setState(state: number): void {
    this.registers.set(DSA_REGISTER.gensts, fieldPrep(GENSTS_STATE, state));
  }

  /** Puts a descriptor in its queue, which has room for it. */
  accept(work: Omit<Work, 'sequence'>): void {
    this.submitted++;
    work.queue.push({ ...work, sequence: this.nextSequence++ });
    this.wakeEngines();
  }

  /** Throws away the work that `doomed` names, wherever it is. */
  abort(doomed: (work: Work) => boolean): void {
    const gone: Work[] = [];
    for (const queue of this.queues) gone.push(...queue.remove(doomed));
    for (const engine of this.engines) {
      if (engine.work === null || !doomed(engine.work)) continue;
      gone.push(engine.work);
      engine.drop();
    }
    this.aborted += gone.length;
    if (this.traceSink.enabled) {
      for (const { queue, pasid, words } of gone) {
        this.traceSink.emit({
          name: 'dsa_abort',
          rid: this.rid,
          queue: queue.index,
          pasid,
          operation: operationOf(words),
        });
      }
    }
    this.wakeEngines();
  }

  /** Whether work that `concerns` names is queued or under way. */
  hasWork(concerns: (work: Work) => boolean): boolean {
    return (
      this.engines.some(({ work }) => work !== null && concerns(work)) ||
      this.queues.some((queue) => queue.entries.some(concerns))
    );
  }

  softwareError(error: number, about: DescriptorError | null): void {
    this.softwareErrors++;
    recordSoftwareError(this.registers, error, about);
    if (this.traceSink.enabled) {
      const queue = about?.work.queue.index ?? -1;
      const pasid = about?.work.pasid ?? NO_PASID;
      this.traceSink.emit({ name: 'dsa_software_error', rid: this.rid, queue, pasid, error });
    }
    if ((this.registers.get(DSA_REGISTER.genctrl) & GENCTRL_SOFTWARE_ERROR) !== 0) {
      this.raiseCause(INTCAUSE_SOFTWARE_ERROR);
    }
  }

  /** Sets bits of INTCAUSE and raises the interrupt that goes with them. */
  raiseCause(cause: number): void {
    this.registers.set(DSA_REGISTER.intcause, this.registers.get(DSA_REGISTER.intcause) | cause);
    this.interrupts.raise(MISCELLANEOUS_VECTOR);
  }

  noteCommand(command: number, operand: number, error: number): void {
    if (this.traceSink.enabled) this.traceSink.emit({ name: 'dsa_command', rid: this.rid, command, operand, error });
  }

  take(index: number): Work | null {
    return this.groups[index]?.take() ?? null;
  }

  rights(work: Work, inBatch: boolean): DescriptorRights {
    const { queue, pasid, privileged } = work;
    const userInterrupts = (this.registers.get(DSA_REGISTER.gencfg) & GENCFG_USER_INTERRUPTS) !== 0;
    return {
      inBatch,
      blockOnFault: queue.blockOnFault,
      mayInterrupt: privileged || userInterrupts,
      privilegeRefused: privileged && pasid !== NO_PASID && !this.pasid?.allows(pasid, ACCESS_PRIVILEGED),
      maxTransferLg2: queue.maxTransferLg2,
      maxBatchLg2: queue.maxBatchLg2,
      handleValid: (handle) => this.handleValid(work, handle),
    };
  }

  hasEarlier(work: Work): boolean {
    const { queue, pasid, sequence } = work;
    return this.hasWork((other) => other.queue === queue && other.pasid === pasid && other.sequence < sequence);
  }

  faulted(work: Work, lo: number, hi: number, write: boolean, blocked: boolean): void {
    this.faults++;
    if (blocked) this.blocked++;
    if (this.traceSink.enabled) {
      const { queue, pasid } = work;
      const iova = joinU64(lo, hi);
      this.traceSink.emit({ name: 'dsa_fault', rid: this.rid, queue: queue.index, pasid, iova, write, blocked });
    }
  }

  completed(work: Work, words: Int32Array, batchIndex: number, status: number, bytesCompleted: number): void {
    this.completions++;
    if (status !== STATUS.success) this.failures++;
    if (this.traceSink.enabled) {
      const { queue, pasid } = work;
      const operation = operationOf(words);
      const { rid } = this;
      this.traceSink.emit({
        name: 'dsa_complete',
        rid,
        queue: queue.index,
        pasid,
        operation,
        batchIndex,
        status,
        bytesCompleted,
      });
    }
  }

  raise(handle: number): void {
    this.interrupts.raise(handle);
  }

  finished(): void {
    this.commands.poll();
    for (const engine of this.engines) engine.recheck();
  }

  pageAnswered(): void {
    for (const engine of this.engines) engine.recheck();
  }

  protected override onReset(): void {
    this.commands.reset();
    this.resetDevice();
  }

  /** Lets idle engines look for work, and waiting ones whether they may go on. */
  private wakeEngines(): void {
    const waiting = this.queues.some(({ occupancy }) => occupancy > 0);
    for (const engine of this.engines) {
      if (waiting) engine.wake();
      engine.recheck();
    }
  }

  /** A device that may not reach memory any more stops until a function-level reset. */
  private checkBusMaster(): void {
    const { state } = this.registers;
    if (this.busMaster || state === STATE.disabled || state === STATE.halted) return;
    this.abort(() => true);
    this.disable();
    this.setState(STATE.halted);
    this.registers.set(
      DSA_REGISTER.gensts,
      this.registers.get(DSA_REGISTER.gensts) | fieldPrep(GENSTS_RESET_TYPE, DSA_RESET_TYPE_FLR),
    );
    this.softwareError(SWERROR_PCI_CONFIGURATION, null);
    this.commands.fail();
    if ((this.registers.get(DSA_REGISTER.genctrl) & GENCTRL_HALT) !== 0) this.raiseCause(INTCAUSE_HALT);
  }

  private handleValid(work: Work, handle: number): boolean {
    if (work.messageStorage || handle >= this.interrupts.vectors) return false;
    if (this.commands.handlesAreRequested && !this.commands.isGranted(handle)) return false;
    const permission = this.registers.get(DSA_REGISTER.msixPermissions + handle * MSIX_PERMISSION_SIZE);
    if ((permission & MSIX_PERMISSION_IGNORE) !== 0) return true;
    if ((permission & MSIX_PERMISSION_PASID_ENABLE) === 0) return work.pasid === NO_PASID;
    return work.pasid === fieldGet(MSIX_PERMISSION_PASID, permission);
  }
}

/** @throws {RangeError} when an option is outside its range */
function featuresOf(options: DsaOptions, queues: number, engines: number): DsaFeatures {
  const { totalSize = 128, groups = 4, maxTransferLg2 = 31 } = options;
  const fits = (value: number, last: number) => Number.isInteger(value) && value >= 1 && value <= last;
  if (
    !fits(queues, 16) ||
    !fits(engines, 32) ||
    !fits(groups, 8) ||
    !fits(totalSize, 65535) ||
    !fits(maxTransferLg2, 31)
  ) {
    throw new RangeError(`no such DSA: ${queues} queues of ${totalSize}, ${engines} engines, ${groups} groups`);
  }
  return {
    queues,
    totalSize,
    groups,
    engines,
    readBuffers: 96,
    maxTransferLg2,
    maxBatchLg2: 10,
    blockOnFault: options.blockOnFault ?? true,
    operations: SUPPORTED_OPERATIONS,
    commands: ALL_COMMANDS | (options.interruptHandles ? HANDLE_COMMANDS : 0),
    vectors: queues + 1,
  };
}

/** Bytes of BAR 2: a power of two. */
function portalBytes(queues: number): number {
  return DSA_PORTALS_SIZE * 2 ** Math.ceil(Math.log2(queues));
}
