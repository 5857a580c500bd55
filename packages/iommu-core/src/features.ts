/**
 * Per-device IOMMU features as proposed in February 2019 (Linux 5.2: iommu_dev_has_feature and relatives,
 * drivers/iommu/iommu.c; Linux 7.2 has none of it). Whether a feature is there and can be enabled is for the driver to
 * say. Which are enabled is kept here, and so is the rule that a feature in use cannot be disabled, which history left
 * to a comment.
 *
 * `hasFeature` is a query that nobody has to make; enabling is what the use of a feature waits for.
 */

import type { Device } from './device.ts';
import { SysError } from './errno.ts';

/** Auxiliary domains; shared virtual addressing; page requests. */
export type DeviceFeature = 'aux' | 'sva' | 'iopf';

export type FeatureOptions = {
  /**
   * With `aux`, what VT-d did: as long as the feature is enabled no unmanaged domain can be attached to the whole
   * device (EPERM). False by default: one can, until aux domains are attached (EBUSY).
   */
  refusePrimary?: boolean;
};

/** A driver's part. */
export type FeatureOps = {
  /** Unit and device can do it. */
  has(device: Device, feature: DeviceFeature): boolean;
  /** Called again for a feature that is enabled. @throws {SysError} ENODEV, EINVAL */
  enable(device: Device, feature: DeviceFeature): void;
  /** Undoes `enable`: nothing uses the feature any more. Never fails. */
  disable(device: Device, feature: DeviceFeature): void;
};

const FEATURES: readonly string[] = ['aux', 'sva', 'iopf'] satisfies DeviceFeature[];

/** Whether both IOMMU and device can do it. */
export function hasFeature(device: Device, feature: DeviceFeature): boolean {
  return FEATURES.includes(feature) && (device.driver.features?.has(device, feature) ?? false);
}

/**
 * Enables a feature, or changes the options of one that is enabled.
 * @throws {SysError} ENODEV no such feature here; EPERM `aux`, and the DMA of the device's group is a user's; and the
 * driver's errors
 */
export function enableFeature(device: Device, feature: DeviceFeature, options: FeatureOptions = {}): void {
  const call = 'iommu_dev_enable_feature';
  const ops = opsOf(device, feature, call);
  if (feature === 'aux') checkKernelOwned(device, call);
  ops.enable(device, feature);
  device.features.set(feature, options);
}

/**
 * Disables a feature; one that is not enabled stays so.
 * @throws {SysError} ENODEV no such feature here; EBUSY it is in use: `aux` by aux domains, `sva` by processes bound to
 * the device, `iopf` by `sva`
 */
export function disableFeature(device: Device, feature: DeviceFeature): void {
  const call = 'iommu_dev_disable_feature';
  const ops = opsOf(device, feature, call);
  if (!device.features.has(feature)) return;
  const user = userOf(device, feature);
  if (user !== null) throw new SysError('EBUSY', call, `${feature} of ${device.name} is in use by ${user}`);
  ops.disable(device, feature);
  device.features.delete(feature);
}

export function featureEnabled(device: Device, feature: DeviceFeature): boolean {
  return device.features.has(feature);
}

/** Disables everything: the device is going away, and nothing of it is attached. Never fails. */
export function dropFeatures(device: Device): void {
  for (const feature of device.features.keys()) device.driver.features?.disable(device, feature);
  device.features.clear();
}

/** Sharing a device out is for the kernel driver that is bound to it. @throws {SysError} EPERM */
export function checkKernelOwned({ group, name }: Device, call: string): void {
  if (group.owner === null) return;
  throw new SysError('EPERM', call, `a user owns the DMA of group ${group.id}, and with it ${name}`);
}

/** @throws {SysError} ENODEV */
function opsOf(device: Device, feature: DeviceFeature, call: string): FeatureOps {
  const ops = device.driver.features;
  if (ops !== null && FEATURES.includes(feature)) return ops;
  throw new SysError('ENODEV', call, `${device.driver.name} has no feature ${feature} for ${device.name}`);
}

/** What uses an enabled feature, or null. */
function userOf(device: Device, feature: DeviceFeature): string | null {
  if (feature === 'iopf') return device.features.has('sva') ? 'sva' : null;
  for (const [pasid, handle] of device.group.pasidHandles) {
    const shares = handle.domain.kind === 'sva' && device.authorizedPasids.has(pasid);
    const uses = feature === 'aux' ? handle.auxiliary?.has(device) : shares;
    if (uses === true) return `domain ${handle.domain.id} at PASID ${pasid}`;
  }
  return null;
}
