/**
 * Attaching domains to one PASID of a group's devices (Linux: iommu_attach_device_pasid and relatives,
 * drivers/iommu/iommu.c). Devices of the group that have no PASIDs are left out, so a group without any such device
 * accepts every attachment.
 */

import type { AttachHandle } from './attach-handle.ts';
import {
  authorizedDevices,
  blockDevices,
  changePasid,
  checkPasid,
  checkPasidDomain,
  moveDevices,
} from './authorization.ts';
import type { Device } from './device.ts';
import { SysError } from './errno.ts';
import type { IommuGroup } from './group.ts';

/**
 * Authorises every device of the group that has PASIDs and routes the PASID to `handle.domain`, in one step. The
 * handle takes page faults only after nothing can fail any more.
 * @throws {SysError} EOPNOTSUPP the domain or the driver has no PASIDs; EINVAL a domain of another driver, PASID 0, a
 * PASID that a device cannot issue, or an attachment that takes all PASIDs; EBUSY attached already (either half), or a
 * device is being reset; and the driver's errors
 */
export function attachDevicePasid(device: Device, pasid: number, handle: AttachHandle): void {
  const call = 'iommu_attach_device_pasid';
  const { group } = device;
  checkPasidDomain(group, handle.domain, call);
  checkPasid(group, pasid, call);
  if (!isUnused(group, pasid)) {
    throw new SysError('EBUSY', call, `PASID ${pasid} of group ${group.id} is in use`);
  }
  const devices = group.pasidDevices;
  changePasid(group, pasid, () => {
    moveDevices(devices, pasid, handle.domain, null);
    for (const member of devices) member.authorizedPasids.add(pasid);
    group.pasidHandles.set(pasid, handle);
  });
}

/** True when neither half of an attachment at `pasid` is there, or going. */
export function isUnused(group: IommuGroup, pasid: number): boolean {
  const { pasidHandles, changing } = group;
  return !pasidHandles.has(pasid) && !changing.has(pasid) && authorizedDevices(group, pasid).length === 0;
}

/**
 * Moves a PASID from one domain to another without a moment of neither. With the same domain only the handle changes.
 * On failure the old attachment is as before.
 * @throws {SysError} as `attachDevicePasid`; EINVAL also when nothing is attached or the handle is the one in use, or
 * when what was attached has been detached meanwhile
 */
export function replaceDevicePasid(device: Device, pasid: number, handle: AttachHandle): void {
  const call = 'iommu_replace_device_pasid';
  const { group } = device;
  checkPasidDomain(group, handle.domain, call);
  checkPasid(group, pasid, call);
  const old = group.pasidHandles.get(pasid);
  if (old === undefined) throw new SysError('EINVAL', call, `nothing is attached at PASID ${pasid}`);
  if (old === handle) throw new SysError('EINVAL', call, `the handle is attached at PASID ${pasid}`);
  const devices = authorizedDevices(group, pasid);
  changePasid(group, pasid, () => {
    if (old.domain !== handle.domain) moveDevices(devices, pasid, handle.domain, old.domain);
    const isAttached = group.pasidHandles.get(pasid) === old;
    const left = devices.filter((member) => !isAttached || !member.authorizedPasids.has(pasid));
    blockDevices(left, pasid, handle.domain);
    if (!isAttached) throw new SysError('EINVAL', call, `PASID ${pasid} was detached meanwhile`);
    group.pasidHandles.set(pasid, handle);
    for (const member of group.devices) member.faults.dismiss(old, pasid);
  });
}

/** Clears both halves: DMA with `pasid` is blocked and its page requests are answered on return. Never fails. */
export function detachDevicePasid(device: Device, pasid: number): void {
  const { group } = device;
  const handle = group.pasidHandles.get(pasid);
  if (handle === undefined) return;
  const devices = authorizedDevices(group, pasid);
  changePasid(group, pasid, () => {
    blockDevices(devices, pasid, handle.domain);
    for (const member of devices) member.authorizedPasids.delete(pasid);
    group.pasidHandles.delete(pasid);
    for (const member of group.devices) member.faults.dismiss(handle, pasid);
  });
}
