/** What the cases of execute.ts are made of: each is expanded in place, for one size and one operation. */

import { flagsOfDifference, flagsOfLogic, flagsOfSum } from './flags.ts';
import { commitWrite, readPointer, writePointer } from './memory.ts';
import { effectiveAddress } from './operand.ts';
import { Alu, Record } from './record.ts';
import { Slot, State } from './state.ts';

@inline
export function rm64(base: usize, record: usize): usize {
  return base + load<u8>(record, Record.RM);
}

@inline
export function reg64(base: usize, record: usize): usize {
  return base + load<u8>(record, Record.REG);
}

/** `a` op `x` with its flags. */
@inline
export function compute<T>(base: usize, alu: u32, a: T, x: T): T {
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

@inline
export function aluRr<T>(base: usize, record: usize, alu: u32): void {
  const to = rm64(base, record);
  const result = compute<T>(base, alu, load<T>(to), load<T>(reg64(base, record)));
  if (alu < <u32>Alu.CMP) store<u64>(to, <u64>result);
}

@inline
export function aluRi<T>(base: usize, record: usize, alu: u32): void {
  const to = rm64(base, record);
  const result = compute<T>(base, alu, load<T>(to), load<T>(record, Record.IMMEDIATE));
  if (alu < <u32>Alu.CMP) store<u64>(to, <u64>result);
}

@inline
export function aluRm<T>(base: usize, tlb: usize, record: usize, alu: u32): bool {
  const from = readPointer<T>(tlb, record, effectiveAddress(base, record));
  if (!from) return false;
  const to = reg64(base, record);
  const result = compute<T>(base, alu, load<T>(to), load<T>(from));
  if (alu < <u32>Alu.CMP) store<u64>(to, <u64>result);
  return true;
}

@inline
export function aluToMemory<T>(base: usize, tlb: usize, record: usize, alu: u32, x: T): bool {
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

@inline
export function aluMr<T>(base: usize, tlb: usize, record: usize, alu: u32): bool {
  return aluToMemory<T>(base, tlb, record, alu, load<T>(reg64(base, record)));
}

@inline
export function aluMi<T>(base: usize, tlb: usize, record: usize, alu: u32): bool {
  return aluToMemory<T>(base, tlb, record, alu, load<T>(record, Record.IMMEDIATE));
}

/** Loads a T and extends it to E, zero-extended to the register. */
@inline
export function loadTo<T, E>(base: usize, tlb: usize, record: usize): bool {
  const from = readPointer<T>(tlb, record, effectiveAddress(base, record));
  if (!from) return false;
  store<u64>(reg64(base, record), <u64>(<E>load<T>(from)));
  return true;
}

@inline
export function storeFrom<T>(base: usize, tlb: usize, record: usize, value: T): bool {
  const to = writePointer<T>(tlb, record, effectiveAddress(base, record), false);
  if (!to) return false;
  store<T>(to, value);
  if (to == base + State.SCRATCH) commitWrite(record);
  return true;
}

@inline
export function pushFast(base: usize, tlb: usize, record: usize, value: u64): bool {
  const top = load<u64>(base, Slot.RSP) - 8;
  const to = writePointer<u64>(tlb, record, top, false);
  if (!to) return false;
  store<u64>(to, value);
  if (to == base + State.SCRATCH) commitWrite(record);
  store<u64>(base, top, Slot.RSP);
  return true;
}
