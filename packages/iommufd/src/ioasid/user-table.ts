/**
 * Tables that lie in their user's memory, as the commands describe them, and the structures that drivers take for them
 * (RFC: IOASID_BIND_PGTABLE and IOASID_BIND_PASID_TABLE).
 */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { type Device, SysError, type UserArray, type UserData } from '@iommukit/iommu-core';
import {
  IOMMU_HW_INFO_TYPE_INTEL_VTD,
  IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
  IOMMU_VTD_INV_FLAGS_LEAF,
  iommuHwptVtdS1,
  iommuHwptVtdS1Invalidate,
} from '../uapi/iommufd.ts';
import {
  IOASID_FORMAT_INTEL_VTD,
  IOASID_PASID_INVALIDATE_ONE,
  ioasidPasidInvalidate,
  ioasidPasidTable,
} from './uapi.ts';

export type UserTable = {
  /** A PASID table stands for the address spaces of all PASIDs of a device, and of none. */
  readonly kind: 'page-table' | 'pasid-table';
  /** IOASID_FORMAT_ value. */
  readonly format: number;
  /** Where it lies in the parent's address space. */
  readonly address: bigint;
  /** Bits of an address, or of a PASID. */
  readonly width: number;
  readonly vendorFlags: number;
};

/** Part of what is cached of a user's table. */
export type Invalidation = {
  /** First address, and bytes, both multiples of 4 KiB; null is everything. */
  readonly range: { readonly address: bigint; readonly size: bigint } | null;
  /** Only the last level has changed. */
  readonly leaf: boolean;
  /** The address space of one PASID, of a PASID table. */
  readonly pasid: number | null;
};

/** Formats of page tables that the device's IOMMU can nest. */
export function pageTableFormats(device: Device): number[] {
  return device.hwInfo().type === IOMMU_HW_INFO_TYPE_INTEL_VTD ? [IOASID_FORMAT_INTEL_VTD] : [];
}

/** @throws {SysError} EOPNOTSUPP the device's IOMMU has no such tables; EINVAL or not in this format */
export function checkTable(call: string, table: UserTable, device: Device): void {
  if (table.kind === 'pasid-table') {
    if (device.capable('user-pasid-table')) return;
    throw new SysError('EOPNOTSUPP', call, `the PASID table of ${device.name} is the host's`);
  }
  if (pageTableFormats(device).includes(table.format)) return;
  throw new SysError('EINVAL', call, `the IOMMU of ${device.name} has no page tables of format ${table.format}`);
}

/** The driver's structure for a table. */
export function encodeTable({ kind, format, address, width, vendorFlags }: UserTable): UserData {
  let bytes: Uint8Array;
  if (kind === 'pasid-table') {
    bytes = new Uint8Array(ioasidPasidTable.size);
    ioasidPasidTable.write({ addr: address, pasidBits: width, vendorFlags }, bytes);
  } else {
    bytes = new Uint8Array(iommuHwptVtdS1.size);
    const values = { flags: BigInt(vendorFlags), pgtblAddr: address, addrWidth: width, reserved: 0 };
    iommuHwptVtdS1.write(values, bytes);
  }
  return { type: format, length: bytes.length, read: () => bytes };
}

/** @throws {SysError} EINVAL a range that is not of whole pages, or a PASID where there is one address space */
export function encodeInvalidation(
  call: string,
  { kind, format }: UserTable,
  { range, leaf, pasid }: Invalidation,
): UserArray {
  if (pasid !== null && kind !== 'pasid-table') throw new SysError('EINVAL', call, 'a page table has no PASIDs');
  const { address: addr, size } = range ?? { address: 0n, size: 0n };
  if (range !== null && (((addr | size) & BigInt(PAGE_SIZE - 1)) !== 0n || size === 0n || addr + size - 1n > U64_MAX)) {
    throw new SysError('EINVAL', call, `${hex(size)} bytes from ${hex(addr)}`);
  }
  const npages = range === null ? U64_MAX : size / BigInt(PAGE_SIZE);
  const leafFlag = leaf ? IOMMU_VTD_INV_FLAGS_LEAF : 0;
  const layout = kind === 'pasid-table' ? ioasidPasidInvalidate : iommuHwptVtdS1Invalidate;
  const bytes = new Uint8Array(layout.size);
  if (kind === 'pasid-table') {
    const flags = leafFlag | (pasid === null ? 0 : IOASID_PASID_INVALIDATE_ONE);
    ioasidPasidInvalidate.write({ addr, npages, flags, pasid: pasid ?? 0 }, bytes);
  } else {
    iommuHwptVtdS1Invalidate.write({ addr, npages, flags: leafFlag, reserved: 0 }, bytes);
  }
  return {
    type: kind === 'pasid-table' ? format : IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
    entryLength: bytes.length,
    count: 1,
    read: () => bytes,
  };
}
