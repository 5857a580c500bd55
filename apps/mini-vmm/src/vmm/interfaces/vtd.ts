/** What /dev/iommu and /dev/ioasid say of a VT-d unit, and what they are told of its first stages. */

import {
  type HwInfoResult,
  IOMMU_HW_INFO_TYPE_INTEL_VTD,
  IOMMU_VTD_S1_EAFE,
  IOMMU_VTD_S1_SRE,
  IOMMU_VTD_S1_WPE,
  iommuHwInfoVtd,
  SysError,
} from '@iommukit/iommufd';
import type { GuestTable, HostUnit } from '../dma-interface.ts';

/** @throws {SysError} EOPNOTSUPP it is another unit */
export function hostUnit({ type, data }: Pick<HwInfoResult, 'type' | 'data'>, pasidBits: number): HostUnit {
  if (type !== IOMMU_HW_INFO_TYPE_INTEL_VTD) {
    throw new SysError('EOPNOTSUPP', 'IOMMU_GET_HW_INFO', 'the host has no VT-d unit');
  }
  return { ecap: iommuHwInfoVtd.read(data, 0).ecapReg, pasidBits };
}

/** IOMMU_VTD_S1_ bits. */
export function stage1Flags(table: GuestTable): number {
  return (
    (table.supervisorRequests ? IOMMU_VTD_S1_SRE : 0) |
    (table.extendedAccessed ? IOMMU_VTD_S1_EAFE : 0) |
    (table.writeProtect ? IOMMU_VTD_S1_WPE : 0)
  );
}
