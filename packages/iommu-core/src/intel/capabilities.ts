/** What a unit can do, from its capability registers (Intel VT-d specification, revision 4.1, sections 11.4.2 and 11.4.3). */

import {
  CAP_HI_FRO,
  CAP_HI_FS1GP,
  CAP_HI_FS5LP,
  CAP_HI_MAMV,
  CAP_HI_NFR,
  CAP_HI_PSI,
  CAP_HI_SSLPS,
  CAP_LO_CM,
  CAP_LO_FRO,
  CAP_LO_MGAW,
  CAP_LO_ND,
  CAP_LO_SAGAW,
  ECAP_HI_EAFS,
  ECAP_HI_FSTS,
  ECAP_HI_PASID,
  ECAP_HI_PDS,
  ECAP_HI_PSS,
  ECAP_HI_SMPWCS,
  ECAP_HI_SMTS,
  ECAP_HI_SSADS,
  ECAP_HI_SSTS,
  ECAP_LO_C,
  ECAP_LO_DT,
  ECAP_LO_ERS,
  ECAP_LO_IR,
  ECAP_LO_NEST,
  ECAP_LO_PRS,
  ECAP_LO_PT,
  ECAP_LO_QI,
  ECAP_LO_SC,
  ECAP_LO_SRS,
  FRCD_SIZE,
  fieldGet,
  high32,
  low32,
} from '@iommukit/hw';

export type UnitCapabilities = {
  /** Raw registers, as GET_HW_INFO gives them. */
  readonly cap: bigint;
  readonly ecap: bigint;
  /** Number of domain ids. */
  readonly domainIds: number;
  /** Bits of the addresses that the second stage translates. */
  readonly guestAddressBits: number;
  /** Second-stage levels supported, ascending: some of 3, 4, 5. */
  readonly stage2Levels: readonly number[];
  readonly stage2PageSizesLg2: readonly number[];
  readonly stage1PageSizesLg2: readonly number[];
  readonly firstStage: boolean;
  readonly secondStage: boolean;
  readonly firstStage5Level: boolean;
  /** Absent entries may be cached: making one present needs an invalidation. */
  readonly cachingMode: boolean;
  /** Page-selective invalidation of the second stage. */
  readonly pageSelective: boolean;
  /** log2 of the largest range, in bytes, that an invalidation can name. */
  readonly maxRangeLg2: number;
  /** Register offset and number of fault records. */
  readonly faultRecordOffset: number;
  readonly faultRecords: number;
  readonly coherent: boolean;
  /** Leaves can force snooping. */
  readonly snoopControl: boolean;
  readonly queuedInvalidation: boolean;
  readonly deviceTlb: boolean;
  readonly interruptRemapping: boolean;
  readonly passThrough: boolean;
  readonly nesting: boolean;
  /** Page requests, and a way to wait for those under way. */
  readonly pageRequests: boolean;
  readonly executeRequests: boolean;
  readonly supervisorRequests: boolean;
  readonly extendedAccessed: boolean;
  /** Bits of a PASID; 0 without PASIDs. */
  readonly pasidBits: number;
  readonly scalableMode: boolean;
  readonly secondStageDirty: boolean;
  readonly pageWalkCoherency: boolean;
  /** The first stage can be a CPU's table: it forbids to execute, and leaves accessed bits to hardware. */
  readonly cpuTables: boolean;
};

export function readCapabilities(cap: bigint, ecap: bigint): UnitCapabilities {
  const [capLo, capHi, ecapLo, ecapHi] = [low32(cap), high32(cap), low32(ecap), high32(ecap)];
  const firstStage = (ecapHi & ECAP_HI_FSTS) !== 0;
  const executeRequests = (ecapLo & ECAP_LO_ERS) !== 0;
  const pageWalkCoherency = (ecapHi & ECAP_HI_SMPWCS) !== 0;
  const agaw = fieldGet(CAP_LO_SAGAW, capLo);
  const stage2Large = fieldGet(CAP_HI_SSLPS, capHi);
  const faultOffset = fieldGet(CAP_LO_FRO, capLo) | (fieldGet(CAP_HI_FRO, capHi) << 8);
  return {
    cap,
    ecap,
    domainIds: 2 ** (4 + 2 * fieldGet(CAP_LO_ND, capLo)),
    guestAddressBits: fieldGet(CAP_LO_MGAW, capLo) + 1,
    stage2Levels: [3, 4, 5].filter((levels) => (agaw & (1 << (levels - 2))) !== 0),
    stage2PageSizesLg2: [12, 21, 30].filter((_, level) => level === 0 || (stage2Large & (1 << (level - 1))) !== 0),
    stage1PageSizesLg2: (capHi & CAP_HI_FS1GP) !== 0 ? [12, 21, 30] : [12, 21],
    firstStage,
    secondStage: (ecapHi & ECAP_HI_SSTS) !== 0,
    firstStage5Level: (capHi & CAP_HI_FS5LP) !== 0,
    cachingMode: (capLo & CAP_LO_CM) !== 0,
    pageSelective: (capHi & CAP_HI_PSI) !== 0,
    maxRangeLg2: 12 + fieldGet(CAP_HI_MAMV, capHi),
    faultRecordOffset: faultOffset * FRCD_SIZE,
    faultRecords: fieldGet(CAP_HI_NFR, capHi) + 1,
    coherent: (ecapLo & ECAP_LO_C) !== 0,
    snoopControl: (ecapLo & ECAP_LO_SC) !== 0,
    queuedInvalidation: (ecapLo & ECAP_LO_QI) !== 0,
    deviceTlb: (ecapLo & ECAP_LO_DT) !== 0,
    interruptRemapping: (ecapLo & ECAP_LO_IR) !== 0,
    passThrough: (ecapLo & ECAP_LO_PT) !== 0,
    nesting: (ecapLo & ECAP_LO_NEST) !== 0,
    pageRequests: (ecapLo & ECAP_LO_PRS) !== 0 && (ecapHi & ECAP_HI_PDS) !== 0,
    executeRequests,
    supervisorRequests: (ecapLo & ECAP_LO_SRS) !== 0,
    extendedAccessed: (ecapHi & ECAP_HI_EAFS) !== 0,
    pasidBits: (ecapHi & ECAP_HI_PASID) === 0 ? 0 : fieldGet(ECAP_HI_PSS, ecapHi) + 1,
    scalableMode: (ecapHi & ECAP_HI_SMTS) !== 0,
    secondStageDirty: (ecapHi & ECAP_HI_SSADS) !== 0 && pageWalkCoherency,
    pageWalkCoherency,
    cpuTables: firstStage && pageWalkCoherency && executeRequests,
  };
}
