/**
 * The 64-byte work descriptor and the 32-byte completion record (Intel Data Streaming Accelerator Architecture
 * Specification, order number 341204, revision 1.0). Layout, flags and status codes are those of Linux
 * include/uapi/linux/idxd.h. Words are 32 bits, little endian.
 *
 *   word 0      PASID 19..0, privileged 31
 *   word 1      flags 23..0 (of which 23..16 belong to the operation), operation 31..24
 *   words 2-3   completion record address
 *   words 4-5   source address, pattern of a fill, descriptor list address
 *   words 6-7   destination address, second source, pattern to compare with
 *   word 8      transfer size, number of descriptors
 *   word 9      interrupt handle 15..0
 *   words 10-15 operation: expected result 7..0; second destination (10-11); CRC seed (10) and its address (12-13)
 *
 *   completion record: status in byte 0, result in byte 1, bytes (or descriptors) completed in bytes 4-7, fault
 *   address in bytes 8-15, invalid flags or CRC value in bytes 16-19
 */

import { genmask } from '../bits.ts';

export const DSA_DESCRIPTOR_SIZE = 64;
export const DSA_COMPLETION_RECORD_SIZE = 32;

export const DSA_DESCRIPTOR0_PASID: number = genmask(19, 0);
export const DSA_DESCRIPTOR0_PRIVILEGED: number = 1 << 31;
export const DSA_DESCRIPTOR1_FLAGS: number = genmask(23, 0);
export const DSA_DESCRIPTOR1_OPERATION: number = genmask(31, 24);
export const DSA_DESCRIPTOR9_HANDLE: number = genmask(15, 0);
export const DSA_DESCRIPTOR10_EXPECTED: number = genmask(7, 0);

export const DSA_OPERATION = {
  noop: 0x00,
  batch: 0x01,
  drain: 0x02,
  move: 0x03,
  fill: 0x04,
  compare: 0x05,
  comparePattern: 0x06,
  dualcast: 0x09,
  crc: 0x10,
  copyCrc: 0x11,
} as const;

/** Flags of a descriptor, bits of word 1. */
export const DSA_FLAG = {
  fence: 0x00001,
  blockOnFault: 0x00002,
  recordValid: 0x00004,
  requestRecord: 0x00008,
  requestInterrupt: 0x00010,
  recordSteering: 0x00020,
  checkResult: 0x00080,
  cacheControl: 0x00100,
  address1Tc: 0x00200,
  address2Tc: 0x00400,
  address3Tc: 0x00800,
  recordTc: 0x01000,
  strictOrdering: 0x02000,
  readback: 0x04000,
  destinationSteering: 0x08000,
  /** CRC operations: the seed lies in memory; neither inversion nor reflection of seed and result; nor of the data. */
  readCrcSeed: 0x10000,
  crcRaw: 0x20000,
  crcRawData: 0x40000,
  /** Dualcast: steering tag of the second destination. */
  destination2Steering: 0x10000,
} as const;

/** Status of a completion record, and SWERROR codes. */
export const DSA_STATUS = {
  none: 0,
  success: 0x01,
  /** Success, with a result other than the one expected. */
  falsePredicate: 0x02,
  pageFault: 0x03,
  /** A page request was answered with anything but success. */
  pageResponse: 0x04,
  batchFailed: 0x05,
  batchPageFault: 0x06,
  operation: 0x10,
  flags: 0x11,
  reservedField: 0x12,
  transferSize: 0x13,
  descriptorCount: 0x14,
  overlap: 0x16,
  dualcastAlignment: 0x17,
  listAlignment: 0x18,
  interruptHandle: 0x19,
  recordPageFault: 0x1a,
  recordAlignment: 0x1b,
  addressAlignment: 0x1c,
  privileged: 0x1d,
  hardware: 0x20,
  readback: 0x21,
  translation: 0x22,
} as const;

/** Bit of the status byte with a page fault: the access was a write. */
export const DSA_STATUS_WRITE = 0x80;
