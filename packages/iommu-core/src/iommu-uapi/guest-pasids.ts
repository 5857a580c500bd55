/**
 * Binding the page table of a guest's process to a PASID of a device, as Linux 5.17 had it, with the references and
 * notifications of the V4 proposal for IOASIDs, February 2021 (iommu_uapi_sva_bind_gpasid, drivers/iommu/iommu.c;
 * intel_svm_bind_gpasid, drivers/iommu/intel/svm.c).
 *
 * A façade: a bind is a nested domain on the paging domain that the device has without PASID, attached at the host's
 * PASID. That domain must be a nest parent, and whoever frees it unbinds first. All that is kept here is who bound what,
 * because the interface has no object for it: a bind is named by device and PASID, and owned by an address space.
 *
 * A PASID may be bound on several devices. While it is bound on any it has the guest's PASID, if one was given, as its
 * SPID, and each bind holds a reference on it. When an owner frees a PASID that is bound, or exits, everything is taken
 * down here; nobody needs to unbind.
 *
 * Every change waits for hardware, and queued work that runs meanwhile may make others: bind and unbind elsewhere, free
 * the PASID, end the process. So what is kept of a PASID lasts from before its first bind until after its last, and a
 * bind looks again when it has waited.
 */

import type { AttachHandle } from '../attach-handle.ts';
import type { Device } from '../device.ts';
import type { NestedDomain, PagingDomain } from '../domain.ts';
import { SysError } from '../errno.ts';
import { HWPT_DATA_VTD_S1, VTD_S1_EAFE, VTD_S1_SRE, VTD_S1_WPE, vtdS1 } from '../intel/vtd-s1.ts';
import { INVALID_IOASID } from '../ioasid/ioasid.ts';
import type { IoasidSet } from '../ioasid/ioasid-set.ts';
import type { Ioasids } from '../ioasid/ioasids.ts';
import { IOASID_PRIO_IOMMU } from '../ioasid/notifier-chain.ts';
import { ALLOC_PASID } from '../iommu-driver.ts';
import type { Kernel } from '../kernel.ts';
import { attachDevicePasid, detachDevicePasid, isUnused } from '../pasid-attach.ts';
import type { AddressSpace, AddressSpaceNotifier } from '../process/address-space.ts';
import type { UserData } from '../user-data.ts';
import { checkDriver } from './check-driver.ts';
import type { DeviceFaults } from './device-faults.ts';
import * as uapi from './layout.ts';
import { copyStruct } from './user-struct.ts';

const BIND = 'iommu_sva_bind_gpasid';
const UNBIND = 'iommu_sva_unbind_gpasid';
/** The only number of PASIDs that VT-d's guest binds work with. */
const PASID_MAX = 2 ** 20;
/** Bytes that must be there; what follows is the vendor's. */
const BIND_MIN_SIZE = uapi.iommuGpasidBindData.offset('vtdFlags');

/** One bind: the guest's page table behind a PASID of a device. */
export type GuestPasid = AttachHandle & {
  readonly device: Device;
  readonly domain: NestedDomain;
  readonly hostPasid: number;
  /** Whose it is. */
  readonly mm: AddressSpace;
};

/** All binds of one PASID, from before the first until after the last. */
type Binding = {
  readonly hostPasid: number;
  readonly mm: AddressSpace;
  readonly set: IoasidSet;
  binds: GuestPasid[];
  /** Those being made; one that is taken out meanwhile does not become a bind. */
  readonly coming: Set<GuestPasid>;
  /** Binds, those being made and those being taken down. */
  users: number;
  /** The SPID that goes with the last of them, because a bind attached it; INVALID_IOASID for none. */
  spid: number;
  readonly notifier: AddressSpaceNotifier;
};

export class GuestPasids {
  private readonly kernel: Kernel;
  private readonly ioasids: Ioasids;
  private readonly faults: DeviceFaults;
  private readonly bindings = new Map<number, Binding>();

  constructor(kernel: Kernel, ioasids: Ioasids, faults: DeviceFaults) {
    this.kernel = kernel;
    this.ioasids = ioasids;
    this.faults = faults;
    ioasids.registerNotifier(null, {
      priority: IOASID_PRIO_IOMMU,
      notify: ({ kind, id }) => {
        if (kind === 'free') this.clearLater(id);
      },
    });
  }

  /** Binds that exist. */
  get size(): number {
    let size = 0;
    for (const { binds } of this.bindings.values()) size += binds.length;
    return size;
  }

  /** The bind of a PASID on `device`, or null. */
  find(device: Device, hostPasid: number): GuestPasid | null {
    return this.bindings.get(hostPasid)?.binds.find((bind) => bind.device === device) ?? null;
  }

  /**
   * Puts the page table at guest-physical `data.gpgd` behind PASID `data.hpasid` of `device`, for the process that owns
   * the PASID. Page requests then go to the device's fault handler, under the host's PASID.
   *
   * A bind whose ground goes while it waits for hardware is undone and refused as if it had gone before: of a process
   * that ends EINVAL, of a PASID that is freed EBUSY, of a device that is released ENODEV.
   * @throws {SysError} ENODEV the driver has no PASIDs; EINVAL a version, format, size, flag or padding that this
   * interface does not have, a device without 20 bits of PASIDs or in a group with others, a PASID out of range, a
   * process that has ended, a device that is not attached to a nest parent, a table beyond what that maps, an address
   * width or a flag that the unit does not have, or a guest PASID that is another's in the set, or not the one that the
   * PASID has already; ENOENT, EINVAL, EPERM no such PASID, none of a process, or another process's; EBUSY the PASID is
   * freed, or in use on this device; and what attachDevicePasid refuses
   */
  bind(device: Device, mm: AddressSpace, data: uapi.GpasidBindData): void {
    checkDriver(device, BIND);
    checkData(data, BIND);
    checkVtdData(data, BIND);
    checkDevice(device, BIND);
    const hostPasid = checkPasid(data.hpasid, BIND);
    checkAlive(mm);
    this.kernel.checkpoint('gpasid_bind');
    this.ioasids.getIfOwned(hostPasid, mm);
    try {
      this.attach(device, mm, hostPasid, data);
    } catch (error) {
      this.ioasids.put(null, hostPasid);
      throw error;
    }
  }

  /**
   * Undoes one bind: DMA of `device` with the PASID is blocked, its page requests are answered, on return.
   * @throws {SysError} ENODEV, EINVAL, EPERM as `bind`; ENOENT nothing is bound there (Linux 5.17: success)
   */
  unbind(device: Device, mm: AddressSpace, hostPasid: number): void {
    checkDriver(device, UNBIND);
    checkPasid(hostPasid, UNBIND);
    const binding = this.bindings.get(hostPasid);
    const bind = this.find(device, hostPasid);
    if (binding === undefined || bind === null) {
      this.ioasids.getIfOwned(hostPasid, mm);
      this.ioasids.put(null, hostPasid);
      throw new SysError('ENOENT', UNBIND, `PASID ${hostPasid} is not bound on ${device.name}`);
    }
    if (binding.mm !== mm) {
      throw new SysError('EPERM', UNBIND, `PASID ${hostPasid} is of address space ${binding.mm.id}, not ${mm.id}`);
    }
    this.end(binding, [bind]);
  }

  /** `bind` with a struct iommu_gpasid_bind_data at `pointer`. @throws {SysError} EFAULT; and as `bind` */
  bindUser(device: Device, mm: AddressSpace, pointer: bigint): void {
    checkDriver(device, BIND);
    this.bind(device, mm, copyStruct(BIND, mm, pointer, uapi.iommuGpasidBindData, BIND_MIN_SIZE));
  }

  /** `unbind` of the PASID in a struct iommu_gpasid_bind_data at `pointer`. @throws {SysError} EFAULT; and as `unbind` */
  unbindUser(device: Device, mm: AddressSpace, pointer: bigint): void {
    checkDriver(device, UNBIND);
    const data = copyStruct(UNBIND, mm, pointer, uapi.iommuGpasidBindData, BIND_MIN_SIZE);
    checkData(data, UNBIND);
    this.unbind(device, mm, checkPasid(data.hpasid, UNBIND));
  }

  /** Undoes every bind of `device`: it goes away, or is taken from its nest parent. Never fails. */
  release(device: Device): void {
    for (const { coming } of this.bindings.values()) {
      for (const bind of coming) if (bind.device === device) coming.delete(bind);
    }
    // Found anew each time: while the hardware is waited for, binds come and go.
    for (let bind = this.bindOf(device); bind !== null; bind = this.bindOf(device)) {
      this.end(this.bindings.get(bind.hostPasid)!, [bind]);
    }
  }

  private bindOf(device: Device): GuestPasid | null {
    for (const { binds } of this.bindings.values()) {
      for (const bind of binds) if (bind.device === device) return bind;
    }
    return null;
  }

  /** With a reference on the PASID in hand. */
  private attach(device: Device, mm: AddressSpace, hostPasid: number, data: uapi.GpasidBindData): void {
    if (this.find(device, hostPasid) !== null) {
      throw new SysError('EBUSY', BIND, `PASID ${hostPasid} is bound on ${device.name}`);
    }
    const parent = nestParent(device);
    if (!isUnused(device.group, hostPasid)) {
      throw new SysError('EBUSY', BIND, `PASID ${hostPasid} of ${device.name} is in use`);
    }
    if (data.gpgd > parent.aperture.last) {
      throw new SysError('EINVAL', BIND, `no table at 0x${data.gpgd.toString(16)} of domain ${parent.id}`);
    }
    this.takesSpid(hostPasid, data);
    const domain = allocNested(device, parent, data);
    const bind: GuestPasid = { device, domain, hostPasid, mm };
    const binding = this.bindings.get(hostPasid) ?? this.open(mm, hostPasid);
    binding.users++;
    binding.coming.add(bind);
    try {
      if (device.capable('page-requests')) domain.faultHandler = this.faults.deliver;
      attachDevicePasid(device, hostPasid, bind);
      this.checkStanding(binding, bind);
      if (this.takesSpid(hostPasid, data)) {
        this.ioasids.attachSpid(hostPasid, Number(data.gpasid));
        binding.spid = Number(data.gpasid);
      }
      binding.binds.push(bind);
    } catch (error) {
      if (device.group.pasidHandles.get(hostPasid) === bind) detachDevicePasid(device, hostPasid);
      domain.free();
      this.leave(binding);
      throw error;
    } finally {
      binding.coming.delete(bind);
    }
  }

  /** What a bind stands on may have gone while the hardware was waited for. @throws {SysError} EINVAL, EBUSY, ENODEV */
  private checkStanding({ coming }: Binding, bind: GuestPasid): void {
    const { mm, hostPasid, device } = bind;
    checkAlive(mm);
    if (this.ioasids.stateOf(hostPasid) === 'free_pending') {
      throw new SysError('EBUSY', BIND, `PASID ${hostPasid} was freed meanwhile`);
    }
    if (!coming.has(bind)) throw new SysError('ENODEV', BIND, `${device.name} was released meanwhile`);
  }

  /** Whether this bind gives the PASID its SPID. @throws {SysError} EINVAL it has another, or another has it */
  private takesSpid(hostPasid: number, { flags, gpasid }: uapi.GpasidBindData): boolean {
    if ((flags & uapi.IOMMU_SVA_GPASID_VAL) === 0n) return false;
    const present = this.ioasids.spidOf(hostPasid);
    if (present !== INVALID_IOASID && BigInt(present) === gpasid) return false;
    if (present !== INVALID_IOASID || gpasid >= INVALID_IOASID) {
      throw new SysError('EINVAL', BIND, `guest PASID ${gpasid} for PASID ${hostPasid}, which has ${present}`);
    }
    const other = this.ioasids.findBySpid(this.ioasids.findSet(hostPasid), Number(gpasid), false);
    if (other === INVALID_IOASID) return true;
    throw new SysError('EINVAL', BIND, `guest PASID ${gpasid} for PASID ${hostPasid} is that of PASID ${other}`);
  }

  private open(mm: AddressSpace, hostPasid: number): Binding {
    const binding: Binding = {
      hostPasid,
      mm,
      set: this.ioasids.findSet(hostPasid),
      binds: [],
      coming: new Set(),
      users: 0,
      spid: INVALID_IOASID,
      notifier: { release: () => this.clear(binding) },
    };
    this.bindings.set(hostPasid, binding);
    mm.addNotifier(binding.notifier);
    return binding;
  }

  /** Work for a freed PASID: a handler of the event may not wait for hardware. */
  private clearLater(hostPasid: number): void {
    const binding = this.bindings.get(hostPasid);
    if (binding !== undefined) this.kernel.queueWork(() => this.clear(binding));
  }

  /** The owner has given the PASID up, or is gone: nothing of it stays, nor the SPID, whoever attached it. */
  private clear(binding: Binding): void {
    binding.spid = this.ioasids.spidOf(binding.hostPasid);
    this.end(binding, binding.binds);
  }

  /**
   * Takes binds down: each entry is cleared, flushed and drained; then, with the last, the SPID goes; then the
   * references, after which the PASID may be another's. Never fails.
   */
  private end(binding: Binding, ending: readonly GuestPasid[]): void {
    const { hostPasid, set } = binding;
    binding.binds = binding.binds.filter((bind) => !ending.includes(bind));
    for (const { device, domain } of ending) {
      detachDevicePasid(device, hostPasid);
      domain.free();
      this.leave(binding);
    }
    for (let i = 0; i < ending.length; i++) this.ioasids.put(set, hostPasid);
  }

  /** A bind has gone, or was not made; with the last the SPID goes. Its reference on the PASID is still in hand. */
  private leave(binding: Binding): void {
    const { hostPasid, spid, mm, notifier } = binding;
    if (--binding.users > 0) return;
    this.bindings.delete(hostPasid);
    mm.removeNotifier(notifier);
    if (spid !== INVALID_IOASID && this.ioasids.spidOf(hostPasid) === spid) this.ioasids.detachSpid(hostPasid);
  }
}

/** The kernel's checks of what a user filled in. @throws {SysError} EINVAL */
function checkData(data: uapi.GpasidBindData, call: string): void {
  const { version, format, flags, padding } = data;
  if (version !== uapi.IOMMU_GPASID_BIND_VERSION_1) throw new SysError('EINVAL', call, `version ${version}`);
  if (format >= uapi.IOMMU_PASID_FORMAT_LAST) throw new SysError('EINVAL', call, `format ${format}`);
  if ((flags & ~uapi.IOMMU_SVA_GPASID_VAL) !== 0n || padding !== 0n) {
    throw new SysError('EINVAL', call, `flags 0x${flags.toString(16)}, padding 0x${padding.toString(16)}`);
  }
}

/** VT-d's checks of the same. @throws {SysError} EINVAL */
function checkVtdData({ format, argsz, vtdFlags }: uapi.GpasidBindData, call: string): void {
  if (format !== uapi.IOMMU_PASID_FORMAT_INTEL_VTD) throw new SysError('EINVAL', call, `format ${format}`);
  if (argsz < uapi.iommuGpasidBindData.size) throw new SysError('EINVAL', call, `${argsz} bytes`);
  if (vtdFlags >= uapi.IOMMU_SVA_VTD_GPASID_LAST) {
    throw new SysError('EINVAL', call, `vtd flags 0x${vtdFlags.toString(16)}`);
  }
}

/** @throws {SysError} EINVAL */
function checkAlive(mm: AddressSpace): void {
  if (!mm.alive) throw new SysError('EINVAL', BIND, `address space ${mm.id} is gone`);
}

/** Every device is a PCI function; Linux said ENOTSUPP of others. @throws {SysError} EINVAL */
function checkDevice(device: Device, call: string): void {
  const { group, maxPasids, name } = device;
  if (maxPasids !== PASID_MAX) throw new SysError('EINVAL', call, `${name} issues PASIDs below ${maxPasids}`);
  if (group.devices.length > 1) throw new SysError('EINVAL', call, `${name} shares group ${group.id}`);
}

/** @throws {SysError} EINVAL */
function checkPasid(hostPasid: bigint | number, call: string): number {
  if (hostPasid > 0 && hostPasid < PASID_MAX) return Number(hostPasid);
  throw new SysError('EINVAL', call, `PASID ${hostPasid}`);
}

/** The second stage: where DMA of the device without PASID goes. @throws {SysError} EINVAL */
function nestParent(device: Device): PagingDomain {
  const { domain } = device.group;
  if ((domain.kind === 'unmanaged' || domain.kind === 'dma') && domain.nestParent) return domain;
  throw new SysError('EINVAL', BIND, `${device.name} is attached to domain ${domain.id}, which is no nest parent`);
}

/** @throws {SysError} EINVAL the unit has no such first stage; ENOMEM, ENOSPC */
function allocNested(device: Device, parent: PagingDomain, data: uapi.GpasidBindData): NestedDomain {
  // Memory types are for devices inside the processor's coherency domain; PCI Express has none.
  if ((data.vtdFlags & uapi.IOMMU_SVA_VTD_GPASID_MTS_MASK) !== 0n) {
    throw new SysError('EINVAL', BIND, `memory types 0x${data.vtdFlags.toString(16)}`);
  }
  try {
    return device.driver.allocNested(device, parent, ALLOC_PASID, stage1(data));
  } catch (error) {
    if (!(error instanceof SysError) || error.code !== 'EOPNOTSUPP') throw error;
    throw new SysError('EINVAL', BIND, error.message);
  }
}

/** The same first stage in the words of today's interface. Write protection is only for supervisor requests. */
function stage1({ gpgd, addrWidth, vtdFlags }: uapi.GpasidBindData): UserData {
  const supervisor = (vtdFlags & uapi.IOMMU_SVA_VTD_GPASID_SRE) !== 0n;
  const flags =
    (supervisor ? VTD_S1_SRE : 0n) |
    ((vtdFlags & uapi.IOMMU_SVA_VTD_GPASID_EAFE) === 0n ? 0n : VTD_S1_EAFE) |
    (supervisor && (vtdFlags & uapi.IOMMU_SVA_VTD_GPASID_WPE) !== 0n ? VTD_S1_WPE : 0n);
  const bytes = new Uint8Array(vtdS1.size);
  vtdS1.write({ flags, pgtblAddr: gpgd, addrWidth, reserved: 0 }, bytes);
  return { type: HWPT_DATA_VTD_S1, length: bytes.length, read: () => bytes };
}
