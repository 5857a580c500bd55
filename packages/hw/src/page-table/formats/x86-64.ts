/**
 * x86-64 paging with 4 and 5 levels, which is also the first stage of VT-d.
 *
 * Intel SDM (December 2024) volume 3, section 5.5, tables 5-13 to 5-20; VT-d specification 4.1, section 9.7
 * (first-stage paging entries), which adds the extended-accessed bit to entries that a device uses.
 */

import { ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE } from '../../pci/transaction.ts';
import type { PageTableFormat } from '../format.ts';
import { CONTROL_EXTENDED_ACCESSED, CONTROL_NO_EXECUTE, CONTROL_SMEP, CONTROL_WRITE_PROTECT } from '../walk.ts';

const PRESENT = 1 << 0;
const WRITE = 1 << 1;
const USER = 1 << 2;
const ACCESSED = 1 << 5;
const DIRTY = 1 << 6;
const LARGE = 1 << 7;
const GLOBAL = 1 << 8;
const NO_EXECUTE_HIGH = 1 << 31;

export const x86_64: PageTableFormat = {
  name: 'x86-64',
  levels: [4, 5],
  canonical: true,
  pageSizesLg2: [12, 21, 30],
  present: PRESENT,
  leaf: PRESENT,
  leafMask: LARGE,
  large: LARGE,
  read: 0,
  readHigh: 0,
  write: WRITE,
  writeHigh: 0,
  user: USER,
  execute: 0,
  noExecuteHigh: NO_EXECUTE_HIGH,
  snoop: 0,
  snoopHigh: 0,
  global: GLOBAL,
  accessed: ACCESSED,
  dirty: DIRTY,
  alwaysMarks: true,
  table: PRESENT | WRITE | USER | ACCESSED,
  tableLevel: 0,
  tableHigh: 0,
  software: 0x200 | 0x800,
};

/** The sign of the address continues to bit 63. `topLevel` is 3 or 4. */
export function inRange(topLevel: number, pageHigh: number): boolean {
  const shift = (topLevel << 3) + topLevel - 19;
  const sign = pageHigh >> shift;
  return sign === 0 || sign === 0x1ffffff >> shift;
}

export function isPresent(low: number): boolean {
  return (low & PRESENT) !== 0;
}

/** Bits that hardware sets in every entry it uses; bit 10 is the extended-accessed one. */
export function usedBits(control: number): number {
  return ACCESSED | ((control & CONTROL_EXTENDED_ACCESSED) << 7);
}

/** The bit that hardware sets in a leaf on a write; 0 when it does not keep one. */
export function writtenBit(_control: number): number {
  return DIRTY;
}

/** Low bits of an entry that points to a table without anything to see to: set ones, and clear ones. */
export function plainTable(control: number): number {
  return PRESENT | usedBits(control);
}
export const NOT_PLAIN_TABLE: number = LARGE;

/** Bits of the high half that must be clear, besides those of the address. */
export function reservedHigh(control: number): number {
  return (~control & CONTROL_NO_EXECUTE) << 30;
}

/** Reserved low bits of an entry that points to a table. */
export function reservedTable(level: number): number {
  return level > 2 ? LARGE : 0;
}

/** Reserved low bits of a leaf: bit 12 of a large one selects a memory type, the rest of the offset is reserved. */
export function reservedLeaf(level: number, _snoopControl: boolean): number {
  return level === 0 ? 0 : (1 << (9 * level + 12)) - (1 << 13);
}

export function isLarge(low: number): boolean {
  return (low & LARGE) !== 0;
}

/** Rights of a walk: `all` is the AND of the low halves on the way, `any` the OR of the high halves. */
export function rightsOf(all: number, any: number, control: number): number {
  const execute = any < 0 && (control & CONTROL_NO_EXECUTE) !== 0 ? 0 : ACCESS_EXECUTE;
  const user = (all & USER) === 0 ? 0 : ACCESS_READ | (all & WRITE) | execute;
  const write = (control & CONTROL_WRITE_PROTECT) !== 0 ? all & WRITE : ACCESS_WRITE;
  const privileged = ACCESS_READ | write | ((control & CONTROL_SMEP) !== 0 && user !== 0 ? 0 : execute);
  return user | (privileged << 4);
}
