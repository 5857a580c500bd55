/**
 * The interpreter loop: runs blocks, following links from block to block, until something needs `run`. The operations
 * that compilers emit most are here, specialised by size and form; the others are calls.
 */

import { findBlock } from './blocks.ts';
import {
  below,
  flagsOfDifference,
  flagsOfLogic,
  flagsOfSum,
  less,
  overflow,
  parity,
  setFlags,
  sign,
  zero,
} from './flags.ts';
import { integer } from './integer.ts';
import { commitWrite, endBreak, readPointer, writePointer } from './memory.ts';
import { highSigned } from './multiply.ts';
import { effectiveAddress } from './operand.ts';
import { Alu, Bits, Block, Operation, Record } from './record.ts';
import { cpu, isCanonical, raise, raiseWithError, Slot, State, Status, Vector } from './state.ts';
import { stringInstruction } from './strings.ts';
import { system } from './system.ts';

// @ts-ignore: decorator
@inline
function rm64(base: usize, record: usize): usize {
  return base + load<u8>(record, Record.RM);
}

// @ts-ignore: decorator
@inline
function reg64(base: usize, record: usize): usize {
  return base + load<u8>(record, Record.REG);
}

/** `a` op `x` with its flags. */
// @ts-ignore: decorator
@inline
function compute<T>(base: usize, alu: u32, a: T, x: T): T {
  if (alu == Alu.ADD) {
    const result = <T>(a + x);
    flagsOfSum<T>(base, a, x, result);
    return result;
  }
  if (alu == Alu.SUB || alu == Alu.CMP) {
    const result = <T>(a - x);
    flagsOfDifference<T>(base, a, x, result);
    return result;
  }
  const result = alu == Alu.OR ? <T>(a | x) : alu == Alu.XOR ? <T>(a ^ x) : <T>(a & x);
  flagsOfLogic<T>(base, result);
  return result;
}

// @ts-ignore: decorator
@inline
function aluRr<T>(base: usize, record: usize, alu: u32): void {
  const to = rm64(base, record);
  const result = compute<T>(base, alu, load<T>(to), load<T>(reg64(base, record)));
  if (alu < <u32>Alu.CMP) store<u64>(to, <u64>result);
}

// @ts-ignore: decorator
@inline
function aluRi<T>(base: usize, record: usize, alu: u32): void {
  const to = rm64(base, record);
  const result = compute<T>(base, alu, load<T>(to), load<T>(record, Record.IMMEDIATE));
  if (alu < <u32>Alu.CMP) store<u64>(to, <u64>result);
}

// @ts-ignore: decorator
@inline
function aluRm<T>(base: usize, tlb: usize, record: usize, alu: u32): bool {
  const from = readPointer<T>(tlb, record, effectiveAddress(base, record));
  if (!from) return false;
  const to = reg64(base, record);
  const result = compute<T>(base, alu, load<T>(to), load<T>(from));
  if (alu < <u32>Alu.CMP) store<u64>(to, <u64>result);
  return true;
}

// @ts-ignore: decorator
@inline
function aluToMemory<T>(base: usize, tlb: usize, record: usize, alu: u32, x: T): bool {
  if (alu >= <u32>Alu.CMP) {
    const from = readPointer<T>(tlb, record, effectiveAddress(base, record));
    if (!from) return false;
    compute<T>(base, alu, load<T>(from), x);
    return true;
  }
  const to = writePointer<T>(tlb, record, effectiveAddress(base, record), true);
  if (!to) return false;
  store<T>(to, compute<T>(base, alu, load<T>(to), x));
  if (to == base + State.SCRATCH) commitWrite(record);
  return true;
}

// @ts-ignore: decorator
@inline
function aluMr<T>(base: usize, tlb: usize, record: usize, alu: u32): bool {
  return aluToMemory<T>(base, tlb, record, alu, load<T>(reg64(base, record)));
}

// @ts-ignore: decorator
@inline
function aluMi<T>(base: usize, tlb: usize, record: usize, alu: u32): bool {
  return aluToMemory<T>(base, tlb, record, alu, load<T>(record, Record.IMMEDIATE));
}

/** Loads a T and extends it to E, zero-extended to the register. */
// @ts-ignore: decorator
@inline
function loadTo<T, E>(base: usize, tlb: usize, record: usize): bool {
  const from = readPointer<T>(tlb, record, effectiveAddress(base, record));
  if (!from) return false;
  store<u64>(reg64(base, record), <u64>(<E>load<T>(from)));
  return true;
}

// @ts-ignore: decorator
@inline
function storeFrom<T>(base: usize, tlb: usize, record: usize, value: T): bool {
  const to = writePointer<T>(tlb, record, effectiveAddress(base, record), false);
  if (!to) return false;
  store<T>(to, value);
  if (to == base + State.SCRATCH) commitWrite(record);
  return true;
}

// @ts-ignore: decorator
@inline
function pushFast(base: usize, tlb: usize, record: usize, value: u64): bool {
  const top = load<u64>(base, Slot.RSP) - 8;
  const to = writePointer<u64>(tlb, record, top, false);
  if (!to) return false;
  store<u64>(to, value);
  if (to == base + State.SCRATCH) commitWrite(record);
  store<u64>(base, top, Slot.RSP);
  return true;
}

// @ts-ignore: decorator
@inline
function next(block: usize, record: usize): u64 {
  return load<u64>(block) + load<u16>(record, Record.OFFSET) + load<u8>(record, Record.LENGTH);
}

/** Counts the block's instructions and gives its first record; 0 when the loop has to be left before it. */
// @ts-ignore: decorator
@inline
function enter(base: usize, block: usize): usize {
  const left = load<i64>(base, State.REMAINING) - load<u32>(block, Block.COUNT);
  if (left < 0 || load<u32>(base, State.ATTENTION)) return 0;
  store<i64>(base, left, State.REMAINING);
  return block + Block.HEADER;
}

/** The block at `rip`; the one that jumps there from field `link` remembers it when both lie in one page. */
function follow(block: usize, link: usize, rip: u64): usize {
  const target = findBlock(rip);
  if (target) {
    if ((load<u64>(block) ^ rip) < 4096) store<u32>(link, <u32>target);
  } else if ((load<u64>(block) ^ rip) < 4096) store<u32>(cpu, <u32>link, State.LINK_FROM);
  return target;
}

/** Leaves at `record`, whose instruction and those behind it have not retired. */
function leave(block: usize, record: usize, status: u32): u32 {
  const left = load<u32>(block, Block.COUNT) - load<u8>(record, Record.ORDINAL);
  store<i64>(cpu, load<i64>(cpu, State.REMAINING) + left, State.REMAINING);
  store<u64>(cpu, load<u64>(block) + load<u16>(record, Record.OFFSET), State.RIP);
  return status;
}

/** Target of a conditional jump. */
function targetOf(block: usize, record: usize, taken: bool): u64 {
  return taken ? load<u64>(record, Record.IMMEDIATE) : next(block, record);
}

function followConditional(block: usize, record: usize, link: usize, taken: bool): usize {
  const rip = targetOf(block, record, taken);
  // A target that is not canonical is found by nobody; `run` raises the exception there.
  return follow(block, link, rip);
}

function leaveConditional(block: usize, record: usize, taken: bool): u32 {
  return leaveTo(targetOf(block, record, taken));
}

function leaveTo(rip: u64): u32 {
  store<u64>(cpu, rip, State.RIP);
  return Status.JUMP;
}

/** RET, and jumps and calls through r/m: #GP(0) before anything changes when the target is not canonical. */
function badTarget(block: usize, record: usize): u32 {
  raiseWithError(Vector.GP, 0);
  return leave(block, record, Status.FAULT);
}

/** Runs from the start of `block`, which has been counted. */
export function execute(start: usize): u32 {
  const base = cpu;
  const tlb: usize = load<u32>(base, State.TLB);
  let block = start;
  let c = start + Block.HEADER;
  while (true) {
    switch (<u32>load<u16>(c)) {
      case Operation.STALE:
        return leave(block, c, Status.JUMP);
      case Operation.BREAK:
        endBreak();
        return leave(block, c, Status.JUMP);
      case Operation.END: {
        const rip = load<u64>(block) + load<u16>(c, Record.OFFSET);
        let target: usize = load<u32>(c, Record.LINK);
        if (!target) target = follow(block, c + Record.LINK, rip);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveTo(rip);
        block = target;
        c = first;
        continue;
      }
      case Operation.UNDEFINED:
        // Kind 1: longer than an instruction may be.
        if (load<u8>(c, Record.KIND)) raiseWithError(Vector.GP, 0);
        else raise(Vector.UD);
        return leave(block, c, Status.FAULT);
      case Operation.ADDRESS: {
        let address = effectiveAddress(base, c);
        if (load<u8>(c, Record.BITS) & Bits.ADDRESS32) address &= 0xffffffff;
        store<u64>(base, address + load<u64>(base + load<u8>(c, Record.REG)), Slot.ADDRESS);
        break;
      }
      case Operation.NOP:
        break;
      case Operation.MOV_RR64:
        store<u64>(reg64(base, c), load<u64>(rm64(base, c)));
        break;
      case Operation.MOV_RR32:
        store<u64>(reg64(base, c), load<u32>(rm64(base, c)));
        break;
      case Operation.MOV_RI:
        store<u64>(reg64(base, c), load<u64>(c, Record.IMMEDIATE));
        break;
      case Operation.LEA64:
        store<u64>(reg64(base, c), effectiveAddress(base, c));
        break;
      case Operation.LEA32:
        if (load<u8>(c, Record.KIND)) store<u16>(reg64(base, c), <u16>effectiveAddress(base, c));
        else store<u64>(reg64(base, c), <u32>effectiveAddress(base, c));
        break;
      case Operation.LOAD64:
        if (!loadTo<u64, u64>(base, tlb, c)) return leave(block, c, Status.FAULT);
        break;
      case Operation.LOAD32:
        if (!loadTo<u32, u32>(base, tlb, c)) return leave(block, c, Status.FAULT);
        break;
      case Operation.LOAD16: {
        const from = readPointer<u16>(tlb, c, effectiveAddress(base, c));
        if (!from) return leave(block, c, Status.FAULT);
        store<u16>(reg64(base, c), load<u16>(from));
        break;
      }
      case Operation.LOAD8: {
        const from = readPointer<u8>(tlb, c, effectiveAddress(base, c));
        if (!from) return leave(block, c, Status.FAULT);
        store<u8>(reg64(base, c), load<u8>(from));
        break;
      }
      case Operation.STORE64:
        if (!storeFrom<u64>(base, tlb, c, load<u64>(reg64(base, c)))) return leave(block, c, Status.FAULT);
        break;
      case Operation.STORE32:
        if (!storeFrom<u32>(base, tlb, c, load<u32>(reg64(base, c)))) return leave(block, c, Status.FAULT);
        break;
      case Operation.STORE16:
        if (!storeFrom<u16>(base, tlb, c, load<u16>(reg64(base, c)))) return leave(block, c, Status.FAULT);
        break;
      case Operation.STORE8:
        if (!storeFrom<u8>(base, tlb, c, load<u8>(reg64(base, c)))) return leave(block, c, Status.FAULT);
        break;
      case Operation.STORE_I64:
        if (!storeFrom<u64>(base, tlb, c, load<u64>(c, Record.IMMEDIATE))) return leave(block, c, Status.FAULT);
        break;
      case Operation.STORE_I32:
        if (!storeFrom<u32>(base, tlb, c, load<u32>(c, Record.IMMEDIATE))) return leave(block, c, Status.FAULT);
        break;
      case Operation.STORE_I16:
        if (!storeFrom<u16>(base, tlb, c, load<u16>(c, Record.IMMEDIATE))) return leave(block, c, Status.FAULT);
        break;
      case Operation.STORE_I8:
        if (!storeFrom<u8>(base, tlb, c, load<u8>(c, Record.IMMEDIATE))) return leave(block, c, Status.FAULT);
        break;
      case Operation.MOVZX8_R:
        store<u64>(reg64(base, c), load<u8>(rm64(base, c)));
        break;
      case Operation.MOVZX16_R:
        store<u64>(reg64(base, c), load<u16>(rm64(base, c)));
        break;
      case Operation.MOVZX8_M:
        if (!loadTo<u8, u64>(base, tlb, c)) return leave(block, c, Status.FAULT);
        break;
      case Operation.MOVZX16_M:
        if (!loadTo<u16, u64>(base, tlb, c)) return leave(block, c, Status.FAULT);
        break;
      case Operation.MOVSX8_R:
        store<i64>(reg64(base, c), load<i8>(rm64(base, c)));
        break;
      case Operation.MOVSX16_R:
        store<i64>(reg64(base, c), load<i16>(rm64(base, c)));
        break;
      case Operation.MOVSX32_R:
        store<i64>(reg64(base, c), load<i32>(rm64(base, c)));
        break;
      case Operation.MOVSX8_M:
        if (!loadTo<i8, i64>(base, tlb, c)) return leave(block, c, Status.FAULT);
        break;
      case Operation.MOVSX16_M:
        if (!loadTo<i16, i64>(base, tlb, c)) return leave(block, c, Status.FAULT);
        break;
      case Operation.MOVSX32_M:
        if (!loadTo<i32, i64>(base, tlb, c)) return leave(block, c, Status.FAULT);
        break;
      case Operation.MOVSX8_R32:
        store<u64>(reg64(base, c), <u32>(<i32>load<i8>(rm64(base, c))));
        break;
      case Operation.MOVSX16_R32:
        store<u64>(reg64(base, c), <u32>(<i32>load<i16>(rm64(base, c))));
        break;
      case Operation.MOVSX8_M32: {
        const from = readPointer<u8>(tlb, c, effectiveAddress(base, c));
        if (!from) return leave(block, c, Status.FAULT);
        store<u64>(reg64(base, c), <u32>(<i32>load<i8>(from)));
        break;
      }
      case Operation.MOVSX16_M32: {
        const from = readPointer<u16>(tlb, c, effectiveAddress(base, c));
        if (!from) return leave(block, c, Status.FAULT);
        store<u64>(reg64(base, c), <u32>(<i32>load<i16>(from)));
        break;
      }
      case Operation.SHL_I64: {
        const at = rm64(base, c);
        const count = load<u64>(c, Record.IMMEDIATE);
        const value = load<u64>(at);
        const result = value << count;
        const carry = (value >> (64 - count)) & 1;
        store<u64>(at, result);
        setFlags(result, carry, carry ^ (result >> 63));
        break;
      }
      case Operation.SHL_I32: {
        const at = rm64(base, c);
        const wide = <u64>load<u32>(at) << load<u64>(c, Record.IMMEDIATE);
        const result = <u32>wide;
        const carry = (wide >> 32) & 1;
        store<u64>(at, result);
        setFlags(<i64>(<i32>result), carry, carry ^ <u64>(result >> 31));
        break;
      }
      case Operation.SHR_I64: {
        const at = rm64(base, c);
        const count = load<u64>(c, Record.IMMEDIATE);
        const value = load<u64>(at);
        const result = value >> count;
        store<u64>(at, result);
        setFlags(result, (value >> (count - 1)) & 1, value >> 63);
        break;
      }
      case Operation.SHR_I32: {
        const at = rm64(base, c);
        const count = load<u64>(c, Record.IMMEDIATE);
        const value = <u64>load<u32>(at);
        const result = value >> count;
        store<u64>(at, result);
        setFlags(result, (value >> (count - 1)) & 1, value >> 31);
        break;
      }
      case Operation.SAR_I64: {
        const at = rm64(base, c);
        const count = load<u64>(c, Record.IMMEDIATE);
        const value = load<i64>(at);
        const result = value >> count;
        store<u64>(at, result);
        setFlags(result, (value >> (count - 1)) & 1, 0);
        break;
      }
      case Operation.SAR_I32: {
        const at = rm64(base, c);
        const count = load<u64>(c, Record.IMMEDIATE);
        const value = <i64>load<i32>(at);
        const result = value >> count;
        store<u64>(at, <u32>result);
        setFlags(result, (value >> (count - 1)) & 1, 0);
        break;
      }
      case Operation.IMUL64: {
        const at = reg64(base, c);
        store<u64>(at, multiply64(load<i64>(at), load<i64>(rm64(base, c))));
        break;
      }
      case Operation.IMUL32: {
        const at = reg64(base, c);
        const product = <i64>load<i32>(at) * <i64>load<i32>(rm64(base, c));
        store<u64>(at, <u32>product);
        const lost = <u64>(product != <i64>(<i32>product));
        setFlags(<i64>(<i32>product), lost, lost);
        break;
      }
      case Operation.IMUL_I64:
        store<u64>(reg64(base, c), multiply64(load<i64>(rm64(base, c)), load<i64>(c, Record.IMMEDIATE)));
        break;
      case Operation.IMUL_I32: {
        const product = <i64>load<i32>(rm64(base, c)) * load<i64>(c, Record.IMMEDIATE);
        store<u64>(reg64(base, c), <u32>product);
        const lost = <u64>(product != <i64>(<i32>product));
        setFlags(<i64>(<i32>product), lost, lost);
        break;
      }
      case Operation.CMP8_RI:
        compute<u8>(base, Alu.CMP, load<u8>(rm64(base, c)), load<u8>(c, Record.IMMEDIATE));
        break;
      case Operation.CMP8_MI:
        if (!aluMi<u8>(base, tlb, c, Alu.CMP)) return leave(block, c, Status.FAULT);
        break;
      case Operation.TEST8_RR:
        compute<u8>(base, Alu.TEST, load<u8>(rm64(base, c)), load<u8>(reg64(base, c)));
        break;
      case Operation.TEST8_MI:
        if (!aluMi<u8>(base, tlb, c, Alu.TEST)) return leave(block, c, Status.FAULT);
        break;
      case Operation.PUSH:
        if (!pushFast(base, tlb, c, load<u64>(reg64(base, c)))) return leave(block, c, Status.FAULT);
        break;
      case Operation.POP: {
        const top = load<u64>(base, Slot.RSP);
        const from = readPointer<u64>(tlb, c, top);
        if (!from) return leave(block, c, Status.FAULT);
        const value = load<u64>(from);
        store<u64>(base, top + 8, Slot.RSP);
        store<u64>(reg64(base, c), value);
        break;
      }
      case Operation.LEAVE: {
        const frame = load<u64>(base, Slot.RBP);
        const from = readPointer<u64>(tlb, c, frame);
        if (!from) return leave(block, c, Status.FAULT);
        store<u64>(base, load<u64>(from), Slot.RBP);
        store<u64>(base, frame + 8, Slot.RSP);
        break;
      }
      case Operation.JUMP: {
        let target: usize = load<u32>(c, Record.LINK);
        if (!target) {
          const rip = load<u64>(c, Record.IMMEDIATE);
          if (!isCanonical(rip)) return badTarget(block, c);
          target = follow(block, c + Record.LINK, rip);
        }
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveTo(load<u64>(c, Record.IMMEDIATE));
        block = target;
        c = first;
        continue;
      }
      case Operation.CALL: {
        const rip = load<u64>(c, Record.IMMEDIATE);
        if (!isCanonical(rip)) return badTarget(block, c);
        if (!pushFast(base, tlb, c, next(block, c))) return leave(block, c, Status.FAULT);
        let target: usize = load<u32>(c, Record.LINK);
        if (!target) target = follow(block, c + Record.LINK, rip);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveTo(rip);
        block = target;
        c = first;
        continue;
      }
      case Operation.RET: {
        const top = load<u64>(base, Slot.RSP);
        const from = readPointer<u64>(tlb, c, top);
        if (!from) return leave(block, c, Status.FAULT);
        const rip = load<u64>(from);
        if (!isCanonical(rip)) return badTarget(block, c);
        store<u64>(base, top + 8, Slot.RSP);
        const target = findBlock(rip);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveTo(rip);
        block = target;
        c = first;
        continue;
      }
      case Operation.JUMP_RM: {
        let rip: u64;
        if (load<u8>(c, Record.RM) != 0xff) rip = load<u64>(rm64(base, c));
        else {
          const from = readPointer<u64>(tlb, c, effectiveAddress(base, c));
          if (!from) return leave(block, c, Status.FAULT);
          rip = load<u64>(from);
        }
        if (!isCanonical(rip)) return badTarget(block, c);
        const target = findBlock(rip);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveTo(rip);
        block = target;
        c = first;
        continue;
      }
      case Operation.CALL_RM: {
        let rip: u64;
        if (load<u8>(c, Record.RM) != 0xff) rip = load<u64>(rm64(base, c));
        else {
          const from = readPointer<u64>(tlb, c, effectiveAddress(base, c));
          if (!from) return leave(block, c, Status.FAULT);
          rip = load<u64>(from);
        }
        if (!isCanonical(rip)) return badTarget(block, c);
        if (!pushFast(base, tlb, c, next(block, c))) return leave(block, c, Status.FAULT);
        const target = findBlock(rip);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveTo(rip);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC: {
        const taken = overflow(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 1: {
        const taken = !overflow(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 2: {
        const taken = below(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 3: {
        const taken = !below(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 4: {
        const taken = zero(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 5: {
        const taken = !zero(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 6: {
        const taken = below(base) || zero(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 7: {
        const taken = !(below(base) || zero(base));
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 8: {
        const taken = sign(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 9: {
        const taken = !sign(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 10: {
        const taken = parity(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 11: {
        const taken = !parity(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 12: {
        const taken = less(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 13: {
        const taken = !less(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 14: {
        const taken = zero(base) || less(base);
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.JCC + 15: {
        const taken = !(zero(base) || less(base));
        const link = taken ? c + Record.LINK : c + Record.LINK_ELSE;
        let target: usize = load<u32>(link);
        if (!target) target = followConditional(block, c, link, taken);
        const first = target ? enter(base, target) : 0;
        if (!first) return leaveConditional(block, c, taken);
        block = target;
        c = first;
        continue;
      }
      case Operation.ALU + 0:
        aluRr<u32>(base, c, Alu.ADD);
        break;
      case Operation.ALU + 1:
        aluRr<u64>(base, c, Alu.ADD);
        break;
      case Operation.ALU + 2:
        aluRi<u32>(base, c, Alu.ADD);
        break;
      case Operation.ALU + 3:
        aluRi<u64>(base, c, Alu.ADD);
        break;
      case Operation.ALU + 4:
        if (!aluRm<u32>(base, tlb, c, Alu.ADD)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 5:
        if (!aluRm<u64>(base, tlb, c, Alu.ADD)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 6:
        if (!aluMr<u32>(base, tlb, c, Alu.ADD)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 7:
        if (!aluMr<u64>(base, tlb, c, Alu.ADD)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 8:
        if (!aluMi<u32>(base, tlb, c, Alu.ADD)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 9:
        if (!aluMi<u64>(base, tlb, c, Alu.ADD)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 10:
        aluRr<u32>(base, c, Alu.OR);
        break;
      case Operation.ALU + 11:
        aluRr<u64>(base, c, Alu.OR);
        break;
      case Operation.ALU + 12:
        aluRi<u32>(base, c, Alu.OR);
        break;
      case Operation.ALU + 13:
        aluRi<u64>(base, c, Alu.OR);
        break;
      case Operation.ALU + 14:
        if (!aluRm<u32>(base, tlb, c, Alu.OR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 15:
        if (!aluRm<u64>(base, tlb, c, Alu.OR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 16:
        if (!aluMr<u32>(base, tlb, c, Alu.OR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 17:
        if (!aluMr<u64>(base, tlb, c, Alu.OR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 18:
        if (!aluMi<u32>(base, tlb, c, Alu.OR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 19:
        if (!aluMi<u64>(base, tlb, c, Alu.OR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 20:
        aluRr<u32>(base, c, Alu.AND);
        break;
      case Operation.ALU + 21:
        aluRr<u64>(base, c, Alu.AND);
        break;
      case Operation.ALU + 22:
        aluRi<u32>(base, c, Alu.AND);
        break;
      case Operation.ALU + 23:
        aluRi<u64>(base, c, Alu.AND);
        break;
      case Operation.ALU + 24:
        if (!aluRm<u32>(base, tlb, c, Alu.AND)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 25:
        if (!aluRm<u64>(base, tlb, c, Alu.AND)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 26:
        if (!aluMr<u32>(base, tlb, c, Alu.AND)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 27:
        if (!aluMr<u64>(base, tlb, c, Alu.AND)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 28:
        if (!aluMi<u32>(base, tlb, c, Alu.AND)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 29:
        if (!aluMi<u64>(base, tlb, c, Alu.AND)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 30:
        aluRr<u32>(base, c, Alu.SUB);
        break;
      case Operation.ALU + 31:
        aluRr<u64>(base, c, Alu.SUB);
        break;
      case Operation.ALU + 32:
        aluRi<u32>(base, c, Alu.SUB);
        break;
      case Operation.ALU + 33:
        aluRi<u64>(base, c, Alu.SUB);
        break;
      case Operation.ALU + 34:
        if (!aluRm<u32>(base, tlb, c, Alu.SUB)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 35:
        if (!aluRm<u64>(base, tlb, c, Alu.SUB)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 36:
        if (!aluMr<u32>(base, tlb, c, Alu.SUB)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 37:
        if (!aluMr<u64>(base, tlb, c, Alu.SUB)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 38:
        if (!aluMi<u32>(base, tlb, c, Alu.SUB)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 39:
        if (!aluMi<u64>(base, tlb, c, Alu.SUB)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 40:
        aluRr<u32>(base, c, Alu.XOR);
        break;
      case Operation.ALU + 41:
        aluRr<u64>(base, c, Alu.XOR);
        break;
      case Operation.ALU + 42:
        aluRi<u32>(base, c, Alu.XOR);
        break;
      case Operation.ALU + 43:
        aluRi<u64>(base, c, Alu.XOR);
        break;
      case Operation.ALU + 44:
        if (!aluRm<u32>(base, tlb, c, Alu.XOR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 45:
        if (!aluRm<u64>(base, tlb, c, Alu.XOR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 46:
        if (!aluMr<u32>(base, tlb, c, Alu.XOR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 47:
        if (!aluMr<u64>(base, tlb, c, Alu.XOR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 48:
        if (!aluMi<u32>(base, tlb, c, Alu.XOR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 49:
        if (!aluMi<u64>(base, tlb, c, Alu.XOR)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 50:
        aluRr<u32>(base, c, Alu.CMP);
        break;
      case Operation.ALU + 51:
        aluRr<u64>(base, c, Alu.CMP);
        break;
      case Operation.ALU + 52:
        aluRi<u32>(base, c, Alu.CMP);
        break;
      case Operation.ALU + 53:
        aluRi<u64>(base, c, Alu.CMP);
        break;
      case Operation.ALU + 54:
        if (!aluRm<u32>(base, tlb, c, Alu.CMP)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 55:
        if (!aluRm<u64>(base, tlb, c, Alu.CMP)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 56:
        if (!aluMr<u32>(base, tlb, c, Alu.CMP)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 57:
        if (!aluMr<u64>(base, tlb, c, Alu.CMP)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 58:
        if (!aluMi<u32>(base, tlb, c, Alu.CMP)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 59:
        if (!aluMi<u64>(base, tlb, c, Alu.CMP)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 60:
        aluRr<u32>(base, c, Alu.TEST);
        break;
      case Operation.ALU + 61:
        aluRr<u64>(base, c, Alu.TEST);
        break;
      case Operation.ALU + 62:
        aluRi<u32>(base, c, Alu.TEST);
        break;
      case Operation.ALU + 63:
        aluRi<u64>(base, c, Alu.TEST);
        break;
      case Operation.ALU + 66:
        if (!aluMr<u32>(base, tlb, c, Alu.TEST)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 67:
        if (!aluMr<u64>(base, tlb, c, Alu.TEST)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 68:
        if (!aluMi<u32>(base, tlb, c, Alu.TEST)) return leave(block, c, Status.FAULT);
        break;
      case Operation.ALU + 69:
        if (!aluMi<u64>(base, tlb, c, Alu.TEST)) return leave(block, c, Status.FAULT);
        break;
      default: {
        const operation = <u32>load<u16>(c);
        const status =
          operation < <u32>Operation.INTEGER_END
            ? integer(c, operation, next(block, c))
            : operation == Operation.STRING
              ? stringInstruction(c, next(block, c))
              : system(c, operation, next(block, c), retired(block, c));
        if (status == Status.NEXT) break;
        if (status != Status.JUMP) return leave(block, c, status);
        // What follows in the block is not executed.
        const rest = load<u32>(block, Block.COUNT) - load<u8>(c, Record.ORDINAL) - 1;
        store<i64>(base, load<i64>(base, State.REMAINING) + rest, State.REMAINING);
        return Status.JUMP;
      }
    }
    c += Record.SIZE;
  }
}

function multiply64(a: i64, x: i64): u64 {
  const low = a * x;
  const lost = <u64>(<i64>highSigned(a, x) != low >> 63);
  setFlags(low, lost, lost);
  return low;
}

/** Instructions retired since reset, up to `record`. */
function retired(block: usize, record: usize): u64 {
  const ahead = load<u32>(block, Block.COUNT) - load<u8>(record, Record.ORDINAL);
  return (
    load<u64>(cpu, State.RETIRED) +
    load<u64>(cpu, State.SLICE) -
    load<u64>(cpu, State.REMAINING) -
    load<u64>(cpu, State.DELIVERIES) -
    ahead
  );
}
