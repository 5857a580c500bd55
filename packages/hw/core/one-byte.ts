/** The one-byte opcode map (Intel SDM volume 2, appendix A, table A-2). What it leaves alone is #UD. */

import {
  Decoded,
  fetch16,
  fetch32,
  fetch64,
  fetch8,
  fullSize,
  immediateOf,
  operands,
  register,
  sizeOf,
  system,
} from './decoded.ts';
import { Alu, AluForm, Bits, Operation, Shift } from './record.ts';
import { Segment, Slot } from './state.ts';

function fastAlu(alu: u32, form: u32): u32 {
  const family = alu <= <u32>Alu.OR ? alu : alu - 2;
  return Operation.ALU + (family * 5 + form) * 2 + (Decoded.size == 8 ? 1 : 0);
}

function isFastAlu(alu: u32): bool {
  return Decoded.size >= 4 && alu != Alu.ADC && alu != Alu.SBB;
}

/** Arithmetic with destination r/m. */
function aluToRm(alu: u32): void {
  Decoded.kind = alu;
  Decoded.lockable = alu < <u32>Alu.CMP;
  if (isFastAlu(alu)) Decoded.operation = fastAlu(alu, Decoded.inMemory ? AluForm.MR : AluForm.RR);
  else if (Decoded.size == 1 && alu == Alu.TEST && !Decoded.inMemory) Decoded.operation = Operation.TEST8_RR;
  else Decoded.operation = Operation.ALU_MR;
}

/** Arithmetic with destination reg. */
function aluToReg(alu: u32): void {
  Decoded.kind = alu;
  if (!isFastAlu(alu)) Decoded.operation = Operation.ALU_RM;
  else if (Decoded.inMemory) Decoded.operation = fastAlu(alu, AluForm.RM);
  else {
    const source = Decoded.rm;
    Decoded.rm = Decoded.reg;
    Decoded.reg = source;
    Decoded.operation = fastAlu(alu, AluForm.RR);
  }
}

/** Arithmetic of r/m with the immediate. */
function aluImmediate(alu: u32): void {
  Decoded.kind = alu;
  Decoded.lockable = alu < <u32>Alu.CMP;
  if (isFastAlu(alu)) Decoded.operation = fastAlu(alu, Decoded.inMemory ? AluForm.MI : AluForm.RI);
  else if (Decoded.size == 1 && alu == Alu.CMP) Decoded.operation = Decoded.inMemory ? Operation.CMP8_MI : Operation.CMP8_RI;
  else if (Decoded.size == 1 && alu == Alu.TEST && Decoded.inMemory) Decoded.operation = Operation.TEST8_MI;
  else Decoded.operation = Operation.ALU_MI;
}

function moveLoad(): void {
  if (Decoded.inMemory) {
    Decoded.operation =
      Decoded.size == 8 ? Operation.LOAD64 : Decoded.size == 4 ? Operation.LOAD32 : Decoded.size == 2 ? Operation.LOAD16 : Operation.LOAD8;
  } else Decoded.operation = Decoded.size == 8 ? Operation.MOV_RR64 : Decoded.size == 4 ? Operation.MOV_RR32 : Operation.MOV_RM;
}

export function moveStore(): void {
  if (Decoded.inMemory) {
    Decoded.operation =
      Decoded.size == 8 ? Operation.STORE64 : Decoded.size == 4 ? Operation.STORE32 : Decoded.size == 2 ? Operation.STORE16 : Operation.STORE8;
    return;
  }
  const destination = Decoded.rm;
  Decoded.rm = Decoded.reg;
  Decoded.reg = destination;
  Decoded.operation = Decoded.size == 8 ? Operation.MOV_RR64 : Decoded.size == 4 ? Operation.MOV_RR32 : Operation.MOV_RM;
}

function shiftGroup(bytes: u32, count: i64): void {
  Decoded.kind = Decoded.regNumber & 7;
  Decoded.operation = Operation.SHIFT;
  Decoded.immediate = count & (bytes == 8 ? 63 : 31);
  if (Decoded.inMemory || bytes < 4 || Decoded.immediate == 0) return;
  const is64 = bytes == 8;
  if (Decoded.kind == Shift.SHL || Decoded.kind == Shift.SAL) Decoded.operation = is64 ? Operation.SHL_I64 : Operation.SHL_I32;
  else if (Decoded.kind == Shift.SHR) Decoded.operation = is64 ? Operation.SHR_I64 : Operation.SHR_I32;
  else if (Decoded.kind == Shift.SAR) Decoded.operation = is64 ? Operation.SAR_I64 : Operation.SAR_I32;
}

function stringOperation(which: u32, opcode: u32): void {
  Decoded.operation = Operation.STRING;
  Decoded.kind = which;
  Decoded.size = sizeOf(opcode);
  Decoded.reg = Decoded.segment;
}

function port(direction: u32, opcode: u32): void {
  system(direction);
  // There is no 64-bit port access: REX.W leaves it at 32.
  Decoded.size = opcode & 1 ? (Decoded.operandSize16 && !Decoded.wide ? 2 : 4) : 1;
}

export function oneByte(opcode: u32): void {
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
        Decoded.size = sizeOf(opcode);
        Decoded.rm = Slot.RAX;
        immediateOf(Decoded.size);
        aluImmediate(alu);
        return;
    }
    return;
  }
  if (opcode >= 0x50 && opcode < 0x60) {
    Decoded.reg = ((opcode & 7) | ((Decoded.rex & 1) << 3)) << 3;
    if (Decoded.operandSize16 && !Decoded.wide) {
      Decoded.size = 2;
      Decoded.rm = Decoded.reg;
      Decoded.operation = opcode < 0x58 ? Operation.PUSH_RM : Operation.POP_RM;
    } else Decoded.operation = opcode < 0x58 ? Operation.PUSH : Operation.POP;
    return;
  }
  if (opcode >= 0x70 && opcode < 0x80) {
    immediateOf(1);
    Decoded.operation = Operation.JCC + (opcode & 15);
    Decoded.jump = true;
    return;
  }
  if (opcode >= 0x91 && opcode < 0x98) {
    Decoded.size = fullSize();
    Decoded.reg = Slot.RAX;
    Decoded.rm = ((opcode & 7) | ((Decoded.rex & 1) << 3)) << 3;
    Decoded.operation = Operation.XCHG;
    return;
  }
  if (opcode >= 0xb0 && opcode < 0xc0) {
    const number = (opcode & 7) | ((Decoded.rex & 1) << 3);
    if (opcode < 0xb8) {
      Decoded.size = 1;
      Decoded.rm = register(number, 1);
      immediateOf(1);
      Decoded.operation = Operation.MOV_MI;
      return;
    }
    Decoded.size = fullSize();
    if (Decoded.size == 2) {
      Decoded.rm = number << 3;
      immediateOf(2);
      Decoded.operation = Operation.MOV_MI;
      return;
    }
    Decoded.reg = number << 3;
    Decoded.immediate = Decoded.size == 8 ? fetch64() : <i64>(<u64>fetch32());
    Decoded.operation = Operation.MOV_RI;
    return;
  }
  switch (opcode) {
    case 0x63:
      operands(fullSize());
      if (Decoded.size == 8) Decoded.operation = Decoded.inMemory ? Operation.MOVSX32_M : Operation.MOVSX32_R;
      else moveLoad();
      return;
    case 0x68:
    case 0x6a:
      Decoded.size = Decoded.operandSize16 && !Decoded.wide ? 2 : 8;
      immediateOf(opcode == 0x6a ? 1 : Decoded.size);
      Decoded.operation = Operation.PUSH_I;
      return;
    case 0x69:
    case 0x6b:
      operands(fullSize());
      immediateOf(opcode == 0x6b ? 1 : Decoded.size);
      Decoded.kind = 1;
      Decoded.operation = Operation.IMUL2;
      if (!Decoded.inMemory && Decoded.size >= 4) Decoded.operation = Decoded.size == 8 ? Operation.IMUL_I64 : Operation.IMUL_I32;
      return;
    case 0x6c:
    case 0x6d:
      stringOperation(5, opcode);
      if (Decoded.size == 8) Decoded.size = 4;
      return;
    case 0x6e:
    case 0x6f:
      stringOperation(6, opcode);
      if (Decoded.size == 8) Decoded.size = 4;
      return;
    case 0x80:
    case 0x81:
    case 0x83:
      operands(sizeOf(opcode));
      immediateOf(opcode == 0x81 ? Decoded.size : 1);
      aluImmediate(Decoded.regNumber & 7);
      return;
    case 0x84:
    case 0x85:
      operands(sizeOf(opcode));
      aluToRm(Alu.TEST);
      return;
    case 0x86:
    case 0x87:
      operands(sizeOf(opcode));
      Decoded.lockable = true;
      Decoded.operation = Operation.XCHG;
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
      if ((Decoded.regNumber & 7) > <u32>Segment.GS) return;
      Decoded.kind = Decoded.regNumber & 7;
      system(Operation.MOV_FROM_SEGMENT);
      return;
    case 0x8d:
      operands(fullSize());
      if (!Decoded.inMemory) return;
      // LEA takes the offset without the segment's base.
      Decoded.segment = Slot.ZERO;
      Decoded.operation = Decoded.size == 8 ? Operation.LEA64 : Operation.LEA32;
      if (Decoded.size == 2) Decoded.kind = 1;
      return;
    case 0x8e:
      operands(2);
      Decoded.kind = Decoded.regNumber & 7;
      if (Decoded.kind > <u32>Segment.GS || Decoded.kind == Segment.CS) return;
      system(Operation.MOV_TO_SEGMENT);
      return;
    case 0x8f:
      operands(Decoded.operandSize16 && !Decoded.wide ? 2 : 8);
      if ((Decoded.regNumber & 7) == 0) Decoded.operation = Operation.POP_RM;
      return;
    case 0x90:
      if (Decoded.rex & 1) {
        Decoded.size = fullSize();
        Decoded.reg = Slot.RAX;
        Decoded.rm = 8 << 3;
        Decoded.operation = Operation.XCHG;
      } else Decoded.operation = Operation.NOP;
      return;
    case 0x98:
      Decoded.size = fullSize();
      Decoded.operation = Operation.CONVERT;
      return;
    case 0x99:
      Decoded.size = fullSize();
      Decoded.operation = Operation.CONVERT_TWICE;
      return;
    case 0x9c:
      Decoded.size = Decoded.operandSize16 && !Decoded.wide ? 2 : 8;
      Decoded.operation = Operation.PUSHF;
      return;
    case 0x9d:
      Decoded.size = Decoded.operandSize16 && !Decoded.wide ? 2 : 8;
      system(Operation.POPF);
      return;
    case 0x9e:
      Decoded.operation = Operation.SAHF;
      return;
    case 0x9f:
      Decoded.operation = Operation.LAHF;
      return;
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3:
      Decoded.size = sizeOf(opcode);
      Decoded.reg = Slot.RAX;
      Decoded.inMemory = true;
      Decoded.displacement = Decoded.bits & Bits.ADDRESS32 ? <i64>(<u64>fetch32()) : fetch64();
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
      Decoded.size = sizeOf(opcode);
      Decoded.rm = Slot.RAX;
      immediateOf(Decoded.size);
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
      shiftGroup(Decoded.size, <i64>fetch8());
      return;
    case 0xc2:
      Decoded.immediate = <i64>fetch16();
      Decoded.operation = Operation.RET_I;
      Decoded.last = true;
      return;
    case 0xc3:
      Decoded.operation = Operation.RET;
      Decoded.last = true;
      return;
    case 0xc6:
    case 0xc7:
      operands(sizeOf(opcode));
      immediateOf(Decoded.size);
      if (Decoded.regNumber & 7) return;
      if (Decoded.inMemory) {
        Decoded.operation =
          Decoded.size == 8
            ? Operation.STORE_I64
            : Decoded.size == 4
              ? Operation.STORE_I32
              : Decoded.size == 2
                ? Operation.STORE_I16
                : Operation.STORE_I8;
      } else if (Decoded.size == 8) {
        Decoded.reg = Decoded.rm;
        Decoded.operation = Operation.MOV_RI;
      } else Decoded.operation = Operation.MOV_MI;
      return;
    case 0xc8:
      Decoded.size = Decoded.operandSize16 && !Decoded.wide ? 2 : 8;
      Decoded.immediate = <i64>fetch16();
      Decoded.kind = fetch8() & 31;
      Decoded.operation = Operation.ENTER;
      return;
    case 0xc9:
      // The 16-bit form is not implemented.
      if (!Decoded.operandSize16 || Decoded.wide) Decoded.operation = Operation.LEAVE;
      return;
    case 0xca:
    case 0xcb:
      Decoded.size = fullSize();
      if (opcode == 0xca) Decoded.immediate = <i64>fetch16();
      system(Operation.RET_FAR);
      return;
    case 0xcc:
      system(Operation.BREAKPOINT);
      return;
    case 0xcd:
      Decoded.immediate = <i64>fetch8();
      system(Operation.INTERRUPT);
      return;
    case 0xcf:
      Decoded.size = fullSize();
      system(Operation.IRET);
      return;
    case 0xd0:
    case 0xd1:
      operands(sizeOf(opcode));
      shiftGroup(Decoded.size, 1);
      return;
    case 0xd2:
    case 0xd3:
      operands(sizeOf(opcode));
      Decoded.kind = Decoded.regNumber & 7;
      Decoded.operation = Operation.SHIFT_CL;
      return;
    case 0xd7:
      Decoded.reg = Decoded.segment;
      Decoded.operation = Operation.XLAT;
      return;
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
      immediateOf(1);
      Decoded.kind = opcode & 3;
      Decoded.operation = Operation.LOOP;
      Decoded.jump = true;
      return;
    case 0xe4:
    case 0xe5:
    case 0xe6:
    case 0xe7:
      port(opcode < 0xe6 ? Operation.IN : Operation.OUT, opcode);
      Decoded.immediate = <i64>fetch8();
      return;
    case 0xec:
    case 0xed:
    case 0xee:
    case 0xef:
      port(opcode < 0xee ? Operation.IN : Operation.OUT, opcode);
      Decoded.kind = 1;
      return;
    case 0xe8:
    case 0xe9:
      immediateOf(4);
      Decoded.operation = opcode == 0xe8 ? Operation.CALL : Operation.JUMP;
      Decoded.jump = true;
      return;
    case 0xeb:
      immediateOf(1);
      Decoded.operation = Operation.JUMP;
      Decoded.jump = true;
      return;
    case 0xf1:
      system(Operation.DEBUG_TRAP);
      return;
    case 0xf4:
      system(Operation.HALT);
      return;
    case 0xf5:
      Decoded.kind = 2;
      Decoded.operation = Operation.SET_CARRY;
      return;
    case 0xf6:
    case 0xf7:
      groupThree(sizeOf(opcode));
      return;
    case 0xf8:
    case 0xf9:
      Decoded.kind = opcode & 1;
      Decoded.operation = Operation.SET_CARRY;
      return;
    case 0xfa:
      system(Operation.CLI);
      return;
    case 0xfb:
      system(Operation.STI);
      return;
    case 0xfc:
    case 0xfd:
      Decoded.kind = opcode & 1;
      Decoded.operation = Operation.SET_DIRECTION;
      return;
    case 0xfe:
    case 0xff:
      groupFive(opcode);
      return;
  }
}

function groupThree(bytes: u32): void {
  operands(bytes);
  const which = Decoded.regNumber & 7;
  if (which < 2) {
    immediateOf(bytes);
    aluImmediate(Alu.TEST);
    return;
  }
  Decoded.lockable = which < 4;
  switch (which) {
    case 2:
      Decoded.operation = Operation.NOT;
      return;
    case 3:
      Decoded.operation = Operation.NEG;
      return;
    case 4:
      Decoded.operation = Operation.MUL;
      return;
    case 5:
      Decoded.operation = Operation.IMUL;
      return;
    case 6:
      Decoded.operation = Operation.DIV;
      return;
    default:
      Decoded.operation = Operation.IDIV;
  }
}

function groupFive(opcode: u32): void {
  operands(sizeOf(opcode));
  const which = Decoded.regNumber & 7;
  if (which < 2) {
    Decoded.lockable = true;
    Decoded.operation = which == 0 ? Operation.INC : Operation.DEC;
    return;
  }
  if (opcode == 0xfe) return;
  switch (which) {
    case 2:
    case 4:
      Decoded.size = 8;
      Decoded.operation = which == 2 ? Operation.CALL_RM : Operation.JUMP_RM;
      Decoded.last = true;
      return;
    case 3:
    case 5:
      if (Decoded.inMemory) system(which == 3 ? Operation.CALL_FAR : Operation.JUMP_FAR);
      return;
    case 6:
      Decoded.size = Decoded.operandSize16 && !Decoded.wide ? 2 : 8;
      Decoded.operation = Operation.PUSH_RM;
      return;
  }
}
