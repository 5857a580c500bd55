/**
 * Which features VT-d has for a device, and when one can be enabled (Linux up to 5.17: intel_iommu_dev_has_feat and
 * intel_iommu_dev_enable_feat, drivers/iommu/intel/iommu.c).
 *
 * This driver turns PASID, ATS and page requests on when it probes a device, so enabling changes no hardware: it checks
 * that they are on, and opens the gate that the core keeps. For `aux` that gate is asked for at every aux attach; native
 * SVA and fault handlers do without, as they do in Linux 7.2.
 */

import type { Device } from '../device.ts';
import { SysError } from '../errno.ts';
import type { DeviceFeature, FeatureOps } from '../features.ts';
import type { IntelDevice } from './intel-device.ts';
import type { IntelUnit } from './unit.ts';

export class IntelFeatures implements FeatureOps {
  private readonly unit: IntelUnit;

  constructor(unit: IntelUnit) {
    this.unit = unit;
  }

  has(device: Device, feature: DeviceFeature): boolean {
    const { capabilities } = this.unit;
    const own = this.find(device);
    if (own === null) return false;
    switch (feature) {
      case 'aux':
        return this.hasPasids && device.pci.pasids > 0 && device.pci.hasSiov;
      case 'sva':
        return capabilities.cpuTables && device.maxPasids > 0 && own.ats && own.pageRequests;
      case 'iopf':
        return own.pageRequests;
    }
  }

  /**
   * Enabling `aux` does not look for the SIOV capability: that is for those who ask first.
   * @throws {SysError} EINVAL the device is not behind the unit, the unit has no PASIDs (`aux`), or ATS and page requests
   * are not on (`sva`); ENODEV the device's PASIDs are not on, the unit cannot walk a process's table (`sva`), or page
   * requests are not on (`iopf`)
   */
  enable(device: Device, feature: DeviceFeature): void {
    const call = 'iommu_dev_enable_feature';
    const own = this.find(device);
    if (own === null) throw new SysError('EINVAL', call, `${device.name} is not behind this unit`);
    const missing = this.missing(own, feature);
    if (missing !== null) throw new SysError(missing.code, call, `${feature} of ${device.name}: ${missing.what}`);
  }

  disable(): void {}

  private get hasPasids(): boolean {
    const { scalableMode, pasidBits } = this.unit.capabilities;
    return scalableMode && pasidBits > 0;
  }

  /** What stands in the way of enabling a feature, in the order of the checks, or null. */
  private missing(own: IntelDevice, feature: DeviceFeature): { code: 'EINVAL' | 'ENODEV'; what: string } | null {
    const pasids = own.device.maxPasids > 0;
    switch (feature) {
      case 'aux':
        if (!this.hasPasids) return { code: 'EINVAL', what: 'the unit has no PASIDs' };
        return pasids ? null : { code: 'ENODEV', what: 'the device has no PASIDs' };
      case 'sva':
        if (!this.unit.capabilities.cpuTables) return { code: 'ENODEV', what: 'the unit walks no table of a CPU' };
        if (!pasids) return { code: 'ENODEV', what: 'the device has no PASIDs' };
        return own.ats && own.pageRequests ? null : { code: 'EINVAL', what: 'ATS or page requests are off' };
      case 'iopf':
        return own.pageRequests ? null : { code: 'ENODEV', what: 'page requests are off' };
    }
  }

  private find(device: Device): IntelDevice | null {
    const own = this.unit.devices.get(device.rid);
    return own?.device === device ? own : null;
  }
}
