/**
 * Shared virtual addressing: a device uses a process's addresses (Linux: drivers/iommu/iommu-sva.c).
 *
 * An address space has one global PASID on all devices, from its first bind to its last unbind. Its domains walk the
 * process's own page table; page requests are resolved as the CPU's faults are, in kernel work.
 */

import { PRG_INVALID_REQUEST, PRG_RESPONSE_FAILURE, PRG_SUCCESS } from '@iommukit/hw';
import type { AttachHandle } from './attach-handle.ts';
import type { Device } from './device.ts';
import type { SvaDomain } from './domain.ts';
import { SysError } from './errno.ts';
import type { GlobalPasids } from './global-pasids.ts';
import type { FaultGroup } from './page-fault.ts';
import { attachDevicePasid, detachDevicePasid, isUnused } from './pasid-attach.ts';
import type { AddressSpace } from './process/address-space.ts';

/** One device's use of one address space; from `bind`, given back by as many `unbind`. */
export type SvaHandle = AttachHandle & {
  readonly device: Device;
  readonly addressSpace: AddressSpace;
  readonly domain: SvaDomain;
  /** What the device, or ENQCMD, tags its DMA with. */
  readonly pasid: number;
};

type Binding = SvaHandle & { users: number };

type SharedSpace = {
  readonly pasid: number;
  readonly bindings: Binding[];
};

export class Sva {
  private readonly pasids: GlobalPasids;
  private readonly spaces = new Map<number, SharedSpace>();
  /** Every domain there is, one that is being attached for the first time included. */
  private readonly domains = new Set<SvaDomain>();

  constructor(pasids: GlobalPasids) {
    this.pasids = pasids;
  }

  /** The PASID of an address space, or null while nothing is bound to it. */
  pasidOf(addressSpace: AddressSpace): number | null {
    return this.spaces.get(addressSpace.id)?.pasid ?? null;
  }

  /**
   * Gives `device` the addresses of a process.
   * @throws {SysError} ENODEV no page table for hardware to walk, or no PASIDs; EOVERFLOW the PASID of the address space
   * is above what the device can issue; ENOSPC no PASID left; EBUSY a bind or unbind of the device is under way; and the
   * errors of attachDevicePasid
   */
  bind(device: Device, addressSpace: AddressSpace): SvaHandle {
    const call = 'iommu_sva_bind_device';
    const { group } = device;
    if (device.maxPasids === 0) throw new SysError('ENODEV', call, `${device.name} has no PASIDs`);
    if (addressSpace.rootPfn === null) {
      throw new SysError('ENODEV', call, `address space ${addressSpace.id} has no page table`);
    }
    let space = this.spaces.get(addressSpace.id);
    if (space !== undefined && space.pasid >= device.maxPasids) {
      throw new SysError('EOVERFLOW', call, `PASID ${space.pasid} is above the limit of ${device.name}`);
    }
    const present = space?.bindings.find((binding) => binding.device.group === group);
    if (present !== undefined) {
      if (group.changing.has(present.pasid)) {
        throw new SysError('EBUSY', call, `PASID ${present.pasid} of ${device.name} is changing`);
      }
      present.users++;
      return present;
    }
    if (space === undefined) {
      const usable = (pasid: number): boolean => isUnused(group, pasid);
      space = { pasid: this.pasids.allocate({ end: device.maxPasids, usable, unnamed: true }), bindings: [] };
      this.spaces.set(addressSpace.id, space);
    }
    try {
      return this.attach(device, addressSpace, space);
    } catch (error) {
      this.closeUnused(addressSpace.id, space);
      throw error;
    }
  }

  /** Undoes one bind. With the last of the device its DMA is blocked and drained; with the last of all the PASID is free. */
  unbind(handle: SvaHandle): void {
    const space = this.spaces.get(handle.addressSpace.id);
    const binding = space?.bindings.find((candidate) => candidate === handle);
    if (space === undefined || binding === undefined || --binding.users > 0) return;
    detachDevicePasid(binding.device, binding.pasid);
    this.remove(space, binding);
    this.closeUnused(handle.addressSpace.id, space);
  }

  /**
   * The kernel is about to free page tables of its own half, [start, last], which the tables of all processes share:
   * every device forgets them, whatever process it has cached them through (Linux 7.x: iommu_sva_invalidate_kva_range).
   */
  invalidateKernelRange(start: bigint, last: bigint): void {
    for (const domain of this.domains) domain.flush(start, last);
  }

  /** Attaches a domain that the address space already has for this kind of device, or a new one. */
  private attach(device: Device, addressSpace: AddressSpace, space: SharedSpace): Binding {
    for (const domain of new Set(space.bindings.map((binding) => binding.domain))) {
      if (domain.driver !== device.driver) continue;
      try {
        return this.enter(device, addressSpace, space, domain);
      } catch (error) {
        if (!(error instanceof SysError) || error.code !== 'EINVAL') throw error;
      }
    }
    const domain = device.driver.allocSva(device, addressSpace);
    this.domains.add(domain);
    domain.faultHandler = (group) => queueFaults(group, addressSpace);
    return this.enter(device, addressSpace, space, domain);
  }

  /** The binding is there before the attach waits, so that its domain stays whoever unbinds meanwhile. */
  private enter(device: Device, addressSpace: AddressSpace, space: SharedSpace, domain: SvaDomain): Binding {
    const binding: Binding = { device, addressSpace, domain, pasid: space.pasid, users: 1 };
    space.bindings.push(binding);
    try {
      attachDevicePasid(device, space.pasid, binding);
      return binding;
    } catch (error) {
      this.remove(space, binding);
      throw error;
    }
  }

  /** Takes a binding that is not attached out, and its domain with the last that has it. */
  private remove(space: SharedSpace, binding: Binding): void {
    const index = space.bindings.indexOf(binding);
    if (index >= 0) space.bindings.splice(index, 1);
    const { domain } = binding;
    if (!this.domains.has(domain) || space.bindings.some((other) => other.domain === domain)) return;
    this.domains.delete(domain);
    domain.free();
  }

  /** Gives the PASID of an address space back that is bound to nothing. */
  private closeUnused(id: number, space: SharedSpace): void {
    if (space.bindings.length > 0 || this.spaces.get(id) !== space) return;
    this.spaces.delete(id);
    this.pasids.free(space.pasid);
  }
}

function queueFaults(group: FaultGroup, addressSpace: AddressSpace): void {
  group.device.kernel.queueWork(() => {
    if (group.isPending) group.respond(resolve(group, addressSpace));
  });
}

/** Faults in the pages of a group, in order; the first that cannot be ends it. */
function resolve(group: FaultGroup, addressSpace: AddressSpace): number {
  for (const fault of group.faults) {
    try {
      if (!addressSpace.handleFault(fault.address, fault.access)) return PRG_INVALID_REQUEST;
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      return PRG_RESPONSE_FAILURE;
    }
  }
  return PRG_SUCCESS;
}
