/**
 * From instruction bytes to blocks of records, 64-bit mode only. What is not implemented, and what 64-bit mode does not
 * have, becomes UNDEFINED.
 */

import { clear, Decoded, fetch8 } from './decoded.ts';
import { oneByte } from './one-byte.ts';
import { Access, Place, translate } from './paging.ts';
import { Bits, Block, Operation, Record } from './record.ts';
import { cpu, Slot, State } from './state.ts';
import { threeByte38, twoByte, vex } from './two-byte.ts';

const LONGEST_BLOCK: u32 = 32;
const LONGEST_INSTRUCTION: u32 = 15;

/** Decodes the instruction at `at` into the variables above. */
function decodeInstruction(): void {
  clear();

  let byte: u32;
  let prefixes: u32 = 0;
  for (;;) {
    byte = fetch8();
    if (Decoded.overrun || ++prefixes > LONGEST_INSTRUCTION) return;
    if (byte >= 0x40 && byte < 0x50) {
      Decoded.rex = byte;
      continue;
    }
    if (byte == 0x66) Decoded.operandSize16 = true;
    else if (byte == 0x67) Decoded.bits |= Bits.ADDRESS32;
    else if (byte == 0xf0) Decoded.lock = true;
    else if (byte == 0xf2) Decoded.bits = (Decoded.bits & ~Bits.REP) | Bits.REPNE;
    else if (byte == 0xf3) Decoded.bits = (Decoded.bits & ~Bits.REPNE) | Bits.REP;
    else if (byte == 0x64) Decoded.segment = Slot.FS_BASE;
    else if (byte == 0x65) Decoded.segment = Slot.GS_BASE;
    else if (byte != 0x26 && byte != 0x2e && byte != 0x36 && byte != 0x3e) break;
    // REX counts only directly before the opcode.
    Decoded.rex = 0;
  }
  Decoded.wide = (Decoded.rex & 8) != 0;
  if (byte == 0x0f) {
    const second = fetch8();
    if (second == 0x38) threeByte38(fetch8());
    else twoByte(second);
  } else if (byte == 0xc4) vex();
  else oneByte(byte);
  if (Decoded.lock && !(Decoded.lockable && Decoded.inMemory)) Decoded.operation = Operation.UNDEFINED;
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
    Decoded.operation = Operation.UNDEFINED;
    Decoded.kind = 1;
    Decoded.inMemory = false;
  } else if (Decoded.operation == Operation.UNDEFINED) {
    Decoded.kind = 0;
    Decoded.inMemory = false;
  }
  if (Decoded.operation == Operation.UNDEFINED) {
    Decoded.last = true;
    Decoded.jump = false;
  }
  if (Decoded.inMemory) {
    if (Decoded.relative) Decoded.displacement += <i64>next;
    if (Decoded.segment != Slot.ZERO) Decoded.bits &= ~Bits.STACK;
    if (Decoded.bits & Bits.ADDRESS32 || (Decoded.segment != Slot.ZERO && Decoded.index != Slot.ZERO)) {
      memory.fill(record, 0, Record.SIZE);
      store<u16>(record, Operation.ADDRESS);
      store<u8>(record, <u8>ordinal, Record.ORDINAL);
      store<u8>(record, <u8>Decoded.segment, Record.REG);
      store<u8>(record, <u8>Decoded.base, Record.BASE);
      store<u8>(record, <u8>Decoded.index, Record.INDEX);
      store<u8>(record, <u8>Decoded.scale, Record.SCALE);
      store<u8>(record, <u8>Decoded.bits, Record.BITS);
      store<u16>(record, <u16>offset, Record.OFFSET);
      store<i64>(record, Decoded.displacement, Record.DISPLACEMENT);
      record += Record.SIZE;
      Decoded.base = Slot.ADDRESS;
      Decoded.index = Slot.ZERO;
      Decoded.scale = 0;
      Decoded.displacement = 0;
    } else if (Decoded.segment != Slot.ZERO) {
      Decoded.index = Decoded.segment;
      Decoded.scale = 0;
    }
  }
  if (usesStackOnly(Decoded.operation)) Decoded.bits |= Bits.STACK;
  store<u16>(record, <u16>Decoded.operation);
  store<u8>(record, <u8>ordinal, Record.ORDINAL);
  store<u8>(record, <u8>length, Record.LENGTH);
  store<u8>(record, <u8>Decoded.reg, Record.REG);
  store<u8>(record, <u8>Decoded.rm, Record.RM);
  store<u8>(record, <u8>Decoded.base, Record.BASE);
  store<u8>(record, <u8>Decoded.index, Record.INDEX);
  store<u8>(record, <u8>Decoded.scale, Record.SCALE);
  store<u8>(record, <u8>Decoded.bits, Record.BITS);
  store<u16>(record, <u16>offset, Record.OFFSET);
  store<u32>(record, 0, Record.LINK);
  if (Decoded.jump) {
    Decoded.last = true;
    Decoded.immediate += <i64>next;
    Decoded.displacement = 0;
    if (Decoded.operation == Operation.LOOP) store<u8>(record, <u8>Decoded.kind, Record.KIND);
  } else {
    store<u8>(record, <u8>Decoded.size, Record.SIZE_OF_OPERAND);
    store<u8>(record, <u8>Decoded.kind, Record.KIND);
  }
  store<i64>(record, Decoded.displacement, Record.DISPLACEMENT);
  store<i64>(record, Decoded.immediate, Record.IMMEDIATE);
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
  Decoded.at = host;
  Decoded.end = (host & ~(<usize>0xfff)) + 4096;
  let record = block + Block.HEADER;
  let count: u32 = 0;
  let offset: u32 = 0;
  while (count < LONGEST_BLOCK && Decoded.at < Decoded.end) {
    Decoded.overrun = false;
    decodeInstruction();
    if (Decoded.overrun) break;
    const length = <u32>(Decoded.at - host) - offset;
    record = emit(record, count++, offset, length, rip);
    offset += length;
    if (Decoded.last) break;
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
  Decoded.at = buffer;
  Decoded.end = buffer + 32;
  Decoded.overrun = false;
  decodeInstruction();
  const block = cpu + State.SINGLE;
  const length = <u32>(Decoded.at - buffer);
  const record = emit(block + Block.HEADER, 0, 0, length, rip);
  finish(block, record, rip, host, 1, length);
  return block;
}
