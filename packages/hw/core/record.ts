/** A decoded instruction: 32 bytes, laid out for the interpreter. Register operands are byte offsets (see state.ts). */

export const enum Record {
  /** Operation, u16. */
  OPERATION = 0,
  /** Instructions of the block before this one. */
  ORDINAL = 2,
  /** Bytes of the instruction. */
  LENGTH = 3,
  /** First register operand (ModRM.reg). */
  REG = 4,
  /** Second register operand (ModRM.rm), NO_REGISTER for memory. */
  RM = 5,
  BASE = 6,
  INDEX = 7,
  SCALE = 8,
  /** Bits. */
  BITS = 9,
  /** Distance of the instruction from the start of its block, u16. */
  OFFSET = 10,
  /** Operand size in bytes. */
  SIZE_OF_OPERAND = 12,
  /** Which of a family of operations. */
  KIND = 13,
  /** Of a jump, in place of size and kind: the block at its target, or 0. */
  LINK = 12,
  DISPLACEMENT = 16,
  /** Of a conditional jump, in place of the displacement: the block behind it, or 0. */
  LINK_ELSE = 16,
  IMMEDIATE = 24,
  SIZE = 32,
}

/** A block starts with a header of the size of a record. */
export const enum Block {
  RIP = 0,
  /** Byte offset in memory of its first instruction. */
  HOST = 8,
  /** Instructions in it. */
  COUNT = 12,
  /** Next block on the same frame-hash chain. */
  NEXT = 16,
  /** Byte behind its last record. */
  END = 20,
  HEADER = 32,
}

export const enum Bits {
  /** The memory operand is relative to the stack segment. */
  STACK = 1,
  /** Prefix F3. */
  REP = 2,
  /** Prefix F2. */
  REPNE = 4,
  /** 32-bit addresses (prefix 67). */
  ADDRESS32 = 8,
}

export const NO_REGISTER: u32 = 0xff;

/** The two-operand arithmetic instructions, numbered as their opcodes are. */
export const enum Alu {
  ADD,
  OR,
  ADC,
  SBB,
  AND,
  SUB,
  XOR,
  CMP,
  TEST,
}

/** Forms of the fast arithmetic operations: (kind * 5 + form) * 2 + (1 for 64 bits). */
export const enum AluForm {
  /** rm register, register. */
  RR,
  /** rm register, immediate. */
  RI,
  /** register, memory. */
  RM,
  /** memory, register. */
  MR,
  /** memory, immediate. */
  MI,
}

export const enum Shift {
  ROL,
  ROR,
  RCL,
  RCR,
  SHL,
  SHR,
  SAL,
  SAR,
}

export const enum Operation {
  /** The block died: find out what is here now. */
  STALE,
  BREAK,
  /** Not an instruction: the block ends before RIP. */
  END,
  UNDEFINED,
  /** Not an instruction: address of the next record's operand into Slot.ADDRESS. */
  ADDRESS,
  NOP,

  MOV_RR64,
  MOV_RR32,
  MOV_RI,
  LEA64,
  LEA32,
  LOAD64,
  LOAD32,
  LOAD16,
  LOAD8,
  STORE64,
  STORE32,
  STORE16,
  STORE8,
  STORE_I64,
  STORE_I32,
  STORE_I16,
  STORE_I8,
  MOVZX8_R,
  MOVZX16_R,
  MOVZX8_M,
  MOVZX16_M,
  /** Sign extension to 64 bits. */
  MOVSX8_R,
  MOVSX16_R,
  MOVSX32_R,
  MOVSX8_M,
  MOVSX16_M,
  MOVSX32_M,
  /** Sign extension to 32 bits. */
  MOVSX8_R32,
  MOVSX16_R32,
  MOVSX8_M32,
  MOVSX16_M32,
  SHL_I64,
  SHL_I32,
  SHR_I64,
  SHR_I32,
  SAR_I64,
  SAR_I32,
  IMUL64,
  IMUL32,
  IMUL_I64,
  IMUL_I32,
  CMP8_RI,
  CMP8_MI,
  TEST8_RR,
  TEST8_MI,
  PUSH,
  POP,
  CALL,
  RET,
  JUMP,
  JUMP_RM,
  CALL_RM,
  LEAVE,

  /** The next 16 by condition. */
  JCC,
  ALU = JCC + 16,
  /** ADD, OR, AND, SUB, XOR, CMP, TEST times five forms times two sizes. */
  FAST_END = ALU + 70,

  // Operations behind one more call.
  ALU_MR = FAST_END,
  ALU_RM,
  ALU_MI,
  MOV_RM,
  MOV_MI,
  MOVX,
  SHIFT,
  SHIFT_CL,
  SHLD,
  SHRD,
  NOT,
  NEG,
  MUL,
  IMUL,
  DIV,
  IDIV,
  IMUL2,
  INC,
  DEC,
  BIT,
  BIT_I,
  BSF,
  BSR,
  TZCNT,
  LZCNT,
  POPCNT,
  CMOV,
  SETCC,
  XCHG,
  XADD,
  CMPXCHG,
  CMPXCHG8B,
  CMPXCHG16B,
  BSWAP,
  MOVBE_LOAD,
  MOVBE_STORE,
  CONVERT,
  CONVERT_TWICE,
  PUSH_RM,
  PUSH_I,
  POP_RM,
  PUSHF,
  ENTER,
  RET_I,
  LOOP,
  XLAT,
  LAHF,
  SAHF,
  SET_CARRY,
  SET_DIRECTION,
  BMI_ANDN,
  BMI_GROUP,
  BMI_BEXTR,
  INTEGER_END,

  STRING = INTEGER_END,

  // System operations: all but CLFLUSH and MOVDIRI end their block.
  POPF,
  IN,
  OUT,
  INTERRUPT,
  BREAKPOINT,
  DEBUG_TRAP,
  HALT,
  CLI,
  STI,
  CLAC,
  STAC,
  CLTS,
  CPUID,
  RDTSC,
  RDTSCP,
  RDMSR,
  WRMSR,
  MOV_FROM_CR,
  MOV_TO_CR,
  MOV_FROM_DR,
  MOV_TO_DR,
  SMSW,
  LMSW,
  SGDT,
  SIDT,
  LGDT,
  LIDT,
  SLDT,
  STR,
  LLDT,
  LTR,
  LAR,
  LSL,
  VERR,
  VERW,
  INVLPG,
  WBINVD,
  CLFLUSH,
  SWAPGS,
  SYSCALL,
  SYSRET,
  IRET,
  RET_FAR,
  JUMP_FAR,
  CALL_FAR,
  MOV_FROM_SEGMENT,
  MOV_TO_SEGMENT,
  PUSH_SEGMENT,
  POP_SEGMENT,
  LOAD_FAR,
  READ_BASE,
  WRITE_BASE,
  MOVDIRI,
  MOVDIR64B,
  ENQCMD,
  ENQCMDS,
}
