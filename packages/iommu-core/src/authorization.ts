/**
 * The two halves of a PASID attachment, which have different owners (B.11 of the systems specification): a device is
 * authorised to issue a PASID by whoever controls the device, and the PASID is routed to a domain by whoever controls
 * the address space. Either may come first. The hardware's entry exists exactly while both do; when either goes, the
 * entry is cleared and drained before the call returns.
 *
 * An ordinary attachment (pasid-attach.ts) makes and removes both halves at once.
 *
 * A change waits for hardware, and queued work that runs meanwhile may make others. It may take halves away, which
 * cannot be refused: whoever adds one looks again when it has waited. It may not add any at the same PASID (EBUSY).
 */

import type { AttachHandle } from './attach-handle.ts';
import type { Device } from './device.ts';
import type { Domain } from './domain.ts';
import { SysError } from './errno.ts';
import type { IommuGroup } from './group.ts';

/**
 * Lets `device` issue `pasid`. DMA works once the PASID is routed.
 * @throws {SysError} EOPNOTSUPP no PASIDs here; EINVAL a PASID the device cannot issue, or an attachment that takes all
 * PASIDs; EBUSY authorised already, or a device of the group is being reset; and the driver's errors
 */
export function authorizePasid(device: Device, pasid: number): void {
  const call = 'iommu_authorize_pasid';
  checkPasid(device.group, pasid, call);
  if (device.maxPasids === 0) throw new SysError('EINVAL', call, `${device.name} has no PASIDs`);
  if (device.authorizedPasids.has(pasid)) {
    throw new SysError('EBUSY', call, `${device.name} is authorised for PASID ${pasid}`);
  }
  const { group } = device;
  const handle = group.pasidHandles.get(pasid);
  changePasid(group, pasid, () => {
    if (handle !== undefined) moveDevices([device], pasid, handle.domain, null);
    device.authorizedPasids.add(pasid);
    if (handle !== undefined && group.pasidHandles.get(pasid) !== handle) blockDevices([device], pasid, handle.domain);
  });
  if (device.trace.enabled) device.trace.emit({ name: 'authorize_pasid', rid: device.rid, pasid });
}

/** DMA of `device` with `pasid` is blocked, and its page requests are answered, on return. Never fails. */
export function deauthorizePasid(device: Device, pasid: number): void {
  if (!device.authorizedPasids.delete(pasid)) return;
  const { group } = device;
  const handle = group.pasidHandles.get(pasid);
  if (handle !== undefined) {
    changePasid(group, pasid, () => {
      blockDevices([device], pasid, handle.domain);
      device.faults.dismiss(handle, pasid);
    });
  }
  if (device.trace.enabled) device.trace.emit({ name: 'deauthorize_pasid', rid: device.rid, pasid });
}

/**
 * Routes `pasid` of a group to `handle.domain`, for every device that is or will be authorised.
 * @throws {SysError} EOPNOTSUPP the domain cannot be attached to a PASID; EINVAL a domain of another driver, PASID 0 or
 * one that a device of the group cannot issue; EBUSY routed already, or a device is being reset; the driver's errors
 */
export function routePasid(group: IommuGroup, pasid: number, handle: AttachHandle): void {
  const call = 'iommu_route_pasid';
  checkPasidDomain(group, handle.domain, call);
  checkPasid(group, pasid, call);
  if (group.pasidHandles.has(pasid)) throw new SysError('EBUSY', call, `PASID ${pasid} is routed`);
  const devices = authorizedDevices(group, pasid);
  changePasid(group, pasid, () => {
    moveDevices(devices, pasid, handle.domain, null);
    group.pasidHandles.set(pasid, handle);
    const left = devices.filter((device) => !device.authorizedPasids.has(pasid));
    blockDevices(left, pasid, handle.domain);
  });
}

/** Takes the route away: DMA of every device with `pasid` is blocked on return. Never fails. */
export function unroutePasid(group: IommuGroup, pasid: number): void {
  const handle = group.pasidHandles.get(pasid);
  if (handle === undefined) return;
  changePasid(group, pasid, () => {
    blockDevices(authorizedDevices(group, pasid), pasid, handle.domain);
    if (group.pasidHandles.get(pasid) === handle) group.pasidHandles.delete(pasid);
    for (const device of group.devices) device.faults.dismiss(handle, pasid);
  });
}

/** Carries a change of a PASID's halves out; while it waits for hardware the PASID is named, and no half of it is added. */
export function changePasid(group: IommuGroup, pasid: number, change: () => void): void {
  const { changing } = group;
  changing.set(pasid, (changing.get(pasid) ?? 0) + 1);
  try {
    change();
  } finally {
    const left = changing.get(pasid)! - 1;
    if (left > 0) changing.set(pasid, left);
    else changing.delete(pasid);
  }
}

/** Devices of the group that may issue `pasid`. */
export function authorizedDevices(group: IommuGroup, pasid: number): Device[] {
  return group.devices.filter((device) => device.authorizedPasids.has(pasid));
}

/** @throws {SysError} EOPNOTSUPP, EINVAL */
export function checkPasidDomain(group: IommuGroup, domain: Domain, call: string): void {
  if (group.driver.attachPasid === null || !domain.scopes.includes('pasid')) {
    throw new SysError('EOPNOTSUPP', call, `a ${domain.kind} domain of ${domain.driver.name} takes no PASID`);
  }
  if (domain.driver !== group.driver) {
    throw new SysError('EINVAL', call, `domain ${domain.id} is of ${domain.driver.name}, not ${group.driver.name}`);
  }
}

/** @throws {SysError} EINVAL, EBUSY, in the order in which the kernel checks */
export function checkPasid(group: IommuGroup, pasid: number, call: string): void {
  if (group.driver.attachPasid === null) throw new SysError('EOPNOTSUPP', call, `${group.driver.name} has no PASIDs`);
  if (!Number.isSafeInteger(pasid) || pasid <= 0) throw new SysError('EINVAL', call, `PASID ${pasid}`);
  if (group.recovering) throw new SysError('EBUSY', call, `a device of group ${group.id} is being reset`);
  for (const device of group.pasidDevices) {
    if (pasid >= device.maxPasids) {
      throw new SysError('EINVAL', call, `${device.name} issues PASIDs below ${device.maxPasids}, not ${pasid}`);
    }
  }
  if (group.ridScope === 'all-pasids') {
    throw new SysError('EINVAL', call, `domain ${group.domain.id} takes every PASID of group ${group.id}`);
  }
  if (group.changing.has(pasid)) throw new SysError('EBUSY', call, `PASID ${pasid} of group ${group.id} is changing`);
}

/** Moves all devices to `domain`, or leaves all at `old` (null: nothing). @throws {SysError} the driver's errors */
export function moveDevices(devices: readonly Device[], pasid: number, domain: Domain, old: Domain | null): void {
  const done: Device[] = [];
  try {
    for (const device of devices) {
      device.driver.attachPasid!(domain, device, pasid, old);
      done.push(device);
      traceMove(device, pasid, domain, old);
    }
  } catch (error) {
    for (const device of done.reverse()) moveBack(device, pasid, old ?? device.driver.blockedDomain, domain);
    throw error;
  }
}

/** What cannot go back, because the device has stopped answering, is blocked. */
function moveBack(device: Device, pasid: number, old: Domain, domain: Domain): void {
  let back = old;
  try {
    device.driver.attachPasid!(back, device, pasid, domain);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    back = device.driver.blockedDomain;
    device.driver.attachPasid!(back, device, pasid, domain);
  }
  traceMove(device, pasid, back, domain);
}

/** Clears and drains the entries of all devices. Never fails. */
export function blockDevices(devices: readonly Device[], pasid: number, old: Domain): void {
  for (const device of devices) {
    if (device.inReset) continue;
    device.driver.attachPasid!(device.driver.blockedDomain, device, pasid, old);
    traceMove(device, pasid, device.driver.blockedDomain, old);
  }
}

function traceMove(device: Device, pasid: number, domain: Domain, old: Domain | null): void {
  const { trace, rid } = device;
  if (!trace.enabled) return;
  if (old !== null) trace.emit({ name: 'detach_device_from_domain', rid, pasid, domain: old.id, kind: old.kind });
  if (domain.kind !== 'blocked') {
    trace.emit({ name: 'attach_device_to_domain', rid, pasid, domain: domain.id, kind: domain.kind });
  }
}
