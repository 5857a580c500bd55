/**
 * Entries of the tables that a VT-d unit reads from memory (VT-d Architecture Specification, revision 4.1, chapter 9;
 * interrupt remapping table entries: section 9.10).
 *
 * Fields are masks over the 32-bit word of the entry whose index ends the name's first part: `PASID2_DID` lies in
 * word 2, bits 95..64. Pointers are 64-bit fields at a word pair with bits 11..0 used for other things.
 */

import { genmask } from '../bits.ts';

/** Bytes of a root entry, legacy and scalable mode. 256 of them, one for each bus. */
export const ROOT_ENTRY_SIZE = 16;
/** Legacy: words 0 and 1 point to the context table. Scalable: words 0, 1 for devices 0..15, words 2, 3 for 16..31. */
export const ROOT_PRESENT: number = 1 << 0;
export const ROOT_RESERVED: number = genmask(11, 1);

/** Bits of a function number that are ignored, by a function mask (FM) or a source-id qualifier (SQ) of 0..3. */
export const IGNORED_FUNCTION_BITS: readonly number[] = [0, 4, 6, 7];

/** Bytes of a legacy context entry: 256 in a table, indexed by device and function. */
export const LEGACY_CONTEXT_SIZE = 16;
export const CONTEXT0_PRESENT: number = 1 << 0;
export const CONTEXT0_FPD: number = 1 << 1;
export const LEGACY_CONTEXT0_TT: number = genmask(3, 2);
export const LEGACY_CONTEXT0_RESERVED: number = genmask(11, 4);
export const LEGACY_CONTEXT2_AW: number = genmask(2, 0);
export const LEGACY_CONTEXT2_DID: number = genmask(23, 8);
export const LEGACY_CONTEXT2_RESERVED: number = (1 << 7) | genmask(31, 24);
/** Values of LEGACY_CONTEXT0_TT. */
export const TT_UNTRANSLATED_ONLY = 0;
export const TT_DEVICE_TLB = 1;
export const TT_PASS_THROUGH = 2;

/** Bytes of a scalable-mode context entry: 128 in a table, indexed by the low 7 bits of device and function. */
export const SCALABLE_CONTEXT_SIZE = 32;
/** Device-TLB enable. */
export const CONTEXT0_DTE: number = 1 << 2;
/** Requests with PASID are allowed. */
export const CONTEXT0_PASIDE: number = 1 << 3;
/** Page requests are allowed. */
export const CONTEXT0_PRE: number = 1 << 4;
export const CONTEXT0_RESERVED: number = genmask(8, 5);
/** The PASID directory has 2^(PDTS + 7) entries. */
export const CONTEXT0_PDTS: number = genmask(11, 9);
/** PASID of requests without one. */
export const CONTEXT2_RID_PASID: number = genmask(19, 0);
/** Requests without PASID count as privileged. */
export const CONTEXT2_RID_PRIV: number = 1 << 20;
export const CONTEXT2_RESERVED: number = genmask(31, 21);

/** Bytes of a PASID directory entry, which covers 64 PASIDs. */
export const PASID_DIRECTORY_ENTRY_SIZE = 8;
export const DIRECTORY0_PRESENT: number = 1 << 0;
export const DIRECTORY0_FPD: number = 1 << 1;
export const DIRECTORY0_RESERVED: number = genmask(11, 2);
/** PASIDs in one PASID table: the directory index is pasid >> 6. */
export const PASIDS_PER_TABLE = 64;

/**
 * Bytes of a PASID table entry. Words 0 and 1, bits 63..12: second-stage table pointer (host physical). Word 3: page
 * attribute table. Words 4 and 5, bits 63..12: first-stage table pointer (guest physical when nested). Words 6..15 are
 * reserved.
 */
export const PASID_ENTRY_SIZE = 64;
export const PASID0_PRESENT: number = 1 << 0;
export const PASID0_FPD: number = 1 << 1;
/** Address width of the second stage: 1 39 bits (3 levels), 2 48 bits, 3 57 bits. */
export const PASID0_AW: number = genmask(4, 2);
/** Second-stage execute enable. */
export const PASID0_SSEE: number = 1 << 5;
/** Translation type. */
export const PASID0_PGTT: number = genmask(8, 6);
/** Second-stage accessed and dirty enable. */
export const PASID0_SSADE: number = 1 << 9;
export const PASID0_RESERVED: number = genmask(11, 10);
export const PASID2_DID: number = genmask(15, 0);
export const PASID2_RESERVED: number = genmask(22, 16);
/** Page walks snoop caches. */
export const PASID2_PWSNP: number = 1 << 23;
/** Final accesses snoop caches, whatever the tables say. */
export const PASID2_PGSNP: number = 1 << 24;
export const PASID2_CD: number = 1 << 25;
export const PASID2_EMTE: number = 1 << 26;
export const PASID2_EMT: number = genmask(29, 27);
export const PASID2_PWT: number = 1 << 30;
export const PASID2_PCD: number = 1 << 31;
/** Supervisor requests enable. */
export const PASID4_SRE: number = 1 << 0;
/** Execute requests enable. */
export const PASID4_ERE: number = 1 << 1;
/** First-stage paging mode: 0 four levels, 1 five levels. */
export const PASID4_FSPM: number = genmask(3, 2);
/** Write protect enable: supervisor writes obey R/W. */
export const PASID4_WPE: number = 1 << 4;
/** No-execute enable: XD is obeyed, else reserved. */
export const PASID4_NXE: number = 1 << 5;
/** Supervisor-mode execution prevention. */
export const PASID4_SMEP: number = 1 << 6;
/** Extended-accessed flag enable. */
export const PASID4_EAFE: number = 1 << 7;
export const PASID4_RESERVED: number = genmask(11, 8);

/** Values of PASID0_PGTT. */
export const PGTT_FIRST_STAGE = 1;
export const PGTT_SECOND_STAGE = 2;
export const PGTT_NESTED = 3;
export const PGTT_PASS_THROUGH = 4;

/** Values of AW (context and PASID entries): 2 + AW levels, 30 + 9 * AW bits. */
export const AW_39 = 1;
export const AW_48 = 2;
export const AW_57 = 3;

/** Bytes of an interrupt remapping table entry. */
export const IRTE_SIZE = 16;
export const IRTE0_PRESENT: number = 1 << 0;
export const IRTE0_FPD: number = 1 << 1;
/** Destination mode: 1 logical. */
export const IRTE0_DM: number = 1 << 2;
/** Redirection hint. */
export const IRTE0_RH: number = 1 << 3;
/** Trigger mode: 1 level. */
export const IRTE0_TM: number = 1 << 4;
export const IRTE0_DLM: number = genmask(7, 5);
export const IRTE0_RESERVED: number = genmask(14, 12) | genmask(31, 24);
/** Posted-interrupt format. */
export const IRTE0_IM: number = 1 << 15;
export const IRTE0_VECTOR: number = genmask(23, 16);
/** Destination: bits 15..8 in xAPIC mode, the whole word in x2APIC mode (IRTA.EIME). */
export const IRTE1_DST_XAPIC: number = genmask(15, 8);
export const IRTE2_SID: number = genmask(15, 0);
/** Which SID bits are compared: all but IGNORED_FUNCTION_BITS. */
export const IRTE2_SQ: number = genmask(17, 16);
/** Source validation: 0 none, 1 SID with SQ, 2 bus in [SID 15..8, SID 7..0]. */
export const IRTE2_SVT: number = genmask(19, 18);
export const IRTE2_RESERVED: number = genmask(31, 20);

/** Bits of a second-stage paging entry besides R (0), W (1), X (2), PS (7): accessed, dirty, snoop. */
export const SS_ACCESSED: number = 1 << 8;
export const SS_DIRTY: number = 1 << 9;
export const SS_SNOOP: number = 1 << 11;
/** Bits of a first-stage paging entry besides those of an x86-64 page table: the extended accessed flag. */
export const FS_EXTENDED_ACCESSED: number = 1 << 10;
