/** Shifts and rotates of any size. A count of zero changes no flag; other flags than the defined ones follow the formulas. */

import { carryFlag, setCarryAndOverflow, setFlags } from './flags.ts';
import { loadSized } from './memory.ts';
import { operandSize, readReg, signExtend, storeRm, writeRm } from './operand.ts';
import { Record, Shift } from './record.ts';
import { cpu, Slot, Status } from './state.ts';

/** The shift of `record` by `count`, which is masked already. Gives a Status. */
export function shift(record: usize, count: u32): u32 {
  const size = operandSize(record);
  const pointer = writeRm(record, size, true);
  if (!pointer) return Status.FAULT;
  const value = loadSized(pointer, size);
  if (count == 0) {
    storeRm(record, pointer, size, value);
    return Status.NEXT;
  }
  storeRm(record, pointer, size, shifted(load<u8>(record, Record.KIND), value, size << 3, count));
  return Status.NEXT;
}

/** `value` of `width` bits, shifted by `count` > 0, with its flags. */
function shifted(kind: u32, value: u64, width: u64, count: u64): u64 {
  const top = width - 1;
  const size = <u32>(width >> 3);
  let result: u64;
  let carry: u64;
  switch (kind) {
    case Shift.ROL: {
      const by = count & top;
      result = by ? (value << by) | (value >> (width - by)) : value;
      carry = result & 1;
      setCarryAndOverflow(carry, carry ^ ((result >> top) & 1));
      return result;
    }
    case Shift.ROR: {
      const by = count & top;
      result = by ? (value >> by) | (value << (width - by)) : value;
      carry = (result >> top) & 1;
      setCarryAndOverflow(carry, carry ^ ((result >> (top - 1)) & 1));
      return result;
    }
    case Shift.RCL: {
      const by = count % (width + 1);
      carry = carryFlag();
      result = value;
      if (by) {
        result = (value << by) | (carry << (by - 1));
        if (by > 1) result |= value >> (width + 1 - by);
        carry = (value >> (width - by)) & 1;
      }
      setCarryAndOverflow(carry, carry ^ ((result >> top) & 1));
      return result;
    }
    case Shift.RCR: {
      const by = count % (width + 1);
      carry = carryFlag();
      result = value;
      if (by) {
        result = by < 64 ? value >> by : 0;
        result |= carry << (width - by);
        if (by > 1) result |= value << (width + 1 - by);
        carry = (value >> (by - 1)) & 1;
      }
      setCarryAndOverflow(carry, ((result >> top) ^ (result >> (top - 1))) & 1);
      return result;
    }
    case Shift.SHR:
      result = count < 64 ? value >> count : 0;
      carry = (value >> (count - 1)) & 1;
      setFlags(signExtend(result, size), carry, (value >> top) & 1);
      return result;
    case Shift.SAR: {
      const signed = signExtend(value, size);
      result = signed >> count;
      carry = (signed >> (count - 1)) & 1;
      setFlags(signExtend(result, size), carry, 0);
      return result;
    }
    default:
      result = value << count;
      carry = count <= width ? (value >> (width - count)) & 1 : 0;
      setFlags(signExtend(result, size), carry, carry ^ ((result >> top) & 1));
      return result;
  }
}

/** SHLD and SHRD; KIND 1: by CL, 0: by the immediate. Gives a Status. */
export function shiftDouble(record: usize, left: bool): u32 {
  const size = operandSize(record);
  const by = load<u8>(record, Record.KIND) ? load<u8>(cpu, Slot.RCX) : load<u8>(record, Record.IMMEDIATE);
  const count = <u64>by & (size == 8 ? 63 : 31);
  const pointer = writeRm(record, size, true);
  if (!pointer) return Status.FAULT;
  const value = loadSized(pointer, size);
  if (count == 0) {
    storeRm(record, pointer, size, value);
    return Status.NEXT;
  }
  const fill = readReg(record, size);
  const width = <u64>(size << 3);
  const top = width - 1;
  let result: u64;
  let carry: u64;
  if (count > width) {
    // 16 bits by more than 16 is undefined; the fill rotates in again.
    const from = count - width;
    result = left ? (fill << from) | (value >> (width - from)) : (fill >> from) | (value << (width - from));
    carry = ((left ? fill >> (width - from) : fill >> (from - 1)) & 1);
  } else if (left) {
    result = count == width ? fill : (value << count) | (fill >> (width - count));
    carry = (value >> (width - count)) & 1;
  } else {
    result = count == width ? fill : (value >> count) | (fill << (width - count));
    carry = (value >> (count - 1)) & 1;
  }
  setFlags(signExtend(result, size), carry, ((result ^ value) >> top) & 1);
  storeRm(record, pointer, size, result);
  return Status.NEXT;
}
