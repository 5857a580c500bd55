/**
 * A host with a VT-d unit and its driver. Software reaches all of it by MMIO and memory; DMA comes from test functions.
 */

import { Trace, type VtdFeatures, VtdUnit } from '@iommukit/hw';
import { type DefaultDomainKind, type Device, IntelIommu, IommuCore, type IommuEvent } from '../../src/index.ts';
import { DEVICE_RID, Host, type HostOptions } from './host.ts';
import { TestDevice } from './test-device.ts';

export const VTD_BASE = 0xfed9_0000n;

export type MachineOptions = HostOptions & {
  features?: Partial<VtdFeatures>;
  defaultDomain?: DefaultDomainKind;
  pageRequestFrames?: number;
  parkPasids?: boolean;
};

export class Machine extends Host {
  readonly unit: VtdUnit;
  readonly trace: Trace<IommuEvent>;
  readonly driver: IntelIommu;
  readonly core: IommuCore;

  constructor(options: MachineOptions = {}) {
    super(options);
    const { kernel, memory, scheduler } = this;
    this.unit = new VtdUnit({
      memory,
      scheduler,
      port: this.fabric,
      interrupts: this.apic,
      features: options.features ?? {},
    });
    this.fabric.setAgent(this.unit);
    memory.mapMmio(Number(VTD_BASE >> 12n), 1, this.unit.registers);
    this.trace = new Trace<IommuEvent>(scheduler);
    this.driver = new IntelIommu({
      kernel,
      registerBase: VTD_BASE,
      trace: this.trace,
      pageRequestFrames: options.pageRequestFrames ?? 4,
    });
    this.core = new IommuCore({
      kernel,
      driver: this.driver,
      defaultDomain: options.defaultDomain ?? 'blocked',
      trace: this.trace,
      parkPasids: options.parkPasids ?? true,
    });
  }

  /** Puts the function at `rid` under the core, ready for DMA. */
  add(rid: number = DEVICE_RID): TestDevice {
    const pci = this.bus.device(rid);
    if (pci === null) throw new RangeError(`no function at ${rid}`);
    return this.use(this.core.addDevice(pci));
  }

  /** Creates VFs of a PF and puts them under the core. */
  addVirtual(pf: TestDevice, count: number): TestDevice[] {
    return this.bus.enableVirtualFunctions(pf.device.pci, count).map((pci) => this.use(this.core.addDevice(pci)));
  }

  private use(device: Device): TestDevice {
    device.pci.setMemoryDecode(true);
    device.pci.setBusMaster(true);
    return new TestDevice(this, device);
  }
}
