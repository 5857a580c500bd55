/**
 * VT-d second stage with 3, 4 and 5 levels.
 *
 * VT-d specification 4.1, section 3.7 (second-stage translation) and section 9.8 (second-stage paging entries). There
 * is no present bit: an entry that allows neither to read nor to write is not present.
 */

import type { PageTableFormat } from '../format.ts';
import { CONTROL_STAGE2_ACCESSED_DIRTY, CONTROL_STAGE2_EXECUTE } from '../walk.ts';

const READ = 1 << 0;
const WRITE = 1 << 1;
const EXECUTE = 1 << 2;
const LARGE = 1 << 7;
const ACCESSED = 1 << 8;
const DIRTY = 1 << 9;
const SNOOP = 1 << 11;
/** Bit 62: transient mapping in revisions before 3.0, reserved since. */
const RESERVED_HIGH = 1 << 30;

export const vtdSecondStage: PageTableFormat = {
  name: 'VT-d second stage',
  levels: [3, 4, 5],
  canonical: false,
  pageSizesLg2: [12, 21, 30],
  present: READ | WRITE,
  leaf: 0,
  leafMask: LARGE,
  large: LARGE,
  read: READ,
  readHigh: 0,
  write: WRITE,
  writeHigh: 0,
  user: 0,
  execute: EXECUTE,
  noExecuteHigh: 0,
  snoop: SNOOP,
  snoopHigh: 0,
  global: 0,
  accessed: ACCESSED,
  dirty: DIRTY,
  alwaysMarks: false,
  table: READ | WRITE | EXECUTE,
  tableLevel: 0,
  tableHigh: 0,
  software: 0x400,
};

/** No bits above the width of the table. `topLevel` is 2, 3 or 4. */
export function inRange(topLevel: number, pageHigh: number): boolean {
  return pageHigh >> ((topLevel << 3) + topLevel - 18) === 0;
}

export function isPresent(low: number): boolean {
  return (low & (READ | WRITE)) !== 0;
}

/** Bits that hardware sets in every entry it uses. */
export function usedBits(control: number): number {
  return (control & CONTROL_STAGE2_ACCESSED_DIRTY) !== 0 ? ACCESSED : 0;
}

/** The bit that hardware sets in a leaf on a write; 0 when it does not keep one. */
export function writtenBit(control: number): number {
  return (control & CONTROL_STAGE2_ACCESSED_DIRTY) !== 0 ? DIRTY : 0;
}

/** Low bits of an entry that points to a table without anything to see to: set ones, and clear ones. */
export function plainTable(control: number): number {
  return usedBits(control);
}
export const NOT_PLAIN_TABLE: number = LARGE | SNOOP;

/** Bits of the high half that must be clear, besides those of the address. */
export function reservedHigh(_control: number): number {
  return RESERVED_HIGH;
}

/** Reserved low bits of an entry that points to a table. */
export function reservedTable(level: number): number {
  return level > 2 ? LARGE | SNOOP : SNOOP;
}

/** Reserved low bits of a leaf: in a large one the whole offset. */
export function reservedLeaf(level: number, snoopControl: boolean): number {
  return ((1 << (9 * level + 12)) - (1 << 12)) | (snoopControl ? 0 : SNOOP);
}

export function isLarge(low: number): boolean {
  return (low & LARGE) !== 0;
}

/** Rights of a walk: `all` is the AND of the low halves on the way, `any` the OR of the high halves. */
export function rightsOf(all: number, _any: number, control: number): number {
  const execute = (control & CONTROL_STAGE2_EXECUTE) !== 0 ? all & EXECUTE : (all & READ) << 2;
  const rights = (all & (READ | WRITE)) | execute;
  return rights | (rights << 4);
}
