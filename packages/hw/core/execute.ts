/**
 * The interpreter loop: runs blocks, following links from block to block, until something needs `run`. The operations
 * that compilers emit most are here, specialised by size and form; the others are calls.
 */

import { findBlock } from './blocks.ts';
import { below, less, overflow, parity, setFlags, sign, zero } from './flags.ts';
import {
  aluMi,
  aluMr,
  aluRi,
  aluRm,
  aluRr,
  compute,
  loadTo,
  pushFast,
  reg64,
  rm64,
  storeFrom,
} from './inline.ts';
import { integer } from './integer.ts';
import { endBreak, readPointer } from './memory.ts';
import { highSigned } from './multiply.ts';
import { effectiveAddress } from './operand.ts';
import { Alu, Bits, Block, NO_REGISTER, Operation, Record } from './record.ts';
import { cpu, isCanonical, raise, raiseWithError, Slot, State, Status, Vector } from './state.ts';
import { stringInstruction } from './strings.ts';
import { system } from './system.ts';

@inline
function next(block: usize, record: usize): u64 {
  return load<u64>(block) + load<u16>(record, Record.OFFSET) + load<u8>(record, Record.LENGTH);
}

/** Counts the block's instructions and gives its first record; 0 when the loop has to be left before it. */
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

/** First record of the block at `rip`, entered, through the link field of the record that goes there; 0: RIP is set. */
@inline
function direct(base: usize, block: usize, link: usize, rip: u64): usize {
  let target: usize = load<u32>(link);
  if (!target) target = follow(block, link, rip);
  const first = target ? enter(base, target) : 0;
  if (!first) store<u64>(base, rip, State.RIP);
  return first;
}

/** As `direct` for a target that may be another each time. */
function indirect(base: usize, rip: u64): usize {
  const target = findBlock(rip);
  const first = target ? enter(base, target) : 0;
  if (!first) store<u64>(base, rip, State.RIP);
  return first;
}

/** As `direct` for the way that a conditional jump goes. A target that is not canonical faults when it is fetched. */
@inline
function conditional(base: usize, block: usize, record: usize, taken: bool): usize {
  const link = taken ? record + Record.LINK : record + Record.LINK_ELSE;
  let target: usize = load<u32>(link);
  if (!target) target = follow(block, link, targetOf(block, record, taken));
  const first = target ? enter(base, target) : 0;
  if (!first) store<u64>(base, targetOf(block, record, taken), State.RIP);
  return first;
}

function targetOf(block: usize, record: usize, taken: bool): u64 {
  return taken ? load<u64>(record, Record.IMMEDIATE) : next(block, record);
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
        const first = direct(base, block, c + Record.LINK, rip);
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
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
        const rip = load<u64>(c, Record.IMMEDIATE);
        if (!isCanonical(rip)) return badTarget(block, c);
        const first = direct(base, block, c + Record.LINK, rip);
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.CALL: {
        const rip = load<u64>(c, Record.IMMEDIATE);
        if (!isCanonical(rip)) return badTarget(block, c);
        if (!pushFast(base, tlb, c, next(block, c))) return leave(block, c, Status.FAULT);
        const first = direct(base, block, c + Record.LINK, rip);
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
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
        const first = indirect(base, rip);
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JUMP_RM: {
        let rip: u64;
        if (<u32>load<u8>(c, Record.RM) != NO_REGISTER) rip = load<u64>(rm64(base, c));
        else {
          const from = readPointer<u64>(tlb, c, effectiveAddress(base, c));
          if (!from) return leave(block, c, Status.FAULT);
          rip = load<u64>(from);
        }
        if (!isCanonical(rip)) return badTarget(block, c);
        const first = indirect(base, rip);
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.CALL_RM: {
        let rip: u64;
        if (<u32>load<u8>(c, Record.RM) != NO_REGISTER) rip = load<u64>(rm64(base, c));
        else {
          const from = readPointer<u64>(tlb, c, effectiveAddress(base, c));
          if (!from) return leave(block, c, Status.FAULT);
          rip = load<u64>(from);
        }
        if (!isCanonical(rip)) return badTarget(block, c);
        if (!pushFast(base, tlb, c, next(block, c))) return leave(block, c, Status.FAULT);
        const first = indirect(base, rip);
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC: {
        const first = conditional(base, block, c, overflow(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 1: {
        const first = conditional(base, block, c, !overflow(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 2: {
        const first = conditional(base, block, c, below(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 3: {
        const first = conditional(base, block, c, !below(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 4: {
        const first = conditional(base, block, c, zero(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 5: {
        const first = conditional(base, block, c, !zero(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 6: {
        const first = conditional(base, block, c, below(base) || zero(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 7: {
        const first = conditional(base, block, c, !(below(base) || zero(base)));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 8: {
        const first = conditional(base, block, c, sign(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 9: {
        const first = conditional(base, block, c, !sign(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 10: {
        const first = conditional(base, block, c, parity(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 11: {
        const first = conditional(base, block, c, !parity(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 12: {
        const first = conditional(base, block, c, less(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 13: {
        const first = conditional(base, block, c, !less(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 14: {
        const first = conditional(base, block, c, zero(base) || less(base));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
        c = first;
        continue;
      }
      case Operation.JCC + 15: {
        const first = conditional(base, block, c, !(zero(base) || less(base)));
        if (!first) return Status.JUMP;
        block = first - Block.HEADER;
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
