/**
 * Attaching, replacing and detaching what a group's requests without PASID reach (Linux: iommu_attach_group_handle and
 * relatives, drivers/iommu/iommu.c). An attachment takes a scope: such requests only, or those of every PASID as well.
 */

import { NO_PASID } from '@iommukit/hw';
import type { AttachHandle } from './attach-handle.ts';
import type { Device } from './device.ts';
import type { Domain } from './domain.ts';
import { SysError } from './errno.ts';
import type { IommuGroup } from './group.ts';

/** What the fabric cannot tell apart from a request without PASID, or everything of the requester. */
export type RidScope = 'rid' | 'all-pasids';

/**
 * Attaches `handle.domain` to a group that is at its default or blocking domain.
 * @throws {SysError} EOPNOTSUPP the domain cannot be attached with this scope; EBUSY an attachment is there, aux domains
 * are attached, PASIDs are and the scope takes them all, or a device is being reset; EPERM a device's feature `aux`
 * refuses unmanaged domains; EINVAL the domain does not fit; and the driver's errors
 */
export function attachGroup(group: IommuGroup, handle: AttachHandle, scope: RidScope = 'rid'): void {
  const call = 'iommu_attach_group_handle';
  checkScope(group, handle.domain, scope, call);
  if (group.ridHandle !== null) throw new SysError('EBUSY', call, `group ${group.id} has an attachment`);
  if (group.domain !== group.defaultDomain && group.domain !== group.blockingDomain) {
    throw new SysError('EBUSY', call, `group ${group.id} is attached to domain ${group.domain.id}`);
  }
  checkAuxiliary(group, handle.domain, call);
  setGroupDomain(group, handle.domain, call);
  group.ridHandle = handle;
  group.ridScope = scope;
}

/**
 * Moves a group from whatever it is attached to over to `handle.domain`, without a moment of being attached to
 * neither. On failure the old attachment is as before.
 * @throws {SysError} as `attachGroup`
 */
export function replaceGroup(group: IommuGroup, handle: AttachHandle, scope: RidScope = 'rid'): void {
  const call = 'iommu_replace_group_handle';
  checkScope(group, handle.domain, scope, call);
  checkAuxiliary(group, handle.domain, call);
  setGroupDomain(group, handle.domain, call);
  const old = group.ridHandle;
  group.ridHandle = handle;
  group.ridScope = scope;
  if (old !== null) for (const device of group.devices) device.faults.dismiss(old, NO_PASID);
}

/** Back to the blocking domain when the group has an owner, else to the default one. Never fails. */
export function detachGroup(group: IommuGroup): void {
  const old = group.ridHandle;
  setCoreDomain(group);
  group.ridHandle = null;
  group.ridScope = 'rid';
  if (old !== null) for (const device of group.devices) device.faults.dismiss(old, NO_PASID);
}

/** Moves a group to the domain it has while nobody attaches one. Never fails. */
export function setCoreDomain(group: IommuGroup): void {
  const domain = group.owner === null ? group.defaultDomain : group.blockingDomain;
  const old = group.domain;
  group.domain = domain;
  if (old === domain) return;
  for (const device of group.devices) {
    if (device.inReset) continue;
    attachOrBlock(device, domain, old);
  }
}

/**
 * Attaches every device of the group, or none.
 * @throws {SysError} EBUSY during a reset; EINVAL for a domain of another driver; the driver's errors
 */
export function setGroupDomain(group: IommuGroup, domain: Domain, call: string): void {
  if (domain.driver !== group.driver) {
    throw new SysError('EINVAL', call, `domain ${domain.id} is of ${domain.driver.name}, not ${group.driver.name}`);
  }
  if (group.recovering) throw new SysError('EBUSY', call, `a device of group ${group.id} is being reset`);
  if (group.requiresDirect && domain.kind === 'blocked') {
    throw new SysError('EINVAL', call, `group ${group.id} has regions that must stay mapped one to one`);
  }
  const old = group.domain;
  if (old === domain) return;
  const done: Device[] = [];
  try {
    for (const device of group.devices) {
      attachDevice(device, domain, old);
      done.push(device);
    }
  } catch (error) {
    for (const device of done.reverse()) attachOrBlock(device, old, domain);
    throw error;
  }
  group.domain = domain;
}

/** A step that cannot be refused: what cannot be attached is blocked. */
function attachOrBlock(device: Device, domain: Domain, old: Domain): void {
  try {
    attachDevice(device, domain, old);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    attachDevice(device, device.group.blockingDomain, old);
  }
}

/** One device's share of an attachment. @throws {SysError} the driver's errors */
export function attachDevice(device: Device, domain: Domain, old: Domain): void {
  device.driver.attach(domain, device, old);
  const { trace } = device;
  if (!trace.enabled) return;
  const where = { rid: device.rid, pasid: NO_PASID };
  if (old.kind !== 'blocked')
    trace.emit({ name: 'detach_device_from_domain', ...where, domain: old.id, kind: old.kind });
  trace.emit({ name: 'attach_device_to_domain', ...where, domain: domain.id, kind: domain.kind });
}

function checkScope(group: IommuGroup, domain: Domain, scope: RidScope, call: string): void {
  if (!domain.scopes.includes(scope)) {
    throw new SysError('EOPNOTSUPP', call, `a ${domain.kind} domain cannot be attached with scope ${scope}`);
  }
  if (
    scope === 'all-pasids' &&
    (group.pasidHandles.size > 0 || group.devices.some((d) => d.authorizedPasids.size > 0))
  ) {
    throw new SysError('EBUSY', call, `PASIDs of group ${group.id} are in use`);
  }
}

/** A device may not be given away as a whole while parts of it are. @throws {SysError} EPERM, EBUSY */
function checkAuxiliary(group: IommuGroup, domain: Domain, call: string): void {
  const strict = group.devices.find((device) => device.features.get('aux')?.refusePrimary === true);
  if (strict !== undefined && domain.kind === 'unmanaged') {
    throw new SysError('EPERM', call, `${strict.name} takes auxiliary domains only, not domain ${domain.id}`);
  }
  for (const [pasid, { auxiliary, domain: other }] of group.pasidHandles) {
    if (auxiliary === undefined) continue;
    throw new SysError('EBUSY', call, `aux domain ${other.id} is attached to group ${group.id} at PASID ${pasid}`);
  }
}
