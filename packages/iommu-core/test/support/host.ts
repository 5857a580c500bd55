/** Memory, time, PCI, interrupts and an operating system, without an IOMMU. */

import {
  FrameAllocator,
  LOCAL_APIC_BASE,
  LocalApic,
  PciFabric,
  type PciFunction,
  PhysicalMemory,
  RootPort,
  requesterId,
  Scheduler,
  TestFunction,
} from '@iommukit/hw';
import { ApicInterrupts, Kernel, PciBus } from '../../src/index.ts';

export const ECAM_BASE = 0xe000_0000n;
/** The one function below the one root port of a default host. */
export const DEVICE_RID: number = requesterId(1, 0, 0);

export type HostOptions = {
  ramBytes?: number;
  /** Plugs functions in; by default a root port at 00:01.0 and a test function at 01:00.0. */
  plug?: (host: Host) => void;
};

export class Host {
  readonly scheduler: Scheduler = new Scheduler();
  readonly memory: PhysicalMemory;
  readonly frames: FrameAllocator;
  readonly apic: LocalApic;
  readonly interrupts: ApicInterrupts;
  readonly fabric: PciFabric;
  readonly kernel: Kernel;
  readonly bus: PciBus;

  constructor(options: HostOptions = {}) {
    const { scheduler } = this;
    this.memory = new PhysicalMemory({ ramBytes: options.ramBytes ?? 16 << 20 });
    this.frames = new FrameAllocator(this.memory, { debug: true });
    this.apic = new LocalApic({ scheduler });
    this.fabric = new PciFabric({ memory: this.memory, scheduler, interrupts: this.apic });
    this.memory.mapMmio(LOCAL_APIC_BASE / 4096, 1, this.apic);
    this.memory.mapMmio(Number(ECAM_BASE >> 12n), 65536, this.fabric.ecam);
    if (options.plug === undefined) {
      this.plugPort(requesterId(0, 1, 0), 1);
      this.fabric.plug(this.testFunction(), DEVICE_RID);
    } else options.plug(this);
    this.interrupts = new ApicInterrupts(this.apic);
    this.kernel = new Kernel({ memory: this.memory, frames: this.frames, scheduler, interrupts: this.interrupts });
    this.bus = new PciBus(this.kernel, {
      ecamBase: ECAM_BASE,
      window32: { first: 0xc000_0000n, last: 0xdfff_ffffn },
      window64: { first: 0x80_0000_0000n, last: 0xff_ffff_ffffn },
    });
    this.bus.enumerate();
  }

  testFunction(options: { totalVfs?: number; pageRequests?: number; siov?: boolean } = {}): TestFunction {
    return new TestFunction({ memory: this.memory, scheduler: this.scheduler, ...options });
  }

  plugPort(rid: number, secondary: number, acs = true): void {
    this.plug(new RootPort({ vendorId: 0x8086, deviceId: 0x1234, secondary, acs }), rid);
  }

  plug(fn: PciFunction, rid: number): void {
    this.fabric.plug(fn, rid);
  }

  /** Runs everything that happens in the next `span` nanoseconds, and the work it queues. */
  settle(span = 10_000_000): void {
    const end = this.scheduler.now + span;
    this.kernel.runWork();
    while (this.scheduler.nextDue <= end) {
      this.scheduler.runNext();
      this.kernel.runWork();
    }
  }

  /** A frame of RAM filled with a byte. */
  frame(byte: number): number {
    const pfn = this.frames.allocate()!;
    this.memory.bytes.fill(byte, pfn << 12, (pfn + 1) << 12);
    return pfn;
  }
}
