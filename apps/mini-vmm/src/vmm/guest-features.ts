/** What the guest's VT-d unit shows: what its tables need, and no more than the host's unit can carry out. */

import {
  DEFAULT_FEATURES,
  ECAP_HI_EAFS,
  ECAP_HI_NWFS,
  ECAP_HI_PASID,
  ECAP_LO_ERS,
  ECAP_LO_NEST,
  ECAP_LO_PRS,
  ECAP_LO_SRS,
  high32,
  low32,
  type VtdFeatures,
} from '@iommukit/hw';
import { type HwInfoResult, IOMMU_HW_INFO_TYPE_INTEL_VTD, iommuHwInfoVtd, SysError } from '@iommukit/iommufd';

/** Guest PASIDs have at most this many bits, so that the host's for ENQCMD find room above. */
const PASID_BITS = 15;

/** @throws {SysError} EOPNOTSUPP the host's unit cannot nest guest tables with PASIDs and page requests */
export function guestFeatures(host: HwInfoResult): VtdFeatures {
  const call = 'IOMMU_GET_HW_INFO';
  if (host.type !== IOMMU_HW_INFO_TYPE_INTEL_VTD) throw new SysError('EOPNOTSUPP', call, 'the host has no VT-d unit');
  const { ecapReg } = iommuHwInfoVtd.read(host.data, 0);
  const lo = low32(ecapReg);
  const hi = high32(ecapReg);
  if ((lo & ECAP_LO_NEST) === 0 || (lo & ECAP_LO_PRS) === 0 || (hi & ECAP_HI_PASID) === 0 || host.maxPasidLog2 < 2) {
    throw new SysError('EOPNOTSUPP', call, 'the host cannot nest guest tables with PASIDs and page requests');
  }
  return {
    ...DEFAULT_FEATURES,
    cachingMode: true,
    secondStage: false,
    secondStageAccessedDirty: false,
    nested: false,
    firstStage1G: false,
    firstStage5Level: false,
    interruptRemapping: false,
    extendedInterruptMode: false,
    abortDma: false,
    pasidBits: Math.min(PASID_BITS, host.maxPasidLog2 - 1),
    executeRequests: (lo & ECAP_LO_ERS) !== 0,
    supervisorRequests: (lo & ECAP_LO_SRS) !== 0,
    noWriteFlag: (hi & ECAP_HI_NWFS) !== 0,
    extendedAccessed: (hi & ECAP_HI_EAFS) !== 0,
  };
}
