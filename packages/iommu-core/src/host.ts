/**
 * An operating system on a machine, ready-made: its kernel, the PCI bus as it finds it, the iommu core with the driver
 * of the VT-d unit, and processes.
 */

import { MACHINE_ADDRESSES, type Machine, Trace } from '@iommukit/hw';
import type { Device } from './device.ts';
import { SysError } from './errno.ts';
import { IntelIommu } from './intel/intel-iommu.ts';
import { ApicInterrupts } from './interrupts.ts';
import { IommuCore, type IommuCoreOptions } from './iommu-core.ts';
import { Kernel } from './kernel.ts';
import { PciBus } from './pci/pci-bus.ts';
import { Processes } from './process/process.ts';
import type { IommuEvent } from './trace.ts';

export type HostOptions = Pick<IommuCoreOptions, 'defaultDomain' | 'parkPasids'>;

export class Host {
  readonly machine: Machine;
  readonly kernel: Kernel;
  readonly trace: Trace<IommuEvent>;
  readonly bus: PciBus;
  readonly driver: IntelIommu;
  readonly core: IommuCore;
  readonly processes: Processes;

  /** Boots: finds every function that is plugged in, and takes the unit over. @throws {SysError} ENOMEM, ENODEV, ENOSPC */
  constructor(machine: Machine, options: HostOptions = {}) {
    const { memory, frames, scheduler, apic } = machine;
    this.machine = machine;
    this.kernel = new Kernel({ memory, frames, scheduler, interrupts: new ApicInterrupts(apic) });
    this.trace = new Trace<IommuEvent>(scheduler);
    const { kernel, trace } = this;
    const { ecam: ecamBase, vtd: registerBase, window32, window64 } = MACHINE_ADDRESSES;
    this.bus = new PciBus(kernel, { ecamBase, window32, window64 });
    this.bus.enumerate();
    this.driver = new IntelIommu({ kernel, registerBase, trace });
    this.core = new IommuCore({ kernel, driver: this.driver, trace, ...options });
    this.processes = new Processes(kernel);
  }

  /** The function at `rid` under the iommu core, which takes it when it has not. @throws {SysError} ENODEV no function there; as `addDevice` */
  device(rid: number): Device {
    const pci = this.bus.device(rid);
    if (pci === null) throw new SysError('ENODEV', 'pci_get_domain_bus_and_slot', `no function at ${rid}`);
    return this.core.deviceOf(pci) ?? this.core.addDevice(pci);
  }

  /** Lets `nanoseconds` pass: hardware's events, and the kernel work that they queue. */
  run(nanoseconds: number): void {
    const { kernel } = this;
    const { scheduler } = this.machine;
    const end = scheduler.now + nanoseconds;
    kernel.runWork();
    while (scheduler.nextDue <= end) {
      scheduler.runNext();
      kernel.runWork();
    }
    scheduler.runUntil(end);
  }
}
