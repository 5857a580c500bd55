/**
 * Fault reasons and what is special about each (VT-d Architecture Specification, revision 4.1, table 7.1.3 for DMA,
 * table 5.1.4.1 for interrupts). Names are the specification's condition names with the dot left out: `SFS_2` is
 * SFS.2; conditions of interrupts have numbers only there. Conditions that share a code (LGN.1.1, LGN.1.2, ...) share a
 * name.
 */

export const LRT_1 = 0x08;
export const LRT_2 = 0x01;
export const LRT_3 = 0x0a;
export const LCT_1 = 0x09;
export const LCT_2 = 0x02;
export const LCT_3 = 0x0b;
export const LCT_4 = 0x03;
export const LCT_5 = 0x0d;
export const LSS_1 = 0x07;
export const LSS_2 = 0x0c;
export const LGN_1 = 0x04;
export const LGN_2 = 0x05;
export const LGN_3 = 0x06;
export const LGN_4 = 0x0e;
export const IR_REQUEST_RESERVED = 0x20;
export const IR_INDEX_BEYOND_TABLE = 0x21;
export const IR_ENTRY_NOT_PRESENT = 0x22;
export const IR_TABLE_ACCESS = 0x23;
export const IR_ENTRY_RESERVED = 0x24;
export const IR_COMPATIBILITY_BLOCKED = 0x25;
export const IR_SOURCE_ID = 0x26;
export const RTA_1 = 0x30;
export const RTA_2 = 0x31;
export const RTA_3 = 0x32;
export const RTA_4 = 0x33;
export const SRT_1 = 0x38;
export const SRT_2 = 0x39;
export const SRT_3 = 0x3a;
export const SCT_1 = 0x40;
export const SCT_2 = 0x41;
export const SCT_3 = 0x42;
export const SCT_4 = 0x43;
export const SCT_5 = 0x44;
export const SCT_6 = 0x45;
export const SCT_7 = 0x46;
export const SCT_8 = 0x47;
export const SCT_9 = 0x48;
export const SPD_1 = 0x50;
export const SPD_2 = 0x51;
export const SPD_3 = 0x52;
export const SPT_1 = 0x58;
export const SPT_2 = 0x59;
export const SPT_3 = 0x5a;
export const SPT_4 = 0x5b;
export const SPT_5 = 0x5c;
export const SPT_6 = 0x5d;
export const SFS_1 = 0x70;
export const SFS_2 = 0x71;
export const SFS_3 = 0x72;
export const SFS_4 = 0x73;
export const SFS_5 = 0x74;
export const SFS_6 = 0x75;
export const SFS_7 = 0x76;
export const SFS_8 = 0x77;
export const SSS_1 = 0x78;
export const SSS_2 = 0x79;
export const SSS_3 = 0x7a;
export const SSS_4 = 0x7b;
export const SSS_5 = 0x7c;
export const SSS_6 = 0x7d;
export const SGN_1 = 0x80;
export const SGN_2 = 0x81;
export const SGN_3 = 0x82;
export const SGN_4 = 0x83;
export const SGN_5 = 0x84;
export const SGN_6 = 0x85;
export const SGN_7 = 0x86;
export const SGN_8 = 0x87;
export const SFS_9 = 0x90;
export const SFS_10 = 0x91;

/** How the unit completes an ATS translation request that meets a condition. */
export const ATS_UNSUPPORTED_REQUEST = 0;
export const ATS_COMPLETER_ABORT = 1;
/** A successful completion that grants nothing; nothing is recorded, the function may ask for the page. */
export const ATS_NOTHING_GRANTED = 2;

type Condition = { name: string; text: string; qualified: boolean; ats: number };

const UR = ATS_UNSUPPORTED_REQUEST;
const CA = ATS_COMPLETER_ABORT;
const NONE = ATS_NOTHING_GRANTED;

const conditions: ReadonlyMap<number, Condition> = new Map<number, Condition>(
  (
    [
      [LRT_1, 'LRT.1', 'error accessing a root entry', false, CA],
      [LRT_2, 'LRT.2', 'root entry not present', false, UR],
      [LRT_3, 'LRT.3', 'reserved field in a root entry', false, CA],
      [LCT_1, 'LCT.1', 'error accessing a context entry', false, CA],
      [LCT_2, 'LCT.2', 'context entry not present', true, UR],
      [LCT_3, 'LCT.3', 'reserved field in a context entry', true, CA],
      [LCT_4, 'LCT.4', 'invalid context entry', true, CA],
      [LCT_5, 'LCT.5', 'translation or translated request blocked by the context entry', true, UR],
      [LSS_1, 'LSS.1', 'error accessing a second-stage entry', true, CA],
      [LSS_2, 'LSS.2', 'reserved field in a second-stage entry', true, CA],
      [LGN_1, 'LGN.1', 'address beyond the address width', true, NONE],
      [LGN_2, 'LGN.2', 'no write permission', true, NONE],
      [LGN_3, 'LGN.3', 'no read permission', true, NONE],
      [LGN_4, 'LGN.4', 'result in the interrupt address range', true, CA],
      [IR_REQUEST_RESERVED, 'IR.20h', 'reserved field in an interrupt request', false, UR],
      [IR_INDEX_BEYOND_TABLE, 'IR.21h', 'interrupt index beyond the table', false, UR],
      [IR_ENTRY_NOT_PRESENT, 'IR.22h', 'interrupt entry not present', true, UR],
      [IR_TABLE_ACCESS, 'IR.23h', 'error accessing an interrupt entry', false, UR],
      [IR_ENTRY_RESERVED, 'IR.24h', 'reserved field in an interrupt entry', true, UR],
      [IR_COMPATIBILITY_BLOCKED, 'IR.25h', 'compatibility-format interrupt blocked', false, UR],
      [IR_SOURCE_ID, 'IR.26h', 'source-id verification failed', true, UR],
      [RTA_1, 'RTA.1', 'invalid translation table mode', false, CA],
      [RTA_2, 'RTA.2', 'request with PASID in legacy mode', false, UR],
      [RTA_3, 'RTA.3', 'page request in legacy mode', false, UR],
      [RTA_4, 'RTA.4', 'request in abort-DMA mode', false, UR],
      [SRT_1, 'SRT.1', 'error accessing a root entry', false, CA],
      [SRT_2, 'SRT.2', 'root entry not present', false, UR],
      [SRT_3, 'SRT.3', 'reserved field in a root entry', false, CA],
      [SCT_1, 'SCT.1', 'error accessing a context entry', false, CA],
      [SCT_2, 'SCT.2', 'context entry not present', true, UR],
      [SCT_3, 'SCT.3', 'reserved field in a context entry', true, CA],
      [SCT_4, 'SCT.4', 'invalid context entry', true, CA],
      [SCT_5, 'SCT.5', 'translation or translated request without DTE', true, UR],
      [SCT_6, 'SCT.6', 'request with PASID without PASIDE', true, UR],
      [SCT_7, 'SCT.7', 'PASID beyond the directory', true, UR],
      [SCT_8, 'SCT.8', 'page request without PRE', true, UR],
      [SCT_9, 'SCT.9', 'RID_PASID beyond the directory', true, UR],
      [SPD_1, 'SPD.1', 'error accessing a PASID directory entry', false, CA],
      [SPD_2, 'SPD.2', 'PASID directory entry not present', true, UR],
      [SPD_3, 'SPD.3', 'reserved field in a PASID directory entry', true, CA],
      [SPT_1, 'SPT.1', 'error accessing a PASID table entry', false, CA],
      [SPT_2, 'SPT.2', 'PASID table entry not present', true, UR],
      [SPT_3, 'SPT.3', 'reserved field in a PASID table entry', true, CA],
      [SPT_4, 'SPT.4', 'invalid PASID table entry', true, CA],
      [SPT_5, 'SPT.5', 'execute request without ERE', true, NONE],
      [SPT_6, 'SPT.6', 'supervisor request without SRE', true, NONE],
      [SFS_1, 'SFS.1', 'error accessing a first-stage entry', true, CA],
      [SFS_2, 'SFS.2', 'first-stage entry not present', true, NONE],
      [SFS_3, 'SFS.3', 'reserved field in a first-stage entry', true, CA],
      [SFS_4, 'SFS.4', 'error accessing the first-stage root table', true, CA],
      [SFS_5, 'SFS.5', 'first-stage table address beyond the second stage', true, NONE],
      [SFS_6, 'SFS.6', 'no second-stage read permission for the first-stage root table', true, NONE],
      [SFS_7, 'SFS.7', 'no second-stage read permission for a first-stage table', true, NONE],
      [SFS_8, 'SFS.8', 'no second-stage write permission for a first-stage flag update', true, NONE],
      [SFS_9, 'SFS.9', 'first-stage flag update needed by walks that do not snoop', true, CA],
      [SFS_10, 'SFS.10', 'first-stage flag update failed', true, CA],
      [SSS_1, 'SSS.1', 'error accessing a second-stage entry', true, CA],
      [SSS_2, 'SSS.2', 'no permission in the second stage', true, NONE],
      [SSS_3, 'SSS.3', 'reserved field in a second-stage entry', true, CA],
      [SSS_4, 'SSS.4', 'error accessing the second-stage root table', true, CA],
      [SSS_5, 'SSS.5', 'second-stage flag update needed by walks that do not snoop', true, CA],
      [SSS_6, 'SSS.6', 'second-stage flag update failed', true, CA],
      [SGN_1, 'SGN.1', 'address not canonical', true, NONE],
      [SGN_2, 'SGN.2', 'user request to a supervisor page', true, NONE],
      [SGN_3, 'SGN.3', 'no execute permission', true, NONE],
      [SGN_4, 'SGN.4', 'address beyond the host address width', true, NONE],
      [SGN_5, 'SGN.5', 'second-stage input beyond the address width', true, NONE],
      [SGN_6, 'SGN.6', 'no write permission', true, NONE],
      [SGN_7, 'SGN.7', 'no read permission', true, NONE],
      [SGN_8, 'SGN.8', 'result in the interrupt address range', true, CA],
    ] as const
  ).map(([reason, name, text, qualified, ats]) => [reason, { name, text, qualified, ats }]),
);

/** `SFS.2: first-stage entry not present`; of an unknown code the number. */
export function describeFault(reason: number): string {
  const condition = conditions.get(reason);
  return condition === undefined ? `reason ${reason}` : `${condition.name}: ${condition.text}`;
}

/** Qualified faults are not recorded when the Fault Processing Disable bit that applies is set. */
export function isQualified(reason: number): boolean {
  return conditions.get(reason)?.qualified ?? false;
}

/** ATS_ constant: how a translation request completes. */
export function atsOutcome(reason: number): number {
  return conditions.get(reason)?.ats ?? ATS_COMPLETER_ABORT;
}

/** Every fault reason of the modes that the model has. */
export const FAULT_REASONS: readonly number[] = [...conditions.keys()];
