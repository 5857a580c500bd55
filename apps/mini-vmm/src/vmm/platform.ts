/**
 * The machine that the guest sees, but for its CPU, its IOMMU and what is passed through: the guest physical address
 * space, the PCI hierarchy, interrupt controllers, serial ports and the power button.
 */

import {
  type AccessWidth,
  type CpuBus,
  ECAM_SIZE,
  IO_APIC_BASE,
  IoApic,
  LOCAL_APIC_BASE,
  LocalApic,
  noTrace,
  PAGE_SIZE,
  type PciEvent,
  PciFabric,
  type PhysicalMemory,
  type Scheduler,
  type TraceSink,
  Uart16550,
} from '@iommukit/hw';
import type { VmmEvent } from './trace.ts';

/** Guest physical addresses; the same as a host's. */
export const GUEST_ECAM_BASE = 0xe000_0000;
export const GUEST_VTD_BASE = 0xfed9_0000;

const CONSOLE_PORT = 0x3f8;
const CONSOLE_LINE = 4;
const REPORT_PORT = 0x2f8;
const REPORT_LINE = 3;
/** A 32-bit write powers the machine off; the value is its exit status. */
const POWER_PORT = 0xf4;

export type PlatformOptions = {
  scheduler: Scheduler;
  /** The physical address space, with the machine's memory from address 0 and nothing else in it yet. */
  memory: PhysicalMemory;
  /** Takes what the guest prints. */
  console(byte: number): void;
  /** Takes what the guest writes to its second serial port. */
  report(byte: number): void;
  powerOff(status: number): void;
  trace?: TraceSink<VmmEvent>;
  pciTrace?: TraceSink<PciEvent>;
};

export class Platform implements CpuBus {
  readonly memory: PhysicalMemory;
  readonly apic: LocalApic;
  readonly fabric: PciFabric;
  private readonly ports = new Map<number, Uart16550>();
  private readonly powerOff: (status: number) => void;

  constructor(options: PlatformOptions) {
    const { scheduler, memory, trace = noTrace, pciTrace = noTrace } = options;
    const apic = new LocalApic({ scheduler });
    const interrupts = {
      deliver(addressLow: number, data: number): void {
        if (trace.enabled) trace.emit({ name: 'interrupt_inject', vector: data & 0xff });
        apic.deliver(addressLow, data);
      },
    };
    const ioApic = new IoApic(interrupts);
    apic.onEoi = (vector) => ioApic.endOfInterrupt(vector);
    const fabric = new PciFabric({ memory, scheduler, interrupts, trace: pciTrace });
    const serial = (output: (byte: number) => void, pin: number) =>
      new Uart16550({ output, line: (asserted) => ioApic.setLine(pin, asserted) });
    this.ports.set(CONSOLE_PORT, serial(options.console, CONSOLE_LINE));
    this.ports.set(REPORT_PORT, serial(options.report, REPORT_LINE));
    memory.mapMmio(LOCAL_APIC_BASE / PAGE_SIZE, 1, apic);
    memory.mapMmio(IO_APIC_BASE / PAGE_SIZE, 1, ioApic);
    memory.mapMmio(GUEST_ECAM_BASE / PAGE_SIZE, ECAM_SIZE / PAGE_SIZE, fabric.ecam);
    this.memory = memory;
    this.apic = apic;
    this.fabric = fabric;
    this.powerOff = options.powerOff;
  }

  readMmio(gpa: bigint, width: AccessWidth): bigint {
    return this.memory.load(gpa, width);
  }

  writeMmio(gpa: bigint, width: AccessWidth, value: bigint): void {
    this.memory.store(gpa, width, value);
  }

  store64(gpa: bigint, data: Uint8Array): void {
    this.memory.store64(gpa, data);
  }

  enqueue64(gpa: bigint, data: Uint8Array): boolean {
    return this.memory.enqueue64(gpa, data);
  }

  readPort(port: number, width: 1 | 2 | 4): number {
    const uart = this.ports.get(port & ~7);
    return uart !== undefined && width === 1 ? uart.readRegister(port & 7) : -1;
  }

  writePort(port: number, width: 1 | 2 | 4, value: number): void {
    if (port === POWER_PORT && width === 4) this.powerOff(value >>> 0);
    else if (width === 1) this.ports.get(port & ~7)?.writeRegister(port & 7, value);
  }
}
