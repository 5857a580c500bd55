/**
 * The devices that VFIO offers to users, each as /dev/vfio/devices/vfioN, and by way of its group, /dev/vfio/N, and a
 * container, /dev/vfio/vfio (Linux: drivers/vfio/vfio_main.c).
 */

import { type Device, type IommuGroup, type Kernel, type PciDevice, SysError } from '@iommukit/iommu-core';
import { bindDevice, type DeviceNodes, type IommufdContext, type IommufdDevice, IommufdNode } from '@iommukit/iommufd';
import { VfioContainer } from './container/container.ts';
import { CONTAINER_PATH, VfioContainerFile } from './container/container-file.ts';
import type { NestingCore } from './container/guest-tables.ts';
import { VfioDeviceFile } from './device-file.ts';
import type { DeviceUser } from './device-user.ts';
import { VfioGroup } from './group/group.ts';
import { VfioGroupFile } from './group/group-file.ts';
import type { OfferedDevice } from './offered-device.ts';
import { type BarAccess, type MsixTableAccess, type PciAccess, PciUser } from './pci/pci-user.ts';
import { VfToken } from './vf-token.ts';

export type VfioOptions = {
  nodes: DeviceNodes;
  /** The iommu core, for containers of the nesting type; without it there are none. */
  core?: NestingCore;
  /** What the contexts of containers are counted among; a node of their own by default. */
  iommufd?: IommufdNode;
  /** Mappings that there can be in a container; 65535, as Linux has it, by default. */
  dmaEntryLimit?: number;
};

export type VfioDeviceOptions = {
  /** `mappable`, as Linux has it, by default. */
  msixTable?: MsixTableAccess;
  /**
   * `mappable`, as Linux has them, by default; `trapped` where the user's accesses cannot be seen: then a write of 64
   * bytes at a multiple of 64 is one store to the device, in place of MOVDIR64B on a mapping.
   */
  bars?: BarAccess;
};

/** A PCI function on offer. */
export class VfioDevice implements OfferedDevice {
  readonly device: Device;
  /** The N of vfioN. */
  readonly index: number;
  private readonly access: PciAccess;
  readonly group: VfioGroup;
  /** The token of a PF with SR-IOV; null elsewhere. */
  readonly token: VfToken | null;
  user: DeviceUser | null = null;
  private readonly vfio: Vfio;

  constructor(vfio: Vfio, device: Device, group: VfioGroup, index: number, options: VfioDeviceOptions) {
    this.vfio = vfio;
    this.device = device;
    this.group = group;
    this.index = index;
    this.access = { msixTable: options.msixTable ?? 'mappable', bars: options.bars ?? 'mappable' };
    this.token = device.pci.sriovOffset === 0 ? null : new VfToken();
  }

  get path(): string {
    return `/dev/vfio/devices/vfio${this.index}`;
  }

  get kernel(): Kernel {
    return this.device.kernel;
  }

  get name(): string {
    return this.device.name;
  }

  /** The token that a VF's users need: its PF's, when that is on offer too. */
  get physicalToken(): VfToken | null {
    const { physicalFunction } = this.device.pci;
    return physicalFunction === null ? null : (this.vfio.find(physicalFunction)?.token ?? null);
  }

  checkToken(token: Uint8Array | null): void {
    const { physicalToken } = this;
    if (physicalToken !== null) physicalToken.admitVirtual(token);
    else if (this.token !== null) this.token.admitPhysical(token);
    else if (token !== null) {
      throw new SysError('EINVAL', 'VFIO_DEVICE_BIND_IOMMUFD', `${this.device.name} has no use for a token`);
    }
  }

  bindIommufd(context: IommufdContext): IommufdDevice {
    return bindDevice(context, this.device);
  }

  takeOver(): PciUser {
    return new PciUser(this.device, this.access);
  }
}

export class Vfio {
  private readonly nodes: DeviceNodes;
  private readonly core: NestingCore | null;
  private iommufd: IommufdNode | null;
  private readonly dmaEntryLimit: number;
  private readonly devices = new Map<PciDevice, VfioDevice>();
  private readonly groups = new Map<IommuGroup, VfioGroup>();
  private nextIndex = 0;

  /** @throws {SysError} EEXIST there is VFIO among the nodes */
  constructor(options: VfioOptions) {
    this.nodes = options.nodes;
    this.core = options.core ?? null;
    this.iommufd = options.iommufd ?? null;
    this.dmaEntryLimit = options.dmaEntryLimit ?? 0xffff;
    this.nodes.register(CONTAINER_PATH, () => new VfioContainerFile(this.createContainer()));
  }

  /** The device on offer for a function, or null. */
  find(pci: PciDevice): VfioDevice | null {
    return this.devices.get(pci) ?? null;
  }

  /** Offers a device, and its group with the first. @throws {SysError} EEXIST it is on offer */
  register(device: Device, options: VfioDeviceOptions = {}): VfioDevice {
    if (this.devices.has(device.pci)) throw new SysError('EEXIST', 'vfio_register', `${device.name} is on offer`);
    const group = this.groups.get(device.group) ?? this.offerGroup(device.group);
    const entry = this.offer((index) => new VfioDevice(this, device, group, index, options));
    this.devices.set(device.pci, entry);
    group.members.add(entry);
    return entry;
  }

  /** Takes a device back, and its group with the last. @throws {SysError} EBUSY a user has it bound, or its group open */
  unregister(entry: VfioDevice): void {
    const { group } = entry;
    if (group.isOpen) throw new SysError('EBUSY', 'vfio_unregister', `${group.path} of ${entry.name} is open`);
    this.withdraw(entry);
    this.devices.delete(entry.device.pci);
    group.members.delete(entry);
    if (group.members.size > 0) return;
    this.groups.delete(group.iommuGroup);
    this.nodes.unregister(group.path);
  }

  /** Offers a device of any kind under the next index, the N of vfioN. */
  offer<T extends OfferedDevice>(make: (index: number) => T): T {
    const entry = make(this.nextIndex++);
    this.nodes.register(entry.path, () => new VfioDeviceFile(entry));
    return entry;
  }

  /** Takes a device of any kind back. @throws {SysError} EBUSY a user has it bound */
  withdraw(entry: OfferedDevice): void {
    if (entry.user !== null) throw new SysError('EBUSY', 'vfio_unregister', `${entry.name} is in use`);
    this.nodes.unregister(entry.path);
  }

  private offerGroup(iommuGroup: IommuGroup): VfioGroup {
    const group = new VfioGroup(iommuGroup);
    this.nodes.register(group.path, () => new VfioGroupFile(group));
    this.groups.set(iommuGroup, group);
    return group;
  }

  private createContainer(): VfioContainer {
    return new VfioContainer({
      core: this.core,
      dmaEntryLimit: this.dmaEntryLimit,
      iommufd: (kernel) => {
        this.iommufd ??= new IommufdNode({ kernel });
        return this.iommufd;
      },
    });
  }
}
