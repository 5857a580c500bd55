/**
 * A virtual machine monitor with one guest CPU, a virtual VT-d unit and one passed-through accelerator. It is a program
 * like any other: it has /dev/iommu, a VFIO device, memory of its own and a hypervisor, and nothing else of the host.
 */

import {
  type CpuExit,
  type GuestCpu,
  PAGE_SIZE,
  PhysicalMemory,
  requesterId,
  Scheduler,
  type TraceSink,
  VtdRegisterFile,
} from '@iommukit/hw';
import type { SystemCalls } from '@iommukit/iommufd';
import { type BootInfo, encodeBootInfo } from './boot-info.ts';
import type { DeviceNames, DmaInterface } from './dma-interface.ts';
import { guestFeatures } from './guest-features.ts';
import { type GuestFact, GuestReport } from './guest-report.ts';
import type { Hypervisor } from './hypervisor.ts';
import { type InterfaceKind, openDma } from './interfaces/open.ts';
import { loadGuest } from './loader.ts';
import { PassthroughFunction } from './passthrough.ts';
import { GUEST_VTD_BASE, Platform } from './platform.ts';
import type { VmmEvent } from './trace.ts';
import { VirtualIommu } from './virtual-iommu.ts';

/** Where the guest finds the accelerator: an integrated endpoint. */
const GUEST_RID: number = requesterId(0, 2, 0);
/** PASID field of a descriptor that ENQCMD sends (Intel DSA specification, section 8.1). */
const COMMAND_PASID = 0xfffff;

export type VmmOptions = {
  system: SystemCalls;
  hypervisor: Hypervisor;
  /** The kernel's interface for DMA. */
  interface: InterfaceKind;
  /** The accelerator. */
  device: DeviceNames;
  /** The guest's ELF image. */
  image: Uint8Array;
  boot: BootInfo;
  trace: TraceSink<VmmEvent>;
  /** Takes what the guest prints. */
  console(byte: number): void;
  /** Takes the facts that the guest reports. */
  hear(fact: GuestFact): void;
};

export class Vmm {
  readonly vcpu: GuestCpu;
  /** The guest's exit status once it has powered off. */
  exitStatus: number | null = null;
  private readonly options: VmmOptions;
  /** The time that the guest's hardware lives in: it follows the host's clock, in `pump` and nowhere else. */
  private readonly scheduler: Scheduler = new Scheduler();
  private readonly platform: Platform;
  private readonly dma: DmaInterface;
  private readonly function: PassthroughFunction;
  private readonly virtualIommu: VirtualIommu;
  private readonly memoryAddress: bigint;

  /** Sets the machine up and loads the guest. @throws {SysError} what the host refuses; RangeError a bad image */
  constructor(options: VmmOptions) {
    const { system, hypervisor, boot, trace } = options;
    const { scheduler } = this;
    this.options = options;
    this.memoryAddress = system.mmap({ length: boot.ramBytes });
    hypervisor.addSlot({ gpa: 0, bytes: boot.ramBytes, hva: this.memoryAddress });
    const report = new GuestReport((fact) => this.hear(fact));
    const { addressSpace } = system.process;
    // Guest memory is the process's own; in the guest's address space it is foreign.
    const memory = new PhysicalMemory({ ramBytes: 0, reservedBytes: 65536 });
    memory.mapForeign(0, boot.ramBytes / PAGE_SIZE, {
      read: (gpa, into) => addressSpace.read(this.memoryAddress + BigInt(gpa), into),
      write: (gpa, from) => addressSpace.write(this.memoryAddress + BigInt(gpa), from),
    });
    this.platform = new Platform({
      scheduler,
      memory,
      console: options.console,
      report: (byte) => report.byte(byte),
      powerOff: (status) => this.powerOff(status),
      trace,
    });
    const { apic, fabric } = this.platform;

    this.dma = openDma(options.interface, {
      system,
      hypervisor,
      device: options.device,
      memory: { address: this.memoryAddress, bytes: boot.ramBytes },
    });
    const features = guestFeatures(this.dma.unit);
    this.virtualIommu = new VirtualIommu({
      dma: this.dma,
      memory,
      guestRid: GUEST_RID,
      features,
      enqueuePageRequest: (request) => unit.enqueuePageRequest(request),
      trace,
    });
    const unit = new VtdRegisterFile({
      features,
      memory,
      scheduler,
      backend: this.virtualIommu,
      sendMessage: (lo, _hi, data) => apic.deliver(lo, data),
    });
    memory.mapMmio(GUEST_VTD_BASE / PAGE_SIZE, 1, unit);
    this.function = new PassthroughFunction({
      vfio: this.dma.vfio,
      system,
      pasidBits: features.pasidBits,
      onPortalWrite: (instruction, data, accepted) => this.tracePortal(instruction, data, accepted),
    });
    fabric.plug(this.function, GUEST_RID);

    this.vcpu = hypervisor.createVcpu(this.platform, apic);
    this.vcpu.resetToLongMode(
      loadGuest(options.image, encodeBootInfo(boot), boot.ramBytes, (gpa, from) => {
        memory.write(gpa, from);
      }),
    );
  }

  /** Runs the guest for at most `instructions`. */
  run(instructions: number): CpuExit {
    return this.vcpu.run(instructions);
  }

  /** The guest sent a command with a PASID that has no host PASID: the command is refused, as a full queue does. */
  refuseCommand(): void {
    const { trace } = this.options;
    if (trace.enabled) trace.emit({ name: 'command_refused', pasid: this.vcpu.faultingPasid });
    this.vcpu.refuseCommand();
  }

  /** True when the guest's CPU has an interrupt to take. */
  get interruptPending(): boolean {
    return this.platform.apic.pending() >= 0;
  }

  /** When the guest's hardware has something to do of its own, in nanoseconds of the host's clock, or Infinity. */
  get nextDue(): number {
    return this.scheduler.nextDue;
  }

  /**
   * Lets the guest's hardware catch up with the host's clock, `now` in nanoseconds, and moves in what the host has for
   * the guest: page requests and interrupts. Its timers and queues may make system calls, so no call is in progress.
   */
  pump(now: number): void {
    this.scheduler.runUntil(now);
    this.virtualIommu.pumpPageRequests();
    this.function.pumpInterrupts();
  }

  /** Gives everything back in good order. */
  close(): void {
    const { system } = this.options;
    this.virtualIommu.reset();
    this.function.close();
    this.dma.close();
    system.munmap(this.memoryAddress, this.options.boot.ramBytes);
  }

  private powerOff(status: number): void {
    const { trace } = this.options;
    this.exitStatus = status;
    this.vcpu.requestExit();
    if (trace.enabled) trace.emit({ name: 'power_off', status });
  }

  private hear(fact: GuestFact): void {
    const { trace } = this.options;
    if (trace.enabled && fact.word === 'entry') this.traceEntry(fact);
    if (trace.enabled && fact.word === 'unmap') this.traceUnmap(fact);
    this.options.hear(fact);
  }

  private traceUnmap(fact: GuestFact): void {
    const address = fact.address('address');
    const bytes = fact.number('bytes');
    const pid = fact.number('pid');
    this.options.trace.emit({ name: 'guest_munmap', pid, cpuCr3: this.vcpuCr3(), address, bytes });
  }

  private traceEntry(fact: GuestFact): void {
    const { trace } = this.options;
    const pasid = fact.number('pasid');
    const cr3 = fact.address('cr3');
    const present = this.virtualIommu.hasGuestEntry(pasid);
    trace.emit({ name: 'guest_pasid_bind', pasid, cr3, cpuCr3: this.vcpuCr3() });
    trace.emit({ name: 'guest_pasid_entry', pasid, address: fact.address('address'), present });
  }

  private tracePortal(instruction: 'enqcmd' | 'movdir64b', data: Uint8Array, accepted: boolean): void {
    const { trace } = this.options;
    if (!trace.enabled) return;
    const descriptor = new DataView(data.buffer, data.byteOffset);
    const pasid = descriptor.getUint32(0, true) & COMMAND_PASID;
    const source = descriptor.getBigUint64(16, true);
    trace.emit({ name: 'portal_write', instruction, pasid, cr3: this.vcpuCr3(), source, accepted });
  }

  /** Address of the CPU's page table now, without the bits beside it. */
  private vcpuCr3(): bigint {
    return this.vcpu.readRegisters().cr3 & 0x000f_ffff_ffff_f000n;
  }
}
