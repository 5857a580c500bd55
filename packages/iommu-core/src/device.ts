/** What masters DMA, as the core sees it (Linux: the IOMMU half of struct device). */

import type { TraceSink } from '@iommukit/hw';
import { SysError } from './errno.ts';
import type { DeviceFeature, FeatureOptions } from './features.ts';
import type { IommuGroup } from './group.ts';
import type { Capability, HwInfo, IommuDriver, ReservedRegion } from './iommu-driver.ts';
import type { Kernel, MsiMessage } from './kernel.ts';
import { FaultReports } from './page-fault.ts';
import { PciDevice } from './pci/pci-device.ts';
import type { IommuEvent } from './trace.ts';
import type { UnrecoverableFault } from './unrecoverable-fault.ts';

/** What the core has to know of a device on any bus; a PCI function has it all. */
export type DmaMaster = {
  /** As in sysfs. */
  readonly name: string;
  /** Names it in traces: a PCI function's requester id, elsewhere a number that its bus gives. */
  readonly rid: number;
  /** PASID_EXECUTE and PASID_PRIVILEGED, as far as it can set them on requests. */
  readonly pasidFeatures: number;
  /** Its page requests are sent and answered by another device. */
  readonly sharesPageRequests: boolean;
  /** @throws {SysError} EINVAL it cannot be reset */
  reset(): void;
};

export class Device {
  readonly kernel: Kernel;
  readonly trace: TraceSink<IommuEvent>;
  readonly driver: IommuDriver;
  readonly master: DmaMaster;
  readonly group: IommuGroup;
  /** PASIDs the device can use are 1..maxPasids-1; 0 when it has none. Set by the driver's probe. */
  maxPasids = 0;
  /** PASIDs that this device may issue; written by authorization.ts and pasid-attach.ts. */
  readonly authorizedPasids: Set<number> = new Set();
  /** Enabled features; written by features.ts. */
  readonly features: Map<DeviceFeature, FeatureOptions> = new Map();
  /** True while `resetDevice` is under way: everything of it is blocked whatever its group is attached to. */
  inReset = false;
  readonly faults: FaultReports;
  /** Hears, in kernel work, of each access of this device that the hardware refused for good. */
  onUnrecoverableFault: ((fault: UnrecoverableFault) => void) | null = null;

  constructor(group: IommuGroup, driver: IommuDriver, master: DmaMaster) {
    this.kernel = group.kernel;
    this.trace = group.trace;
    this.group = group;
    this.driver = driver;
    this.master = master;
    this.faults = new FaultReports(this);
  }

  /** The PCI function. @throws {SysError} ENODEV the device is on another bus */
  get pci(): PciDevice {
    const { master } = this;
    if (master instanceof PciDevice) return master;
    throw new SysError('ENODEV', 'to_pci_dev', `${master.name} is no PCI function`);
  }

  get rid(): number {
    return this.master.rid;
  }

  /** `0000:bb:dd.f`, as in sysfs, of a PCI function. */
  get name(): string {
    return this.master.name;
  }

  capable(capability: Capability): boolean {
    return this.driver.capable(this, capability);
  }

  /** @throws {SysError} EOPNOTSUPP for a type that the driver does not have; ENOMEM */
  hwInfo(type = 0): HwInfo {
    return this.driver.hwInfo(this, type);
  }

  reservedRegions(): ReservedRegion[] {
    return this.driver.reservedRegions(this);
  }

  /** The message that makes this device raise `handler`. @throws {SysError} ENOSPC, ENOMEM */
  allocateMsi(handler: () => void): MsiMessage {
    return this.driver.allocateMsi(this, handler);
  }

  freeMsi(message: MsiMessage): void {
    this.driver.freeMsi(this, message);
  }
}
