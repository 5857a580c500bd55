/**
 * What a remapping unit can do, and how CAP and ECAP say so (VT-d Architecture Specification, revision 4.1, sections
 * 11.4.2 and 11.4.3). What is not advertised is refused: its descriptors are errors, its entry bits are reserved.
 */

import { fieldPrep } from '../bits.ts';
import { joinU64 } from '../u64.ts';
import * as reg from './registers.ts';

export type VtdFeatures = {
  /** VER: major version in bits 7..4. */
  version: number;
  /** Width of domain ids: 4, 6, ... 16. */
  domainIdBits: number;
  /** Not-present entries may be cached, so that software must invalidate after every change. */
  cachingMode: boolean;
  /** Levels of second-stage tables: any of 3, 4, 5. */
  secondStageLevels: readonly number[];
  /** Bits of a second-stage input address. */
  guestAddressWidth: number;
  /** Bits of a host physical address. */
  hostAddressWidth: number;
  secondStage2M: boolean;
  secondStage1G: boolean;
  firstStage1G: boolean;
  firstStage5Level: boolean;
  /** Fault recording registers, 1..256 (at most 192 fit in this model's register page). */
  faultRecords: number;
  pageSelective: boolean;
  /** Largest AM of a page-selective invalidation. */
  maxAddressMask: number;
  /** SRTP and SIRTP invalidate caches by themselves. */
  enhancedSetRoot: boolean;
  enhancedSetInterruptRoot: boolean;
  coherentWalks: boolean;
  queuedInvalidation: boolean;
  deviceTlb: boolean;
  interruptRemapping: boolean;
  extendedInterruptMode: boolean;
  passThrough: boolean;
  snoopControl: boolean;
  memoryTypes: boolean;
  nested: boolean;
  pageRequests: boolean;
  pageRequestDrain: boolean;
  executeRequests: boolean;
  supervisorRequests: boolean;
  noWriteFlag: boolean;
  extendedAccessed: boolean;
  /** Requests with PASID. */
  pasid: boolean;
  pasidBits: number;
  scalableMode: boolean;
  firstStage: boolean;
  secondStage: boolean;
  secondStageAccessedDirty: boolean;
  scalableCoherentWalks: boolean;
  /** RID_PASID is used; else requests without PASID use PASID 0. */
  ridPasid: boolean;
  ridPrivileged: boolean;
  abortDma: boolean;
};

/** A host's unit with everything the model has; memory types and protected memory regions are not modelled. */
export const DEFAULT_FEATURES: VtdFeatures = {
  version: 0x40,
  domainIdBits: 16,
  cachingMode: false,
  secondStageLevels: [3, 4, 5],
  guestAddressWidth: 57,
  hostAddressWidth: 52,
  secondStage2M: true,
  secondStage1G: true,
  firstStage1G: true,
  firstStage5Level: true,
  faultRecords: 8,
  pageSelective: true,
  maxAddressMask: 18,
  enhancedSetRoot: false,
  enhancedSetInterruptRoot: false,
  coherentWalks: true,
  queuedInvalidation: true,
  deviceTlb: true,
  interruptRemapping: true,
  extendedInterruptMode: true,
  passThrough: true,
  snoopControl: true,
  memoryTypes: false,
  nested: true,
  pageRequests: true,
  pageRequestDrain: true,
  executeRequests: true,
  supervisorRequests: true,
  noWriteFlag: true,
  extendedAccessed: true,
  pasid: true,
  pasidBits: 20,
  scalableMode: true,
  firstStage: true,
  secondStage: true,
  secondStageAccessedDirty: true,
  scalableCoherentWalks: true,
  ridPasid: true,
  ridPrivileged: true,
  abortDma: true,
};

/** `mask` when `on`. */
function when(on: boolean, mask: number): number {
  return on ? mask : 0;
}

/** CAP of a unit with `features`. */
export function encodeCap(features: VtdFeatures): bigint {
  const frame = reg.REG_FRCD >> 4;
  let sagaw = 0;
  for (const levels of features.secondStageLevels) sagaw |= 1 << (levels - 2);
  const lo =
    fieldPrep(reg.CAP_LO_ND, (features.domainIdBits - 4) >> 1) |
    when(features.cachingMode, reg.CAP_LO_CM) |
    fieldPrep(reg.CAP_LO_SAGAW, sagaw) |
    fieldPrep(reg.CAP_LO_MGAW, features.guestAddressWidth - 1) |
    reg.CAP_LO_ZLR |
    fieldPrep(reg.CAP_LO_FRO, frame);
  const hi =
    fieldPrep(reg.CAP_HI_FRO, frame >> 8) |
    fieldPrep(reg.CAP_HI_SSLPS, when(features.secondStage2M, 1) | when(features.secondStage1G, 2)) |
    when(features.pageSelective, reg.CAP_HI_PSI) |
    fieldPrep(reg.CAP_HI_NFR, features.faultRecords - 1) |
    fieldPrep(reg.CAP_HI_MAMV, features.maxAddressMask) |
    reg.CAP_HI_DWD |
    reg.CAP_HI_DRD |
    when(features.firstStage1G, reg.CAP_HI_FS1GP) |
    when(features.firstStage5Level, reg.CAP_HI_FS5LP) |
    when(features.enhancedSetInterruptRoot, reg.CAP_HI_ESIRTPS) |
    when(features.enhancedSetRoot, reg.CAP_HI_ESRTPS);
  return joinU64(lo, hi);
}

/** ECAP of a unit with `features`. */
export function encodeEcap(features: VtdFeatures): bigint {
  const lo =
    when(features.coherentWalks, reg.ECAP_LO_C) |
    when(features.queuedInvalidation, reg.ECAP_LO_QI) |
    when(features.deviceTlb, reg.ECAP_LO_DT) |
    when(features.interruptRemapping, reg.ECAP_LO_IR | reg.ECAP_LO_MHMV) |
    when(features.extendedInterruptMode, reg.ECAP_LO_EIM) |
    when(features.passThrough, reg.ECAP_LO_PT) |
    when(features.snoopControl, reg.ECAP_LO_SC) |
    fieldPrep(reg.ECAP_LO_IRO, reg.REG_IVA >> 4) |
    when(features.memoryTypes, reg.ECAP_LO_MTS) |
    when(features.nested, reg.ECAP_LO_NEST) |
    when(features.pageRequests, reg.ECAP_LO_PRS) |
    when(features.executeRequests, reg.ECAP_LO_ERS) |
    when(features.supervisorRequests, reg.ECAP_LO_SRS);
  const hi =
    when(features.noWriteFlag, reg.ECAP_HI_NWFS) |
    when(features.extendedAccessed, reg.ECAP_HI_EAFS) |
    when(features.pasid, reg.ECAP_HI_PASID | fieldPrep(reg.ECAP_HI_PSS, features.pasidBits - 1)) |
    when(features.pageRequestDrain, reg.ECAP_HI_PDS) |
    when(features.scalableMode, reg.ECAP_HI_SMTS) |
    when(features.secondStageAccessedDirty, reg.ECAP_HI_SSADS) |
    when(features.secondStage, reg.ECAP_HI_SSTS) |
    when(features.firstStage, reg.ECAP_HI_FSTS) |
    when(features.scalableCoherentWalks, reg.ECAP_HI_SMPWCS) |
    when(features.ridPasid, reg.ECAP_HI_RPS) |
    when(features.ridPrivileged, reg.ECAP_HI_RPRIVS) |
    when(features.abortDma, reg.ECAP_HI_ADMS);
  return joinU64(lo, hi);
}
