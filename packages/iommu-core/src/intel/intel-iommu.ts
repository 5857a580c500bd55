/**
 * The driver of Intel VT-d units in scalable mode (Linux: drivers/iommu/intel). One driver object is one unit with the
 * devices behind it, so domains are of one unit.
 *
 * The unit is reached through its registers and through tables and queues in memory, never in any other way.
 */

import { hex, NO_PASID, PGTT_PASS_THROUGH } from '@iommukit/hw';
import type { Device } from '../device.ts';
import type { Domain, NestedDomain, PagingDomain, StaticDomain, SvaDomain } from '../domain.ts';
import { SysError } from '../errno.ts';
import type { Capability, HwInfo, IommuDriver, ReservedRegion } from '../iommu-driver.ts';
import { ALLOC_PASID } from '../iommu-driver.ts';
import type { MsiMessage } from '../kernel.ts';
import type { PageFault } from '../page-fault.ts';
import * as pci from '../pci/registers.ts';
import type { AddressSpace } from '../process/address-space.ts';
import type { UserData } from '../user-data.ts';
import { Attachments } from './attachments.ts';
import { IDENTITY_DOMAIN_ID } from './domain-ids.ts';
import { IntelFeatures } from './features.ts';
import type { IntelDevice } from './intel-device.ts';
import { IntelNestedDomain, parseStage1 } from './nested-domain.ts';
import { IntelPagingDomain } from './paging-domain.ts';
import { clearEntry, refreshEntries, setEntry, type TableDomain } from './pasid-entries.ts';
import { PasidTable } from './pasid-table.ts';
import { BlockedDomain, IdentityDomain } from './static-domains.ts';
import { IntelSvaDomain } from './sva-domain.ts';
import { IntelUnit, type IntelUnitOptions } from './unit.ts';
import { HWPT_DATA_VTD_S1 } from './vtd-s1.ts';

/** enum iommu_hw_info_type and struct iommu_hw_info_vtd. */
const HW_INFO_DEFAULT = 0;
const HW_INFO_INTEL_VTD = 1;
const HW_INFO_BYTES = 24;
const HW_INFO_ERRATUM_772415 = 1;

const MAX_PASIDS = 2 ** 20;
const MSI_FIRST = 0xfee00000n;
const MSI_LAST = 0xfeefffffn;

export class IntelIommu implements IommuDriver {
  readonly name = 'intel-iommu';
  readonly unit: IntelUnit;
  readonly blockedDomain: StaticDomain;
  readonly identityDomain: StaticDomain | null;
  readonly features: IntelFeatures;
  readonly viommu = null;

  /** Takes the unit over. @throws {SysError} ENODEV the unit lacks something needed; ENOMEM; ETIMEDOUT */
  constructor(options: IntelUnitOptions) {
    const unit = new IntelUnit(options);
    this.unit = unit;
    this.blockedDomain = new BlockedDomain(this);
    this.features = new IntelFeatures(unit);
    const attachments = new Attachments(unit.queue, unit.capabilities, IDENTITY_DOMAIN_ID, PGTT_PASS_THROUGH);
    this.identityDomain = unit.capabilities.passThrough
      ? new IdentityDomain(this, attachments, unit.stage2Levels)
      : null;
  }

  probeDevice(device: Device): void {
    const { unit } = this;
    const { kernel, capabilities } = unit;
    const function_ = device.pci;
    if (unit.devices.has(device.rid)) {
      throw new SysError('EBUSY', 'intel_iommu_probe_device', `${device.name} is under control`);
    }
    device.maxPasids = Math.min(function_.pasids, 2 ** capabilities.pasidBits, MAX_PASIDS);
    if (capabilities.pasidBits === 0) device.maxPasids = 0;
    const pasidTable = new PasidTable(kernel, device.maxPasids);
    const ats = capabilities.deviceTlb && function_.atsOffset !== 0;
    const pageRequests = ats && capabilities.pageRequests && device.maxPasids > 0 && canRequestPages(device);
    try {
      pasidTable.reserve(0);
      if (pageRequests) function_.enablePri();
      unit.contexts.reserve(device.rid);
    } catch (error) {
      if (pageRequests) function_.disablePri();
      pasidTable.free();
      throw error;
    }
    const own: IntelDevice = {
      device,
      pasidTable,
      ats,
      deviceTlb: ats,
      pageRequests,
      tlb: {
        rid: device.rid,
        pfRid: (function_.physicalFunction ?? function_).rid,
        queueDepth: function_.atsQueueDepth,
      },
    };
    unit.setContext(own);
    // PASID comes before ATS: once translations are cached, whether requests carry PASIDs may not change.
    if (device.maxPasids > 0) function_.setPasid(true, function_.pasidFeatures);
    if (ats) function_.setAts(true);
    unit.devices.set(device.rid, own);
  }

  functionReset(device: Device): void {
    const own = this.find(device);
    if (own.deviceTlb === own.ats) return;
    own.deviceTlb = own.ats;
    this.unit.setContext(own);
  }

  releaseDevice(device: Device): void {
    const { unit } = this;
    const own = this.find(device);
    device.pci.setAts(false);
    if (own.pageRequests) device.pci.disablePri();
    device.pci.setPasid(false);
    const unused = unit.contexts.clear(device.rid);
    unit.flushContext(device.rid);
    if (unused !== null) unit.kernel.freeFrame(unused);
    unit.devices.delete(device.rid);
    own.pasidTable.free();
  }

  capable(device: Device, capability: Capability): boolean {
    const { capabilities, interrupts } = this.unit;
    switch (capability) {
      case 'cache-coherency':
        return true;
      case 'noexec':
        return false;
      case 'dirty-tracking':
        return capabilities.secondStageDirty && capabilities.secondStage;
      case 'pci-ats':
        return this.find(device).deviceTlb;
      case 'isolated-msi':
        return interrupts !== null;
      case 'page-requests':
        return this.find(device).pageRequests;
      case 'enforce-cache-coherency':
        return capabilities.snoopControl;
      case 'user-pasid-table':
        return false;
    }
  }

  hwInfo(_device: Device, type: number): HwInfo {
    if (type !== HW_INFO_DEFAULT && type !== HW_INFO_INTEL_VTD) {
      throw new SysError('EOPNOTSUPP', 'IOMMU_GET_HW_INFO', `type ${type}`);
    }
    this.unit.kernel.checkpoint('intel_iommu_hw_info');
    const data = new Uint8Array(HW_INFO_BYTES);
    const view = new DataView(data.buffer);
    view.setUint32(0, HW_INFO_ERRATUM_772415, true);
    view.setBigUint64(8, this.unit.capabilities.cap, true);
    view.setBigUint64(16, this.unit.capabilities.ecap, true);
    return { type: HW_INFO_INTEL_VTD, data };
  }

  reservedRegions(_device: Device): ReservedRegion[] {
    return [{ first: MSI_FIRST, last: MSI_LAST, kind: 'msi', prot: 0 }];
  }

  defaultDomainKind(_device: Device): 'identity' | 'dma' | null {
    return null;
  }

  allocPaging(_device: Device, kind: 'unmanaged' | 'dma', flags: number, data: UserData | null = null): PagingDomain {
    if (data !== null) {
      throw new SysError('EOPNOTSUPP', 'IOMMU_HWPT_ALLOC', `no paging table is made from data of type ${data.type}`);
    }
    return new IntelPagingDomain({
      unit: this.unit,
      driver: this,
      kind,
      flags,
      refresh: (domain) => refreshEntries(this.unit, domain),
    });
  }

  allocNested(_device: Device, parent: PagingDomain, flags: number, data: UserData): NestedDomain {
    const call = 'IOMMU_HWPT_ALLOC';
    if (!this.unit.capabilities.nesting || (flags & ~ALLOC_PASID) !== 0) {
      throw new SysError('EOPNOTSUPP', call, `nesting with flags ${flags}`);
    }
    if (data.type !== HWPT_DATA_VTD_S1) throw new SysError('EOPNOTSUPP', call, `data type ${data.type}`);
    if (!(parent instanceof IntelPagingDomain) || parent.driver !== this || !parent.nestParent) {
      throw new SysError('EINVAL', call, `domain ${parent.id} is no nest parent of this unit`);
    }
    return new IntelNestedDomain(this.unit, this, parent, parseStage1(this.unit, data));
  }

  allocSva(device: Device, addressSpace: AddressSpace): SvaDomain {
    const { capabilities } = this.unit;
    if (!capabilities.cpuTables || device.maxPasids === 0) {
      throw new SysError('ENODEV', 'iommu_sva_domain_alloc', `${device.name} cannot share an address space`);
    }
    return new IntelSvaDomain(this.unit, this, addressSpace, (domain) => {
      for (const { device: own, pasid } of domain.attachments.list) clearEntry(this.unit, own, pasid);
    });
  }

  attach(domain: Domain, device: Device, old: Domain): void {
    this.move(domain, device, NO_PASID, old);
  }

  attachPasid = (domain: Domain, device: Device, pasid: number, old: Domain | null): void => {
    this.move(domain, device, pasid, old ?? this.blockedDomain);
  };

  pageResponse(device: Device, last: PageFault, code: number): void {
    this.unit.pageRequests?.respond(device.rid, last, code);
  }

  allocateMsi(device: Device, handler: () => void): MsiMessage {
    const { interrupts, kernel } = this.unit;
    return interrupts === null ? kernel.interrupts.allocate(handler) : interrupts.allocate(device.rid, handler);
  }

  freeMsi(_device: Device, message: MsiMessage): void {
    const { interrupts, kernel } = this.unit;
    if (interrupts === null) kernel.interrupts.free(message);
    else interrupts.free(message);
  }

  /** Releases the unit. No device is under control any more. */
  shutdown(): void {
    this.unit.shutdown();
  }

  private find(device: Device): IntelDevice {
    const own = this.unit.devices.get(device.rid);
    if (own === undefined) throw new RangeError(`${device.name} is not behind this unit`);
    return own;
  }

  private move(domain: Domain, device: Device, pasid: number, old: Domain): void {
    const own = this.find(device);
    if (domain === old) return;
    const next = tableOf(domain);
    if (next === null) {
      clearEntry(this.unit, own, pasid);
    } else {
      checkFaults(own, domain);
      // Before the entry is there: flushes of the domain while the unit is waited for must reach this device as well.
      next.attachments.add(own, pasid);
      try {
        setEntry(this.unit, own, pasid, next);
      } catch (error) {
        next.attachments.remove(own, pasid);
        throw error;
      }
    }
    tableOf(old)?.attachments.remove(own, pasid);
  }
}

/** Null for the blocked domain. The core has checked that the domain is this driver's. */
function tableOf(domain: Domain): TableDomain | null {
  const hasTable =
    domain instanceof IntelPagingDomain ||
    domain instanceof IntelNestedDomain ||
    domain instanceof IntelSvaDomain ||
    domain instanceof IdentityDomain;
  return hasTable ? domain : null;
}

/** Faults can only be handled for a device that can request pages. @throws {SysError} ENODEV */
function checkFaults(own: IntelDevice, domain: Domain): void {
  if (domain.faultHandler === null || own.pageRequests) return;
  throw new SysError(
    'ENODEV',
    'iommu_attach_device',
    `${own.device.name} cannot request pages (${hex(own.device.rid)})`,
  );
}

/** A VF sends page requests through its PF's interface, which must be on (PCI Express 6.0, section 10.5). */
function canRequestPages(device: Device): boolean {
  const { pci: function_ } = device;
  const owner = function_.physicalFunction ?? function_;
  if (owner.priOffset === 0) return false;
  if (!function_.isVirtualFunction) return true;
  return (owner.config.read(owner.priOffset + pci.PRI_CONTROL, 2) & pci.PRI_ENABLE) !== 0;
}
