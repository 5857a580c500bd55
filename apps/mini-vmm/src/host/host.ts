/** The host's operating system on its machine: the iommu core, /dev/iommu and one VFIO device, ready for programs. */

import { Trace } from '@iommukit/hw';
import {
  ApicInterrupts,
  type Device,
  IntelIommu,
  IommuCore,
  type IommuEvent,
  Kernel,
  PciBus,
  type Process,
  Processes,
} from '@iommukit/iommu-core';
import { DeviceNodes, type IommufdEvent, type IommufdNode, registerIommufd, SystemCalls } from '@iommukit/iommufd';
import { Vfio } from '@iommukit/vfio';
import { DSA_RID, ECAM_BASE, type Machine, VTD_BASE } from './machine.ts';

/** What is still held of the host's resources. */
export type Usage = {
  /** Pins on frames. */
  readonly pins: number;
  /** PASIDs that are authorised for a device or routed to a domain. */
  readonly pasids: number;
  /** Objects of open /dev/iommu files. */
  readonly objects: number;
  /** Regions mapped in address spaces, the processes' and the devices'. */
  readonly mappings: number;
};

/** What is left when the host has been shut down. */
export type Leftovers = Usage & {
  /** RAM frames beyond those that the host had before its device and its first process. */
  readonly frames: number;
};

export class Host {
  readonly machine: Machine;
  readonly coreTrace: Trace<IommuEvent>;
  readonly iommufdTrace: Trace<IommufdEvent>;
  readonly kernel: Kernel;
  /** The accelerator's VFIO device. */
  readonly devicePath: string;
  private readonly device: Device;
  private readonly processes: Processes;
  private readonly spawned: Process[] = [];
  private readonly nodes = new DeviceNodes();
  private readonly iommufd: IommufdNode;
  private readonly core: IommuCore;
  private readonly vfio: Vfio;
  private readonly ownFrames: number;

  constructor(machine: Machine) {
    const { memory, frames, scheduler, apic } = machine;
    this.machine = machine;
    this.coreTrace = new Trace<IommuEvent>(scheduler);
    this.iommufdTrace = new Trace<IommufdEvent>(scheduler);
    const kernel = new Kernel({ memory, frames, scheduler, interrupts: new ApicInterrupts(apic) });
    this.kernel = kernel;
    const bus = new PciBus(kernel, {
      ecamBase: BigInt(ECAM_BASE),
      window32: { first: 0xc000_0000n, last: 0xdfff_ffffn },
      window64: { first: 0x80_0000_0000n, last: 0xff_ffff_ffffn },
    });
    bus.enumerate();
    const driver = new IntelIommu({ kernel, registerBase: BigInt(VTD_BASE), trace: this.coreTrace });
    const core = new IommuCore({ kernel, driver, trace: this.coreTrace });
    this.core = core;
    this.ownFrames = frames.allocated;
    this.device = core.addDevice(bus.device(DSA_RID)!);
    this.processes = new Processes(kernel);
    this.iommufd = registerIommufd(this.nodes, { kernel, trace: this.iommufdTrace });
    this.vfio = new Vfio({ nodes: this.nodes });
    this.devicePath = this.vfio.register(this.device).path;
  }

  /** A program's process: its system calls are all it has of the host. */
  spawn(name: string): SystemCalls {
    const { kernel, nodes, processes } = this;
    const process = processes.spawn({ name, memlock: Number.POSITIVE_INFINITY });
    this.spawned.push(process);
    return new SystemCalls({ kernel, processes, process, nodes });
  }

  get usage(): Usage {
    const { device, processes, spawned, iommufd } = this;
    const regions = spawned.reduce((count, { memory }) => count + (memory?.layout.length ?? 0), 0);
    return {
      pins: processes.counts.pinned,
      pasids: new Set([...device.authorizedPasids, ...device.group.pasidHandles.keys()]).size,
      objects: iommufd.objects,
      mappings: iommufd.areas + regions,
    };
  }

  /**
   * Lets everything that is under way come to its end, takes the device out, with the PASID tables that the kernel keeps
   * as long as it has the device, and tells what is left.
   */
  shutDown(): Leftovers {
    this.settle();
    const { device, usage } = this;
    const entry = this.vfio.find(device.pci);
    if (entry?.user === null) {
      this.vfio.unregister(entry);
      this.core.removeDevice(device);
    }
    return { ...usage, frames: this.machine.frames.allocated - this.ownFrames };
  }

  private settle(): void {
    const { scheduler } = this.machine;
    const end = scheduler.now + 1_000_000_000;
    while (scheduler.nextDue <= end) {
      scheduler.runNext();
      this.kernel.runWork();
    }
  }
}
