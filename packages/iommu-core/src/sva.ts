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
   * is above what the device can issue; ENOSPC no PASID left; and the errors of attachDevicePasid
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
      present.users++;
      return present;
    }
    const fresh = space === undefined;
    // A PASID that a user has attached, routed or authorised on this device cannot become the address space's.
    space ??= {
      pasid: this.pasids.allocate({ end: device.maxPasids, usable: (pasid) => isUnused(group, pasid) }),
      bindings: [],
    };
    try {
      space.bindings.push(attachBinding(device, addressSpace, space));
    } catch (error) {
      if (fresh) this.pasids.free(space.pasid);
      throw error;
    }
    this.spaces.set(addressSpace.id, space);
    return space.bindings[space.bindings.length - 1]!;
  }

  /** Undoes one bind. With the last of the device its DMA is blocked and drained; with the last of all the PASID is free. */
  unbind(handle: SvaHandle): void {
    const space = this.spaces.get(handle.addressSpace.id);
    const binding = space?.bindings.find((candidate) => candidate === handle);
    if (space === undefined || binding === undefined || --binding.users > 0) return;
    detachDevicePasid(binding.device, binding.pasid);
    space.bindings.splice(space.bindings.indexOf(binding), 1);
    if (!space.bindings.some((other) => other.domain === binding.domain)) binding.domain.free();
    if (space.bindings.length > 0) return;
    this.spaces.delete(handle.addressSpace.id);
    this.pasids.free(space.pasid);
  }

  /**
   * The kernel is about to free page tables of its own half, [start, last], which the tables of all processes share:
   * every device forgets them, whatever process it has cached them through (Linux 7.x: iommu_sva_invalidate_kva_range).
   */
  invalidateKernelRange(start: bigint, last: bigint): void {
    const domains = new Set<SvaDomain>();
    for (const { bindings } of this.spaces.values()) for (const { domain } of bindings) domains.add(domain);
    for (const domain of domains) domain.flush(start, last);
  }
}

/** Attaches a domain that the address space already has for this kind of device, or a new one. */
function attachBinding(device: Device, addressSpace: AddressSpace, space: SharedSpace): Binding {
  for (const { domain } of space.bindings) {
    if (domain.driver !== device.driver) continue;
    const binding: Binding = { device, addressSpace, domain, pasid: space.pasid, users: 1 };
    try {
      attachDevicePasid(device, space.pasid, binding);
      return binding;
    } catch (error) {
      if (!(error instanceof SysError) || error.code !== 'EINVAL') throw error;
    }
  }
  const domain = device.driver.allocSva(device, addressSpace);
  domain.faultHandler = (group) => queueFaults(group, addressSpace);
  const binding: Binding = { device, addressSpace, domain, pasid: space.pasid, users: 1 };
  try {
    attachDevicePasid(device, space.pasid, binding);
  } catch (error) {
    domain.free();
    throw error;
  }
  return binding;
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
