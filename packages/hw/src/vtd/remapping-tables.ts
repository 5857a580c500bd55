/**
 * Reads what software put in memory for a requester: root, context, PASID directory and PASID table entries, of legacy
 * and scalable mode, with every check that an entry must pass (VT-d Architecture Specification, revision 4.1, sections
 * 3.4, 9.1 to 9.6). What the unit does not advertise is reserved.
 */

import { fieldGet } from '../bits.ts';
import type { PhysicalMemory } from '../memory/physical-memory.ts';
import {
  CONTROL_EXTENDED_ACCESSED,
  CONTROL_NO_EXECUTE,
  CONTROL_SMEP,
  CONTROL_STAGE2_ACCESSED_DIRTY,
  CONTROL_STAGE2_EXECUTE,
  CONTROL_WRITE_PROTECT,
  frameOf,
} from '../page-table/walk.ts';
import { ACCESS_EXECUTE, ACCESS_PRIVILEGED, NO_PASID } from '../pci/transaction.ts';
import * as fault from './fault-reason.ts';
import type { VtdFeatures } from './features.ts';
import type { Space, SpaceTable } from './space.ts';
import * as t from './tables.ts';

/** A context entry, of either mode, as the context cache holds it. */
export type Context = {
  readonly rid: number;
  readonly fpd: boolean;
  /** Legacy mode: what translates; null in scalable mode. */
  readonly legacy: Binding | null;
  /** Translation and translated requests are allowed (TT 1, or DTE). */
  readonly deviceTlb: boolean;
  readonly pasidEnable: boolean;
  readonly pageRequests: boolean;
  /** Number of PASIDs that the directory covers. */
  readonly pasids: number;
  readonly directoryPfn: number;
  readonly ridPasid: number;
  readonly ridPrivileged: boolean;
};

/** What translates the requests of one (requester, PASID): a PASID table entry, or a legacy context entry. */
export type Binding = {
  readonly legacy: boolean;
  /** A PGTT_ value. */
  readonly kind: number;
  readonly rid: number;
  readonly pasid: number;
  readonly did: number;
  /** What its translations are cached under. */
  readonly space: Space;
  readonly fpd: boolean;
  /** CONTROL_ bits for the walkers. */
  readonly control: number;
  /** First stage: frame of the root table (guest frame when nested) and level of its entries. */
  readonly root1: number;
  readonly top1: number;
  /** Second stage: frame of the root table and level of its entries. */
  readonly root2: number;
  readonly top2: number;
  /** ACCESS_ bits that the entry does not enable: privileged without SRE, execute without ERE. */
  readonly refused: number;
  /** Walks snoop, so that flags in tables can be updated. */
  readonly walkSnoop: boolean;
  readonly pageSnoop: boolean;
  /** ACCESS_PRIVILEGED when every request counts as privileged (RID_PRIV). */
  readonly implied: number;
};

export class RemappingTables {
  /** Frame of the root table. */
  rootPfn = 0;
  /** After a read that failed: the fault reason, and whether Fault Processing Disable applies to it. */
  reason = 0;
  fpd = false;
  private readonly memory: PhysicalMemory;
  private readonly features: VtdFeatures;
  private readonly spaces: SpaceTable;
  /** Bits of an entry's high half above the host address width. */
  private readonly reservedHigh: number;
  private readonly words: Int32Array = new Int32Array(16);

  constructor(memory: PhysicalMemory, features: VtdFeatures, spaces: SpaceTable) {
    this.memory = memory;
    this.features = features;
    this.spaces = spaces;
    this.reservedHigh = -(1 << (features.hostAddressWidth - 32));
  }

  private refuse(reason: number, fpd: boolean): null {
    this.reason = reason;
    this.fpd = fpd;
    return null;
  }

  /** Copies `count` words of frame `pfn` from word `index` on. False when there is no memory. */
  private fetch(pfn: number, index: number, count: number): boolean {
    const { memory, words } = this;
    if (!memory.isMemory(pfn)) return false;
    for (let i = 0; i < count; i++) words[i] = memory.readWord(pfn, index + i);
    return true;
  }

  /** The context table of `rid`'s bus, or -1 after a fault. `first` is the first of the three root fault reasons. */
  private readRoot(rid: number, half: number, access: number, absent: number, reserved: number): number {
    const { words } = this;
    if (!this.fetch(this.rootPfn, (rid >> 8) * 4 + half, 2)) return this.lose(access);
    if ((words[0]! & t.ROOT_PRESENT) === 0) return this.lose(absent);
    if ((words[0]! & t.ROOT_RESERVED) !== 0 || (words[1]! & this.reservedHigh) !== 0) return this.lose(reserved);
    return frameOf(words[0]!, words[1]!);
  }

  private lose(reason: number): number {
    this.refuse(reason, false);
    return -1;
  }

  readLegacyContext(rid: number): Context | null {
    const { words, features } = this;
    const table = this.readRoot(rid, 0, fault.LRT_1, fault.LRT_2, fault.LRT_3);
    if (table < 0) return null;
    if (!this.fetch(table, (rid & 0xff) * 4, 4)) return this.refuse(fault.LCT_1, false);
    const [word0, word1, word2, word3] = words as unknown as [number, number, number, number];
    const fpd = (word0 & t.CONTEXT0_FPD) !== 0;
    if ((word0 & t.CONTEXT0_PRESENT) === 0) return this.refuse(fault.LCT_2, fpd);
    const reserved =
      (word0 & t.LEGACY_CONTEXT0_RESERVED) |
      (word1 & this.reservedHigh) |
      (word2 & (t.LEGACY_CONTEXT2_RESERVED | this.reservedDomain(8))) |
      word3;
    if (reserved !== 0) return this.refuse(fault.LCT_3, fpd);
    const type = fieldGet(t.LEGACY_CONTEXT0_TT, word0);
    const width = fieldGet(t.LEGACY_CONTEXT2_AW, word2);
    const supported =
      type === t.TT_UNTRANSLATED_ONLY ||
      (type === t.TT_DEVICE_TLB && features.deviceTlb) ||
      (type === t.TT_PASS_THROUGH && features.passThrough);
    if (!supported || !features.secondStageLevels.includes(width + 2)) return this.refuse(fault.LCT_4, fpd);
    const did = fieldGet(t.LEGACY_CONTEXT2_DID, word2);
    const pass = type === t.TT_PASS_THROUGH;
    return {
      rid,
      fpd,
      deviceTlb: type === t.TT_DEVICE_TLB,
      pasidEnable: false,
      pageRequests: false,
      pasids: 0,
      directoryPfn: 0,
      ridPasid: 0,
      ridPrivileged: false,
      legacy: {
        legacy: true,
        kind: pass ? t.PGTT_PASS_THROUGH : t.PGTT_SECOND_STAGE,
        rid,
        pasid: NO_PASID,
        did,
        space: this.spaces.ofDomain(did),
        fpd,
        control: 0,
        root1: 0,
        top1: 0,
        root2: frameOf(word0, word1),
        top2: width + 1,
        refused: 0,
        walkSnoop: true,
        pageSnoop: false,
        implied: 0,
      },
    };
  }

  readScalableContext(rid: number): Context | null {
    const { words, features } = this;
    const half = (rid & 0x80) !== 0 ? 2 : 0;
    const table = this.readRoot(rid, half, fault.SRT_1, fault.SRT_2, fault.SRT_3);
    if (table < 0) return null;
    if (!this.fetch(table, (rid & 0x7f) * 8, 8)) return this.refuse(fault.SCT_1, false);
    const word0 = words[0]!;
    const word2 = words[2]!;
    const fpd = (word0 & t.CONTEXT0_FPD) !== 0;
    if ((word0 & t.CONTEXT0_PRESENT) === 0) return this.refuse(fault.SCT_2, fpd);
    let reserved0 = t.CONTEXT0_RESERVED;
    if (!features.deviceTlb) reserved0 |= t.CONTEXT0_DTE;
    if (!features.pasid) reserved0 |= t.CONTEXT0_PASIDE;
    if (!features.pageRequests) reserved0 |= t.CONTEXT0_PRE;
    let reserved2 = t.CONTEXT2_RESERVED;
    if (!features.ridPasid) reserved2 |= t.CONTEXT2_RID_PASID;
    if (!features.ridPrivileged) reserved2 |= t.CONTEXT2_RID_PRIV;
    let reserved = (word0 & reserved0) | (words[1]! & this.reservedHigh) | (word2 & reserved2);
    for (let i = 3; i < 8; i++) reserved |= words[i]!;
    if (reserved !== 0) return this.refuse(fault.SCT_3, fpd);
    const sizeLg2 = fieldGet(t.CONTEXT0_PDTS, word0) + 13;
    if (sizeLg2 > Math.max(13, features.pasid ? features.pasidBits : 0)) return this.refuse(fault.SCT_4, fpd);
    return {
      rid,
      fpd,
      legacy: null,
      deviceTlb: (word0 & t.CONTEXT0_DTE) !== 0,
      pasidEnable: (word0 & t.CONTEXT0_PASIDE) !== 0,
      pageRequests: (word0 & t.CONTEXT0_PRE) !== 0,
      pasids: 2 ** sizeLg2,
      directoryPfn: frameOf(word0, words[1]!),
      ridPasid: fieldGet(t.CONTEXT2_RID_PASID, word2),
      ridPrivileged: (word2 & t.CONTEXT2_RID_PRIV) !== 0,
    };
  }

  readPasidEntry(context: Context, pasid: number, privileged: boolean): Binding | null {
    const { words, features } = this;
    const directoryIndex = pasid >>> 6;
    if (!this.fetch(context.directoryPfn + (directoryIndex >> 9), (directoryIndex & 511) * 2, 2)) {
      return this.refuse(fault.SPD_1, context.fpd);
    }
    const directoryFpd = context.fpd || (words[0]! & t.DIRECTORY0_FPD) !== 0;
    if ((words[0]! & t.DIRECTORY0_PRESENT) === 0) return this.refuse(fault.SPD_2, directoryFpd);
    if ((words[0]! & t.DIRECTORY0_RESERVED) !== 0 || (words[1]! & this.reservedHigh) !== 0) {
      return this.refuse(fault.SPD_3, directoryFpd);
    }
    const table = frameOf(words[0]!, words[1]!);
    if (!this.fetch(table, (pasid & 63) * 16, 16)) return this.refuse(fault.SPT_1, directoryFpd);
    const word0 = words[0]!;
    const word2 = words[2]!;
    const word4 = words[4]!;
    const fpd = directoryFpd || (word0 & t.PASID0_FPD) !== 0;
    if ((word0 & t.PASID0_PRESENT) === 0) return this.refuse(fault.SPT_2, fpd);
    if (this.pasidEntryHasReserved()) return this.refuse(fault.SPT_3, fpd);
    const kind = fieldGet(t.PASID0_PGTT, word0);
    const width = fieldGet(t.PASID0_AW, word0);
    const mode = fieldGet(t.PASID4_FSPM, word4);
    const first = kind === t.PGTT_FIRST_STAGE || kind === t.PGTT_NESTED;
    const second = kind === t.PGTT_SECOND_STAGE || kind === t.PGTT_NESTED;
    const invalid =
      !this.supports(kind) ||
      (second && !features.secondStageLevels.includes(width + 2)) ||
      (first && mode > (features.firstStage5Level ? 1 : 0));
    if (invalid) return this.refuse(fault.SPT_4, fpd);
    const did = fieldGet(t.PASID2_DID, word2);
    let refused = 0;
    if (first && (word4 & t.PASID4_SRE) === 0) refused |= ACCESS_PRIVILEGED;
    if (first && (word4 & t.PASID4_ERE) === 0) refused |= ACCESS_EXECUTE;
    let control = 0;
    if ((word4 & t.PASID4_WPE) !== 0) control |= CONTROL_WRITE_PROTECT;
    if ((word4 & t.PASID4_NXE) !== 0) control |= CONTROL_NO_EXECUTE;
    if ((word4 & t.PASID4_SMEP) !== 0) control |= CONTROL_SMEP;
    if ((word4 & t.PASID4_EAFE) !== 0) control |= CONTROL_EXTENDED_ACCESSED;
    if ((word0 & t.PASID0_SSADE) !== 0) control |= CONTROL_STAGE2_ACCESSED_DIRTY;
    if ((word0 & t.PASID0_SSEE) !== 0) control |= CONTROL_STAGE2_EXECUTE;
    return {
      legacy: false,
      kind,
      rid: context.rid,
      pasid,
      did,
      space: kind === t.PGTT_SECOND_STAGE ? this.spaces.ofDomain(did) : this.spaces.ofPasid(did, pasid, kind),
      fpd,
      control,
      root1: frameOf(word4, words[5]!),
      top1: mode + 3,
      root2: frameOf(word0, words[1]!),
      top2: width + 1,
      refused,
      walkSnoop: (word2 & t.PASID2_PWSNP) !== 0,
      pageSnoop: (word2 & t.PASID2_PGSNP) !== 0,
      implied: privileged ? ACCESS_PRIVILEGED : 0,
    };
  }

  private supports(kind: number): boolean {
    const { firstStage, secondStage, nested, passThrough } = this.features;
    if (kind === t.PGTT_FIRST_STAGE) return firstStage;
    if (kind === t.PGTT_SECOND_STAGE) return secondStage;
    if (kind === t.PGTT_NESTED) return nested && firstStage && secondStage;
    return kind === t.PGTT_PASS_THROUGH && passThrough;
  }

  /** Of the PASID entry in `words`; what is not advertised is reserved. */
  private pasidEntryHasReserved(): boolean {
    const { words, features } = this;
    let reserved0 = t.PASID0_RESERVED;
    if (!features.secondStageAccessedDirty) reserved0 |= t.PASID0_SSADE;
    if (!features.executeRequests) reserved0 |= t.PASID0_SSEE;
    let reserved2 = t.PASID2_RESERVED | this.reservedDomain(0);
    if (!features.scalableCoherentWalks) reserved2 |= t.PASID2_PWSNP;
    if (!features.snoopControl) reserved2 |= t.PASID2_PGSNP;
    if (!features.memoryTypes) {
      reserved2 |= t.PASID2_CD | t.PASID2_EMTE | t.PASID2_EMT | t.PASID2_PWT | t.PASID2_PCD;
    }
    let reserved4 = t.PASID4_RESERVED;
    if (!features.supervisorRequests) reserved4 |= t.PASID4_SRE | t.PASID4_SMEP;
    if (!features.executeRequests) reserved4 |= t.PASID4_ERE | t.PASID4_NXE;
    if (!features.extendedAccessed) reserved4 |= t.PASID4_EAFE;
    let bits = (words[0]! & reserved0) | (words[2]! & reserved2) | (words[4]! & reserved4);
    bits |= (words[1]! | words[5]!) & this.reservedHigh;
    if (!features.memoryTypes) bits |= words[3]!;
    for (let i = 6; i < 16; i++) bits |= words[i]!;
    return bits !== 0;
  }

  /** Domain-id bits beyond those the unit has, for a field that starts at bit `shift`. */
  private reservedDomain(shift: number): number {
    return (0xffff & -(1 << this.features.domainIdBits)) << shift;
  }
}
