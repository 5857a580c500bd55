/** Multiplication and division of the accumulator pair, and the 128-bit arithmetic that they need. */

import { setFlags } from './flags.ts';
import { signExtend, storeRegister } from './operand.ts';
import { cpu, getRegister, raise, Slot, Status, Vector } from './state.ts';

/** Upper half of a signed product. */
export function highSigned(a: i64, x: i64): u64 {
  return highUnsigned(a, x) - (a < 0 ? <u64>x : 0) - (x < 0 ? <u64>a : 0);
}

/** Upper half of an unsigned product. */
export function highUnsigned(a: u64, x: u64): u64 {
  const aLow = a & 0xffffffff;
  const aHigh = a >> 32;
  const xLow = x & 0xffffffff;
  const xHigh = x >> 32;
  const middle = aHigh * xLow + ((aLow * xLow) >> 32);
  return aHigh * xHigh + (middle >> 32) + ((aLow * xHigh + (middle & 0xffffffff)) >> 32);
}

/** MUL and one-operand IMUL by `factor`, `size` bytes. */
export function multiply(size: u32, factor: u64, signed: bool): void {
  const accumulator = getRegister(Slot.RAX);
  const width = size << 3;
  let low: u64;
  let high: u64;
  let lost: bool;
  if (size == 8) {
    low = accumulator * factor;
    high = signed ? highSigned(accumulator, factor) : highUnsigned(accumulator, factor);
    lost = high != (signed ? <u64>(<i64>low >> 63) : 0);
  } else {
    const mask = ((<u64>1) << width) - 1;
    low = signed
      ? <u64>(signExtend(accumulator, size) * signExtend(factor, size))
      : (accumulator & mask) * (factor & mask);
    high = low >> width;
    lost = signed ? signExtend(low, size) != <i64>low : high != 0;
  }
  if (size == 1) store<u16>(cpu, <u16>low, Slot.RAX);
  else {
    storeRegister(cpu + Slot.RAX, size, low);
    storeRegister(cpu + Slot.RDX, size, high);
  }
  setFlags(signExtend(low, size), lost ? 1 : 0, lost ? 1 : 0);
}

let quotient: u64 = 0;
let remainder: u64 = 0;

/** `high`:`low` / `divisor` into the two variables above. False when the quotient has more than 64 bits. */
function divideUnsigned(high: u64, low: u64, divisor: u64): bool {
  if (high >= divisor) return false;
  if (high == 0) {
    quotient = low / divisor;
    remainder = low % divisor;
    return true;
  }
  let rest = high;
  let result: u64 = 0;
  for (let bit = 63; bit >= 0; bit--) {
    const carry = rest >> 63;
    rest = (rest << 1) | ((low >> bit) & 1);
    result <<= 1;
    if (carry || rest >= divisor) {
      rest -= divisor;
      result |= 1;
    }
  }
  quotient = result;
  remainder = rest;
  return true;
}

function divideError(): u32 {
  raise(Vector.DE);
  return Status.FAULT;
}

/** DIV and IDIV by `divisor`, `size` bytes. Gives a Status. */
export function divide(size: u32, divisor: u64, signed: bool): u32 {
  const width = size << 3;
  let low = getRegister(Slot.RAX);
  let high = getRegister(Slot.RDX);
  if (size == 1) {
    high = low >> 8;
    low &= 0xff;
    high &= 0xff;
  }
  if (size < 8) {
    // The pair fits in one value.
    const mask = ((<u64>1) << width) - 1;
    low = (low & mask) | ((high & mask) << width);
    high = 0;
    if (signed) {
      low = signExtend(low, size * 2);
      high = <u64>(<i64>low >> 63);
    }
  }
  const by = signed ? <u64>signExtend(divisor, size) : divisor;
  const negative = signed && <i64>high < 0;
  if (negative) {
    low = 0 - low;
    high = ~high + (low == 0 ? 1 : 0);
  }
  const magnitude = signed && <i64>by < 0 ? 0 - by : by;
  if (!divideUnsigned(high, low, magnitude)) return divideError();
  let result = quotient;
  let rest = remainder;
  if (signed) {
    const negate = negative != <i64>by < 0;
    const limit = ((<u64>1) << (width - 1)) - (negate ? 0 : 1);
    if (result > limit) return divideError();
    if (negate) result = 0 - result;
    if (negative) rest = 0 - rest;
  } else if (size < 8 && result >> width) return divideError();
  if (size == 1) store<u16>(cpu, <u16>((result & 0xff) | (rest << 8)), Slot.RAX);
  else {
    storeRegister(cpu + Slot.RAX, size, result);
    storeRegister(cpu + Slot.RDX, size, rest);
  }
  return Status.NEXT;
}
