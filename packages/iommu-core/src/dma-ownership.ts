/**
 * Who decides where a group's DMA goes: kernel drivers, which share the default domain, or one user at a time (Linux:
 * iommu_device_use_default_domain and iommu_device_claim_dma_owner, drivers/iommu/iommu.c).
 */

import { setCoreDomain, setGroupDomain } from './attach.ts';
import type { Device } from './device.ts';
import { SysError } from './errno.ts';
import type { IommuGroup } from './group.ts';

/**
 * A kernel driver starts to use the default domain.
 * @throws {SysError} EBUSY somebody owns the group's DMA, or it is not at its default domain, or PASIDs are attached
 */
export function useDefaultDomain(device: Device): void {
  const { group } = device;
  checkAtDefault(group, 'iommu_device_use_default_domain');
  if (group.owner !== null) {
    throw new SysError('EBUSY', 'iommu_device_use_default_domain', `the DMA of group ${group.id} has an owner`);
  }
  group.ownerCount++;
}

/** The kernel driver of `device` is done with the default domain. */
export function unuseDefaultDomain(device: Device): void {
  device.group.ownerCount--;
}

/**
 * `owner`, any object that stands for a user, takes the DMA of the device's group, which is blocked until the owner
 * attaches something. The same owner may claim again, for each of its devices.
 * @throws {SysError} EPERM another owner has it, or kernel drivers use it; EBUSY it is not at its default domain, or
 * PASIDs are attached; EINVAL a device's memory must stay mapped one to one
 */
export function claimDmaOwner(device: Device, owner: object): void {
  const call = 'iommu_device_claim_dma_owner';
  const { group } = device;
  if (group.ownerCount > 0) {
    if (group.owner !== owner) throw new SysError('EPERM', call, `the DMA of group ${group.id} is in other hands`);
    group.ownerCount++;
    return;
  }
  checkAtDefault(group, call);
  setGroupDomain(group, group.blockingDomain, call);
  group.owner = owner;
  group.ownerCount = 1;
}

/** Undoes one claim; with the last the group is back at its default domain. Never fails. */
export function releaseDmaOwner(device: Device): void {
  const { group } = device;
  if (--group.ownerCount > 0) return;
  group.owner = null;
  setCoreDomain(group);
}

function checkAtDefault(group: IommuGroup, call: string): void {
  if (group.owner === null && group.domain !== group.defaultDomain) {
    throw new SysError('EBUSY', call, `group ${group.id} is attached to domain ${group.domain.id}`);
  }
  const pasid = group.pasidHandles.keys().next().value;
  if (pasid !== undefined) throw new SysError('EBUSY', call, `PASID ${pasid} of group ${group.id} is attached`);
}
