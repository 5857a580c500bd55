/**
 * What can be done with an address space: of an IOASID that has devices (version 1, GET_INFO), and of a device before
 * there is any (version 2, DEVICE_GET_INFO).
 */

import {
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  type Device,
  type HwInfo,
  type PagingDomain,
  SysError,
} from '@iommukit/iommu-core';
import type { BoundDevice } from '../bound-device.ts';
import { HwptPaging } from '../hwpt.ts';
import { type IovaRange, ReservedRanges } from '../ioas/reserved.ts';
import type { Ioasid } from './ioasid.ts';
import { isMediated } from './ioasid-context.ts';
import type { IoasidDevice } from './ioasid-device.ts';
import { pageTableFormats } from './user-table.ts';
import { outside, reservedRanges } from './windows.ts';

/** Who has the table that tells PASIDs apart: page tables are attached each at its PASID, or the user's table as a whole. */
export type PasidRouting = 'host-table' | 'user-table';

export type SpaceInfo = {
  /** Sizes of pages, one bit each. */
  readonly pageSizes: bigint;
  /** The kernel maps here. */
  readonly mapping: boolean;
  readonly hardwareNesting: boolean;
  readonly softwareNesting: boolean;
  /** IOASID_FORMAT_ values of page tables that can be bound, nested by hardware. */
  readonly formats: readonly number[];
  readonly pasidRouting: PasidRouting;
  readonly enforceSnoop: boolean;
  /** Page requests can be taken. */
  readonly pageFaults: boolean;
  /** 0 without PASIDs. */
  readonly maxPasidLog2: number;
  /** The IOMMU's own structure, as IOMMU_GET_HW_INFO gives it. */
  readonly vendor: HwInfo;
};

export type IoasidInfo = SpaceInfo & {
  readonly children: number;
  /** Addresses that cannot be mapped. */
  readonly reserved: readonly IovaRange[];
};

/** Rights of a device's user over PASIDs (RFC v2, section 1.4.4). */
export type PasidRights = {
  /** PASIDs are in a table of the user, and none is named in attaching. */
  readonly delegated: boolean;
  /** CPUs may send PASIDs to the device. */
  readonly cpu: boolean;
  /** CPUs have to translate them. */
  readonly cpuTranslated: boolean;
};

export type IoasidDeviceInfo = SpaceInfo & {
  /** Null when its user can name none. */
  readonly pasids: PasidRights | null;
  /** Addresses that can be mapped. */
  readonly permitted: readonly IovaRange[];
};

/** `device` is one of those attached to `ioasid`. */
export function ioasidInfo(ioasid: Ioasid, device: IoasidDevice): IoasidInfo {
  const { table, userTable, parent } = ioasid;
  const nests = table instanceof HwptPaging && table.domain.nestParent;
  const kernelFilled = table instanceof HwptPaging;
  return {
    ...common(device.bound),
    pageSizes: table === null ? 0n : pageSizes(table.paging.domain),
    mapping: kernelFilled,
    hardwareNesting: nests && pageTableFormats(device.bound.device).length > 0,
    softwareNesting: kernelFilled && (parent === null || ioasid.context.rules === 'v2'),
    formats: nests || parent !== null ? pageTableFormats(device.bound.device) : [],
    children: ioasid.children.size,
    reserved: userTable === null ? distinct(ioasid.ioas?.table.space.reservedRanges ?? []) : [],
  };
}

/** Makes a table as an IOASID for the device would have it, to look at. @throws {SysError} ENOMEM; and the driver's errors */
export function deviceInfo(device: IoasidDevice): IoasidDeviceInfo {
  const { bound, cpuPasids } = device;
  const { device: function_, pasids } = bound;
  const { domain, nests } = sampleDomain(function_);
  const formats = nests ? pageTableFormats(function_) : [];
  const reserved = new ReservedRanges();
  for (const { start, last } of [...outside(domain), ...reservedRanges(function_.reservedRegions())]) {
    reserved.add(start, last, device);
  }
  const info = {
    ...common(bound),
    pageSizes: pageSizes(domain),
    mapping: true,
    hardwareNesting: formats.length > 0,
    softwareNesting: true,
    formats,
    pasids:
      pasids.count === 0
        ? null
        : {
            delegated: function_.capable('user-pasid-table'),
            cpu: cpuPasids,
            cpuTranslated: cpuPasids && isMediated(device),
          },
    permitted: reserved.holes(),
  };
  domain.free();
  return info;
}

function common({
  device,
  pasids,
}: BoundDevice): Pick<SpaceInfo, 'pasidRouting' | 'enforceSnoop' | 'pageFaults' | 'maxPasidLog2' | 'vendor'> {
  return {
    pasidRouting: device.capable('user-pasid-table') ? 'user-table' : 'host-table',
    enforceSnoop: device.capable('enforce-cache-coherency'),
    pageFaults: device.capable('page-requests'),
    maxPasidLog2: pasids.count === 0 ? 0 : Math.floor(Math.log2(pasids.count)),
    vendor: device.hwInfo(),
  };
}

function sampleDomain(device: Device): { domain: PagingDomain; nests: boolean } {
  try {
    return { domain: device.driver.allocPaging(device, 'unmanaged', ALLOC_NEST_PARENT | ALLOC_PASID), nests: true };
  } catch (error) {
    if (!(error instanceof SysError) || error.code !== 'EOPNOTSUPP') throw error;
    return { domain: device.driver.allocPaging(device, 'unmanaged', ALLOC_PASID), nests: false };
  }
}

function pageSizes({ pageSizesLg2 }: PagingDomain): bigint {
  return pageSizesLg2.reduce((sizes, lg2) => sizes | (1n << BigInt(lg2)), 0n);
}

/** The ranges without their owners, each once, ascending. */
function distinct(ranges: readonly IovaRange[]): IovaRange[] {
  const seen = new Map(ranges.map(({ start, last }) => [`${start}-${last}`, { start, last }]));
  return [...seen.values()];
}
