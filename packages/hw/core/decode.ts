/**
 * From instruction bytes to records (Intel SDM volume 2, appendix A), 64-bit mode only. What is not implemented, and
 * what 64-bit mode does not have, decodes to UNDEFINED.
 *
 * The variables below describe the instruction being decoded; nothing of them outlives a call from outside.
 */

import { Access, Place, translate } from './paging.ts';
import { Alu, AluForm, Bits, Block, NO_REGISTER, Operation, Record, Shift } from './record.ts';
import { cpu, Segment, Slot, State } from './state.ts';

const LONGEST_BLOCK: u32 = 32;
const LONGEST_INSTRUCTION: u32 = 15;

/** Next byte, and the end of the bytes there are. */
let at: usize = 0;
let end: usize = 0;
let overrun: bool = false;

let operandSize16: bool = false;
let rex: u32 = 0;
let wide: bool = false;
let lock: bool = false;

let operation: u32 = 0;
let reg: u32 = 0;
let rm: u32 = 0;
let base: u32 = 0;
let index: u32 = 0;
let scale: u32 = 0;
let bits: u32 = 0;
let size: u32 = 0;
let kind: u32 = 0;
let displacement: i64 = 0;
let immediate: i64 = 0;
/** Slot of the FS or GS base when a prefix selects it, else Slot.ZERO. */
let segment: u32 = 0;
/** ModRM fields, with their REX bits. */
let regNumber: u32 = 0;
let rmNumber: u32 = 0;
let inMemory: bool = false;
let relative: bool = false;
/** The LOCK prefix is allowed with this instruction's memory form. */
let lockable: bool = false;
/** The block ends behind this instruction. */
let last: bool = false;
/** The displacement is a jump's immediate: its target is relative to the next instruction. */
let jump: bool = false;

function fetch8(): u32 {
  if (at >= end) {
    overrun = true;
    return 0;
  }
  return load<u8>(at++);
}

function fetch16(): u32 {
  const low = fetch8();
  return low | (fetch8() << 8);
}

function fetch32(): u32 {
  const low = fetch16();
  return low | (fetch16() << 16);
}

function fetch64(): u64 {
  const low = <u64>fetch32();
  return low | (<u64>fetch32() << 32);
}

function immediateOf(bytes: u32): void {
  if (bytes == 1) immediate = <i64>(<i8>fetch8());
  else if (bytes == 2) immediate = <i64>(<i16>fetch16());
  else immediate = <i64>(<i32>fetch32());
}

/** Byte offset of general register `number` as an operand of `bytes` bytes: AH, CH, DH, BH without REX. */
function register(number: u32, bytes: u32): u32 {
  return bytes == 1 && rex == 0 && number >= 4 && number < 8 ? ((number - 4) << 3) + 1 : number << 3;
}

function modRm(): void {
  const byte = fetch8();
  const mod = byte >> 6;
  regNumber = ((byte >> 3) & 7) | ((rex & 4) << 1);
  const low = byte & 7;
  rmNumber = low | ((rex & 1) << 3);
  inMemory = mod != 3;
  if (!inMemory) return;
  if (low == 4) {
    const sib = fetch8();
    const indexNumber = ((sib >> 3) & 7) | ((rex & 2) << 2);
    if (indexNumber != 4) {
      index = indexNumber << 3;
      scale = sib >> 6;
    }
    if ((sib & 7) == 5 && mod == 0) displacement = <i64>(<i32>fetch32());
    else {
      const baseNumber = (sib & 7) | ((rex & 1) << 3);
      base = baseNumber << 3;
      if (baseNumber == 4 || baseNumber == 5) bits |= Bits.STACK;
    }
  } else if (low == 5 && mod == 0) {
    displacement = <i64>(<i32>fetch32());
    relative = true;
  } else {
    base = rmNumber << 3;
    if (rmNumber == 5) bits |= Bits.STACK;
  }
  if (mod == 1) displacement = <i64>(<i8>fetch8());
  else if (mod == 2) displacement = <i64>(<i32>fetch32());
}

/** ModRM with both operands of `bytes` bytes. */
function operands(bytes: u32): void {
  modRm();
  reg = register(regNumber, bytes);
  if (!inMemory) rm = register(rmNumber, bytes);
  size = bytes;
}

/** Size of the other than byte-sized operand. */
function fullSize(): u32 {
  return wide ? 8 : operandSize16 ? 2 : 4;
}

/** Size by the lowest opcode bit. */
function sizeOf(opcode: u32): u32 {
  return opcode & 1 ? fullSize() : 1;
}

function fastAlu(alu: u32, form: u32): u32 {
  const family = alu <= <u32>Alu.OR ? alu : alu - 2;
  return Operation.ALU + (family * 5 + form) * 2 + (size == 8 ? 1 : 0);
}

function isFastAlu(alu: u32): bool {
  return size >= 4 && alu != Alu.ADC && alu != Alu.SBB;
}

/** Arithmetic with destination r/m. */
function aluToRm(alu: u32): void {
  kind = alu;
  lockable = alu < <u32>Alu.CMP;
  if (isFastAlu(alu)) operation = fastAlu(alu, inMemory ? AluForm.MR : AluForm.RR);
  else if (size == 1 && alu == Alu.TEST && !inMemory) operation = Operation.TEST8_RR;
  else operation = Operation.ALU_MR;
}

/** Arithmetic with destination reg. */
function aluToReg(alu: u32): void {
  kind = alu;
  if (!isFastAlu(alu)) operation = Operation.ALU_RM;
  else if (inMemory) operation = fastAlu(alu, AluForm.RM);
  else {
    const source = rm;
    rm = reg;
    reg = source;
    operation = fastAlu(alu, AluForm.RR);
  }
}

/** Arithmetic of r/m with the immediate. */
function aluImmediate(alu: u32): void {
  kind = alu;
  lockable = alu < <u32>Alu.CMP;
  if (isFastAlu(alu)) operation = fastAlu(alu, inMemory ? AluForm.MI : AluForm.RI);
  else if (size == 1 && alu == Alu.CMP) operation = inMemory ? Operation.CMP8_MI : Operation.CMP8_RI;
  else if (size == 1 && alu == Alu.TEST && inMemory) operation = Operation.TEST8_MI;
  else operation = Operation.ALU_MI;
}

function moveLoad(): void {
  if (inMemory) {
    operation =
      size == 8 ? Operation.LOAD64 : size == 4 ? Operation.LOAD32 : size == 2 ? Operation.LOAD16 : Operation.LOAD8;
  } else operation = size == 8 ? Operation.MOV_RR64 : size == 4 ? Operation.MOV_RR32 : Operation.MOV_RM;
}

function moveStore(): void {
  if (inMemory) {
    operation =
      size == 8 ? Operation.STORE64 : size == 4 ? Operation.STORE32 : size == 2 ? Operation.STORE16 : Operation.STORE8;
    return;
  }
  const destination = rm;
  rm = reg;
  reg = destination;
  operation = size == 8 ? Operation.MOV_RR64 : size == 4 ? Operation.MOV_RR32 : Operation.MOV_RM;
}

function system(what: u32): void {
  operation = what;
  last = true;
}

function shiftGroup(bytes: u32, count: i64): void {
  kind = regNumber & 7;
  operation = Operation.SHIFT;
  immediate = count & (bytes == 8 ? 63 : 31);
  if (inMemory || bytes < 4 || immediate == 0) return;
  const is64 = bytes == 8;
  if (kind == Shift.SHL || kind == Shift.SAL) operation = is64 ? Operation.SHL_I64 : Operation.SHL_I32;
  else if (kind == Shift.SHR) operation = is64 ? Operation.SHR_I64 : Operation.SHR_I32;
  else if (kind == Shift.SAR) operation = is64 ? Operation.SAR_I64 : Operation.SAR_I32;
}

function stringOperation(which: u32, opcode: u32): void {
  operation = Operation.STRING;
  kind = which;
  size = sizeOf(opcode);
  reg = segment;
}

function port(direction: u32, opcode: u32): void {
  system(direction);
  // There is no 64-bit port access: REX.W leaves it at 32.
  size = opcode & 1 ? (operandSize16 && !wide ? 2 : 4) : 1;
}

function oneByte(opcode: u32): void {
  if (opcode < 0x40) {
    const alu = opcode >> 3;
    switch (opcode & 7) {
      case 0:
      case 1:
        operands(sizeOf(opcode));
        aluToRm(alu);
        return;
      case 2:
      case 3:
        operands(sizeOf(opcode));
        aluToReg(alu);
        return;
      case 4:
      case 5:
        size = sizeOf(opcode);
        rm = Slot.RAX;
        immediateOf(size);
        aluImmediate(alu);
        return;
    }
    return;
  }
  if (opcode >= 0x50 && opcode < 0x60) {
    reg = ((opcode & 7) | ((rex & 1) << 3)) << 3;
    if (operandSize16 && !wide) {
      size = 2;
      rm = reg;
      operation = opcode < 0x58 ? Operation.PUSH_RM : Operation.POP_RM;
    } else operation = opcode < 0x58 ? Operation.PUSH : Operation.POP;
    return;
  }
  if (opcode >= 0x70 && opcode < 0x80) {
    immediateOf(1);
    operation = Operation.JCC + (opcode & 15);
    jump = true;
    return;
  }
  if (opcode >= 0x91 && opcode < 0x98) {
    size = fullSize();
    reg = Slot.RAX;
    rm = ((opcode & 7) | ((rex & 1) << 3)) << 3;
    operation = Operation.XCHG;
    return;
  }
  if (opcode >= 0xb0 && opcode < 0xc0) {
    const number = (opcode & 7) | ((rex & 1) << 3);
    if (opcode < 0xb8) {
      size = 1;
      rm = register(number, 1);
      immediateOf(1);
      operation = Operation.MOV_MI;
      return;
    }
    size = fullSize();
    if (size == 2) {
      rm = number << 3;
      immediateOf(2);
      operation = Operation.MOV_MI;
      return;
    }
    reg = number << 3;
    immediate = size == 8 ? fetch64() : <i64>(<u64>fetch32());
    operation = Operation.MOV_RI;
    return;
  }
  switch (opcode) {
    case 0x63:
      operands(fullSize());
      if (size == 8) operation = inMemory ? Operation.MOVSX32_M : Operation.MOVSX32_R;
      else moveLoad();
      return;
    case 0x68:
    case 0x6a:
      size = operandSize16 && !wide ? 2 : 8;
      immediateOf(opcode == 0x6a ? 1 : size);
      operation = Operation.PUSH_I;
      return;
    case 0x69:
    case 0x6b:
      operands(fullSize());
      immediateOf(opcode == 0x6b ? 1 : size);
      kind = 1;
      operation = Operation.IMUL2;
      if (!inMemory && size >= 4) operation = size == 8 ? Operation.IMUL_I64 : Operation.IMUL_I32;
      return;
    case 0x6c:
    case 0x6d:
      stringOperation(5, opcode);
      if (size == 8) size = 4;
      return;
    case 0x6e:
    case 0x6f:
      stringOperation(6, opcode);
      if (size == 8) size = 4;
      return;
    case 0x80:
    case 0x81:
    case 0x83:
      operands(sizeOf(opcode));
      immediateOf(opcode == 0x81 ? size : 1);
      aluImmediate(regNumber & 7);
      return;
    case 0x84:
    case 0x85:
      operands(sizeOf(opcode));
      aluToRm(Alu.TEST);
      return;
    case 0x86:
    case 0x87:
      operands(sizeOf(opcode));
      lockable = true;
      operation = Operation.XCHG;
      return;
    case 0x88:
    case 0x89:
      operands(sizeOf(opcode));
      moveStore();
      return;
    case 0x8a:
    case 0x8b:
      operands(sizeOf(opcode));
      moveLoad();
      return;
    case 0x8c:
      operands(fullSize());
      if ((regNumber & 7) > <u32>Segment.GS) return;
      kind = regNumber & 7;
      system(Operation.MOV_FROM_SEGMENT);
      return;
    case 0x8d:
      operands(fullSize());
      if (!inMemory) return;
      // LEA takes the offset without the segment's base.
      segment = Slot.ZERO;
      operation = size == 8 ? Operation.LEA64 : Operation.LEA32;
      if (size == 2) kind = 1;
      return;
    case 0x8e:
      operands(2);
      kind = regNumber & 7;
      if (kind > <u32>Segment.GS || kind == Segment.CS) return;
      system(Operation.MOV_TO_SEGMENT);
      return;
    case 0x8f:
      operands(operandSize16 && !wide ? 2 : 8);
      if ((regNumber & 7) == 0) operation = Operation.POP_RM;
      return;
    case 0x90:
      if (rex & 1) {
        size = fullSize();
        reg = Slot.RAX;
        rm = 8 << 3;
        operation = Operation.XCHG;
      } else operation = Operation.NOP;
      return;
    case 0x98:
      size = fullSize();
      operation = Operation.CONVERT;
      return;
    case 0x99:
      size = fullSize();
      operation = Operation.CONVERT_TWICE;
      return;
    case 0x9c:
      size = operandSize16 && !wide ? 2 : 8;
      operation = Operation.PUSHF;
      return;
    case 0x9d:
      size = operandSize16 && !wide ? 2 : 8;
      system(Operation.POPF);
      return;
    case 0x9e:
      operation = Operation.SAHF;
      return;
    case 0x9f:
      operation = Operation.LAHF;
      return;
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3:
      size = sizeOf(opcode);
      reg = Slot.RAX;
      inMemory = true;
      displacement = bits & Bits.ADDRESS32 ? <i64>(<u64>fetch32()) : fetch64();
      if (opcode < 0xa2) moveLoad();
      else moveStore();
      return;
    case 0xa4:
    case 0xa5:
      stringOperation(0, opcode);
      return;
    case 0xa6:
    case 0xa7:
      stringOperation(1, opcode);
      return;
    case 0xa8:
    case 0xa9:
      size = sizeOf(opcode);
      rm = Slot.RAX;
      immediateOf(size);
      aluImmediate(Alu.TEST);
      return;
    case 0xaa:
    case 0xab:
      stringOperation(2, opcode);
      return;
    case 0xac:
    case 0xad:
      stringOperation(3, opcode);
      return;
    case 0xae:
    case 0xaf:
      stringOperation(4, opcode);
      return;
    case 0xc0:
    case 0xc1:
      operands(sizeOf(opcode));
      shiftGroup(size, <i64>fetch8());
      return;
    case 0xc2:
      immediate = <i64>fetch16();
      operation = Operation.RET_I;
      last = true;
      return;
    case 0xc3:
      operation = Operation.RET;
      last = true;
      return;
    case 0xc6:
    case 0xc7:
      operands(sizeOf(opcode));
      immediateOf(size);
      if (regNumber & 7) return;
      if (inMemory) {
        operation =
          size == 8
            ? Operation.STORE_I64
            : size == 4
              ? Operation.STORE_I32
              : size == 2
                ? Operation.STORE_I16
                : Operation.STORE_I8;
      } else if (size == 8) {
        reg = rm;
        operation = Operation.MOV_RI;
      } else operation = Operation.MOV_MI;
      return;
    case 0xc8:
      size = operandSize16 && !wide ? 2 : 8;
      immediate = <i64>fetch16();
      kind = fetch8() & 31;
      operation = Operation.ENTER;
      return;
    case 0xc9:
      // The 16-bit form is not implemented.
      if (!operandSize16 || wide) operation = Operation.LEAVE;
      return;
    case 0xca:
    case 0xcb:
      size = fullSize();
      if (opcode == 0xca) immediate = <i64>fetch16();
      system(Operation.RET_FAR);
      return;
    case 0xcc:
      system(Operation.BREAKPOINT);
      return;
    case 0xcd:
      immediate = <i64>fetch8();
      system(Operation.INTERRUPT);
      return;
    case 0xcf:
      size = fullSize();
      system(Operation.IRET);
      return;
    case 0xd0:
    case 0xd1:
      operands(sizeOf(opcode));
      shiftGroup(size, 1);
      return;
    case 0xd2:
    case 0xd3:
      operands(sizeOf(opcode));
      kind = regNumber & 7;
      operation = Operation.SHIFT_CL;
      return;
    case 0xd7:
      reg = segment;
      operation = Operation.XLAT;
      return;
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
      immediateOf(1);
      kind = opcode & 3;
      operation = Operation.LOOP;
      jump = true;
      return;
    case 0xe4:
    case 0xe5:
    case 0xe6:
    case 0xe7:
      port(opcode < 0xe6 ? Operation.IN : Operation.OUT, opcode);
      immediate = <i64>fetch8();
      return;
    case 0xec:
    case 0xed:
    case 0xee:
    case 0xef:
      port(opcode < 0xee ? Operation.IN : Operation.OUT, opcode);
      kind = 1;
      return;
    case 0xe8:
    case 0xe9:
      immediateOf(4);
      operation = opcode == 0xe8 ? Operation.CALL : Operation.JUMP;
      jump = true;
      return;
    case 0xeb:
      immediateOf(1);
      operation = Operation.JUMP;
      jump = true;
      return;
    case 0xf1:
      system(Operation.DEBUG_TRAP);
      return;
    case 0xf4:
      system(Operation.HALT);
      return;
    case 0xf5:
      kind = 2;
      operation = Operation.SET_CARRY;
      return;
    case 0xf6:
    case 0xf7:
      groupThree(sizeOf(opcode));
      return;
    case 0xf8:
    case 0xf9:
      kind = opcode & 1;
      operation = Operation.SET_CARRY;
      return;
    case 0xfa:
      system(Operation.CLI);
      return;
    case 0xfb:
      system(Operation.STI);
      return;
    case 0xfc:
    case 0xfd:
      kind = opcode & 1;
      operation = Operation.SET_DIRECTION;
      return;
    case 0xfe:
    case 0xff:
      groupFive(opcode);
      return;
  }
}

function groupThree(bytes: u32): void {
  operands(bytes);
  const which = regNumber & 7;
  if (which < 2) {
    immediateOf(bytes);
    aluImmediate(Alu.TEST);
    return;
  }
  lockable = which < 4;
  switch (which) {
    case 2:
      operation = Operation.NOT;
      return;
    case 3:
      operation = Operation.NEG;
      return;
    case 4:
      operation = Operation.MUL;
      return;
    case 5:
      operation = Operation.IMUL;
      return;
    case 6:
      operation = Operation.DIV;
      return;
    default:
      operation = Operation.IDIV;
  }
}

function groupFive(opcode: u32): void {
  operands(sizeOf(opcode));
  const which = regNumber & 7;
  if (which < 2) {
    lockable = true;
    operation = which == 0 ? Operation.INC : Operation.DEC;
    return;
  }
  if (opcode == 0xfe) return;
  switch (which) {
    case 2:
    case 4:
      size = 8;
      operation = which == 2 ? Operation.CALL_RM : Operation.JUMP_RM;
      last = true;
      return;
    case 3:
    case 5:
      if (inMemory) system(which == 3 ? Operation.CALL_FAR : Operation.JUMP_FAR);
      return;
    case 6:
      size = operandSize16 && !wide ? 2 : 8;
      operation = Operation.PUSH_RM;
      return;
  }
}

function extendTo(source: u32, signed: bool): void {
  modRm();
  const bytes = fullSize();
  reg = register(regNumber, bytes);
  if (!inMemory) rm = register(rmNumber, source);
  size = bytes;
  if (bytes == 2) {
    kind = source | (signed ? 0x80 : 0);
    operation = Operation.MOVX;
    return;
  }
  const step = (inMemory ? 2 : 0) + (source == 2 ? 1 : 0);
  if (!signed) operation = Operation.MOVZX8_R + step;
  else if (bytes == 4) operation = Operation.MOVSX8_R32 + step;
  else operation = Operation.MOVSX8_R + (inMemory ? 3 : 0) + (source == 2 ? 1 : 0);
}

function twoByte(opcode: u32): void {
  switch (opcode >> 4) {
    case 4:
      operands(fullSize());
      kind = opcode & 15;
      operation = Operation.CMOV;
      return;
    case 8:
      immediateOf(4);
      operation = Operation.JCC + (opcode & 15);
      jump = true;
      return;
    case 9:
      operands(1);
      kind = opcode & 15;
      operation = Operation.SETCC;
      return;
  }
  if (opcode >= 0xc8 && opcode < 0xd0) {
    size = fullSize();
    rm = ((opcode & 7) | ((rex & 1) << 3)) << 3;
    operation = Operation.BSWAP;
    return;
  }
  if (opcode >= 0x18 && opcode < 0x20) {
    // Prefetches, ENDBR64 and the long NOP forms.
    modRm();
    operation = Operation.NOP;
    return;
  }
  switch (opcode) {
    case 0x00:
      operands(fullSize());
      switch (regNumber & 7) {
        case 0:
          system(Operation.SLDT);
          return;
        case 1:
          system(Operation.STR);
          return;
        case 2:
          system(Operation.LLDT);
          return;
        case 3:
          system(Operation.LTR);
          return;
        case 4:
          system(Operation.VERR);
          return;
        case 5:
          system(Operation.VERW);
          return;
      }
      return;
    case 0x01:
      groupSeven();
      return;
    case 0x02:
    case 0x03:
      operands(fullSize());
      system(opcode == 2 ? Operation.LAR : Operation.LSL);
      return;
    case 0x05:
      system(Operation.SYSCALL);
      return;
    case 0x06:
      system(Operation.CLTS);
      return;
    case 0x07:
      size = fullSize();
      system(Operation.SYSRET);
      return;
    case 0x08:
    case 0x09:
      system(Operation.WBINVD);
      return;
    case 0x0d:
      modRm();
      if (inMemory) operation = Operation.NOP;
      return;
    case 0x20:
    case 0x21:
    case 0x22:
    case 0x23:
      modRm();
      // The mod field means nothing here: the operand is always a register.
      if (inMemory) {
        inMemory = false;
        base = Slot.ZERO;
      }
      rm = rmNumber << 3;
      kind = regNumber;
      system(
        opcode == 0x20
          ? Operation.MOV_FROM_CR
          : opcode == 0x21
            ? Operation.MOV_FROM_DR
            : opcode == 0x22
              ? Operation.MOV_TO_CR
              : Operation.MOV_TO_DR,
      );
      return;
    case 0x30:
      system(Operation.WRMSR);
      return;
    case 0x31:
      system(Operation.RDTSC);
      return;
    case 0x32:
      system(Operation.RDMSR);
      return;
    case 0xa0:
    case 0xa1:
    case 0xa8:
    case 0xa9:
      kind = opcode < 0xa8 ? Segment.FS : Segment.GS;
      size = operandSize16 && !wide ? 2 : 8;
      system(opcode & 1 ? Operation.POP_SEGMENT : Operation.PUSH_SEGMENT);
      return;
    case 0xa2:
      system(Operation.CPUID);
      return;
    case 0xa3:
    case 0xab:
    case 0xb3:
    case 0xbb:
      operands(fullSize());
      kind = (opcode >> 3) & 3;
      lockable = kind != 0;
      operation = Operation.BIT;
      return;
    case 0xa4:
    case 0xa5:
    case 0xac:
    case 0xad:
      operands(fullSize());
      kind = opcode & 1;
      if (kind == 0) immediate = <i64>fetch8();
      operation = opcode < 0xa8 ? Operation.SHLD : Operation.SHRD;
      return;
    case 0xae:
      groupFifteen();
      return;
    case 0xaf:
      operands(fullSize());
      operation = Operation.IMUL2;
      if (!inMemory && size >= 4) operation = size == 8 ? Operation.IMUL64 : Operation.IMUL32;
      return;
    case 0xb0:
    case 0xb1:
      operands(sizeOf(opcode));
      lockable = true;
      operation = Operation.CMPXCHG;
      return;
    case 0xb2:
    case 0xb4:
    case 0xb5:
      operands(fullSize());
      kind = opcode == 0xb2 ? Segment.SS : opcode == 0xb4 ? Segment.FS : Segment.GS;
      if (inMemory) system(Operation.LOAD_FAR);
      return;
    case 0xb6:
    case 0xb7:
      extendTo(opcode & 1 ? 2 : 1, false);
      return;
    case 0xb8:
      if ((bits & Bits.REP) == 0) return;
      operands(fullSize());
      operation = Operation.POPCNT;
      return;
    case 0xba:
      operands(fullSize());
      if ((regNumber & 7) < 4) return;
      kind = regNumber & 3;
      lockable = kind != 0;
      immediate = <i64>fetch8();
      operation = Operation.BIT_I;
      return;
    case 0xbc:
      operands(fullSize());
      operation = bits & Bits.REP ? Operation.TZCNT : Operation.BSF;
      return;
    case 0xbd:
      operands(fullSize());
      operation = bits & Bits.REP ? Operation.LZCNT : Operation.BSR;
      return;
    case 0xbe:
    case 0xbf:
      extendTo(opcode & 1 ? 2 : 1, true);
      return;
    case 0xc0:
    case 0xc1:
      operands(sizeOf(opcode));
      lockable = true;
      operation = Operation.XADD;
      return;
    case 0xc3:
      // MOVNTI
      operands(wide ? 8 : 4);
      if (inMemory && !operandSize16 && !(bits & (Bits.REP | Bits.REPNE))) moveStore();
      return;
    case 0xc7:
      operands(wide ? 16 : 8);
      if ((regNumber & 7) != 1 || !inMemory) return;
      lockable = true;
      operation = wide ? Operation.CMPXCHG16B : Operation.CMPXCHG8B;
      return;
  }
}

function groupSeven(): void {
  operands(fullSize());
  const which = regNumber & 7;
  if (inMemory) {
    switch (which) {
      case 0:
        system(Operation.SGDT);
        return;
      case 1:
        system(Operation.SIDT);
        return;
      case 2:
        system(Operation.LGDT);
        return;
      case 3:
        system(Operation.LIDT);
        return;
      case 7:
        system(Operation.INVLPG);
        return;
    }
  } else if (which == 1) {
    if ((rmNumber & 7) == 2) system(Operation.CLAC);
    else if ((rmNumber & 7) == 3) system(Operation.STAC);
    return;
  } else if (which == 7) {
    if ((rmNumber & 7) == 0) system(Operation.SWAPGS);
    else if ((rmNumber & 7) == 1) system(Operation.RDTSCP);
    return;
  }
  if (which == 4) system(Operation.SMSW);
  else if (which == 6) system(Operation.LMSW);
}

function groupFifteen(): void {
  operands(wide ? 8 : 4);
  const which = regNumber & 7;
  if (inMemory) {
    if (bits & (Bits.REP | Bits.REPNE)) return;
    // CLFLUSH, CLFLUSHOPT; CLWB.
    if (which == 7 || (which == 6 && operandSize16)) operation = Operation.CLFLUSH;
    return;
  }
  if (bits & Bits.REP) {
    if (operandSize16 || which > 3) return;
    kind = which & 1;
    system(which < 2 ? Operation.READ_BASE : Operation.WRITE_BASE);
    return;
  }
  if (bits & Bits.REPNE || operandSize16) return;
  if (which >= 5) operation = Operation.NOP;
}

function threeByte38(opcode: u32): void {
  const repeat = bits & (Bits.REP | Bits.REPNE);
  if (opcode == 0xf0 || opcode == 0xf1) {
    operands(fullSize());
    if (!inMemory || repeat) return;
    operation = opcode == 0xf0 ? Operation.MOVBE_LOAD : Operation.MOVBE_STORE;
    return;
  }
  if (opcode == 0xf9) {
    operands(wide ? 8 : 4);
    if (inMemory && !repeat && !operandSize16) operation = Operation.MOVDIRI;
    return;
  }
  if (opcode != 0xf8) return;
  operands(8);
  if (!inMemory) return;
  if (repeat == 0) {
    if (operandSize16) system(Operation.MOVDIR64B);
  } else if (repeat == Bits.REPNE) system(Operation.ENQCMD);
  else if (repeat == Bits.REP) system(Operation.ENQCMDS);
}

/** BMI1: ANDN, BEXTR, BLSR, BLSMSK, BLSI. */
function vex(): void {
  const byte1 = fetch8();
  const byte2 = fetch8();
  const opcode = fetch8();
  const bad = rex != 0 || operandSize16 || lock || (bits & (Bits.REP | Bits.REPNE)) != 0;
  // No map but 0F38 has general-register instructions here, none of them with L or a mandatory prefix.
  if (bad || (byte1 & 31) != 2 || (byte2 & 7) != 0) return;
  wide = (byte2 & 0x80) != 0;
  rex = 0x40 | ((~byte1 >> 5) & 7);
  const third = (~byte2 >> 3) & 15;
  operands(wide ? 8 : 4);
  if (opcode == 0xf2 || opcode == 0xf7) {
    immediate = <i64>(third << 3);
    operation = opcode == 0xf2 ? Operation.BMI_ANDN : Operation.BMI_BEXTR;
  } else if (opcode == 0xf3) {
    kind = regNumber & 7;
    reg = third << 3;
    if (kind >= 1 && kind <= 3) operation = Operation.BMI_GROUP;
  }
}

/** Decodes the instruction at `at` into the variables above. */
function decodeInstruction(): void {
  operandSize16 = false;
  rex = 0;
  wide = false;
  lock = false;
  operation = Operation.UNDEFINED;
  reg = 0;
  rm = NO_REGISTER;
  base = Slot.ZERO;
  index = Slot.ZERO;
  scale = 0;
  bits = 0;
  size = 0;
  kind = 0;
  displacement = 0;
  immediate = 0;
  segment = Slot.ZERO;
  inMemory = false;
  relative = false;
  lockable = false;
  last = false;
  jump = false;

  let byte: u32;
  let prefixes: u32 = 0;
  for (;;) {
    byte = fetch8();
    if (overrun || ++prefixes > LONGEST_INSTRUCTION) return;
    if (byte >= 0x40 && byte < 0x50) {
      rex = byte;
      continue;
    }
    if (byte == 0x66) operandSize16 = true;
    else if (byte == 0x67) bits |= Bits.ADDRESS32;
    else if (byte == 0xf0) lock = true;
    else if (byte == 0xf2) bits = (bits & ~Bits.REP) | Bits.REPNE;
    else if (byte == 0xf3) bits = (bits & ~Bits.REPNE) | Bits.REP;
    else if (byte == 0x64) segment = Slot.FS_BASE;
    else if (byte == 0x65) segment = Slot.GS_BASE;
    else if (byte != 0x26 && byte != 0x2e && byte != 0x36 && byte != 0x3e) break;
    // REX counts only directly before the opcode.
    rex = 0;
  }
  wide = (rex & 8) != 0;
  if (byte == 0x0f) {
    const second = fetch8();
    if (second == 0x38) threeByte38(fetch8());
    else twoByte(second);
  } else if (byte == 0xc4) vex();
  else oneByte(byte);
  if (lock && !(lockable && inMemory)) operation = Operation.UNDEFINED;
}

function usesStackOnly(what: u32): bool {
  switch (what) {
    case Operation.PUSH:
    case Operation.POP:
    case Operation.PUSH_I:
    case Operation.PUSHF:
    case Operation.POPF:
    case Operation.CALL:
    case Operation.RET:
    case Operation.RET_I:
    case Operation.LEAVE:
    case Operation.ENTER:
      return true;
  }
  return false;
}

/** Appends the decoded instruction at `record`; gives the place behind it. */
function emit(record: usize, ordinal: u32, offset: u32, length: u32, rip: u64): usize {
  const next = rip + offset + length;
  if (length > LONGEST_INSTRUCTION) {
    operation = Operation.UNDEFINED;
    kind = 1;
    inMemory = false;
  } else if (operation == Operation.UNDEFINED) {
    kind = 0;
    inMemory = false;
  }
  if (operation == Operation.UNDEFINED) {
    last = true;
    jump = false;
  }
  if (inMemory) {
    if (relative) displacement += <i64>next;
    if (segment != Slot.ZERO) bits &= ~Bits.STACK;
    if (bits & Bits.ADDRESS32 || (segment != Slot.ZERO && index != Slot.ZERO)) {
      memory.fill(record, 0, Record.SIZE);
      store<u16>(record, Operation.ADDRESS);
      store<u8>(record, <u8>ordinal, Record.ORDINAL);
      store<u8>(record, <u8>segment, Record.REG);
      store<u8>(record, <u8>base, Record.BASE);
      store<u8>(record, <u8>index, Record.INDEX);
      store<u8>(record, <u8>scale, Record.SCALE);
      store<u8>(record, <u8>bits, Record.BITS);
      store<u16>(record, <u16>offset, Record.OFFSET);
      store<i64>(record, displacement, Record.DISPLACEMENT);
      record += Record.SIZE;
      base = Slot.ADDRESS;
      index = Slot.ZERO;
      scale = 0;
      displacement = 0;
    } else if (segment != Slot.ZERO) {
      index = segment;
      scale = 0;
    }
  }
  if (usesStackOnly(operation)) bits |= Bits.STACK;
  store<u16>(record, <u16>operation);
  store<u8>(record, <u8>ordinal, Record.ORDINAL);
  store<u8>(record, <u8>length, Record.LENGTH);
  store<u8>(record, <u8>reg, Record.REG);
  store<u8>(record, <u8>rm, Record.RM);
  store<u8>(record, <u8>base, Record.BASE);
  store<u8>(record, <u8>index, Record.INDEX);
  store<u8>(record, <u8>scale, Record.SCALE);
  store<u8>(record, <u8>bits, Record.BITS);
  store<u16>(record, <u16>offset, Record.OFFSET);
  store<u32>(record, 0, Record.LINK);
  if (jump) {
    last = true;
    immediate += <i64>next;
    displacement = 0;
    if (operation == Operation.LOOP) store<u8>(record, <u8>kind, Record.KIND);
  } else {
    store<u8>(record, <u8>size, Record.SIZE_OF_OPERAND);
    store<u8>(record, <u8>kind, Record.KIND);
  }
  store<i64>(record, displacement, Record.DISPLACEMENT);
  store<i64>(record, immediate, Record.IMMEDIATE);
  return record + Record.SIZE;
}

/** Ends a block: instructions in it, the offset of what follows. Gives the place behind it. */
function finish(block: usize, record: usize, rip: u64, host: usize, count: u32, offset: u32): usize {
  // Also behind a jump, where it is never reached, there is a record that `breakAfter` may replace.
  memory.fill(record, 0, Record.SIZE);
  store<u16>(record, Operation.END);
  store<u8>(record, <u8>count, Record.ORDINAL);
  store<u16>(record, <u16>offset, Record.OFFSET);
  store<u64>(block, rip);
  store<u32>(block, <u32>host, Block.HOST);
  store<u32>(block, count, Block.COUNT);
  store<u32>(block, 0, Block.NEXT);
  store<u32>(block, <u32>record + Record.SIZE, Block.END);
  return record + Record.SIZE;
}

/** Decodes the block of the bytes at `host`. Gives its end, or 0 when its first instruction goes over the page's end. */
export function decodeBlock(block: usize, rip: u64, host: usize): usize {
  at = host;
  end = (host & ~(<usize>0xfff)) + 4096;
  let record = block + Block.HEADER;
  let count: u32 = 0;
  let offset: u32 = 0;
  while (count < LONGEST_BLOCK && at < end) {
    overrun = false;
    decodeInstruction();
    if (overrun) break;
    const length = <u32>(at - host) - offset;
    record = emit(record, count++, offset, length, rip);
    offset += length;
    if (last) break;
  }
  return count == 0 ? 0 : finish(block, record, rip, host, count, offset);
}

/**
 * Decodes the one instruction at `rip` whose bytes begin at `host` and go on in the next page, or lie on the bus
 * (0xffffffff), where nothing is fetched but ones. 0: an exception is pending.
 */
export function decodeSingle(rip: u64, host: usize): usize {
  const buffer = cpu + State.FETCH;
  memory.fill(buffer, 0xff, 32);
  if (host != 0xffffffff) {
    const first: usize = 4096 - (host & 0xfff);
    memory.copy(buffer, host, min<usize>(first, 32));
    // Too long whatever the next page holds.
    if (first >= LONGEST_INSTRUCTION) return oneInstruction(rip, host);
    const place = translate((rip & ~(<u64>0xfff)) + 4096, Access.EXECUTE, load<u32>(cpu, State.MODE), false);
    if (place == Place.FAULT) return 0;
    if (place == Place.RAM) memory.copy(buffer + first, load<u32>(cpu, State.HOST), 32 - first);
  }
  return oneInstruction(rip, host);
}

function oneInstruction(rip: u64, host: usize): usize {
  const buffer = cpu + State.FETCH;
  at = buffer;
  end = buffer + 32;
  overrun = false;
  decodeInstruction();
  const block = cpu + State.SINGLE;
  const length = <u32>(at - buffer);
  const record = emit(block + Block.HEADER, 0, 0, length, rip);
  finish(block, record, rip, host, 1, length);
  return block;
}
