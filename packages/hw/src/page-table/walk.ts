/**
 * The vocabulary of page-table walks: how a walk ends, what it was allowed to do, what it found.
 *
 * A walk is one call with small integers; what it found stands in fields of the walker until its next call. A walk
 * that fails has written nothing to the tables of the stage that failed.
 */

import { ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE } from '../pci/transaction.ts';

/** The translation exists and allows the access. */
export const WALK_OK = 0;
/** An entry on the way is not present. */
export const WALK_NOT_PRESENT = 1;
/** A present entry has a reserved bit set, or a page size that the hardware does not have. */
export const WALK_RESERVED = 2;
/** All entries are present and the tables do not allow to read, to write, to execute. */
export const WALK_READ_DENIED = 3;
export const WALK_WRITE_DENIED = 4;
export const WALK_EXECUTE_DENIED = 5;
/** A user access to a page that only privileged accesses reach. */
export const WALK_PRIVILEGE_DENIED = 6;
/** A table lies where there is no memory. */
export const WALK_UNREACHABLE = 7;
/** The address is not canonical, or has bits above the width of the table. */
export const WALK_OUT_OF_RANGE = 8;

/** Control: writes by privileged accesses respect read-only entries (CR0.WP; PASID-table entry WPE). First stage. */
export const CONTROL_WRITE_PROTECT = 1;
/** Control: bit 63 of an entry forbids to execute instead of being reserved (EFER.NXE; PASID-table entry NXE). First stage. */
export const CONTROL_NO_EXECUTE = 2;
/** Control: privileged accesses do not execute user pages (CR4.SMEP; PASID-table entry SMEP). First stage. */
export const CONTROL_SMEP = 4;
/** Control: extended-accessed bits are kept (PASID-table entry EAFE). First stage. */
export const CONTROL_EXTENDED_ACCESSED = 8;
/** Control: accessed and dirty bits are kept in the second stage (PASID-table entry SSADE). */
export const CONTROL_STAGE2_ACCESSED_DIRTY = 16;
/** Control: the execute bit of second-stage entries is enforced; without it what is readable is executable. */
export const CONTROL_STAGE2_EXECUTE = 32;

/**
 * Rights: ACCESS_READ, ACCESS_WRITE and ACCESS_EXECUTE of user accesses in bits 0..2, of privileged ones in bits 4..6.
 */
export const RIGHTS_PRIVILEGED_SHIFT = 4;
export const RIGHTS_WRITE: number = ACCESS_WRITE | (ACCESS_WRITE << RIGHTS_PRIVILEGED_SHIFT);

const RIGHTS_OF_ONE: number = ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE;
/** Everything is allowed to everybody. */
export const RIGHTS_ALL: number = RIGHTS_OF_ONE | (RIGHTS_OF_ONE << RIGHTS_PRIVILEGED_SHIFT);
/** To read or to write, by anybody. What has neither may not even be present. */
export const RIGHTS_DATA: number = 0x33;

/** True when `rights` allow all of `access` (ACCESS_ bits, privilege included). */
export function allows(rights: number, access: number): boolean {
  return (((rights >> ((access & 8) >> 1)) ^ access) & access & 7) === 0;
}

/** Why rights that do not allow `access` do not: a WALK_ code. */
export function denial(rights: number, access: number): number {
  const missing = access & ~(rights >> ((access & 8) >> 1)) & 7;
  if ((access & 8) === 0 && (rights & 7) === 0 && rights !== 0) return WALK_PRIVILEGE_DENIED;
  if ((missing & ACCESS_READ) !== 0) return WALK_READ_DENIED;
  return (missing & ACCESS_WRITE) !== 0 ? WALK_WRITE_DENIED : WALK_EXECUTE_DENIED;
}

/** What one unit or core can do with tables, whatever software asks. */
export type WalkerOptions = {
  /** Bits of a physical address, 36..52: the address bits above are reserved in every entry. 52 by default. */
  physicalBits?: number;
  /** 2 MiB and 1 GiB leaves exist; both by default. Where they do not, the bit that makes a leaf is reserved. */
  page2M?: boolean;
  page1G?: boolean;
  /** The snoop bit of second-stage leaves exists; by default it does. Otherwise it is reserved. */
  snoopControl?: boolean;
};

/** Address bits that are reserved in the high half of an entry. */
export function reservedAddressHigh(physicalBits: number): number {
  if (physicalBits < 36 || physicalBits > 52) throw new RangeError(`physical addresses of ${physicalBits} bits`);
  return 0x000fffff & -(1 << (physicalBits - 32));
}

/** The index into a table of `level` for a split page number. */
export function entryIndex(level: number, pageHigh: number, pageLow: number): number {
  return (level > 2 ? pageHigh >> (9 * level - 27) : pageLow >> (9 * level)) & 511;
}

/** The frame number in bits 51..12 of an entry. */
export function frameOf(low: number, high: number): number {
  return (low >>> 12) + (high & 0xfffff) * 1048576;
}
