/**
 * Scalable-mode PASID-table entries: 64 bytes, written as sixteen words (Intel VT-d specification, revision 4.1,
 * section 9.6).
 */

import {
  fieldGet,
  fieldPrep,
  high32,
  low32,
  PASID0_AW,
  PASID0_PGTT,
  PASID0_PRESENT,
  PASID0_SSADE,
  PASID2_DID,
  PASID2_PWSNP,
  PASID4_EAFE,
  PASID4_FSPM,
  PASID4_NXE,
  PASID4_SRE,
  PASID4_WPE,
} from '@iommukit/hw';

export type PasidEntry = {
  readonly domainId: number;
  /** A PGTT_ value. */
  readonly translation: number;
  /** Levels of the second stage, 3..5; also bounds pass-through addresses. */
  readonly stage2Levels: number;
  /** Physical address of the second-stage table. */
  readonly stage2Root?: bigint;
  /** Hardware sets accessed and dirty bits of the second stage. */
  readonly stage2Dirty?: boolean;
  /** Address of the first-stage table: physical, or guest-physical when nested. */
  readonly stage1Root?: bigint;
  readonly stage1FiveLevels?: boolean;
  /** Requests with supervisor privilege are allowed. */
  readonly supervisor?: boolean;
  readonly writeProtect?: boolean;
  /** Bit 63 of a first-stage entry forbids to execute; otherwise it is reserved. */
  readonly noExecute?: boolean;
  /** Hardware sets extended-accessed bits of the first stage. */
  readonly extendedAccessed?: boolean;
  /** Table walks are coherent with CPU caches. */
  readonly pageWalkSnoop: boolean;
};

export const PASID_ENTRY_WORDS = 16;

export function encodePasidEntry(entry: PasidEntry): Int32Array {
  const words = new Int32Array(PASID_ENTRY_WORDS);
  const { stage1Root, stage2Root = 0n } = entry;
  words[0] =
    low32(stage2Root) |
    (entry.stage2Dirty === true ? PASID0_SSADE : 0) |
    fieldPrep(PASID0_PGTT, entry.translation) |
    fieldPrep(PASID0_AW, entry.stage2Levels - 2) |
    PASID0_PRESENT;
  words[1] = high32(stage2Root);
  words[2] = fieldPrep(PASID2_DID, entry.domainId) | (entry.pageWalkSnoop ? PASID2_PWSNP : 0);
  if (stage1Root === undefined) return words;
  words[4] =
    low32(stage1Root) |
    (entry.noExecute === true ? PASID4_NXE : 0) |
    (entry.supervisor === true ? PASID4_SRE : 0) |
    fieldPrep(PASID4_FSPM, entry.stage1FiveLevels === true ? 1 : 0) |
    (entry.writeProtect === true ? PASID4_WPE : 0) |
    (entry.extendedAccessed === true ? PASID4_EAFE : 0);
  words[5] = high32(stage1Root);
  return words;
}

/** What of an entry decides how its traces in the caches are removed. */
export type EntryTag = { readonly domainId: number; readonly translation: number };

/** Null when the entry is not present. */
export function decodeEntryTag(word0: number, word2: number): EntryTag | null {
  if ((word0 & PASID0_PRESENT) === 0) return null;
  return { domainId: fieldGet(PASID2_DID, word2), translation: fieldGet(PASID0_PGTT, word0) };
}
