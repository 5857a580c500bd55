/**
 * String instructions. A repeated one works in steps: after a bounded number of elements it stops with its registers
 * up to date and RIP on itself, so interrupts come in and no count can hold up the machine. Each step counts as one
 * retired instruction.
 */

import { condition } from './flags.ts';
import { readPort, writePort } from './host.ts';
import { compare } from './integer.ts';
import { breakAfter, finishWrite, loadSized, ramPointer, read, storeSized, write } from './memory.ts';
import { operandSize, regPointer, storeRegister } from './operand.ts';
import { Access } from './paging.ts';
import { portAllowed } from './ports.ts';
import { Bits, Record } from './record.ts';
import { cpu, Flag, getRegister, Mode, setRegister, Slot, State, Status, systemFlags } from './state.ts';

const enum StringKind {
  MOVS,
  CMPS,
  STOS,
  LODS,
  SCAS,
  INS,
  OUTS,
}

/** Elements of one step, and bytes of one block copy or fill. */
const STEP_ELEMENTS: u32 = 256;
const STEP_BYTES: u64 = 4096;

function advance(slot: usize, by: u64, short: bool): void {
  const value = getRegister(slot) + by;
  setRegister(slot, short ? value & 0xffffffff : value);
}

/**
 * MOVS or STOS of many elements at once: forwards, within one page on either side, in plain RAM. Gives the number of
 * elements done, 0 when it has to go one by one.
 */
function bulk(record: usize, kind: u32, size: u32, count: u64): u64 {
  const to = getRegister(Slot.RDI);
  let bytes = min<u64>(count * size, STEP_BYTES);
  bytes = min<u64>(bytes, 4096 - (to & 0xfff));
  const from = getRegister(Slot.RSI) + getRegister(load<u8>(record, Record.REG));
  if (kind == StringKind.MOVS) bytes = min<u64>(bytes, 4096 - (from & 0xfff));
  const elements = bytes / size;
  if (elements < 4 || count > STEP_BYTES * 0x1000000) return 0;
  bytes = elements * size;
  if (load<u32>(cpu, State.MODE) == Mode.USER_ALIGNED) return 0;
  let source: usize = 0;
  if (kind == StringKind.MOVS) {
    source = ramPointer(from, Access.READ);
    if (!source) return 0;
  }
  const target = ramPointer(to, Access.WRITE);
  if (!target) return 0;
  const length = <usize>bytes;
  if (kind == StringKind.MOVS) {
    // An overlap that copies its own output is a pattern, which memory.copy would not make.
    if (source < target && source + length > target) return 0;
    memory.copy(target, source, length);
  } else if (size == 1) memory.fill(target, load<u8>(cpu, Slot.RAX), length);
  else {
    const value = getRegister(Slot.RAX);
    for (let done: usize = 0; done < length; done += size) storeSized(target + done, size, value);
  }
  return elements;
}

/** One element. Gives a Status. */
function element(record: usize, kind: u32, size: u32, short: bool): u32 {
  const mask: u64 = short ? 0xffffffff : 0xffffffffffffffff;
  const base = load<u64>(regPointer(record));
  const from = (getRegister(Slot.RSI) & mask) + base;
  const to = getRegister(Slot.RDI) & mask;
  switch (kind) {
    case StringKind.MOVS: {
      const source = read(record, from, size);
      if (!source) return Status.FAULT;
      const value = loadSized(source, size);
      return put(record, to, size, value);
    }
    case StringKind.CMPS: {
      const source = read(record, from, size);
      if (!source) return Status.FAULT;
      const value = loadSized(source, size);
      const other = read(record, to, size);
      if (!other) return Status.FAULT;
      compare(size, value, loadSized(other, size));
      return Status.NEXT;
    }
    case StringKind.STOS:
      return put(record, to, size, getRegister(Slot.RAX));
    case StringKind.LODS: {
      const source = read(record, from, size);
      if (!source) return Status.FAULT;
      storeRegister(cpu + Slot.RAX, size, loadSized(source, size));
      return Status.NEXT;
    }
    case StringKind.SCAS: {
      const other = read(record, to, size);
      if (!other) return Status.FAULT;
      compare(size, getRegister(Slot.RAX), loadSized(other, size));
      return Status.NEXT;
    }
    case StringKind.INS: {
      // The destination is checked before the port is read: a fault must not lose what the device gave.
      if (!write(record, to, size, false)) return Status.FAULT;
      const value = readPort(load<u16>(cpu, Slot.RDX), size);
      breakAfter(record);
      return put(record, to, size, value);
    }
    default: {
      const source = read(record, from, size);
      if (!source) return Status.FAULT;
      writePort(load<u16>(cpu, Slot.RDX), size, <u32>loadSized(source, size));
      breakAfter(record);
      return Status.NEXT;
    }
  }
}

function put(record: usize, to: u64, size: u32, value: u64): u32 {
  const pointer = write(record, to, size, false);
  if (!pointer) return Status.FAULT;
  storeSized(pointer, size, value);
  finishWrite(record, pointer);
  return Status.NEXT;
}

/** Performs the string instruction `record`. Gives a Status. */
export function stringInstruction(record: usize, next: u64): u32 {
  const kind = <u32>load<u8>(record, Record.KIND);
  const size = operandSize(record);
  const bits = <u32>load<u8>(record, Record.BITS);
  const short = (bits & Bits.ADDRESS32) != 0;
  const repeated = (bits & (Bits.REP | Bits.REPNE)) != 0;
  const compares = kind == StringKind.CMPS || kind == StringKind.SCAS;
  const usesSource =
    kind == StringKind.MOVS || kind == StringKind.CMPS || kind == StringKind.LODS || kind == StringKind.OUTS;
  const usesTarget = kind != StringKind.LODS && kind != StringKind.OUTS;
  if (kind >= <u32>StringKind.INS) {
    const status = portAllowed(load<u16>(cpu, Slot.RDX), size);
    if (status != Status.NEXT) return status;
  }
  const backwards = (systemFlags() & Flag.DF) != 0;
  const step: u64 = backwards ? 0 - <u64>size : size;
  let left: u64 = 1;
  if (repeated) {
    left = short ? <u64>load<u32>(cpu, Slot.RCX) : getRegister(Slot.RCX);
    if (left == 0) return Status.NEXT;
  }

  if (repeated && !backwards && !short && (kind == StringKind.MOVS || kind == StringKind.STOS)) {
    const done = bulk(record, kind, size, left);
    if (done) {
      if (usesSource) advance(Slot.RSI, done * size, false);
      advance(Slot.RDI, done * size, false);
      setRegister(Slot.RCX, left - done);
      return left == done ? Status.NEXT : again(record, next);
    }
  }

  const result = load<u64>(cpu, State.FLAG_RESULT);
  const carries = load<u64>(cpu, State.FLAG_CARRIES);
  for (let elements: u32 = 0; elements < STEP_ELEMENTS; elements++) {
    const status = element(record, kind, size, short);
    if (status != Status.NEXT) {
      // The flags are those from before the instruction.
      store<u64>(cpu, result, State.FLAG_RESULT);
      store<u64>(cpu, carries, State.FLAG_CARRIES);
      return status;
    }
    if (usesSource) advance(Slot.RSI, step, short);
    if (usesTarget) advance(Slot.RDI, step, short);
    if (!repeated) return Status.NEXT;
    setRegister(Slot.RCX, --left);
    if (left == 0) return Status.NEXT;
    // REPE goes on while equal, REPNE while not.
    if (compares && condition(4) != ((bits & Bits.REP) != 0)) return Status.NEXT;
    if (load<u32>(cpu, State.ATTENTION)) break;
  }
  return again(record, next);
}

/** More to do: RIP is on the instruction again. */
function again(record: usize, next: u64): u32 {
  store<u64>(cpu, next - load<u8>(record, Record.LENGTH), State.RIP);
  return Status.JUMP;
}
