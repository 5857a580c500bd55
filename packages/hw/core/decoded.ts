/**
 * The instruction being decoded: its bytes, its prefixes, and what its record will say. There is one at a time, and
 * nothing of it outlives a call from outside.
 */

import { Bits, NO_REGISTER, Operation } from './record.ts';
import { Slot } from './state.ts';

export class Decoded {
  /** Next byte, and the end of the bytes there are. */
  static at: usize = 0;
  static end: usize = 0;
  /** More bytes were wanted than there are. */
  static overrun: bool = false;

  static operandSize16: bool = false;
  static rex: u32 = 0;
  /** REX.W. */
  static wide: bool = false;
  static lock: bool = false;

  /** The fields of the record, see record.ts. */
  static operation: u32 = 0;
  static reg: u32 = 0;
  static rm: u32 = 0;
  static base: u32 = 0;
  static index: u32 = 0;
  static scale: u32 = 0;
  static bits: u32 = 0;
  static size: u32 = 0;
  static kind: u32 = 0;
  static displacement: i64 = 0;
  static immediate: i64 = 0;

  /** Slot of the FS or GS base when a prefix selects it, else Slot.ZERO. */
  static segment: u32 = 0;
  /** ModRM fields, with their REX bits. */
  static regNumber: u32 = 0;
  static rmNumber: u32 = 0;
  static inMemory: bool = false;
  /** The displacement is relative to the next instruction. */
  static relative: bool = false;
  /** The LOCK prefix is allowed with the memory form. */
  static lockable: bool = false;
  /** The block ends behind the instruction. */
  static last: bool = false;
  /** The immediate is a jump's distance from the next instruction. */
  static jump: bool = false;
}

/** Forgets the last instruction, but not where the bytes are. */
export function clear(): void {
  Decoded.operandSize16 = false;
  Decoded.rex = 0;
  Decoded.wide = false;
  Decoded.lock = false;
  Decoded.operation = Operation.UNDEFINED;
  Decoded.reg = 0;
  Decoded.rm = NO_REGISTER;
  Decoded.base = Slot.ZERO;
  Decoded.index = Slot.ZERO;
  Decoded.scale = 0;
  Decoded.bits = 0;
  Decoded.size = 0;
  Decoded.kind = 0;
  Decoded.displacement = 0;
  Decoded.immediate = 0;
  Decoded.segment = Slot.ZERO;
  Decoded.inMemory = false;
  Decoded.relative = false;
  Decoded.lockable = false;
  Decoded.last = false;
  Decoded.jump = false;
}

export function fetch8(): u32 {
  if (Decoded.at >= Decoded.end) {
    Decoded.overrun = true;
    return 0;
  }
  return load<u8>(Decoded.at++);
}

export function fetch16(): u32 {
  const low = fetch8();
  return low | (fetch8() << 8);
}

export function fetch32(): u32 {
  const low = fetch16();
  return low | (fetch16() << 16);
}

export function fetch64(): u64 {
  const low = <u64>fetch32();
  return low | (<u64>fetch32() << 32);
}

/** A sign-extended immediate for an operand of `bytes` bytes, at most 4 of them. */
export function immediateOf(bytes: u32): void {
  if (bytes == 1) Decoded.immediate = <i64>(<i8>fetch8());
  else if (bytes == 2) Decoded.immediate = <i64>(<i16>fetch16());
  else Decoded.immediate = <i64>(<i32>fetch32());
}

/** Byte offset of general register `number` as an operand of `bytes` bytes: AH, CH, DH, BH without REX. */
export function register(number: u32, bytes: u32): u32 {
  return bytes == 1 && Decoded.rex == 0 && number >= 4 && number < 8 ? ((number - 4) << 3) + 1 : number << 3;
}

/** ModRM, SIB and displacement. */
export function modRm(): void {
  const byte = fetch8();
  const mod = byte >> 6;
  Decoded.regNumber = ((byte >> 3) & 7) | ((Decoded.rex & 4) << 1);
  const low = byte & 7;
  Decoded.rmNumber = low | ((Decoded.rex & 1) << 3);
  Decoded.inMemory = mod != 3;
  if (!Decoded.inMemory) return;
  if (low == 4) {
    const sib = fetch8();
    const indexNumber = ((sib >> 3) & 7) | ((Decoded.rex & 2) << 2);
    if (indexNumber != 4) {
      Decoded.index = indexNumber << 3;
      Decoded.scale = sib >> 6;
    }
    if ((sib & 7) == 5 && mod == 0) Decoded.displacement = <i64>(<i32>fetch32());
    else {
      const baseNumber = (sib & 7) | ((Decoded.rex & 1) << 3);
      Decoded.base = baseNumber << 3;
      if (baseNumber == 4 || baseNumber == 5) Decoded.bits |= Bits.STACK;
    }
  } else if (low == 5 && mod == 0) {
    Decoded.displacement = <i64>(<i32>fetch32());
    Decoded.relative = true;
  } else {
    Decoded.base = Decoded.rmNumber << 3;
    if (Decoded.rmNumber == 5) Decoded.bits |= Bits.STACK;
  }
  if (mod == 1) Decoded.displacement = <i64>(<i8>fetch8());
  else if (mod == 2) Decoded.displacement = <i64>(<i32>fetch32());
}

/** ModRM with both operands of `bytes` bytes. */
export function operands(bytes: u32): void {
  modRm();
  Decoded.reg = register(Decoded.regNumber, bytes);
  if (!Decoded.inMemory) Decoded.rm = register(Decoded.rmNumber, bytes);
  Decoded.size = bytes;
}

/** Size of the other than byte-sized operand. */
export function fullSize(): u32 {
  return Decoded.wide ? 8 : Decoded.operandSize16 ? 2 : 4;
}

/** Operand size by the lowest opcode bit. */
export function sizeOf(opcode: u32): u32 {
  return opcode & 1 ? fullSize() : 1;
}

/** A system operation, which ends its block. */
export function system(what: u32): void {
  Decoded.operation = what;
  Decoded.last = true;
}
