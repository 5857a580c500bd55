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
import { SysError } from '@iommukit/iommufd';
import type { HostUnit } from './dma-interface.ts';

/** Guest PASIDs have at most this many bits, so that the host's for ENQCMD find room above. */
const PASID_BITS = 15;

/** Guest PASIDs are below this; host PASIDs that ENQCMD sends for them lie above, so the two never meet. */
export function guestPasids({ pasidBits }: HostUnit): number {
  return 2 ** Math.min(PASID_BITS, pasidBits - 1);
}

/** @throws {SysError} EOPNOTSUPP the host's unit cannot nest guest tables with PASIDs and page requests */
export function guestFeatures(host: HostUnit): VtdFeatures {
  const lo = low32(host.ecap);
  const hi = high32(host.ecap);
  if ((lo & ECAP_LO_NEST) === 0 || (lo & ECAP_LO_PRS) === 0 || (hi & ECAP_HI_PASID) === 0 || host.pasidBits < 2) {
    throw new SysError('EOPNOTSUPP', 'vmm', 'the host cannot nest guest tables with PASIDs and page requests');
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
    pasidBits: Math.log2(guestPasids(host)),
    executeRequests: (lo & ECAP_LO_ERS) !== 0,
    supervisorRequests: (lo & ECAP_LO_SRS) !== 0,
    noWriteFlag: (hi & ECAP_HI_NWFS) !== 0,
    extendedAccessed: (hi & ECAP_HI_EAFS) !== 0,
  };
}
