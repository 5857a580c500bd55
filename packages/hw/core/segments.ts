/**
 * Descriptors and what loads them (Intel SDM volume 3A, chapters "Protected-Mode Memory Management" and "Protection").
 * Of a segment the core keeps its selector, its privilege level and, of FS and GS, the base: in 64-bit mode the rest
 * has no effect. Code segments must be 64-bit; compatibility mode is not implemented and gives #GP.
 */

import { systemRead, systemWrite } from './memory.ts';
import { cpl, cpu, raiseWithError, Segment, setRegister, Slot, State, Status, Vector } from './state.ts';

/** The last descriptor read, and where it was. */
let descriptor: u64 = 0;
let descriptorAddress: u64 = 0;

export const enum Descriptor {
  ACCESSED = 1,
  WRITABLE = 2,
  /** Of code: conforming. */
  CONFORMING = 4,
  CODE = 8,
  /** Not a system descriptor. */
  ORDINARY = 16,
}

export function descriptorType(): u32 {
  return <u32>(descriptor >> 40) & 31;
}

export function descriptorDpl(): u32 {
  return <u32>(descriptor >> 45) & 3;
}

export function descriptorPresent(): bool {
  return (descriptor & (1 << 47)) != 0;
}

/** L set and D clear. */
export function descriptorIs64(): bool {
  return ((descriptor >> 53) & 3) == 1;
}

export function descriptorBase(): u64 {
  return ((descriptor >> 16) & 0xffffff) | ((descriptor >> 56) << 24);
}

export function descriptorLimit(): u32 {
  const limit = <u32>(descriptor & 0xffff) | (<u32>(descriptor >> 32) & 0xf0000);
  return descriptor & (1 << 55) ? (limit << 12) | 0xfff : limit;
}

export function descriptorHigh(): u32 {
  return <u32>(descriptor >> 32);
}

/** Reads the descriptor of `selector`; beyond its table: `vector` with the selector. False: an exception is pending. */
export function readDescriptor(selector: u32, vector: u32, external: u32): bool {
  const local = (selector & 4) != 0;
  const limit = local ? load<u32>(cpu, State.LDT_LIMIT) : load<u32>(cpu, State.GDT_LIMIT);
  const offset = selector & 0xfff8;
  if (offset + 7 > limit || (local && load<u16>(cpu, State.LDT_SELECTOR) < 4)) {
    raiseWithError(vector, (selector & 0xfffc) | external);
    return false;
  }
  descriptorAddress = (local ? load<u64>(cpu, State.LDT_BASE) : load<u64>(cpu, State.GDT_BASE)) + offset;
  const pointer = systemRead(descriptorAddress, 8);
  if (!pointer) return false;
  descriptor = load<u64>(pointer);
  return true;
}

/** As readDescriptor but for instructions that ask: false without any exception when there is no such descriptor. */
export function hasDescriptor(selector: u32): bool {
  if ((selector & 0xfffc) == 0) return false;
  const limit = selector & 4 ? load<u32>(cpu, State.LDT_LIMIT) : load<u32>(cpu, State.GDT_LIMIT);
  return (selector & 0xfff8) + 7 <= limit && !((selector & 4) != 0 && load<u16>(cpu, State.LDT_SELECTOR) < 4);
}

export function readSelector(segment: u32): u32 {
  return load<u16>(cpu + (segment << 1), State.SELECTORS);
}

export function writeSelector(segment: u32, selector: u32, dpl: u32): void {
  store<u16>(cpu + (segment << 1), <u16>selector, State.SELECTORS);
  store<u8>(cpu + segment, <u8>dpl, State.SEGMENT_DPL);
}

function refuse(vector: u32, selector: u32): u32 {
  raiseWithError(vector, selector & 0xfffc);
  return Status.FAULT;
}

/** Sets the accessed flag of the last descriptor. False: an exception is pending. */
function markAccessed(): bool {
  if (descriptor & (1 << 40)) return true;
  return systemWrite(descriptorAddress + 5, 1, (descriptor >> 40) | Descriptor.ACCESSED);
}

/** The checks that a code segment has to pass for a transfer to privilege `rpl` (IRET, far returns). Gives a Status. */
export function checkReturnCode(selector: u32): u32 {
  if ((selector & 0xfffc) == 0) {
    raiseWithError(Vector.GP, 0);
    return Status.FAULT;
  }
  const rpl = selector & 3;
  if (!readDescriptor(selector, Vector.GP, 0)) return Status.FAULT;
  const type = descriptorType();
  const dpl = descriptorDpl();
  if ((type & (Descriptor.ORDINARY | Descriptor.CODE)) != (Descriptor.ORDINARY | Descriptor.CODE)) {
    return refuse(Vector.GP, selector);
  }
  if (rpl < cpl() || (type & Descriptor.CONFORMING ? dpl > rpl : dpl != rpl)) return refuse(Vector.GP, selector);
  // Rings 1 and 2 have no users in long mode, and are not implemented.
  if (!descriptorIs64() || rpl == 1 || rpl == 2) return refuse(Vector.GP, selector);
  if (!descriptorPresent()) return refuse(Vector.NP, selector);
  return markAccessed() ? Status.NEXT : Status.FAULT;
}

/** The checks of a code segment for a far jump or call, which keep the privilege level. Gives a Status. */
export function checkJumpCode(selector: u32): u32 {
  if ((selector & 0xfffc) == 0) {
    raiseWithError(Vector.GP, 0);
    return Status.FAULT;
  }
  if (!readDescriptor(selector, Vector.GP, 0)) return Status.FAULT;
  const type = descriptorType();
  const dpl = descriptorDpl();
  // Call gates are not implemented.
  if ((type & (Descriptor.ORDINARY | Descriptor.CODE)) != (Descriptor.ORDINARY | Descriptor.CODE)) {
    return refuse(Vector.GP, selector);
  }
  const allowed = type & Descriptor.CONFORMING ? dpl <= cpl() : dpl == cpl() && (selector & 3) <= cpl();
  if (!allowed || !descriptorIs64()) return refuse(Vector.GP, selector);
  if (!descriptorPresent()) return refuse(Vector.NP, selector);
  return markAccessed() ? Status.NEXT : Status.FAULT;
}

/** The checks of a stack segment for privilege `level`. Gives a Status. */
export function checkStack(selector: u32, level: u32, vector: u32): u32 {
  if ((selector & 0xfffc) == 0) {
    // Null is a stack segment of 64-bit code below ring 3.
    if (level != 3 && (selector & 3) == level) return Status.NEXT;
    raiseWithError(vector, 0);
    return Status.FAULT;
  }
  if ((selector & 3) != level) return refuse(vector, selector);
  if (!readDescriptor(selector, vector, 0)) return Status.FAULT;
  const type = descriptorType();
  const writableData = Descriptor.ORDINARY | Descriptor.WRITABLE;
  if ((type & (writableData | Descriptor.CODE)) != writableData || descriptorDpl() != level) {
    return refuse(vector, selector);
  }
  if (!descriptorPresent()) return refuse(Vector.SS, selector);
  return markAccessed() ? Status.NEXT : Status.FAULT;
}

/** MOV and POP to a segment register, LSS, LFS, LGS. Gives a Status. */
export function loadSegment(segment: u32, selector: u32): u32 {
  if (segment == Segment.SS) {
    const status = checkStack(selector, cpl(), Vector.GP);
    if (status == Status.NEXT) writeSelector(Segment.SS, selector, cpl());
    return status;
  }
  let base: u64 = 0;
  let dpl: u32 = 0;
  if (selector & 0xfffc) {
    if (!readDescriptor(selector, Vector.GP, 0)) return Status.FAULT;
    const type = descriptorType();
    dpl = descriptorDpl();
    const readable = (type & Descriptor.CODE) == 0 || (type & Descriptor.WRITABLE) != 0;
    if ((type & Descriptor.ORDINARY) == 0 || !readable) return refuse(Vector.GP, selector);
    const conforming = (type & Descriptor.CODE) != 0 && (type & Descriptor.CONFORMING) != 0;
    if (!conforming && dpl < max<u32>(selector & 3, cpl())) return refuse(Vector.GP, selector);
    if (conforming) dpl = 3;
    if (!descriptorPresent()) return refuse(Vector.NP, selector);
    if (!markAccessed()) return Status.FAULT;
    base = descriptorBase();
  }
  writeSelector(segment, selector, dpl);
  if (segment == Segment.FS) setRegister(Slot.FS_BASE, base);
  else if (segment == Segment.GS) setRegister(Slot.GS_BASE, base);
  return Status.NEXT;
}

/** On the way out to `level`: data segments of more privileged levels become null. */
export function dropSegments(level: u32): void {
  dropSegment(Segment.ES, level);
  dropSegment(Segment.DS, level);
  if (dropSegment(Segment.FS, level)) setRegister(Slot.FS_BASE, 0);
  if (dropSegment(Segment.GS, level)) setRegister(Slot.GS_BASE, 0);
}

function dropSegment(segment: u32, level: u32): bool {
  if ((readSelector(segment) & 0xfffc) == 0 || load<u8>(cpu + segment, State.SEGMENT_DPL) >= level) return false;
  writeSelector(segment, 0, 0);
  return true;
}

const enum SystemType {
  LDT = 2,
  TSS_AVAILABLE = 9,
  TSS_BUSY = 11,
}

/** LLDT (`task` false) and LTR. Gives a Status. */
export function loadSystemSegment(selector: u32, task: bool): u32 {
  if ((selector & 0xfffc) == 0) {
    if (task) {
      raiseWithError(Vector.GP, 0);
      return Status.FAULT;
    }
    store<u16>(cpu, 0, State.LDT_SELECTOR);
    return Status.NEXT;
  }
  // 16 bytes in the GDT.
  if (selector & 4 || (selector & 0xfff8) + 15 > load<u32>(cpu, State.GDT_LIMIT)) return refuse(Vector.GP, selector);
  if (!readDescriptor(selector, Vector.GP, 0)) return Status.FAULT;
  const type = descriptorType();
  if (type != (task ? SystemType.TSS_AVAILABLE : SystemType.LDT)) return refuse(Vector.GP, selector);
  if (!descriptorPresent()) return refuse(Vector.NP, selector);
  const base = descriptorBase();
  const limit = descriptorLimit();
  const upper = systemRead(descriptorAddress + 8, 8);
  if (!upper) return Status.FAULT;
  const high = load<u64>(upper);
  if ((high >> 40) & 31) return refuse(Vector.GP, selector);
  const full = base | (high << 32);
  if (<u64>((<i64>full << 16) >> 16) != full) return refuse(Vector.GP, selector);
  if (task) {
    if (!systemWrite(descriptorAddress + 5, 1, (descriptor >> 40) | 2)) return Status.FAULT;
    store<u64>(cpu, full, State.TSS_BASE);
    store<u32>(cpu, limit, State.TSS_LIMIT);
    store<u16>(cpu, <u16>selector, State.TSS_SELECTOR);
  } else {
    store<u64>(cpu, full, State.LDT_BASE);
    store<u32>(cpu, limit, State.LDT_LIMIT);
    store<u16>(cpu, <u16>selector, State.LDT_SELECTOR);
  }
  return Status.NEXT;
}
