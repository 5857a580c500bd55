/** The host's operating system on its machine: the iommu core, /dev/iommu and one VFIO device, ready for programs. */

import { type Machine, Trace } from '@iommukit/hw';
import { type Device, Host as OperatingSystem, type Process } from '@iommukit/iommu-core';
import { DeviceNodes, type IommufdEvent, IommufdNode, registerIommufd, SystemCalls } from '@iommukit/iommufd';
import { registerIoasid, registerIoasidAllocation } from '@iommukit/iommufd/ioasid';
import { Vfio } from '@iommukit/vfio';
import type { DeviceNames } from '../vmm/dma-interface.ts';
import type { InterfaceKind } from '../vmm/interfaces/open.ts';
import { DSA_RID } from './machine.ts';
import { pasidAuthority } from './pasid-authority.ts';
import { VmPasidTable } from './pasid-table.ts';
import { VirtualMachine } from './virtual-machine.ts';

/** What is still held of the host's resources. */
export type Usage = {
  /** Pins on frames. */
  readonly pins: number;
  /** PASIDs that are authorised for a device or routed to a domain, allocated, or parked. */
  readonly pasids: number;
  /** Objects of open files that address spaces are made by, and guests' tables that are bound without any. */
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

/** PASIDs that one program can allocate. By default the first would have all. */
const PASID_QUOTA = 2 ** 16;

export class Host extends OperatingSystem {
  readonly iommufdTrace: Trace<IommufdEvent>;
  /** By which programs get at the accelerator. */
  readonly deviceNames: DeviceNames;
  private readonly accelerator: Device;
  private readonly spawned: Process[] = [];
  private readonly nodes = new DeviceNodes();
  private readonly iommufd: IommufdNode;
  private readonly vfio: Vfio;
  private readonly ownFrames: number;

  /** Offers what programs need that use one of the kernel's interfaces for DMA: /dev/iommu by default. */
  constructor(machine: Machine, kind: InterfaceKind = 'iommufd') {
    super(machine);
    this.iommufdTrace = new Trace<IommufdEvent>(machine.scheduler);
    this.ownFrames = machine.frames.allocated;
    this.accelerator = this.device(DSA_RID);
    this.iommufd = this.registerFiles(kind);
    this.vfio = new Vfio({ nodes: this.nodes, core: this.core, iommufd: this.iommufd });
    const { path, group, name } = this.vfio.register(this.accelerator);
    this.deviceNames = { path, groupPath: group.path, name };
  }

  /** The file that address spaces are made by. Gives what keeps its objects. */
  private registerFiles(kind: InterfaceKind): IommufdNode {
    const { kernel, nodes } = this;
    const options = { kernel, trace: this.iommufdTrace };
    switch (kind) {
      case 'iommufd':
        return registerIommufd(nodes, options);
      case 'ioasid':
        return registerIoasid(nodes, { ...options, rules: 'v2' }).iommufd;
      case 'gpasid':
        registerIoasidAllocation(nodes, { kernel, ioasids: this.core.ioasids, quota: PASID_QUOTA });
        return new IommufdNode(options);
    }
  }

  /** A program's process: its system calls are all it has of the host. */
  spawn(name: string): SystemCalls {
    const { kernel, nodes, processes } = this;
    const process = processes.spawn({ name, memlock: Number.POSITIVE_INFINITY });
    this.spawned.push(process);
    return new SystemCalls({ kernel, processes, process, nodes });
  }

  /** A VM of a program's (Linux: KVM_CREATE_VM). It ends with the program's process. */
  createVm(system: SystemCalls): VirtualMachine {
    const { addressSpace } = system.process;
    const { pasids, ioasids } = this.core;
    const table = new VmPasidTable({ addressSpace, pasids, ioasids, authority: pasidAuthority(system) });
    return new VirtualMachine({ memory: this.machine.memory, addressSpace, table });
  }

  get usage(): Usage {
    const { accelerator, core, processes, spawned, iommufd } = this;
    const { pasids } = core;
    const regions = spawned.reduce((count, { memory }) => count + (memory?.layout.length ?? 0), 0);
    const named = new Set([
      ...accelerator.authorizedPasids,
      ...accelerator.group.pasidHandles.keys(),
      ...pasids.parked,
    ]);
    const unnamed = pasids.size - [...named].filter((pasid) => pasids.has(pasid)).length;
    return {
      pins: processes.counts.pinned,
      pasids: named.size + unnamed,
      objects: iommufd.objects + core.guestPasids.size,
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
