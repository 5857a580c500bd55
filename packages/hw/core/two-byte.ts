/** The opcode maps behind 0F and 0F 38, and VEX (Intel SDM volume 2, appendix A). What they leave alone is #UD. */

import { Decoded, fetch8, fullSize, immediateOf, modRm, operands, register, sizeOf, system } from './decoded.ts';
import { moveStore } from './one-byte.ts';
import { Bits, Operation } from './record.ts';
import { Segment, Slot } from './state.ts';

function extendTo(source: u32, signed: bool): void {
  modRm();
  const bytes = fullSize();
  Decoded.reg = register(Decoded.regNumber, bytes);
  if (!Decoded.inMemory) Decoded.rm = register(Decoded.rmNumber, source);
  Decoded.size = bytes;
  if (bytes == 2) {
    Decoded.kind = source | (signed ? 0x80 : 0);
    Decoded.operation = Operation.MOVX;
    return;
  }
  const step = (Decoded.inMemory ? 2 : 0) + (source == 2 ? 1 : 0);
  if (!signed) Decoded.operation = Operation.MOVZX8_R + step;
  else if (bytes == 4) Decoded.operation = Operation.MOVSX8_R32 + step;
  else Decoded.operation = Operation.MOVSX8_R + (Decoded.inMemory ? 3 : 0) + (source == 2 ? 1 : 0);
}

export function twoByte(opcode: u32): void {
  switch (opcode >> 4) {
    case 4:
      operands(fullSize());
      Decoded.kind = opcode & 15;
      Decoded.operation = Operation.CMOV;
      return;
    case 8:
      immediateOf(4);
      Decoded.operation = Operation.JCC + (opcode & 15);
      Decoded.jump = true;
      return;
    case 9:
      operands(1);
      Decoded.kind = opcode & 15;
      Decoded.operation = Operation.SETCC;
      return;
  }
  if (opcode >= 0xc8 && opcode < 0xd0) {
    Decoded.size = fullSize();
    Decoded.rm = ((opcode & 7) | ((Decoded.rex & 1) << 3)) << 3;
    Decoded.operation = Operation.BSWAP;
    return;
  }
  if (opcode >= 0x18 && opcode < 0x20) {
    // Prefetches, ENDBR64 and the long NOP forms.
    modRm();
    Decoded.operation = Operation.NOP;
    return;
  }
  switch (opcode) {
    case 0x00:
      operands(fullSize());
      switch (Decoded.regNumber & 7) {
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
      Decoded.size = fullSize();
      system(Operation.SYSRET);
      return;
    case 0x08:
    case 0x09:
      system(Operation.WBINVD);
      return;
    case 0x0d:
      modRm();
      if (Decoded.inMemory) Decoded.operation = Operation.NOP;
      return;
    case 0x20:
    case 0x21:
    case 0x22:
    case 0x23:
      modRm();
      // The mod field means nothing here: the operand is always a register.
      if (Decoded.inMemory) {
        Decoded.inMemory = false;
        Decoded.base = Slot.ZERO;
      }
      Decoded.rm = Decoded.rmNumber << 3;
      Decoded.kind = Decoded.regNumber;
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
      Decoded.kind = opcode < 0xa8 ? Segment.FS : Segment.GS;
      Decoded.size = Decoded.operandSize16 && !Decoded.wide ? 2 : 8;
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
      Decoded.kind = (opcode >> 3) & 3;
      Decoded.lockable = Decoded.kind != 0;
      Decoded.operation = Operation.BIT;
      return;
    case 0xa4:
    case 0xa5:
    case 0xac:
    case 0xad:
      operands(fullSize());
      Decoded.kind = opcode & 1;
      if (Decoded.kind == 0) Decoded.immediate = <i64>fetch8();
      Decoded.operation = opcode < 0xa8 ? Operation.SHLD : Operation.SHRD;
      return;
    case 0xae:
      groupFifteen();
      return;
    case 0xaf:
      operands(fullSize());
      Decoded.operation = Operation.IMUL2;
      if (!Decoded.inMemory && Decoded.size >= 4) Decoded.operation = Decoded.size == 8 ? Operation.IMUL64 : Operation.IMUL32;
      return;
    case 0xb0:
    case 0xb1:
      operands(sizeOf(opcode));
      Decoded.lockable = true;
      Decoded.operation = Operation.CMPXCHG;
      return;
    case 0xb2:
    case 0xb4:
    case 0xb5:
      operands(fullSize());
      Decoded.kind = opcode == 0xb2 ? Segment.SS : opcode == 0xb4 ? Segment.FS : Segment.GS;
      if (Decoded.inMemory) system(Operation.LOAD_FAR);
      return;
    case 0xb6:
    case 0xb7:
      extendTo(opcode & 1 ? 2 : 1, false);
      return;
    case 0xb8:
      if ((Decoded.bits & Bits.REP) == 0) return;
      operands(fullSize());
      Decoded.operation = Operation.POPCNT;
      return;
    case 0xba:
      operands(fullSize());
      if ((Decoded.regNumber & 7) < 4) return;
      Decoded.kind = Decoded.regNumber & 3;
      Decoded.lockable = Decoded.kind != 0;
      Decoded.immediate = <i64>fetch8();
      Decoded.operation = Operation.BIT_I;
      return;
    case 0xbc:
      operands(fullSize());
      Decoded.operation = Decoded.bits & Bits.REP ? Operation.TZCNT : Operation.BSF;
      return;
    case 0xbd:
      operands(fullSize());
      Decoded.operation = Decoded.bits & Bits.REP ? Operation.LZCNT : Operation.BSR;
      return;
    case 0xbe:
    case 0xbf:
      extendTo(opcode & 1 ? 2 : 1, true);
      return;
    case 0xc0:
    case 0xc1:
      operands(sizeOf(opcode));
      Decoded.lockable = true;
      Decoded.operation = Operation.XADD;
      return;
    case 0xc3:
      // MOVNTI
      operands(Decoded.wide ? 8 : 4);
      if (Decoded.inMemory && !Decoded.operandSize16 && !(Decoded.bits & (Bits.REP | Bits.REPNE))) moveStore();
      return;
    case 0xc7:
      operands(Decoded.wide ? 16 : 8);
      if ((Decoded.regNumber & 7) != 1 || !Decoded.inMemory) return;
      Decoded.lockable = true;
      Decoded.operation = Decoded.wide ? Operation.CMPXCHG16B : Operation.CMPXCHG8B;
      return;
  }
}

function groupSeven(): void {
  operands(fullSize());
  const which = Decoded.regNumber & 7;
  if (Decoded.inMemory) {
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
    if ((Decoded.rmNumber & 7) == 2) system(Operation.CLAC);
    else if ((Decoded.rmNumber & 7) == 3) system(Operation.STAC);
    return;
  } else if (which == 7) {
    if ((Decoded.rmNumber & 7) == 0) system(Operation.SWAPGS);
    else if ((Decoded.rmNumber & 7) == 1) system(Operation.RDTSCP);
    return;
  }
  if (which == 4) system(Operation.SMSW);
  else if (which == 6) system(Operation.LMSW);
}

function groupFifteen(): void {
  operands(Decoded.wide ? 8 : 4);
  const which = Decoded.regNumber & 7;
  if (Decoded.inMemory) {
    if (Decoded.bits & (Bits.REP | Bits.REPNE)) return;
    // CLFLUSH, CLFLUSHOPT; CLWB.
    if (which == 7 || (which == 6 && Decoded.operandSize16)) Decoded.operation = Operation.CLFLUSH;
    return;
  }
  if (Decoded.bits & Bits.REP) {
    if (Decoded.operandSize16 || which > 3) return;
    Decoded.kind = which & 1;
    system(which < 2 ? Operation.READ_BASE : Operation.WRITE_BASE);
    return;
  }
  if (Decoded.bits & Bits.REPNE || Decoded.operandSize16) return;
  if (which >= 5) Decoded.operation = Operation.NOP;
}

export function threeByte38(opcode: u32): void {
  const repeat = Decoded.bits & (Bits.REP | Bits.REPNE);
  if (opcode == 0xf0 || opcode == 0xf1) {
    operands(fullSize());
    if (!Decoded.inMemory || repeat) return;
    Decoded.operation = opcode == 0xf0 ? Operation.MOVBE_LOAD : Operation.MOVBE_STORE;
    return;
  }
  if (opcode == 0xf9) {
    operands(Decoded.wide ? 8 : 4);
    if (Decoded.inMemory && !repeat && !Decoded.operandSize16) Decoded.operation = Operation.MOVDIRI;
    return;
  }
  if (opcode != 0xf8) return;
  operands(8);
  if (!Decoded.inMemory) return;
  if (repeat == 0) {
    if (Decoded.operandSize16) system(Operation.MOVDIR64B);
  } else if (repeat == Bits.REPNE) system(Operation.ENQCMD);
  else if (repeat == Bits.REP) system(Operation.ENQCMDS);
}

/** BMI1: ANDN, BEXTR, BLSR, BLSMSK, BLSI. */
export function vex(): void {
  const byte1 = fetch8();
  const byte2 = fetch8();
  const opcode = fetch8();
  const bad = Decoded.rex != 0 || Decoded.operandSize16 || Decoded.lock || (Decoded.bits & (Bits.REP | Bits.REPNE)) != 0;
  // No map but 0F38 has general-register instructions here, none of them with L or a mandatory prefix.
  if (bad || (byte1 & 31) != 2 || (byte2 & 7) != 0) return;
  Decoded.wide = (byte2 & 0x80) != 0;
  Decoded.rex = 0x40 | ((~byte1 >> 5) & 7);
  const third = (~byte2 >> 3) & 15;
  operands(Decoded.wide ? 8 : 4);
  if (opcode == 0xf2 || opcode == 0xf7) {
    Decoded.immediate = <i64>(third << 3);
    Decoded.operation = opcode == 0xf2 ? Operation.BMI_ANDN : Operation.BMI_BEXTR;
  } else if (opcode == 0xf3) {
    Decoded.kind = Decoded.regNumber & 7;
    Decoded.reg = third << 3;
    if (Decoded.kind >= 1 && Decoded.kind <= 3) Decoded.operation = Operation.BMI_GROUP;
  }
}
