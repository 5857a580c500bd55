/**
 * The six arithmetic flags, kept so that setting them costs two stores and testing a condition a few operations.
 *
 * RESULT is the last result, sign-extended: ZF, SF and PF are read off it. CARRIES has the carry out of each bit,
 * shifted so that the operand's highest bit is bit 63: CF is bit 63, OF is bit 63 xor bit 62. Bit 3 is the carry out
 * of bit 3 (AF), whatever the operand's size. Two spare bits allow flags that no result has: bit 0 inverts SF, bit 1
 * inverts PF.
 */

import { cpu, Flag, setSystemFlags, State, systemFlags } from './state.ts';

const KEPT_OF_64: u64 = 0xc000000000000008;

@inline
function setCarries<T>(base: usize, carries: T): void {
  if (sizeof<T>() == 8) store<u64>(base, <u64>carries & KEPT_OF_64, State.FLAG_CARRIES);
  else store<u64>(base, (<u64>carries << (64 - sizeof<T>() * 8)) | (<u64>carries & 8), State.FLAG_CARRIES);
}

@inline
function setResult<T>(base: usize, result: T): void {
  if (sizeof<T>() == 8) store<u64>(base, <u64>result, State.FLAG_RESULT);
  else if (sizeof<T>() == 4) store<i64>(base, <i64>(<i32>result), State.FLAG_RESULT);
  else if (sizeof<T>() == 2) store<i64>(base, <i64>(<i16>result), State.FLAG_RESULT);
  else store<i64>(base, <i64>(<i8>result), State.FLAG_RESULT);
}

/** Flags of `result` = `a` + `x` (+ carry). */
@inline
export function flagsOfSum<T>(base: usize, a: T, x: T, result: T): void {
  setResult<T>(base, result);
  setCarries<T>(base, (a & x) | ((a | x) & ~result));
}

/** Flags of `result` = `a` - `x` (- borrow). */
@inline
export function flagsOfDifference<T>(base: usize, a: T, x: T, result: T): void {
  setResult<T>(base, result);
  setCarries<T>(base, (~a & x) | ((~a | x) & result));
}

/** Flags of a bitwise result: CF, OF and AF are 0. */
@inline
export function flagsOfLogic<T>(base: usize, result: T): void {
  setResult<T>(base, result);
  store<u64>(base, 0, State.FLAG_CARRIES);
}

/** SF, ZF, PF of `result` (sign-extended), CF and OF as given, AF 0. */
export function setFlags(result: u64, carry: u64, overflow: u64): void {
  store<u64>(cpu, result, State.FLAG_RESULT);
  store<u64>(cpu, (carry << 63) | ((carry ^ overflow) << 62), State.FLAG_CARRIES);
}

/** Replaces CF alone. */
export function setCarry(carry: u64): void {
  const old = load<u64>(cpu, State.FLAG_CARRIES);
  const overflow = (old ^ (old << 1)) >> 63;
  const kept = old & 0x3fffffffffffffff;
  store<u64>(cpu, kept | (carry << 63) | ((carry ^ overflow) << 62), State.FLAG_CARRIES);
}

/** Replaces CF and OF alone. */
export function setCarryAndOverflow(carry: u64, overflow: u64): void {
  const kept = load<u64>(cpu, State.FLAG_CARRIES) & 0x3fffffffffffffff;
  store<u64>(cpu, kept | (carry << 63) | ((carry ^ overflow) << 62), State.FLAG_CARRIES);
}

/** CF, 0 or 1. */
export function carryFlag(): u64 {
  return load<u64>(cpu, State.FLAG_CARRIES) >> 63;
}

@inline
export function below(base: usize): bool {
  return load<i64>(base, State.FLAG_CARRIES) < 0;
}

@inline
export function zero(base: usize): bool {
  return load<u64>(base, State.FLAG_RESULT) == 0;
}

@inline
export function overflow(base: usize): bool {
  const carries = load<i64>(base, State.FLAG_CARRIES);
  return (carries ^ (carries << 1)) < 0;
}

@inline
export function sign(base: usize): bool {
  return (load<i64>(base, State.FLAG_RESULT) ^ (load<i64>(base, State.FLAG_CARRIES) << 63)) < 0;
}

@inline
export function less(base: usize): bool {
  const carries = load<i64>(base, State.FLAG_CARRIES);
  return (load<i64>(base, State.FLAG_RESULT) ^ (carries << 63) ^ carries ^ (carries << 1)) < 0;
}

@inline
export function parity(base: usize): bool {
  const odd = popcnt<u64>(load<u64>(base, State.FLAG_RESULT) & 0xff);
  return ((odd ^ (load<u64>(base, State.FLAG_CARRIES) >> 1)) & 1) == 0;
}

/** Condition `code` (0..15) of Jcc, SETcc and CMOVcc. */
export function condition(code: u32): bool {
  let holds: bool;
  switch (code >> 1) {
    case 0:
      holds = overflow(cpu);
      break;
    case 1:
      holds = below(cpu);
      break;
    case 2:
      holds = zero(cpu);
      break;
    case 3:
      holds = below(cpu) || zero(cpu);
      break;
    case 4:
      holds = sign(cpu);
      break;
    case 5:
      holds = parity(cpu);
      break;
    case 6:
      holds = less(cpu);
      break;
    default:
      holds = zero(cpu) || less(cpu);
  }
  return holds != <bool>(code & 1);
}

/** RFLAGS. */
export function getFlags(): u64 {
  let flags = systemFlags() | 2 | carryFlag();
  if (parity(cpu)) flags |= Flag.PF;
  if (load<u64>(cpu, State.FLAG_CARRIES) & 8) flags |= Flag.AF;
  if (zero(cpu)) flags |= Flag.ZF;
  if (sign(cpu)) flags |= Flag.SF;
  if (overflow(cpu)) flags |= Flag.OF;
  return flags;
}

/** Sets the arithmetic flags from RFLAGS bits. */
export function setArithmeticFlags(flags: u64): void {
  const zeroFlag = (flags >> 6) & 1;
  const carry = flags & 1;
  // A result of 0 has SF 0 and PF 1, one of 1 has SF 0 and PF 0.
  const invertSign = (flags >> 7) & 1;
  const invertParity = ((flags >> 2) & 1) ^ zeroFlag;
  store<u64>(cpu, zeroFlag ^ 1, State.FLAG_RESULT);
  store<u64>(
    cpu,
    (carry << 63) | ((carry ^ ((flags >> 11) & 1)) << 62) | (((flags >> 4) & 1) << 3) | (invertParity << 1) | invertSign,
    State.FLAG_CARRIES,
  );
}

/** Sets RFLAGS; reserved bits are dropped. */
export function setAllFlags(flags: u64): void {
  setArithmeticFlags(flags);
  setSystemFlags(
    flags &
      (Flag.TF | Flag.IF | Flag.DF | Flag.IOPL | Flag.NT | Flag.RF | Flag.AC | Flag.VIF | Flag.VIP | Flag.ID),
  );
}
