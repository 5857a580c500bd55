/**
 * A machine ready-made: memory, time, a local APIC, PCI Express and one VT-d unit, wired as on a PC. Functions are
 * plugged in before an operating system looks for them.
 */

import type { DsaEvent } from './dsa/trace.ts';
import { FrameAllocator } from './memory/frame-allocator.ts';
import { PAGE_SIZE, PhysicalMemory } from './memory/physical-memory.ts';
import { ECAM_SIZE, PciFabric } from './pci/fabric.ts';
import type { PciFunction } from './pci/function.ts';
import type { PciEvent } from './pci/trace.ts';
import { Scheduler } from './scheduler.ts';
import { Trace } from './trace.ts';
import type { VtdFeatures } from './vtd/features.ts';
import type { VtdEvent } from './vtd/trace.ts';
import { VtdUnit } from './vtd/unit.ts';
import { LOCAL_APIC_BASE, LocalApic } from './x86/local-apic.ts';

export type HardwareEvent = VtdEvent | PciEvent | DsaEvent;

/** Physical addresses of the machine's registers, and those that are free for base address registers. */
export const MACHINE_ADDRESSES = {
  ecam: 0xe000_0000n,
  vtd: 0xfed9_0000n,
  window32: { first: 0xc000_0000n, last: 0xdfff_ffffn },
  window64: { first: 0x80_0000_0000n, last: 0xff_ffff_ffffn },
} as const;

export type MachineOptions = {
  /** Bytes of RAM from address 0: whole pages. 16 MiB by default. */
  ramBytes?: number;
  /** Bytes of storage without a physical address, for CPU state and device buffers; as `PhysicalMemory` by default. */
  reservedBytes?: number;
  /** What the VT-d unit has; everything that the model has by default. */
  features?: Partial<VtdFeatures>;
  /** Have the frame allocator check every free; false by default. */
  debug?: boolean;
};

export class Machine {
  readonly scheduler: Scheduler = new Scheduler();
  readonly trace: Trace<HardwareEvent> = new Trace<HardwareEvent>(this.scheduler);
  readonly memory: PhysicalMemory;
  readonly frames: FrameAllocator;
  readonly apic: LocalApic;
  readonly fabric: PciFabric;
  readonly unit: VtdUnit;

  constructor(options: MachineOptions = {}) {
    const { scheduler, trace } = this;
    const { ramBytes = 16 << 20, reservedBytes, features, debug = false } = options;
    const memory = new PhysicalMemory({ ramBytes, ...(reservedBytes === undefined ? {} : { reservedBytes }) });
    this.memory = memory;
    this.frames = new FrameAllocator(memory, { debug });
    this.apic = new LocalApic({ scheduler });
    const interrupts = this.apic;
    this.fabric = new PciFabric({ memory, scheduler, interrupts, trace });
    this.unit = new VtdUnit({ memory, scheduler, port: this.fabric, interrupts, trace, features: features ?? {} });
    this.fabric.setAgent(this.unit);
    memory.mapMmio(LOCAL_APIC_BASE / PAGE_SIZE, 1, this.apic);
    memory.mapMmio(Number(MACHINE_ADDRESSES.ecam) / PAGE_SIZE, ECAM_SIZE / PAGE_SIZE, this.fabric.ecam);
    memory.mapMmio(Number(MACHINE_ADDRESSES.vtd) / PAGE_SIZE, 1, this.unit.registers);
  }

  /** Puts a function into the slot `rid`. @throws {RangeError} the slot is taken */
  plug<T extends PciFunction>(fn: T, rid: number): T {
    return this.fabric.plug(fn, rid);
  }
}
