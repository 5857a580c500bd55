/** The host's operating system on its machine: the iommu core, /dev/iommu and one VFIO device, ready for programs. */

import { type Machine, Trace } from '@iommukit/hw';
import { type Device, Host as OperatingSystem, type Process } from '@iommukit/iommu-core';
import { DeviceNodes, type IommufdEvent, type IommufdNode, registerIommufd, SystemCalls } from '@iommukit/iommufd';
import { Vfio } from '@iommukit/vfio';
import { DSA_RID } from './machine.ts';

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

/** Nanoseconds in which everything that is under way comes to its end. */
const SETTLE = 1_000_000_000;

export class Host extends OperatingSystem {
  readonly iommufdTrace: Trace<IommufdEvent>;
  /** The accelerator's VFIO device. */
  readonly devicePath: string;
  private readonly accelerator: Device;
  private readonly spawned: Process[] = [];
  private readonly nodes = new DeviceNodes();
  private readonly iommufd: IommufdNode;
  private readonly vfio: Vfio;
  private readonly ownFrames: number;

  constructor(machine: Machine) {
    super(machine);
    this.iommufdTrace = new Trace<IommufdEvent>(machine.scheduler);
    this.ownFrames = machine.frames.allocated;
    this.accelerator = this.device(DSA_RID);
    this.iommufd = registerIommufd(this.nodes, { kernel: this.kernel, trace: this.iommufdTrace });
    this.vfio = new Vfio({ nodes: this.nodes });
    this.devicePath = this.vfio.register(this.accelerator).path;
  }

  /** A program's process: its system calls are all it has of the host. */
  spawn(name: string): SystemCalls {
    const { kernel, nodes, processes } = this;
    const process = processes.spawn({ name, memlock: Number.POSITIVE_INFINITY });
    this.spawned.push(process);
    return new SystemCalls({ kernel, processes, process, nodes });
  }

  get usage(): Usage {
    const { accelerator, processes, spawned, iommufd } = this;
    const regions = spawned.reduce((count, { memory }) => count + (memory?.layout.length ?? 0), 0);
    return {
      pins: processes.counts.pinned,
      pasids: new Set([...accelerator.authorizedPasids, ...accelerator.group.pasidHandles.keys()]).size,
      objects: iommufd.objects,
      mappings: iommufd.areas + regions,
    };
  }

  /**
   * Lets everything that is under way come to its end, takes the device out, with the PASID tables that the kernel keeps
   * as long as it has the device, and tells what is left.
   */
  shutDown(): Leftovers {
    this.run(SETTLE);
    const { accelerator, usage } = this;
    const entry = this.vfio.find(accelerator.pci);
    if (entry?.user === null) {
      this.vfio.unregister(entry);
      this.core.removeDevice(accelerator);
    }
    return { ...usage, frames: this.machine.frames.allocated - this.ownFrames };
  }
}
