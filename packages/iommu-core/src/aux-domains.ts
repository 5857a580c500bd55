/**
 * Auxiliary domains as proposed in February 2019: many domains on one device, each for a part of it that is given away
 * on its own and tags its DMA with the domain's PASID (Linux 5.2 to 5.17: iommu_aux_attach_device and relatives,
 * drivers/iommu/iommu.c; what VT-d did: aux_domain_add_dev, drivers/iommu/intel/iommu.c).
 *
 * A façade on the two halves of a PASID attachment (authorization.ts): the domain's PASID is routed once in each group
 * and authorised for each device. What is kept here is what the proposal adds: the PASID that a domain has on all its
 * devices, from its first attach to its last detach, and how often it is attached to each.
 *
 * Not as VT-d had it: a PASID that is given back is forgotten, and told for devices of the domain only; a device that
 * cannot issue a domain's PASID is refused;
 * disabling the feature is refused while domains are attached; and it is these, not the feature, that keep a domain
 * from being attached to the whole device (attach.ts).
 */

import type { AttachHandle } from './attach-handle.ts';
import { authorizePasid, checkPasidDomain, deauthorizePasid, routePasid, unroutePasid } from './authorization.ts';
import type { Device } from './device.ts';
import type { Domain } from './domain.ts';
import { SysError } from './errno.ts';
import { checkKernelOwned, featureEnabled } from './features.ts';
import type { GlobalPasids } from './global-pasids.ts';
import type { IommuGroup } from './group.ts';
import { isUnused } from './pasid-attach.ts';

/** A domain in one group: how often it is attached to each device. */
type AuxHandle = AttachHandle & { readonly auxiliary: Map<Device, number> };

type AuxDomain = { readonly pasid: number; readonly groups: Map<IommuGroup, AuxHandle> };

export class AuxDomains {
  private readonly pasids: GlobalPasids;
  private readonly attached = new Map<Domain, AuxDomain>();

  constructor(pasids: GlobalPasids) {
    this.pasids = pasids;
  }

  /**
   * Attaches `domain` to `device` beside others. A domain that is there already is counted once more.
   * @throws {SysError} in this order: ENODEV the domain's driver has no aux domains; EPERM the feature `aux` is not
   * enabled, the domain is not an unmanaged one, or the DMA of the device's group is a user's; EINVAL a domain of
   * another driver; ENODEV no PASID left; EINVAL the device, or one of its group, cannot issue the domain's PASID; EBUSY
   * others use that PASID in the group, or a device is being reset; ENOMEM; and the driver's errors
   */
  attach(domain: Domain, device: Device): void {
    const call = 'iommu_aux_attach_device';
    checkOperations(domain, call);
    if (!featureEnabled(device, 'aux') || domain.kind !== 'unmanaged') {
      throw new SysError('EPERM', call, `a ${domain.kind} domain as auxiliary domain of ${device.name}`);
    }
    checkKernelOwned(device, call);
    checkPasidDomain(device.group, domain, call);
    const own = this.attached.get(domain) ?? this.open(domain, device, call);
    try {
      enter(own, domain, device, call);
    } catch (error) {
      if (own.groups.size === 0 && this.attached.get(domain) === own) {
        this.attached.delete(domain);
        this.pasids.free(own.pasid);
      }
      throw error;
    }
  }

  /**
   * Undoes one attach; what is not attached stays so. With the last of the device its DMA is blocked and drained, and
   * with the last of all the domain has no PASID any more. Never fails.
   */
  detach(domain: Domain, device: Device): void {
    const own = this.attached.get(domain);
    const counts = own?.groups.get(device.group)?.auxiliary;
    const users = counts?.get(device) ?? 0;
    if (users > 1) counts!.set(device, users - 1);
    else if (users === 1) this.leave(own!, domain, device);
  }

  /** The device is going away. Never fails. */
  detachAll(device: Device): void {
    for (const [domain, own] of this.attached) {
      if (own.groups.get(device.group)?.auxiliary.has(device) === true) this.leave(own, domain, device);
    }
  }

  /**
   * What `device` must tag its DMA with to reach `domain`.
   * @throws {SysError} ENODEV the domain's driver has no aux domains; EINVAL it is not attached to the device
   */
  pasid(domain: Domain, device: Device): number {
    const call = 'iommu_aux_get_pasid';
    checkOperations(domain, call);
    const own = this.attached.get(domain);
    if (own?.groups.get(device.group)?.auxiliary.has(device) === true) return own.pasid;
    throw new SysError('EINVAL', call, `domain ${domain.id} is not attached to ${device.name}`);
  }

  /** What goes is out of the record before anything waits: whoever attaches meanwhile does not find it. */
  private leave(own: AuxDomain, domain: Domain, device: Device): void {
    const { group } = device;
    const { pasid, groups } = own;
    const isLastOfGroup = takeOut(own, device);
    const isLast = groups.size === 0;
    if (isLast) this.attached.delete(domain);
    deauthorizePasid(device, pasid);
    if (isLastOfGroup) unroutePasid(group, pasid);
    if (isLast) this.pasids.free(pasid);
  }

  /** @throws {SysError} ENODEV, ENOMEM */
  private open(domain: Domain, device: Device, call: string): AuxDomain {
    const own: AuxDomain = { pasid: this.allocate(device, call), groups: new Map() };
    this.attached.set(domain, own);
    return own;
  }

  /**
   * A PASID that every device of the group can issue and that nobody names anywhere: the domain may be attached to other
   * groups too, and what is given back after a failure must not be parked.
   * @throws {SysError} ENODEV, ENOMEM
   */
  private allocate({ group, maxPasids }: Device, call: string): number {
    const end = Math.min(maxPasids, ...group.pasidDevices.map((member) => member.maxPasids));
    try {
      return this.pasids.allocate({ end, usable: (pasid) => isUnused(group, pasid), unnamed: true });
    } catch (error) {
      if (!(error instanceof SysError) || error.code !== 'ENOSPC') throw error;
      throw new SysError('ENODEV', call, `no PASID is left for group ${group.id}: ${error.message}`);
    }
  }
}

/**
 * Makes what is missing of both halves, or nothing. It is in the record before anything waits, so that it can be counted
 * and detached meanwhile. @throws {SysError} EINVAL, EBUSY, ENOMEM, the driver's errors
 */
function enter(own: AuxDomain, domain: Domain, device: Device, call: string): void {
  const { group } = device;
  const { pasid, groups } = own;
  const present = groups.get(group);
  const users = present?.auxiliary.get(device) ?? 0;
  if (present !== undefined && users > 0) {
    if (!device.authorizedPasids.has(pasid)) {
      throw new SysError('EBUSY', call, `domain ${domain.id} is being attached to ${device.name}`);
    }
    present.auxiliary.set(device, users + 1);
    return;
  }
  device.kernel.checkpoint('aux_attach');
  const handle: AuxHandle = present ?? { domain, auxiliary: new Map() };
  if (present === undefined) {
    // A device that somebody else has authorised for this PASID would reach the domain.
    if (!isUnused(group, pasid)) throw new SysError('EBUSY', call, `PASID ${pasid} of group ${group.id} is in use`);
    routePasid(group, pasid, handle);
  }
  handle.auxiliary.set(device, 1);
  groups.set(group, handle);
  try {
    authorizePasid(device, pasid);
  } catch (error) {
    if (handle.auxiliary.has(device) && takeOut(own, device)) unroutePasid(group, pasid);
    throw error;
  }
  if (handle.auxiliary.has(device)) return;
  deauthorizePasid(device, pasid);
  throw new SysError('EBUSY', call, `domain ${domain.id} was detached from ${device.name} meanwhile`);
}

/** Takes a device out of the record of its group. True when it was the last there. */
function takeOut({ groups }: AuxDomain, device: Device): boolean {
  const { auxiliary } = groups.get(device.group)!;
  auxiliary.delete(device);
  return auxiliary.size === 0 && groups.delete(device.group);
}

/** @throws {SysError} ENODEV */
function checkOperations({ driver, scopes, kind }: Domain, call: string): void {
  if (driver.features !== null && driver.attachPasid !== null && scopes.includes('pasid')) return;
  throw new SysError('ENODEV', call, `a ${kind} domain of ${driver.name} cannot be an auxiliary one`);
}
