/**
 * The commands on an open /dev/ioasid, for its ioctls and its typed client. Each checks the rules of its version of the
 * proposal and calls what does the work.
 */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, type Process, SysError } from '@iommukit/iommu-core';
import { IommufdDevice } from '../device.ts';
import { hwptInvalidate } from '../hwpt-commands.ts';
import { ioasMap, ioasMapRegistered, ioasUnmap } from '../ioas/ioas-commands.ts';
import { IOMMU_IOAS_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_READABLE, IOMMU_IOAS_MAP_WRITEABLE } from '../uapi/iommufd.ts';
import { deviceInfo, type IoasidDeviceInfo, type IoasidInfo, ioasidInfo } from './info.ts';
import type { Ioasid } from './ioasid.ts';
import type { IoasidContext, IoasidRules } from './ioasid-context.ts';
import type { IoasidDevice } from './ioasid-device.ts';
import { closeWindows, extendBelow, openWindow, unmapRoot } from './software-nesting.ts';
import * as uapi from './uapi.ts';
import { checkTable, encodeInvalidation, type Invalidation, type UserTable } from './user-table.ts';

const PAGE_MASK = BigInt(PAGE_SIZE - 1);

/** Whether the interface, whatever the hardware, has an extension (IOASID_EXT_ value). */
export function checkExtension({ rules, core }: IoasidContext, extension: number): boolean {
  switch (extension) {
    case uapi.IOASID_EXT_MAP_TYPE1V2:
    case uapi.IOASID_EXT_NESTING:
    case uapi.IOASID_EXT_USER_PAGE_TABLE:
    case uapi.IOASID_EXT_USER_PASID_TABLE:
    case uapi.IOASID_EXT_MULTIDEV_GROUP:
    case uapi.IOASID_EXT_PAGE_FAULT:
      return true;
    case uapi.IOASID_EXT_REGISTER_MEMORY:
      return rules === 'v1';
    case uapi.IOASID_EXT_DMA_NO_SNOOP:
      return rules === 'v2';
    case uapi.IOASID_EXT_SHARED:
      return rules === 'v2' && core !== null;
    default:
      return false;
  }
}

/** Version 1: a handle that is nothing yet. @throws {SysError} ENOMEM */
export function allocPlain(context: IoasidContext): Ioasid {
  requireRules(context, 'v1', 'IOASID_ALLOC');
  return context.alloc({ parent: null, table: null, shared: null, enforceSnoop: false, faults: false });
}

export type AllocRequest = {
  readonly parent: number | null;
  /** User-managed: the table, whose format stays. */
  readonly table: UserTable | null;
  /** The address space of the process that calls. */
  readonly shared: boolean;
  readonly enforceSnoop: boolean;
  readonly faults: boolean;
};

/**
 * Version 2: an address space of a format, which attaching a device checks it for.
 * @throws {SysError} ENOENT no such parent; EINVAL a user's table without a parent, or with one that the kernel does not
 * fill, or on the last of IOASID_MAX_LEVELS; a shared one with a table or a parent; page requests at a root; EOPNOTSUPP
 * no process can be shared; ENOMEM
 */
export function allocFormatted(context: IoasidContext, caller: Process, request: AllocRequest): Ioasid {
  const call = 'IOMMU_IOASID_ALLOC';
  requireRules(context, 'v2', call);
  const { table, shared, enforceSnoop, faults } = request;
  const parent = request.parent === null ? null : kernelManaged(context, request.parent, call);
  if (table !== null && parent === null) throw new SysError('EINVAL', call, 'a table of the user needs a parent');
  if (faults && parent === null) throw new SysError('EINVAL', call, 'a root takes no page requests');
  if (shared) {
    if (table !== null || parent !== null) throw new SysError('EINVAL', call, 'a process has its own table');
    if (context.core === null) throw new SysError('EOPNOTSUPP', call, 'processes cannot be shared here');
  }
  return context.alloc({ parent, table, shared: shared ? caller.addressSpace : null, enforceSnoop, faults });
}

/**
 * Version 1: a child.
 * @throws {SysError} ENODEV, EBUSY the parent has no device, or not all of a group; EINVAL it is a child itself; ENOMEM
 */
export function createNesting(context: IoasidContext, handle: number): Ioasid {
  const call = 'IOASID_CREATE_NESTING';
  requireRules(context, 'v1', call);
  const parent = context.get(handle, call);
  requireDevice(parent, call);
  if (parent.parent !== null) throw new SysError('EINVAL', call, `IOASID ${handle} is a child`);
  return context.alloc({ parent, table: null, shared: null, enforceSnoop: false, faults: false });
}

/** @throws {SysError} ENOENT; ENODEV, EBUSY it has no device, or not all of a group */
export function getInfo(context: IoasidContext, handle: number): IoasidInfo {
  const call = 'IOASID_GET_INFO';
  requireRules(context, 'v1', call);
  const ioasid = context.get(handle, call);
  return ioasidInfo(ioasid, requireDevice(ioasid, call)!);
}

/** @throws {SysError} ENOENT no device has the cookie; ENOMEM */
export function getDeviceInfo(context: IoasidContext, cookie: bigint): IoasidDeviceInfo {
  const call = 'IOMMU_DEVICE_GET_INFO';
  requireRules(context, 'v2', call);
  return deviceInfo(context.device(cookie, call));
}

/** @throws {SysError} as RegisteredMemory.register */
export function registerMemory(context: IoasidContext, caller: Process, vaddr: bigint, size: bigint): void {
  requireRules(context, 'v1', 'IOASID_REGISTER_MEMORY');
  context.iommufd.registered.register(caller, vaddr, size);
}

/** @throws {SysError} EBUSY it is mapped somewhere; ENOENT it was not registered as one */
export function unregisterMemory(context: IoasidContext, caller: Process, vaddr: bigint, size: bigint): void {
  requireRules(context, 'v1', 'IOASID_UNREGISTER_MEMORY');
  context.iommufd.registered.unregister(caller.addressSpace, vaddr, size);
}

export type DmaMapRequest = {
  readonly ioasid: number;
  /** The caller's memory; of a child, the parent's addresses. */
  readonly vaddr: bigint;
  readonly iova: bigint;
  readonly size: bigint;
  readonly readable: boolean;
  readonly writable: boolean;
};

/**
 * Maps; below, what is nested in software follows. On failure nothing changes.
 * @throws {SysError} ENOENT no such IOASID, or memory that is not registered where some has been; ENODEV, EBUSY (version
 * 1) it has no device, or not all of a group; EINVAL it is not the kernel's to fill, addresses or size that are not of
 * whole pages, no access, reserved addresses, read-only memory in a table that VT-d may nest on; EEXIST; EFAULT; ENOMEM;
 * ENOSPC more than MERGED_AREAS_MAX areas would be merged below
 */
export function mapDma(context: IoasidContext, caller: Process, request: DmaMapRequest): void {
  const call = 'IOASID_MAP_DMA';
  const { vaddr, iova, size, readable, writable } = request;
  const ioasid = context.get(request.ioasid, call);
  requireDevice(ioasid, call);
  requireFilled(ioasid, call);
  const last = lastOf(call, iova, size);
  if (!readable && !writable) throw new SysError('EINVAL', call, 'neither readable nor writable');
  if (ioasid.windows !== null) {
    const prot = (readable ? IOMMU_READ : 0) | (writable ? IOMMU_WRITE : 0) | IOMMU_CACHE;
    openWindow(ioasid, { iova, last, target: vaddr, targetLast: lastOf(call, vaddr, size), prot });
    return;
  }
  const { iommufd } = context;
  const access = (readable ? IOMMU_IOAS_MAP_READABLE : 0) | (writable ? IOMMU_IOAS_MAP_WRITEABLE : 0);
  lastOf(call, vaddr, size);
  const options = {
    ioasId: ioasid.ioas!.id,
    flags: access | IOMMU_IOAS_MAP_FIXED_IOVA,
    userVa: vaddr,
    length: size,
    iova,
  };
  if (iommufd.registered.everUsed) ioasMapRegistered(iommufd, caller, options);
  else ioasMap(iommufd, caller, options);
  try {
    extendBelow(ioasid, iova, last);
  } catch (error) {
    ioasUnmap(iommufd, ioasid.ioas!.id, iova, size);
    throw error;
  }
}

/**
 * Unmaps what was mapped in a range, or everything (null), and what was merged from it below. @returns bytes unmapped,
 * 0 when nothing was there
 * @throws {SysError} ENOENT; ENODEV, EBUSY, EINVAL as `mapDma`; EINVAL also a mapping that is only partly in the range,
 * when nothing is unmapped
 */
export function unmapDma(
  context: IoasidContext,
  handle: number,
  range: { readonly iova: bigint; readonly size: bigint } | null,
): bigint {
  const call = 'IOASID_UNMAP_DMA';
  const ioasid = context.get(handle, call);
  requireDevice(ioasid, call);
  requireFilled(ioasid, call);
  const iova = range?.iova ?? 0n;
  const last = range === null ? U64_MAX : lastOf(call, iova, range.size);
  return ioasid.windows === null ? unmapRoot(ioasid, iova, last) : closeWindows(ioasid, iova, last);
}

/**
 * Version 1: lets the devices of a child reach a user's table on the parent's, in place of what they reach now, without
 * a moment of neither. On failure nothing changes.
 * @throws {SysError} ENOENT; ENODEV, EBUSY it has no device, or not all of a group; EINVAL it is no child, or a format
 * that the IOMMU does not have; EBUSY it has mappings, or a table of the other kind; EOPNOTSUPP the IOMMU cannot nest,
 * or has no PASID tables of users; ENOMEM; and the driver's errors
 */
export function bindTable(context: IoasidContext, handle: number, table: UserTable, faults: boolean): void {
  const call = table.kind === 'page-table' ? 'IOASID_BIND_PGTABLE' : 'IOASID_BIND_PASID_TABLE';
  requireRules(context, 'v1', call);
  const ioasid = context.get(handle, call);
  const { device } = requireDevice(ioasid, call)!.bound;
  if (ioasid.parent === null) throw new SysError('EINVAL', call, `IOASID ${handle} is no child`);
  checkTable(call, table, device);
  const { userTable } = ioasid;
  if (userTable !== null && userTable.kind !== table.kind) {
    throw new SysError('EBUSY', call, `IOASID ${handle} has a ${userTable.kind}`);
  }
  ioasid.bind(table, faults, device);
}

/**
 * Version 1: back to an empty table of the kernel's. On failure nothing changes.
 * @throws {SysError} ENOENT; ENODEV, EBUSY; EINVAL none is bound; and as `bindTable`
 */
export function unbindTable(context: IoasidContext, handle: number, kind: UserTable['kind']): void {
  const call = kind === 'page-table' ? 'IOASID_UNBIND_PGTABLE' : 'IOASID_UNBIND_PASID_TABLE';
  requireRules(context, 'v1', call);
  const ioasid = context.get(handle, call);
  const { device } = requireDevice(ioasid, call)!.bound;
  if (ioasid.userTable?.kind !== kind) throw new SysError('EINVAL', call, `IOASID ${handle} has no ${kind}`);
  ioasid.unbind(device);
}

/**
 * Forgets what hardware has cached of a user's table. `cookie` (version 2) names a device that the change is for; more
 * may be forgotten.
 * @throws {SysError} ENOENT no such IOASID or device; ENODEV, EBUSY (version 1); EINVAL no user's table, a range that is
 * not of whole pages, a PASID of a page table, a cookie in version 1; and the driver's errors
 */
export function invalidateCache(
  context: IoasidContext,
  handle: number,
  what: Invalidation,
  cookie: bigint | null,
): void {
  const call = 'IOASID_INVALIDATE_CACHE';
  const ioasid = context.get(handle, call);
  requireDevice(ioasid, call);
  const { userTable, table } = ioasid;
  if (userTable === null) throw new SysError('EINVAL', call, `IOASID ${handle} has no table of its user`);
  if (cookie !== null) {
    if (context.rules === 'v1') throw new SysError('EINVAL', call, 'no invalidation is for one device');
    context.device(cookie, call);
  }
  const entries = encodeInvalidation(call, userTable, what);
  if (table === null) return;
  const { failure } = hwptInvalidate(context.iommufd, table.id, entries);
  if (failure !== null) throw failure;
}

/** @throws {SysError} ENOTTY the command is of the other version */
export function requireRules({ rules }: IoasidContext, version: IoasidRules, call: string): void {
  if (rules !== version) throw new SysError('ENOTTY', call, `the file has the rules of ${rules}`);
}

/**
 * Version 1 accepts no command before a device is here, and with it all devices of its group. @returns the first device;
 * null when version 2 has none
 * @throws {SysError} ENODEV, EBUSY
 */
function requireDevice(ioasid: Ioasid, call: string): IoasidDevice | null {
  const { context, handle } = ioasid;
  const devices = context.devicesAt(ioasid);
  if (context.rules === 'v2') return devices[0] ?? null;
  if (devices.length === 0) throw new SysError('ENODEV', call, `IOASID ${handle} has no device`);
  for (const { bound } of devices) {
    if (!(bound instanceof IommufdDevice)) continue;
    for (const member of bound.group.group.devices) {
      if (devices.some((device) => device.bound.device === member)) continue;
      throw new SysError('EBUSY', call, `${member.name} of the same group as ${bound.device.name} is not at ${handle}`);
    }
  }
  return devices[0]!;
}

function requireFilled({ ioas, userTable, handle }: Ioasid, call: string): void {
  if (ioas === null || userTable !== null)
    throw new SysError('EINVAL', call, `IOASID ${handle} is not the kernel's to fill`);
}

function kernelManaged(context: IoasidContext, handle: number, call: string): Ioasid {
  const ioasid = context.get(handle, call);
  requireFilled(ioasid, call);
  return ioasid;
}

/** Last address of a range of whole pages. @throws {SysError} EINVAL */
function lastOf(call: string, start: bigint, size: bigint): bigint {
  const last = start + size - 1n;
  if (size === 0n || ((start | size) & PAGE_MASK) !== 0n || last > U64_MAX) {
    throw new SysError('EINVAL', call, `${hex(size)} bytes from ${hex(start)}`);
  }
  return last;
}
