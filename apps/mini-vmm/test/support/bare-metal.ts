/**
 * A machine of hardware models only, on which the guest image runs without a VMM: one CPU, a VT-d unit, a PCI hierarchy
 * with the accelerator, interrupt controllers and serial ports at the places that guest/include/bootinfo.h names.
 */

import { readFileSync } from 'node:fs';
import {
  type DsaEvent,
  DsaFunction,
  PAGE_SIZE,
  type PciEvent,
  PhysicalMemory,
  RootPort,
  requesterId,
  Scheduler,
  Trace,
  type VtdEvent,
  type VtdFeatures,
  VtdUnit,
  WasmCpu,
} from '@iommukit/hw';
import { type BootInfo, encodeBootInfo, guestMemoryBytes } from '../../src/vmm/boot-info.ts';
import { type GuestFact, GuestReport } from '../../src/vmm/guest-report.ts';
import { loadGuest } from '../../src/vmm/loader.ts';
import { GUEST_VTD_BASE, Platform } from '../../src/vmm/platform.ts';

/** Instructions, and nanoseconds, that the CPU runs before events get their turn. */
const SLICE = 1000;

export const GUEST_IMAGE: URL = new URL('../../guest/image/guest.elf', import.meta.url);

export type HardwareEvent = VtdEvent | PciEvent | DsaEvent;

export type BareMetalOptions = {
  /** The fields that the test cares about; the others as in a small run. */
  boot?: Partial<BootInfo>;
  /** What differs from the unit's default features. */
  features?: Partial<VtdFeatures>;
  /** Puts the accelerator on bus 1, below a root port; it is part of the root complex by default. */
  rootPort?: boolean;
  /** The committed image by default. */
  image?: Uint8Array;
};

/** How a run ended and what the guest said. */
export type GuestRun = {
  /** The guest's exit status; null when it did not power off within the limit. */
  status: number | null;
  console: string;
  facts: readonly GuestFact[];
  instructions: bigint;
};

export class BareMetal {
  readonly scheduler: Scheduler = new Scheduler();
  readonly trace: Trace<HardwareEvent> = new Trace(this.scheduler);
  readonly unit: VtdUnit;
  readonly device: DsaFunction;
  readonly cpu: WasmCpu;
  private readonly platform: Platform;
  private status: number | null = null;
  private console = '';
  private readonly facts: GuestFact[] = [];

  constructor(options: BareMetalOptions = {}) {
    const { scheduler, trace } = this;
    const { features = {}, rootPort = false } = options;
    const processes = options.boot?.processes ?? 2;
    const boot: BootInfo = {
      ramBytes: guestMemoryBytes(processes),
      processes,
      bytesPerProcess: 65536,
      seed: 1,
      ...options.boot,
    };
    const memory = new PhysicalMemory({ ramBytes: boot.ramBytes });
    const report = new GuestReport((fact) => this.facts.push(fact));
    const platform = new Platform({
      scheduler,
      memory,
      console: (byte) => (this.console += String.fromCharCode(byte)),
      report: (byte) => report.byte(byte),
      powerOff: (status) => {
        this.status = status;
        this.cpu.requestExit();
      },
      pciTrace: trace,
    });
    const { fabric, apic } = platform;
    const unit = new VtdUnit({ memory, scheduler, port: fabric, interrupts: apic, features, trace });
    fabric.setAgent(unit);
    if (rootPort) {
      fabric.plug(new RootPort({ vendorId: 0x8086, deviceId: 0x1234, secondary: 1 }), requesterId(0, 3, 0));
    }
    this.device = fabric.plug(
      new DsaFunction({ memory, scheduler, trace }),
      rootPort ? requesterId(1, 0, 0) : requesterId(0, 1, 0),
    );
    memory.mapMmio(GUEST_VTD_BASE / PAGE_SIZE, 1, unit.registers);
    this.unit = unit;
    this.platform = platform;
    this.cpu = new WasmCpu({ memory, bus: platform, interrupts: apic, guestFrames: memory.ramFrames });
    this.cpu.mapMemory(
      0,
      Int32Array.from({ length: memory.ramFrames }, (_, pfn) => pfn),
      true,
    );
    const image = options.image ?? readFileSync(GUEST_IMAGE);
    this.cpu.resetToLongMode(
      loadGuest(image, encodeBootInfo(boot), boot.ramBytes, (gpa, from) => {
        memory.write(gpa, from);
      }),
    );
  }

  /** Runs until the guest powers off, at most `limit` nanoseconds of the machine's time. */
  run(limit = 60e9): GuestRun {
    const { cpu, scheduler } = this;
    while (this.status === null && scheduler.now < limit) {
      const before = cpu.instructions;
      const exit = cpu.run(Math.max(1, Math.min(SLICE, scheduler.nextDue - scheduler.now)));
      scheduler.advance(Number(cpu.instructions - before));
      if (exit === 'halt') {
        if (this.platform.apic.pending() < 0 && !scheduler.runNext()) break;
      } else if (exit !== 'budget' && exit !== 'requested') break;
    }
    return { status: this.status, console: this.console, facts: this.facts, instructions: cpu.instructions };
  }
}
