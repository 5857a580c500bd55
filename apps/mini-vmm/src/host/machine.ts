/** The host's hardware: memory, a PCI hierarchy, a VT-d unit, and a DSA accelerator behind it. */

import {
  type DsaEvent,
  DsaFunction,
  ECAM_SIZE,
  FrameAllocator,
  LOCAL_APIC_BASE,
  LocalApic,
  PAGE_SIZE,
  type PciEvent,
  PciFabric,
  PhysicalMemory,
  requesterId,
  Scheduler,
  Trace,
  type VtdEvent,
  VtdUnit,
} from '@iommukit/hw';

export type HardwareEvent = VtdEvent | PciEvent | DsaEvent;

export const ECAM_BASE = 0xe000_0000;
export const VTD_BASE = 0xfed9_0000;
/** An integrated endpoint, as the real one. */
export const DSA_RID: number = requesterId(0, 1, 0);

/** Storage without a physical address: CPU state and device buffers. */
const RESERVED_BYTES = 64 << 20;

export class Machine {
  readonly scheduler: Scheduler = new Scheduler();
  readonly trace: Trace<HardwareEvent> = new Trace<HardwareEvent>(this.scheduler);
  readonly memory: PhysicalMemory;
  readonly frames: FrameAllocator;
  readonly apic: LocalApic;
  readonly fabric: PciFabric;
  readonly unit: VtdUnit;
  readonly dsa: DsaFunction;

  constructor(ramBytes: number) {
    const { scheduler, trace } = this;
    const memory = new PhysicalMemory({ ramBytes, reservedBytes: RESERVED_BYTES });
    this.memory = memory;
    this.frames = new FrameAllocator(memory, { debug: true });
    this.apic = new LocalApic({ scheduler });
    this.fabric = new PciFabric({ memory, scheduler, interrupts: this.apic, trace });
    this.unit = new VtdUnit({ memory, scheduler, port: this.fabric, interrupts: this.apic, trace });
    this.fabric.setAgent(this.unit);
    this.dsa = this.fabric.plug(new DsaFunction({ memory, scheduler, trace }), DSA_RID);
    memory.mapMmio(LOCAL_APIC_BASE / PAGE_SIZE, 1, this.apic);
    memory.mapMmio(ECAM_BASE / PAGE_SIZE, ECAM_SIZE / PAGE_SIZE, this.fabric.ecam);
    memory.mapMmio(VTD_BASE / PAGE_SIZE, 1, this.unit.registers);
  }
}
