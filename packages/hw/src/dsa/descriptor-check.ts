/**
 * What a descriptor is refused for before any of its memory is touched (Intel Data Streaming Accelerator Architecture
 * Specification, order number 341204, revision 1.0). Of several errors the first in this order is
 * reported: operation, flags, reserved fields, completion record address, interrupt handle, privilege, then those of
 * the operation.
 */

import { fieldGet } from '../bits.ts';
import {
  DSA_COMPLETION_RECORD_SIZE,
  DSA_DESCRIPTOR_SIZE,
  DSA_DESCRIPTOR0_PASID,
  DSA_DESCRIPTOR0_PRIVILEGED,
  DSA_DESCRIPTOR1_FLAGS,
  DSA_DESCRIPTOR1_OPERATION,
  DSA_DESCRIPTOR9_HANDLE,
  DSA_FLAG as FLAG,
  DSA_OPERATION as OPERATION,
  DSA_STATUS as STATUS,
} from './descriptor-format.ts';

/** What a descriptor may do where it was submitted. */
export type DescriptorRights = {
  readonly inBatch: boolean;
  /** The queue lets descriptors wait for page requests. */
  readonly blockOnFault: boolean;
  /** The descriptor is privileged, or unprivileged ones may have interrupts too. */
  readonly mayInterrupt: boolean;
  /** It is privileged and has a PASID, which the PCI function is not allowed to send with privilege. */
  readonly privilegeRefused: boolean;
  readonly maxTransferLg2: number;
  readonly maxBatchLg2: number;
  /** Whether the interrupt handle may be used with the descriptor's PASID. */
  handleValid(handle: number): boolean;
};

type Rules = {
  /** Flags that are not reserved. */
  readonly flags: number;
  /** Flags that must be set. */
  readonly required: number;
  /** Bits that must be zero, for each word. */
  readonly reserved: Int32Array;
};

const COMMON = FLAG.recordValid | FLAG.requestRecord | FLAG.requestInterrupt | FLAG.recordSteering | FLAG.recordTc;
const DATA = COMMON | FLAG.fence | FLAG.blockOnFault;
const DESTINATION =
  FLAG.cacheControl | FLAG.address2Tc | FLAG.strictOrdering | FLAG.readback | FLAG.destinationSteering;
const CRC = FLAG.readCrcSeed | FLAG.crcRaw | FLAG.crcRawData | FLAG.address3Tc;
/** An operation that yields a result needs a record to put it in. */
const RESULT = FLAG.recordValid | FLAG.requestRecord;

/** Word 0: neither PASID nor privilege; word 9: all but the handle. */
const RESERVED0 = ~(DSA_DESCRIPTOR0_PASID | DSA_DESCRIPTOR0_PRIVILEGED);
const RESERVED9 = ~DSA_DESCRIPTOR9_HANDLE;

/** `used`: words 4 to 15 that the operation defines; `word10`: its bits of word 10. */
function rules(flags: number, required: number, used: readonly number[], word10 = 0): Rules {
  const reserved = new Int32Array(16);
  reserved.fill(-1, 4);
  reserved[0] = RESERVED0;
  reserved[9] = RESERVED9;
  reserved[10] = ~word10;
  for (const word of used) reserved[word] = 0;
  return { flags, required, reserved };
}

/** By operation; what is not here is not supported. */
const RULES: readonly (Rules | undefined)[] = Object.assign([] as Rules[], {
  [OPERATION.noop]: rules(COMMON | FLAG.fence, 0, []),
  [OPERATION.batch]: rules(COMMON | FLAG.address1Tc, 0, [4, 5, 8]),
  [OPERATION.drain]: rules(COMMON | FLAG.address1Tc | FLAG.address2Tc, 0, []),
  [OPERATION.move]: rules(DATA | DESTINATION | FLAG.address1Tc, 0, [4, 5, 6, 7, 8]),
  [OPERATION.fill]: rules(DATA | DESTINATION, 0, [4, 5, 6, 7, 8]),
  [OPERATION.compare]: rules(DATA | FLAG.checkResult | FLAG.address1Tc | FLAG.address2Tc, RESULT, [4, 5, 6, 7, 8], 1),
  [OPERATION.comparePattern]: rules(DATA | FLAG.checkResult | FLAG.address1Tc, RESULT, [4, 5, 6, 7, 8], 1),
  [OPERATION.dualcast]: rules(
    DATA | DESTINATION | FLAG.address1Tc | FLAG.address3Tc | FLAG.destination2Steering,
    0,
    [4, 5, 6, 7, 8, 10, 11],
  ),
  [OPERATION.crc]: rules(DATA | CRC | FLAG.address1Tc, RESULT, [4, 5, 8, 10, 12, 13]),
  [OPERATION.copyCrc]: rules(DATA | DESTINATION | CRC | FLAG.address1Tc, RESULT, [4, 5, 6, 7, 8, 10, 12, 13]),
});

/** Bit n: operation n is supported. */
export const SUPPORTED_OPERATIONS: bigint = Object.values(OPERATION).reduce(
  (bits, operation) => bits | (1n << BigInt(operation)),
  0n,
);

export function operationOf(words: Int32Array): number {
  return fieldGet(DSA_DESCRIPTOR1_OPERATION, words[1]!);
}

/** Flags that `words` may not have as it has them: reserved ones that are set, required ones that are not. */
export function invalidFlags(words: Int32Array, rights: DescriptorRights): number {
  const entry = RULES[operationOf(words)];
  const flags = words[1]! & DSA_DESCRIPTOR1_FLAGS;
  if (entry === undefined) return 0;
  let allowed = entry.flags;
  if (!rights.inBatch) allowed &= ~FLAG.fence;
  if (!rights.blockOnFault) allowed &= ~FLAG.blockOnFault;
  if (!rights.mayInterrupt) allowed &= ~FLAG.requestInterrupt;
  if ((flags & FLAG.recordValid) === 0) allowed &= ~FLAG.requestRecord;
  return (flags & ~allowed) | (entry.required & ~flags);
}

/** The status with which `words` is refused, or DSA_STATUS.none. */
export function checkDescriptor(words: Int32Array, rights: DescriptorRights): number {
  const operation = operationOf(words);
  const entry = RULES[operation];
  const nested = operation === OPERATION.batch || operation === OPERATION.drain;
  if (entry === undefined || (rights.inBatch && nested)) return STATUS.operation;
  if (invalidFlags(words, rights) !== 0) return STATUS.flags;
  for (let word = 0; word < 16; word++) {
    if ((words[word]! & entry.reserved[word]!) !== 0) return STATUS.reservedField;
  }
  const flags = words[1]!;
  if ((flags & FLAG.recordValid) !== 0 && (words[2]! & (DSA_COMPLETION_RECORD_SIZE - 1)) !== 0) {
    return STATUS.recordAlignment;
  }
  if ((flags & FLAG.requestInterrupt) !== 0 && !rights.handleValid(words[9]! & DSA_DESCRIPTOR9_HANDLE)) {
    return STATUS.interruptHandle;
  }
  if (rights.privilegeRefused) return STATUS.privileged;
  if (operation === OPERATION.batch) return checkBatch(words, rights);
  if (operation === OPERATION.noop || operation === OPERATION.drain) return STATUS.none;
  return checkData(operation, words, rights);
}

function checkBatch(words: Int32Array, rights: DescriptorRights): number {
  const count = words[8]! >>> 0;
  if (count < 2 || count > 2 ** rights.maxBatchLg2) return STATUS.descriptorCount;
  return (words[4]! & (DSA_DESCRIPTOR_SIZE - 1)) === 0 ? STATUS.none : STATUS.listAlignment;
}

function checkData(operation: number, words: Int32Array, rights: DescriptorRights): number {
  const size = words[8]! >>> 0;
  if (size === 0 || size > 2 ** rights.maxTransferLg2) return STATUS.transferSize;
  switch (operation) {
    case OPERATION.dualcast:
      if (((words[6]! ^ words[10]!) & 0xfff) !== 0) return STATUS.dualcastAlignment;
      return overlap(words, 4, 6, size) || overlap(words, 4, 10, size) || overlap(words, 6, 10, size)
        ? STATUS.overlap
        : STATUS.none;
    case OPERATION.copyCrc:
      if (overlap(words, 4, 6, size)) return STATUS.overlap;
      return checkSeed(words);
    case OPERATION.crc:
      return checkSeed(words);
    default:
      return STATUS.none;
  }
}

function checkSeed(words: Int32Array): number {
  return (words[1]! & FLAG.readCrcSeed) !== 0 && (words[12]! & 3) !== 0 ? STATUS.addressAlignment : STATUS.none;
}

/** Whether `size` bytes at the addresses in words `a` and `b` share one; addresses count modulo 2^64. */
function overlap(words: Int32Array, a: number, b: number, size: number): boolean {
  return isWithin(words, a, b, size) || isWithin(words, b, a, size);
}

/** Whether the address in words `a` is less than `size` above that in words `b`. */
export function isWithin(words: Int32Array, a: number, b: number, size: number): boolean {
  const low = (words[a]! - words[b]!) | 0;
  const borrow = words[a]! >>> 0 < words[b]! >>> 0 ? 1 : 0;
  return ((words[a + 1]! - words[b + 1]! - borrow) | 0) === 0 && low >>> 0 < size;
}
