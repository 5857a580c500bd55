/**
 * Reading the tables that a guest's VT-d driver keeps in guest memory: scalable-mode root and context tables, PASID
 * directory and PASID table (VT-d Architecture Specification, revision 4.1, chapter 9). Everything here is the guest's
 * and may be anything: what cannot be read is absent.
 */

import {
  CONTEXT0_PASIDE,
  CONTEXT0_PDTS,
  CONTEXT0_PRESENT,
  CONTEXT2_RID_PASID,
  DIRECTORY0_PRESENT,
  fieldGet,
  joinU64,
  type MemoryPort,
  PASID_DIRECTORY_ENTRY_SIZE,
  PASID_ENTRY_SIZE,
  PASID0_PRESENT,
  PASID0_RESERVED,
  PASID2_RESERVED,
  PASID4_EAFE,
  PASID4_ERE,
  PASID4_FSPM,
  PASID4_RESERVED,
  PASID4_SRE,
  PASIDS_PER_TABLE,
  ROOT_ENTRY_SIZE,
  ROOT_PRESENT,
  SCALABLE_CONTEXT_SIZE,
  type VtdFeatures,
} from '@iommukit/hw';

export type ContextEntry = {
  /** Guest physical address of the PASID directory. */
  readonly directory: bigint;
  /** PASIDs that the directory covers: 0..pasids-1. */
  readonly pasids: number;
  /** PASID of requests without one. */
  readonly ridPasid: number;
  /** Requests with PASID are allowed. */
  readonly pasidEnabled: boolean;
};

/** A present PASID entry as 16 words. */
export type PasidEntry = Int32Array;

/** The scalable-mode context entry of `rid`, or null when it is not present. */
export function readContext(memory: MemoryPort, rootTable: bigint, rid: number): ContextEntry | null {
  const root = readWords(memory, rootTable + BigInt((rid >> 8) * ROOT_ENTRY_SIZE), ROOT_ENTRY_SIZE);
  const half = (rid & 0x80) === 0 ? 0 : 2;
  if (root === null || (root[half]! & ROOT_PRESENT) === 0) return null;
  const table = pointer(root, half);
  const entry = readWords(memory, table + BigInt((rid & 0x7f) * SCALABLE_CONTEXT_SIZE), SCALABLE_CONTEXT_SIZE);
  if (entry === null || (entry[0]! & CONTEXT0_PRESENT) === 0) return null;
  return {
    directory: pointer(entry, 0),
    pasids: PASIDS_PER_TABLE << (fieldGet(CONTEXT0_PDTS, entry[0]!) + 7),
    ridPasid: fieldGet(CONTEXT2_RID_PASID, entry[2]!),
    pasidEnabled: (entry[0]! & CONTEXT0_PASIDE) !== 0,
  };
}

/** The entry of `pasid`, or null when it is not present. */
export function readPasidEntry(memory: MemoryPort, context: ContextEntry, pasid: number): PasidEntry | null {
  if (pasid >= context.pasids) return null;
  const table = readDirectory(memory, context, Math.floor(pasid / PASIDS_PER_TABLE));
  if (table === null) return null;
  const entry = readWords(memory, table + BigInt((pasid % PASIDS_PER_TABLE) * PASID_ENTRY_SIZE), PASID_ENTRY_SIZE);
  return entry !== null && (entry[0]! & PASID0_PRESENT) !== 0 ? entry : null;
}

/** True when no bit is set that a unit with these features and first-stage tables alone reserves (section 9.6). */
export function isWellFormed(entry: PasidEntry, features: VtdFeatures): boolean {
  const word4 = entry[4]!;
  return (
    (entry[0]! & PASID0_RESERVED) === 0 &&
    (entry[2]! & PASID2_RESERVED) === 0 &&
    (word4 & PASID4_RESERVED) === 0 &&
    fieldGet(PASID4_FSPM, word4) <= (features.firstStage5Level ? 1 : 0) &&
    (features.supervisorRequests || (word4 & PASID4_SRE) === 0) &&
    (features.executeRequests || (word4 & PASID4_ERE) === 0) &&
    (features.extendedAccessed || (word4 & PASID4_EAFE) === 0) &&
    entry.subarray(6).every((word) => word === 0)
  );
}

/** Every PASID whose entry is present, ascending. */
export function presentPasids(memory: MemoryPort, context: ContextEntry): number[] {
  const present: number[] = [];
  for (let index = 0; index < context.pasids / PASIDS_PER_TABLE; index++) {
    const table = readDirectory(memory, context, index);
    if (table === null) continue;
    const words = readWords(memory, table, PASIDS_PER_TABLE * PASID_ENTRY_SIZE);
    if (words === null) continue;
    for (let slot = 0; slot < PASIDS_PER_TABLE; slot++) {
      const first = words[(slot * PASID_ENTRY_SIZE) / 4]!;
      if ((first & PASID0_PRESENT) !== 0) present.push(index * PASIDS_PER_TABLE + slot);
    }
  }
  return present;
}

function readDirectory(memory: MemoryPort, context: ContextEntry, index: number): bigint | null {
  const at = context.directory + BigInt(index * PASID_DIRECTORY_ENTRY_SIZE);
  const entry = readWords(memory, at, PASID_DIRECTORY_ENTRY_SIZE);
  return entry !== null && (entry[0]! & DIRECTORY0_PRESENT) !== 0 ? pointer(entry, 0) : null;
}

/** The address in bits 63..12 of the word pair at `word`. */
export function pointer(words: Int32Array, word: number): bigint {
  return joinU64(words[word]! & ~0xfff, words[word + 1]!);
}

function readWords(memory: MemoryPort, address: bigint, bytes: number): Int32Array | null {
  if (address + BigInt(bytes) > 1n << 52n) return null;
  const words = new Int32Array(bytes / 4);
  return memory.read(address, new Uint8Array(words.buffer)) ? words : null;
}
