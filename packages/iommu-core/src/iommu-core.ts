/**
 * The iommu core of one kernel: which devices are under which driver, in which groups, with which default domain
 * (Linux: iommu_probe_device, drivers/iommu/iommu.c).
 */

import { joinU64, noTrace, type TraceSink } from '@iommukit/hw';
import { setCoreDomain, setGroupDomain } from './attach.ts';
import { AuxDomains } from './aux-domains.ts';
import { Device, type DmaMaster } from './device.ts';
import type { Domain, PagingDomain } from './domain.ts';
import { SysError } from './errno.ts';
import { dropFeatures } from './features.ts';
import { GlobalPasids } from './global-pasids.ts';
import { IommuGroup } from './group.ts';
import { Ioasids } from './ioasid/ioasids.ts';
import { ALLOC_PASID, type IommuDriver } from './iommu-driver.ts';
import { DeviceFaults } from './iommu-uapi/device-faults.ts';
import { GuestPasids } from './iommu-uapi/guest-pasids.ts';
import type { Kernel } from './kernel.ts';
import { isolationSet } from './pci/isolation.ts';
import { PciDevice } from './pci/pci-device.ts';
import { Sva } from './sva.ts';
import type { IommuEvent } from './trace.ts';

/** What a device's DMA reaches while no user owns it. */
export type DefaultDomainKind = 'identity' | 'dma' | 'blocked';

export type IommuCoreOptions = {
  kernel: Kernel;
  driver: IommuDriver;
  /** `dma` by default. A driver's or device's needs come first. */
  defaultDomain?: DefaultDomainKind;
  trace?: TraceSink<IommuEvent>;
  /** Keep global PASIDs from being used again while anything names them; true by default. */
  parkPasids?: boolean;
};

export class IommuCore {
  readonly kernel: Kernel;
  readonly driver: IommuDriver;
  readonly trace: TraceSink<IommuEvent>;
  readonly pasids: GlobalPasids;
  readonly sva: Sva;
  readonly aux: AuxDomains;
  readonly ioasids: Ioasids;
  readonly deviceFaults: DeviceFaults;
  readonly guestPasids: GuestPasids;
  readonly groups: IommuGroup[] = [];
  private readonly defaultKind: DefaultDomainKind;
  private readonly devices = new Map<DmaMaster, Device>();
  private nextGroup = 0;

  constructor(options: IommuCoreOptions) {
    this.kernel = options.kernel;
    this.driver = options.driver;
    this.trace = options.trace ?? noTrace;
    this.defaultKind = options.defaultDomain ?? 'dma';
    this.pasids = new GlobalPasids(this.kernel, { parking: options.parkPasids ?? true });
    this.pasids.addReferrer((pasid) => this.pasidUser(pasid));
    this.sva = new Sva(this.pasids);
    this.ioasids = new Ioasids({ kernel: this.kernel, pasids: this.pasids, trace: this.trace });
    this.aux = new AuxDomains(this.pasids);
    this.deviceFaults = new DeviceFaults();
    this.guestPasids = new GuestPasids(this.kernel, this.ioasids, this.deviceFaults);
  }

  /** What this core has of a PCI function or another bus's device, or null when it is not under control. */
  deviceOf(master: DmaMaster): Device | null {
    return this.devices.get(master) ?? null;
  }

  /**
   * Takes a PCI function, or a device of another bus, under control: probes it, finds its group and attaches the default domain.
   * @throws {SysError} ENODEV no unit is in charge of it; EEXIST it is under control; ENOMEM; and the driver's errors
   */
  addDevice(master: DmaMaster): Device {
    if (this.devices.has(master)) throw new SysError('EEXIST', 'iommu_probe_device', `${master.name} is under control`);
    this.kernel.checkpoint('iommu_probe_device');
    const group = this.groupFor(master);
    const device = new Device(group, this.driver, master);
    this.driver.probeDevice(device);
    group.devices.push(device);
    try {
      if (group.devices.length === 1) this.makeDefaultDomain(group, device);
      else this.driver.attach(group.domain, device, this.driver.blockedDomain);
    } catch (error) {
      group.devices.pop();
      this.driver.releaseDevice(device);
      throw error;
    }
    if (group.devices.length === 1) this.groups.push(group);
    this.devices.set(master, device);
    if (this.trace.enabled) this.trace.emit({ name: 'add_device_to_group', group: group.id, rid: device.rid });
    return device;
  }

  /** The function is going away: nothing of it stays attached. Never fails. */
  removeDevice(device: Device): void {
    const { group } = device;
    this.guestPasids.release(device);
    this.deviceFaults.release(device);
    this.aux.detachAll(device);
    dropFeatures(device);
    this.driver.attach(this.driver.blockedDomain, device, group.domain);
    for (const pasid of device.authorizedPasids) {
      const handle = group.pasidHandles.get(pasid);
      if (handle !== undefined) this.driver.attachPasid!(this.driver.blockedDomain, device, pasid, handle.domain);
    }
    device.authorizedPasids.clear();
    device.faults.close();
    this.driver.releaseDevice(device);
    group.devices.splice(group.devices.indexOf(device), 1);
    this.devices.delete(device.master);
    if (this.trace.enabled) this.trace.emit({ name: 'remove_device_from_group', group: group.id, rid: device.rid });
    if (group.devices.length > 0) return;
    this.groups.splice(this.groups.indexOf(group), 1);
    if (!isStatic(group.defaultDomain)) group.defaultDomain.free();
  }

  /** What names `pasid` here: tables, routes, authorisations or page requests of a device; or null. */
  private pasidUser(pasid: number): string | null {
    for (const group of this.groups) {
      if (group.changing.has(pasid)) return `a change under way in group ${group.id}`;
      if (group.pasidHandles.has(pasid)) return `a route of group ${group.id}`;
      for (const { authorizedPasids, faults, name } of group.devices) {
        if (authorizedPasids.has(pasid)) return `an authorisation of ${name}`;
        if (faults.names(pasid)) return `a page request of ${name}`;
      }
    }
    return null;
  }

  /** What is on no fabric that could mix its requests up is alone in its group (Linux: generic_device_group). */
  private groupFor(master: DmaMaster): IommuGroup {
    const neighbours = master instanceof PciDevice ? isolationSet(master) : [];
    for (const neighbour of neighbours) {
      const group = this.devices.get(neighbour)?.group;
      if (group !== undefined) return group;
    }
    return new IommuGroup(this.nextGroup++, this.kernel, this.driver, this.trace);
  }

  private makeDefaultDomain(group: IommuGroup, device: Device): void {
    const direct = this.driver.reservedRegions(device).filter((region) => region.kind === 'direct');
    const forced = this.driver.defaultDomainKind(device);
    const kind = forced ?? (direct.length > 0 && this.defaultKind === 'blocked' ? 'dma' : this.defaultKind);
    const domain = this.allocDefault(device, kind);
    try {
      if (domain.kind === 'dma') for (const region of direct) mapDirect(domain, region);
      setGroupDomain(group, domain, 'iommu_probe_device');
    } catch (error) {
      if (!isStatic(domain)) domain.free();
      throw error;
    }
    group.defaultDomain = domain;
    group.requiresDirect = direct.length > 0;
    setCoreDomain(group);
  }

  private allocDefault(device: Device, kind: DefaultDomainKind): Domain {
    if (kind === 'blocked') return this.driver.blockedDomain;
    if (kind === 'identity' && this.driver.identityDomain !== null) return this.driver.identityDomain;
    return this.driver.allocPaging(device, 'dma', device.maxPasids > 0 ? ALLOC_PASID : 0);
  }
}

function isStatic(domain: Domain): boolean {
  return domain.kind === 'blocked' || domain.kind === 'identity';
}

function mapDirect(domain: PagingDomain, region: { first: bigint; last: bigint; prot: number }): void {
  const lo = Number(BigInt.asIntN(32, region.first));
  const hi = Number(BigInt.asIntN(32, region.first >> 32n));
  const bytes = Number(region.last - region.first + 1n);
  if (domain.iovaToPhys(joinU64(lo, hi)) === null) domain.map(lo, hi, lo, hi, bytes, region.prot);
}
