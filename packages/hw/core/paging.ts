/**
 * Four-level paging (Intel SDM volume 3A, chapter "Paging"): the walk with its permission and reserved-bit checks,
 * accessed and dirty flags, page-fault error codes. No 1 GiB pages, no protection keys, no PCIDs: none is advertised.
 */

import { noteWrite } from './host.ts';
import { Cr0, Cr4, cpu, Efer, isCanonical, Mode, raiseWithError, State, TLB_SIZE, Vector } from './state.ts';

export const enum Access {
  READ,
  WRITE,
  EXECUTE,
}

/** Where a translated address leads. */
export const enum Place {
  /** Nowhere: an exception is pending. */
  FAULT,
  /** RAM; State.HOST is the byte offset. */
  RAM,
  /** The bus; State.GPA is the address. */
  BUS,
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;
const LARGE: u64 = 0x80;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000ffffffffff000;
const LARGE_RESERVED: u64 = 0x1fe000;

const enum PageFault {
  PRESENT = 1,
  WRITE = 2,
  USER = 4,
  RESERVED = 8,
  FETCH = 16,
}

/** What the map says of a guest frame: 0, or (pfn << 1 | writable) + 2. */
export function mapEntry(gpa: u64): u32 {
  const gfn = gpa >> 12;
  if (gfn >= load<u32>(cpu, State.MAP_FRAMES)) return 0;
  return load<u32>(load<u32>(cpu, State.MAP) + ((<u32>gfn) << 2));
}

/** Byte offset in memory of a guest physical address that is RAM; 0xffffffff when it is not. */
function hostAddress(gpa: u64): usize {
  const entry = mapEntry(gpa);
  if (entry == 0) return 0xffffffff;
  return (((entry - 2) >> 1) << 12) | (<u32>gpa & 0xfff);
}

/** Tells whoever watches a frame that it was written. */
export function noteFrame(host: usize): void {
  const pfn = <u32>(host >> 12);
  if (load<u8>(load<u32>(cpu, State.FRAME_FLAGS) + pfn)) noteWrite(pfn);
}

function setEntryBits(entryGpa: u64, value: u64, bits: u64): void {
  if ((value & bits) == bits) return;
  const map = mapEntry(entryGpa);
  // A table in memory that the guest may not write keeps its bytes.
  if (map == 0 || (map & 1) == 0) return;
  const host = hostAddress(entryGpa);
  store<u64>(host, value | bits);
  noteFrame(host);
}

/** State.GPA becomes the physical address of canonical `address`; otherwise #PF is raised. */
function walk(address: u64, access: u32, mode: u32): bool {
  const noExecute = (load<u64>(cpu, State.EFER) & Efer.NXE) != 0;
  let reserved = load<u64>(cpu, State.ADDRESS_RESERVED);
  if (!noExecute) reserved |= NO_EXECUTE;
  const user = mode >= <u32>Mode.USER;
  let error: u32 = (access == Access.WRITE ? PageFault.WRITE : 0) | (user ? PageFault.USER : 0);
  const cr4 = load<u64>(cpu, State.CR4);
  if (access == Access.EXECUTE && (noExecute || cr4 & Cr4.SMEP)) error |= PageFault.FETCH;

  let rights: u64 = WRITABLE | USER;
  let forbidden: u64 = 0;
  let table = load<u64>(cpu, State.CR3) & ADDRESS;
  let gpa3: u64 = 0;
  let gpa2: u64 = 0;
  let gpa1: u64 = 0;
  let entry3: u64 = 0;
  let entry2: u64 = 0;
  let entry1: u64 = 0;
  let gpa: u64 = 0;
  let entry: u64 = 0;
  let large = false;
  for (let level = 3; level >= 0; level--) {
    gpa = table | (((address >> (12 + 9 * level)) & 511) << 3);
    const host = hostAddress(gpa);
    // Nothing answers outside the memory map: all ones.
    entry = host == 0xffffffff ? 0xffffffffffffffff : load<u64>(host);
    if ((entry & PRESENT) == 0) return pageFault(address, error);
    let mustBeZero = reserved;
    if (entry & LARGE) {
      if (level >= 2) mustBeZero |= LARGE;
      else if (level == 1) {
        mustBeZero |= LARGE_RESERVED;
        large = true;
      }
    }
    if (entry & mustBeZero) return pageFault(address, error | PageFault.PRESENT | PageFault.RESERVED);
    rights &= entry;
    forbidden |= entry;
    if (large || level == 0) break;
    if (level == 3) {
      gpa3 = gpa;
      entry3 = entry;
    } else if (level == 2) {
      gpa2 = gpa;
      entry2 = entry;
    } else {
      gpa1 = gpa;
      entry1 = entry;
    }
    table = entry & ADDRESS;
  }

  let allowed: bool;
  const userPage = (rights & USER) != 0;
  if (user) allowed = userPage;
  else if (!userPage) allowed = true;
  else if (access == Access.EXECUTE) allowed = (cr4 & Cr4.SMEP) == 0;
  else allowed = mode == Mode.SUPERVISOR;
  if (access == Access.WRITE && (rights & WRITABLE) == 0) {
    if (user || load<u64>(cpu, State.CR0) & Cr0.WP) allowed = false;
  }
  if (access == Access.EXECUTE && noExecute && forbidden & NO_EXECUTE) allowed = false;
  if (!allowed) return pageFault(address, error | PageFault.PRESENT);

  setEntryBits(gpa3, entry3, ACCESSED);
  setEntryBits(gpa2, entry2, ACCESSED);
  if (!large) setEntryBits(gpa1, entry1, ACCESSED);
  setEntryBits(gpa, entry, access == Access.WRITE ? ACCESSED | DIRTY : ACCESSED);
  if (large) {
    store<u64>(cpu, (entry & (ADDRESS ^ 0x1ff000)) | (address & 0x1fffff), State.GPA);
    store<u32>(cpu, 1, State.LARGE_CACHED);
  } else store<u64>(cpu, (entry & ADDRESS) | (address & 0xfff), State.GPA);
  return true;
}

function pageFault(address: u64, error: u32): bool {
  store<u64>(cpu, address, State.CR2);
  raiseWithError(Vector.PF, error);
  return false;
}

/**
 * Translates one address. `stack`: a violation of the canonical form is #SS. RAM pages enter the translation cache;
 * pages of the bus never do, so that every access to a device is seen.
 */
export function translate(address: u64, access: u32, mode: u32, stack: bool): u32 {
  if (!isCanonical(address)) {
    raiseWithError(stack ? Vector.SS : Vector.GP, 0);
    return Place.FAULT;
  }
  if (!walk(address, access, mode)) return Place.FAULT;
  const gpa = load<u64>(cpu, State.GPA);
  const map = mapEntry(gpa);
  if (map == 0 || (access == Access.WRITE && (map & 1) == 0)) return Place.BUS;
  const host = (((map - 2) >> 1) << 12) | (<u32>gpa & 0xfff);
  store<u32>(cpu, host, State.HOST);
  if (mode != Mode.USER_ALIGNED || access == Access.EXECUTE) {
    const slot = cpu + State.TLBS + mode * TLB_SIZE + access * 4096 + ((<u32>(address >> 12) & 255) << 4);
    store<u64>(slot, address & ~(<u64>0xfff));
    store<u32>(slot, (host & ~0xfff) - (<u32>address & ~0xfff), 8);
  }
  return Place.RAM;
}

/** Drops every cached translation. No address has this tag: it is not page-aligned. */
export function flushTlb(): void {
  memory.fill(cpu + State.TLBS, 0xff, 4 * TLB_SIZE);
  store<u32>(cpu, 0, State.LARGE_CACHED);
}

/** Drops the cached translations of one page. */
export function flushPage(address: u64): void {
  // Parts of one large page stand under many tags, and none says how large its page is.
  if (load<u32>(cpu, State.LARGE_CACHED)) {
    flushTlb();
    return;
  }
  let at = cpu + State.TLBS + ((<u32>(address >> 12) & 255) << 4);
  for (let array = 0; array < 12; array++) {
    if ((load<u64>(at) ^ address) < 4096) store<u64>(at, 0xffffffffffffffff);
    at += 4096;
  }
}

/** #AC(0) for a misaligned user access while alignment is checked. */
export function misaligned(): void {
  raiseWithError(Vector.AC, 0);
}


/** MAXPHYADDR. */
export function addressBits(): u32 {
  const reserved = load<u64>(cpu, State.ADDRESS_RESERVED);
  return reserved ? <u32>ctz<u64>(reserved) : 52;
}
