/**
 * A guest's invalidations of what was cached of the page tables it has bound, as Linux 5.17 had them
 * (iommu_uapi_cache_invalidate, drivers/iommu/iommu.c; intel_iommu_sva_invalidate, drivers/iommu/intel/iommu.c).
 *
 * A façade on the invalidation of nested domains, which reaches the unit's IOTLB and paging-structure cache and, where
 * the device has ATS on, always the device's cache: a guest may take the one for the other.
 */

import { U64_MAX } from '@iommukit/hw';
import type { Device } from '../device.ts';
import { SysError } from '../errno.ts';
import { HWPT_INVALIDATE_DATA_VTD_S1, VTD_INV_FLAGS_LEAF, vtdS1Invalidate } from '../intel/vtd-s1.ts';
import type { AddressSpace } from '../process/address-space.ts';
import { checkDriver } from './check-driver.ts';
import type { GuestPasid, GuestPasids } from './guest-pasids.ts';
import * as uapi from './layout.ts';
import { copyStruct } from './user-struct.ts';

const CALL = 'iommu_cache_invalidate';
const { offset } = uapi.iommuCacheInvalidateInfo;
/** Bytes of the structure up to the union. */
const MIN_SIZE = offset('flags');

type PageRange = { readonly addr: bigint; readonly npages: bigint; readonly leaf: boolean };

/**
 * Invalidates what the unit and `device` have cached of a guest's page table: of one that `guestPasids` has bound, at
 * the host's PASID that `info` names.
 *
 * Linux flushed whatever PASID it was told, or 0 when told none, under the domain of the device; and of caches or
 * granularities that VT-d cannot invalidate for a guest it said that it had.
 * @throws {SysError} ENODEV the driver has no PASIDs; EINVAL a version, cache, granularity, flag or padding that this
 * interface does not have, a combination that it or VT-d does not have, or no PASID; ENOENT the PASID is not bound on
 * `device`; EIO the unit refused; ETIMEDOUT the device did not answer
 */
export function cacheInvalidate(guestPasids: GuestPasids, device: Device, info: uapi.IommuCacheInvalidateInfo): void {
  const bind = findBind(guestPasids, device, info);
  if (info.cache !== 0) invalidate(bind, rangeOf(info));
}

/**
 * `cacheInvalidate` with a struct iommu_cache_invalidate_info at `pointer`, by the process that made the bind.
 * @throws {SysError} EFAULT; EPERM the bind is another process's; and as `cacheInvalidate`
 */
export function cacheInvalidateUser(guestPasids: GuestPasids, device: Device, mm: AddressSpace, pointer: bigint): void {
  checkDriver(device, CALL);
  const info = copyStruct(CALL, mm, pointer, uapi.iommuCacheInvalidateInfo, MIN_SIZE, (head) => {
    if (head.argsz < sizeFor(head.granularity)) {
      throw new SysError('EINVAL', CALL, `${head.argsz} bytes with granularity ${head.granularity}`);
    }
  });
  const bind = findBind(guestPasids, device, info);
  if (bind.mm !== mm) {
    throw new SysError('EPERM', CALL, `PASID ${bind.hostPasid} is of address space ${bind.mm.id}, not ${mm.id}`);
  }
  if (info.cache !== 0) invalidate(bind, rangeOf(info));
}

/** Bytes that a user's structure must have. */
function sizeFor(granularity: number): number {
  if (granularity === uapi.IOMMU_INV_GRANU_PASID) return MIN_SIZE + uapi.iommuInvPasidInfo.size;
  if (granularity === uapi.IOMMU_INV_GRANU_ADDR) return MIN_SIZE + uapi.iommuInvAddrInfo.size;
  return MIN_SIZE;
}

function findBind(guestPasids: GuestPasids, device: Device, info: uapi.IommuCacheInvalidateInfo): GuestPasid {
  checkDriver(device, CALL);
  checkInfo(info);
  checkVtd(info);
  const bind = guestPasids.find(device, Number(info.pasid));
  if (bind === null) throw new SysError('ENOENT', CALL, `PASID ${info.pasid} is not bound on ${device.name}`);
  return bind;
}

/** The kernel's checks. @throws {SysError} EINVAL */
function checkInfo({
  version,
  cache,
  granularity,
  flags,
  padding0,
  padding1,
  padding2,
}: uapi.IommuCacheInvalidateInfo): void {
  const refuse = (message: string): never => {
    throw new SysError('EINVAL', CALL, message);
  };
  if (version !== uapi.IOMMU_CACHE_INVALIDATE_INFO_VERSION_1) refuse(`version ${version}`);
  if (cache >> uapi.IOMMU_CACHE_INV_TYPE_NR !== 0) refuse(`caches ${cache}`);
  if (granularity >= uapi.IOMMU_INV_GRANU_NR) refuse(`granularity ${granularity}`);
  const unfit = UNFIT_CACHES[granularity]!;
  if ((cache & unfit) !== 0) refuse(`caches ${cache} with granularity ${granularity}`);
  if ((flags & ~FLAGS[granularity]!) !== 0) refuse(`flags ${flags} with granularity ${granularity}`);
  if ((padding0 | padding1 | padding2) !== 0) refuse('padding');
}

/** By granularity: caches that cannot be invalidated so, and flags of its member of the union (none: not looked at). */
const UNFIT_CACHES = [uapi.IOMMU_CACHE_INV_TYPE_DEV_IOTLB, 0, uapi.IOMMU_CACHE_INV_TYPE_PASID] as const;
const FLAGS = [
  0xffff_ffff,
  uapi.IOMMU_INV_PASID_FLAGS_PASID | uapi.IOMMU_INV_PASID_FLAGS_ARCHID,
  uapi.IOMMU_INV_ADDR_FLAGS_PASID | uapi.IOMMU_INV_ADDR_FLAGS_ARCHID | uapi.IOMMU_INV_ADDR_FLAGS_LEAF,
] as const;

/**
 * VT-d's checks: a guest has first stages only, so nothing to invalidate in a whole domain, and a PASID cache is flushed
 * by bind and unbind. VT-d has no architecture-specific ids. @throws {SysError} EINVAL
 */
function checkVtd({ cache, granularity, flags }: uapi.IommuCacheInvalidateInfo): void {
  if (granularity === uapi.IOMMU_INV_GRANU_DOMAIN || (cache & uapi.IOMMU_CACHE_INV_TYPE_PASID) !== 0) {
    throw new SysError('EINVAL', CALL, `caches ${cache} with granularity ${granularity} on VT-d`);
  }
  if ((flags & uapi.IOMMU_INV_PASID_FLAGS_PASID) === 0) throw new SysError('EINVAL', CALL, 'no PASID');
}

/** The pages that a range of granules touches: of granules that are no multiple of a page too; one page at least. */
function rangeOf({ granularity, flags, addr, granuleSize, nbGranules }: uapi.IommuCacheInvalidateInfo): PageRange {
  if (granularity !== uapi.IOMMU_INV_GRANU_ADDR) return { addr: 0n, npages: U64_MAX, leaf: false };
  const leaf = (flags & uapi.IOMMU_INV_ADDR_FLAGS_LEAF) !== 0;
  const bytes = granuleSize * nbGranules;
  const last = addr + (bytes === 0n ? 0n : bytes - 1n);
  if (last > U64_MAX) return { addr: 0n, npages: U64_MAX, leaf };
  return { addr: addr & ~0xfffn, npages: (last >> 12n) - (addr >> 12n) + 1n, leaf };
}

function invalidate({ domain }: GuestPasid, { addr, npages, leaf }: PageRange): void {
  if (domain.invalidate === null) throw new SysError('EOPNOTSUPP', CALL, `domain ${domain.id} has no invalidation`);
  const entry = new Uint8Array(vtdS1Invalidate.size);
  vtdS1Invalidate.write({ addr, npages, flags: leaf ? VTD_INV_FLAGS_LEAF : 0, reserved: 0 }, entry);
  const { failure } = domain.invalidate(HWPT_INVALIDATE_DATA_VTD_S1, entry, entry.length, 1);
  if (failure !== null) throw failure;
}
