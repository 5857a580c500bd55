/**
 * Blocking a device while its function is reset (Linux: pci_dev_reset_iommu_prepare and _done). Its group stays
 * attached as it is; the device alone is parked at the blocking domain, and no attachment of the group can change
 * except by detaching.
 */

import type { Device } from './device.ts';
import { SysError } from './errno.ts';

/** Blocks all DMA of `device`. @throws {SysError} EBUSY it is being reset already; the driver's errors */
function prepareReset(device: Device): void {
  const { group, driver } = device;
  if (device.inReset) throw new SysError('EBUSY', 'pci_dev_reset_iommu_prepare', `${device.name} is being reset`);
  driver.attach(driver.blockedDomain, device, group.domain);
  for (const pasid of device.authorizedPasids) {
    const handle = group.pasidHandles.get(pasid);
    if (handle !== undefined) driver.attachPasid!(driver.blockedDomain, device, pasid, handle.domain);
  }
  device.faults.close();
  device.inReset = true;
  if (device.trace.enabled) device.trace.emit({ name: 'reset_prepare', rid: device.rid });
}

/** Attaches `device` again to whatever its group is attached to now. What cannot be attached stays blocked. */
function finishReset(device: Device): void {
  if (!device.inReset) return;
  const { group, driver } = device;
  device.inReset = false;
  tryAttach(() => driver.attach(group.domain, device, driver.blockedDomain));
  for (const pasid of device.authorizedPasids) {
    const handle = group.pasidHandles.get(pasid);
    if (handle !== undefined) tryAttach(() => driver.attachPasid!(handle.domain, device, pasid, null));
  }
  if (device.trace.enabled) device.trace.emit({ name: 'reset_done', rid: device.rid });
}

/** Resets the function with its DMA blocked. @throws {SysError} EINVAL it cannot be reset; the driver's errors */
export function resetDevice(device: Device): void {
  prepareReset(device);
  try {
    device.master.reset();
    device.driver.functionReset(device);
  } finally {
    finishReset(device);
  }
}

function tryAttach(attach: () => void): void {
  try {
    attach();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}
