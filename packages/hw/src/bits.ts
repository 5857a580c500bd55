/** Register fields over int32 halves: a field is a mask, its shift is the mask's lowest set bit. */

/** A mask of bits `high` down to `low` of one 32-bit half, 0 <= low <= high <= 31. */
export function genmask(high: number, low: number): number {
  return ((0xffffffff >>> (31 - high)) & (0xffffffff << low)) | 0;
}

/** The field selected by `mask`, shifted down to bit 0, as an unsigned number. */
export function fieldGet(mask: number, value: number): number {
  return (value & mask) >>> (31 - Math.clz32(mask & -mask));
}

/** `field` shifted up to its place under `mask`; bits that do not fit are dropped. */
export function fieldPrep(mask: number, field: number): number {
  return (field << (31 - Math.clz32(mask & -mask))) & mask;
}

/** True for 1, 2, 4, ... up to 2^31. */
export function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}
