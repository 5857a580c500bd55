/** Unprivileged operations of any size (Intel SDM volume 2), those that execute.ts has no case of its own for. */

import { carryFlag, condition, getFlags, setAllFlags, setCarry, setFlags } from './flags.ts';
import { finishWrite, loadSized, read, storeSized, write } from './memory.ts';
import { divide, highSigned, multiply } from './multiply.ts';
import {
  address,
  isRegisterForm,
  operandSize,
  peek,
  push,
  readReg,
  readRm,
  regPointer,
  signExtend,
  storeRegister,
  storeRm,
  writeReg,
  writeRm,
} from './operand.ts';
import { Alu, Bits, Operation, Record } from './record.ts';
import { shift, shiftDouble } from './shifts.ts';
import {
  cpu,
  Flag,
  generalProtection,
  getRegister,
  isCanonical,
  setRegister,
  setSystemFlags,
  Slot,
  State,
  Status,
  systemFlags,
} from './state.ts';

const FAULT: u32 = Status.FAULT;
const DONE: u32 = Status.NEXT;

/** Sets all flags from a result and its carries, both in the low `size` bytes. */
function flagsOf(result: u64, carries: u64, size: u32): void {
  store<i64>(cpu, signExtend(result, size), State.FLAG_RESULT);
  const top = carries << (64 - (size << 3));
  store<u64>(cpu, (top & 0xc000000000000000) | (carries & 8), State.FLAG_CARRIES);
}

/** `a` op `x` of `size` bytes, with its flags. */
function arithmetic(alu: u32, size: u32, a: u64, x: u64): u64 {
  let result: u64;
  switch (alu) {
    case Alu.ADD:
    case Alu.ADC:
      result = a + x + (alu == Alu.ADC ? carryFlag() : 0);
      flagsOf(result, (a & x) | ((a | x) & ~result), size);
      return result;
    case Alu.SUB:
    case Alu.SBB:
    case Alu.CMP:
      result = a - x - (alu == Alu.SBB ? carryFlag() : 0);
      flagsOf(result, (~a & x) | ((~a | x) & result), size);
      return result;
    case Alu.OR:
      result = a | x;
      break;
    case Alu.XOR:
      result = a ^ x;
      break;
    default:
      result = a & x;
  }
  flagsOf(result, 0, size);
  return result;
}

/** The flags of CMP. */
export function compare(size: u32, a: u64, x: u64): void {
  arithmetic(Alu.CMP, size, a, x);
}

/** Arithmetic with destination r/m. */
function arithmeticToRm(record: usize, x: u64): u32 {
  const alu = <u32>load<u8>(record, Record.KIND);
  const size = operandSize(record);
  const pointer = alu >= <u32>Alu.CMP ? readRm(record, size) : writeRm(record, size, true);
  if (!pointer) return FAULT;
  const result = arithmetic(alu, size, loadSized(pointer, size), x);
  if (alu < <u32>Alu.CMP) storeRm(record, pointer, size, result);
  return DONE;
}

/** Bit tests. With a register offset the bit may lie anywhere around the memory operand. */
function bitTest(record: usize, offset: i64, far: bool): u32 {
  const which = <u32>load<u8>(record, Record.KIND);
  const size = operandSize(record);
  const mask = <i64>(size << 3) - 1;
  let pointer: usize;
  if (isRegisterForm(record)) pointer = writeRm(record, size, true);
  else {
    let where = address(record);
    if (far) where += ((offset & ~mask) >> 3);
    pointer = which == 0 ? read(record, where, size) : write(record, where, size, true);
  }
  if (!pointer) return FAULT;
  const value = loadSized(pointer, size);
  const bit = (<u64>1) << (<u64>(offset & mask));
  setCarry((value & bit) != 0 ? 1 : 0);
  if (which == 0) return DONE;
  storeRm(record, pointer, size, which == 1 ? value | bit : which == 2 ? value & ~bit : value ^ bit);
  return DONE;
}

/** BSF, BSR, TZCNT, LZCNT, POPCNT. */
function countBits(record: usize, operation: u32): u32 {
  const size = operandSize(record);
  const from = readRm(record, size);
  if (!from) return FAULT;
  const value = loadSized(from, size);
  const width = <u64>(size << 3);
  let result: u64;
  if (operation == Operation.POPCNT) {
    result = popcnt<u64>(value);
    setAllFlags((getFlags() & ~(<u64>Flag.ARITHMETIC)) | (value == 0 ? <u64>Flag.ZF : 0));
  } else if (operation == Operation.TZCNT || operation == Operation.LZCNT) {
    if (value == 0) result = width;
    else result = operation == Operation.TZCNT ? ctz<u64>(value) : clz<u64>(value) - (64 - width);
    setFlags(result, value == 0 ? 1 : 0, 0);
  } else {
    setFlags(value == 0 ? 0 : 1, 0, 0);
    // The destination keeps its value when the source is zero.
    if (value == 0) return DONE;
    result = operation == Operation.BSF ? ctz<u64>(value) : 63 - clz<u64>(value);
  }
  writeReg(record, size, result);
  return DONE;
}

function compareExchange(record: usize): u32 {
  const size = operandSize(record);
  const pointer = writeRm(record, size, true);
  if (!pointer) return FAULT;
  const old = loadSized(pointer, size);
  const expected = loadSized(cpu + Slot.RAX, size);
  arithmetic(Alu.CMP, size, expected, old);
  if (old == expected) storeRm(record, pointer, size, readReg(record, size));
  else {
    // The destination is written in any case; a 32-bit register keeps its upper half.
    if (!isRegisterForm(record)) storeRm(record, pointer, size, old);
    storeRegister(cpu + Slot.RAX, size, old);
  }
  return DONE;
}

/** CMPXCHG8B and CMPXCHG16B: halves of `half` bytes. */
function compareExchangePair(record: usize, half: u32): u32 {
  const where = address(record);
  if (half == 8 && where & 15) return generalProtection();
  const pointer = write(record, where, half * 2, true);
  if (!pointer) return FAULT;
  const low = loadSized(pointer, half);
  const high = loadSized(pointer + half, half);
  const equal = low == loadSized(cpu + Slot.RAX, half) && high == loadSized(cpu + Slot.RDX, half);
  if (equal) {
    storeSized(pointer, half, getRegister(Slot.RBX));
    storeSized(pointer + half, half, getRegister(Slot.RCX));
  } else {
    storeRegister(cpu + Slot.RAX, half, low);
    storeRegister(cpu + Slot.RDX, half, high);
  }
  finishWrite(record, pointer);
  const flags = getFlags() & ~(<u64>Flag.ZF);
  setAllFlags(equal ? flags | Flag.ZF : flags);
  return DONE;
}

function popToRm(record: usize): u32 {
  const size = operandSize(record);
  const from = peek(record, 0, size);
  if (!from) return FAULT;
  const value = loadSized(from, size);
  const top = getRegister(Slot.RSP);
  // An address relative to RSP is taken after the pop.
  setRegister(Slot.RSP, top + size);
  const pointer = writeRm(record, size, false);
  if (!pointer) {
    setRegister(Slot.RSP, top);
    return FAULT;
  }
  storeRm(record, pointer, size, value);
  return DONE;
}

function enter(record: usize): u32 {
  const size = operandSize(record);
  const level = <u32>load<u8>(record, Record.KIND);
  let top = getRegister(Slot.RSP) - size;
  let outer = getRegister(Slot.RBP);
  const frame = top;
  if (!storeStack(record, top, size, outer)) return FAULT;
  for (let i: u32 = 1; i < level; i++) {
    outer -= size;
    const from = read(record, outer, size);
    if (!from) return FAULT;
    top -= size;
    if (!storeStack(record, top, size, loadSized(from, size))) return FAULT;
  }
  if (level) {
    top -= size;
    if (!storeStack(record, top, size, frame)) return FAULT;
  }
  top -= load<u64>(record, Record.IMMEDIATE);
  // The new top must be writable, although nothing is written.
  if (!write(record, top, size, false)) return FAULT;
  if (size == 8) setRegister(Slot.RBP, frame);
  else storeSized(cpu + Slot.RBP, 2, frame);
  setRegister(Slot.RSP, top);
  return DONE;
}

function storeStack(record: usize, where: u64, size: u32, value: u64): bool {
  const pointer = write(record, where, size, false);
  if (!pointer) return false;
  storeSized(pointer, size, value);
  finishWrite(record, pointer);
  return true;
}

function loop(record: usize, next: u64): u32 {
  const which = <u32>load<u8>(record, Record.KIND);
  const short = (load<u8>(record, Record.BITS) & Bits.ADDRESS32) != 0;
  let count = getRegister(Slot.RCX);
  let taken: bool;
  if (which == 3) taken = (short ? <u64>(<u32>count) : count) == 0;
  else {
    count = short ? <u64>(<u32>count - 1) : count - 1;
    taken = count != 0;
    // LOOPNE wants ZF clear, LOOPE wants it set.
    if (which == 0) taken = taken && !condition(4);
    else if (which == 1) taken = taken && condition(4);
  }
  const target = taken ? load<u64>(record, Record.IMMEDIATE) : next;
  if (!isCanonical(target)) return generalProtection();
  if (which != 3) setRegister(Slot.RCX, count);
  store<u64>(cpu, target, State.RIP);
  return Status.JUMP;
}

function swapBytes(value: u64, size: u32): u64 {
  if (size == 8) return bswap<u64>(value);
  if (size == 4) return bswap<u32>(<u32>value);
  return bswap<u16>(<u16>value);
}

/** BLSR, BLSMSK, BLSI; the destination is in REG. */
function lowestBit(record: usize): u32 {
  const size = operandSize(record);
  const from = readRm(record, size);
  if (!from) return FAULT;
  const value = loadSized(from, size);
  const which = load<u8>(record, Record.KIND);
  const result = which == 1 ? value & (value - 1) : which == 2 ? value ^ (value - 1) : value & (0 - value);
  const carry = which == 3 ? value != 0 : value == 0;
  setFlags(signExtend(result, size), carry ? 1 : 0, 0);
  writeReg(record, size, result);
  return DONE;
}

function extractBits(record: usize, control: u64): u32 {
  const size = operandSize(record);
  const from = readRm(record, size);
  if (!from) return FAULT;
  const start = control & 0xff;
  const length = (control >> 8) & 0xff;
  let result = start < 64 ? loadSized(from, size) >> start : 0;
  if (length < 64) result &= ((<u64>1) << length) - 1;
  setFlags(result, 0, 0);
  writeReg(record, size, result);
  return DONE;
}

/** Performs `operation` of `record`; `next` is the address behind the instruction. Gives a Status. */
export function integer(record: usize, operation: u32, next: u64): u32 {
  const size = operandSize(record);
  switch (operation) {
    case Operation.ALU_MR:
      return arithmeticToRm(record, readReg(record, size));
    case Operation.ALU_MI:
      return arithmeticToRm(record, loadSized(record + Record.IMMEDIATE, size));
    case Operation.ALU_RM: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      const alu = <u32>load<u8>(record, Record.KIND);
      const result = arithmetic(alu, size, readReg(record, size), loadSized(from, size));
      if (alu < <u32>Alu.CMP) writeReg(record, size, result);
      return DONE;
    }
    case Operation.MOV_RM: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      writeReg(record, size, loadSized(from, size));
      return DONE;
    }
    case Operation.MOV_MI: {
      const to = writeRm(record, size, false);
      if (!to) return FAULT;
      storeRm(record, to, size, load<u64>(record, Record.IMMEDIATE));
      return DONE;
    }
    case Operation.MOVX: {
      const kind = <u32>load<u8>(record, Record.KIND);
      const from = readRm(record, kind & 15);
      if (!from) return FAULT;
      const value = loadSized(from, kind & 15);
      writeReg(record, size, kind & 0x80 ? <u64>signExtend(value, kind & 15) : value);
      return DONE;
    }
    case Operation.SHIFT:
      return shift(record, <u32>load<u8>(record, Record.IMMEDIATE));
    case Operation.SHIFT_CL:
      return shift(record, <u32>load<u8>(cpu, Slot.RCX) & (size == 8 ? 63 : 31));
    case Operation.SHLD:
    case Operation.SHRD:
      return shiftDouble(record, operation == Operation.SHLD);
    case Operation.NOT: {
      const pointer = writeRm(record, size, true);
      if (!pointer) return FAULT;
      storeRm(record, pointer, size, ~loadSized(pointer, size));
      return DONE;
    }
    case Operation.NEG: {
      const pointer = writeRm(record, size, true);
      if (!pointer) return FAULT;
      storeRm(record, pointer, size, arithmetic(Alu.SUB, size, 0, loadSized(pointer, size)));
      return DONE;
    }
    case Operation.INC:
    case Operation.DEC: {
      const pointer = writeRm(record, size, true);
      if (!pointer) return FAULT;
      const carry = carryFlag();
      const alu = operation == Operation.INC ? Alu.ADD : Alu.SUB;
      const result = arithmetic(alu, size, loadSized(pointer, size), 1);
      setCarry(carry);
      storeRm(record, pointer, size, result);
      return DONE;
    }
    case Operation.MUL:
    case Operation.IMUL: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      multiply(size, loadSized(from, size), operation == Operation.IMUL);
      return DONE;
    }
    case Operation.DIV:
    case Operation.IDIV: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      return divide(size, loadSized(from, size), operation == Operation.IDIV);
    }
    case Operation.IMUL2: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      const factor = signExtend(loadSized(from, size), size);
      const other = load<u8>(record, Record.KIND)
        ? load<i64>(record, Record.IMMEDIATE)
        : signExtend(readReg(record, size), size);
      const low = factor * other;
      const cut = signExtend(low, size);
      const lost: u64 = cut != low || (size == 8 && <i64>highSigned(factor, other) != low >> 63) ? 1 : 0;
      setFlags(cut, lost, lost);
      writeReg(record, size, low);
      return DONE;
    }
    case Operation.BIT:
      return bitTest(record, signExtend(readReg(record, size), size), true);
    case Operation.BIT_I:
      return bitTest(record, load<i64>(record, Record.IMMEDIATE), false);
    case Operation.BSF:
    case Operation.BSR:
    case Operation.TZCNT:
    case Operation.LZCNT:
    case Operation.POPCNT:
      return countBits(record, operation);
    case Operation.CMOV: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      // A 32-bit move that does not happen still clears the upper half.
      const holds = condition(load<u8>(record, Record.KIND));
      writeReg(record, size, holds ? loadSized(from, size) : readReg(record, size));
      return DONE;
    }
    case Operation.SETCC: {
      const to = writeRm(record, 1, false);
      if (!to) return FAULT;
      storeRm(record, to, 1, condition(load<u8>(record, Record.KIND)) ? 1 : 0);
      return DONE;
    }
    case Operation.XCHG: {
      const pointer = writeRm(record, size, true);
      if (!pointer) return FAULT;
      const old = loadSized(pointer, size);
      const value = readReg(record, size);
      storeRm(record, pointer, size, value);
      writeReg(record, size, old);
      return DONE;
    }
    case Operation.XADD: {
      const pointer = writeRm(record, size, true);
      if (!pointer) return FAULT;
      const old = loadSized(pointer, size);
      const sum = arithmetic(Alu.ADD, size, old, readReg(record, size));
      writeReg(record, size, old);
      storeRm(record, pointer, size, sum);
      return DONE;
    }
    case Operation.CMPXCHG:
      return compareExchange(record);
    case Operation.CMPXCHG8B:
      return compareExchangePair(record, 4);
    case Operation.CMPXCHG16B:
      return compareExchangePair(record, 8);
    case Operation.BSWAP: {
      const pointer = cpu + load<u8>(record, Record.RM);
      // The 16-bit form is undefined; processors give zero.
      storeRegister(pointer, size, size == 2 ? 0 : swapBytes(load<u64>(pointer), size));
      return DONE;
    }
    case Operation.MOVBE_LOAD: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      writeReg(record, size, swapBytes(loadSized(from, size), size));
      return DONE;
    }
    case Operation.MOVBE_STORE: {
      const to = writeRm(record, size, false);
      if (!to) return FAULT;
      storeRm(record, to, size, swapBytes(readReg(record, size), size));
      return DONE;
    }
    case Operation.CONVERT: {
      const half = size >> 1;
      storeRegister(cpu + Slot.RAX, size, signExtend(getRegister(Slot.RAX), half));
      return DONE;
    }
    case Operation.CONVERT_TWICE:
      storeRegister(cpu + Slot.RDX, size, signExtend(getRegister(Slot.RAX), size) >> 63);
      return DONE;
    case Operation.PUSH_RM: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      return push(record, loadSized(from, size), size) ? DONE : FAULT;
    }
    case Operation.PUSH_I:
      return push(record, load<u64>(record, Record.IMMEDIATE), size) ? DONE : FAULT;
    case Operation.POP_RM:
      return popToRm(record);
    case Operation.PUSHF:
      return push(record, getFlags() & ~(<u64>(Flag.RF | Flag.VM)), size) ? DONE : FAULT;
    case Operation.ENTER:
      return enter(record);
    case Operation.RET_I: {
      const from = peek(record, 0, 8);
      if (!from) return FAULT;
      const target = load<u64>(from);
      if (!isCanonical(target)) return generalProtection();
      setRegister(Slot.RSP, getRegister(Slot.RSP) + 8 + load<u64>(record, Record.IMMEDIATE));
      store<u64>(cpu, target, State.RIP);
      return Status.JUMP;
    }
    case Operation.LOOP:
      return loop(record, next);
    case Operation.XLAT: {
      let where = getRegister(Slot.RBX) + load<u8>(cpu, Slot.RAX);
      if (load<u8>(record, Record.BITS) & Bits.ADDRESS32) where &= 0xffffffff;
      const from = read(record, where + load<u64>(regPointer(record)), 1);
      if (!from) return FAULT;
      store<u8>(cpu, load<u8>(from), Slot.RAX);
      return DONE;
    }
    case Operation.LAHF:
      store<u8>(cpu, <u8>getFlags(), Slot.RAX + 1);
      return DONE;
    case Operation.SAHF: {
      const kept = getFlags() & ~(<u64>(Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF));
      setAllFlags(kept | (load<u8>(cpu, Slot.RAX + 1) & (Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF)));
      return DONE;
    }
    case Operation.SET_CARRY: {
      const kind = load<u8>(record, Record.KIND);
      setCarry(kind == 2 ? carryFlag() ^ 1 : kind);
      return DONE;
    }
    case Operation.SET_DIRECTION: {
      const flags = systemFlags() & ~(<u64>Flag.DF);
      setSystemFlags(load<u8>(record, Record.KIND) ? flags | Flag.DF : flags);
      return DONE;
    }
    case Operation.BMI_ANDN: {
      const from = readRm(record, size);
      if (!from) return FAULT;
      const inverted = loadSized(cpu + <usize>load<u64>(record, Record.IMMEDIATE), size);
      const result = ~inverted & loadSized(from, size);
      setFlags(signExtend(result, size), 0, 0);
      writeReg(record, size, result);
      return DONE;
    }
    case Operation.BMI_GROUP:
      return lowestBit(record);
    case Operation.BMI_BEXTR:
      return extractBits(record, getRegister(<usize>load<u64>(record, Record.IMMEDIATE)));
  }
  return DONE;
}
