/** Operands of operations whose size is known at run time only. */

import { finishWrite, loadSized, read, storeSized, write } from './memory.ts';
import { Bits, NO_REGISTER, Record } from './record.ts';
import { cpu, getRegister, setRegister, Slot } from './state.ts';

@inline
export function effectiveAddress(base: usize, record: usize): u64 {
  return (
    load<u64>(base + load<u8>(record, Record.BASE)) +
    (load<u64>(base + load<u8>(record, Record.INDEX)) << load<u8>(record, Record.SCALE)) +
    load<u64>(record, Record.DISPLACEMENT)
  );
}

export function address(record: usize): u64 {
  return effectiveAddress(cpu, record);
}

export function operandSize(record: usize): u32 {
  return load<u8>(record, Record.SIZE_OF_OPERAND);
}

export function isRegisterForm(record: usize): bool {
  return load<u8>(record, Record.RM) != NO_REGISTER;
}

/** Pointer to read the r/m operand from, or 0. */
export function readRm(record: usize, size: u32): usize {
  const rm = load<u8>(record, Record.RM);
  return rm != NO_REGISTER ? cpu + rm : read(record, address(record), size);
}

/** Pointer through which the r/m operand is stored by `storeRm`, or 0. */
export function writeRm(record: usize, size: u32, modify: bool): usize {
  const rm = load<u8>(record, Record.RM);
  return rm != NO_REGISTER ? cpu + rm : write(record, address(record), size, modify);
}

export function storeRm(record: usize, pointer: usize, size: u32, value: u64): void {
  if (isRegisterForm(record)) storeRegister(pointer, size, value);
  else {
    storeSized(pointer, size, value);
    finishWrite(record, pointer);
  }
}

/** Writes a register: 32-bit results clear the upper half, smaller ones keep the rest. */
export function storeRegister(pointer: usize, size: u32, value: u64): void {
  if (size >= 4) store<u64>(pointer, size == 4 ? value & 0xffffffff : value);
  else storeSized(pointer, size, value);
}

export function regPointer(record: usize): usize {
  return cpu + load<u8>(record, Record.REG);
}

export function readReg(record: usize, size: u32): u64 {
  return loadSized(regPointer(record), size);
}

export function writeReg(record: usize, size: u32, value: u64): void {
  storeRegister(regPointer(record), size, value);
}

export function signExtend(value: u64, size: u32): i64 {
  const shift = 64 - (size << 3);
  return (<i64>(value << shift)) >> shift;
}

/** Pushes for `record`. False: an exception is pending. */
export function push(record: usize, value: u64, size: u32): bool {
  const top = getRegister(Slot.RSP) - size;
  const bits = load<u8>(record, Record.BITS);
  store<u8>(record, bits | Bits.STACK, Record.BITS);
  const pointer = write(record, top, size, false);
  store<u8>(record, bits, Record.BITS);
  if (!pointer) return false;
  storeSized(pointer, size, value);
  finishWrite(record, pointer);
  setRegister(Slot.RSP, top);
  return true;
}

/** Pointer to the `index`-th value of `size` bytes on the stack, or 0. */
export function peek(record: usize, index: u32, size: u32): usize {
  const bits = load<u8>(record, Record.BITS);
  store<u8>(record, bits | Bits.STACK, Record.BITS);
  const pointer = read(record, getRegister(Slot.RSP) + index * size, size);
  store<u8>(record, bits, Record.BITS);
  return pointer;
}
