/** The SWERROR register: what cannot be told in a completion record (specification 341204 revision 1.0). */

import { fieldPrep } from '../bits.ts';
import { NO_PASID } from '../pci/transaction.ts';
import { operationOf } from './descriptor-check.ts';
import { DSA_STATUS_WRITE } from './descriptor-format.ts';
import type { RegisterFile } from './register-file.ts';
import {
  DSA_REGISTER,
  SWERROR0_BATCH,
  SWERROR0_DESCRIPTOR_VALID,
  SWERROR0_ERROR,
  SWERROR0_OVERFLOW,
  SWERROR0_PRIVILEGED,
  SWERROR0_QUEUE,
  SWERROR0_QUEUE_VALID,
  SWERROR0_VALID,
  SWERROR0_WRITE,
  SWERROR1_OPERATION,
  SWERROR1_PASID,
  SWERROR2_BATCH_INDEX,
} from './registers.ts';
import type { Work } from './work-queue.ts';

/** The descriptor that an error is about. */
export type DescriptorError = {
  work: Work;
  /** The descriptor itself: the work's, or one of its batch. */
  words: Int32Array;
  /** Place in the batch, or -1. */
  batchIndex: number;
  /** DSA_STATUS_WRITE when a write faulted, else 0. */
  write: number;
  invalidFlags: number;
  faultLow: number;
  faultHigh: number;
};

/** Records an error, or sets OVERFLOW when one is already there. */
export function recordSoftwareError(registers: RegisterFile, error: number, about: DescriptorError | null): void {
  const at = DSA_REGISTER.swerror;
  const before = registers.get(at);
  if ((before & SWERROR0_VALID) !== 0) {
    registers.set(at, before | SWERROR0_OVERFLOW);
    return;
  }
  let word0 = SWERROR0_VALID | fieldPrep(SWERROR0_ERROR, error);
  if (about !== null) {
    const { work, words, batchIndex } = about;
    word0 |= SWERROR0_DESCRIPTOR_VALID | SWERROR0_QUEUE_VALID | fieldPrep(SWERROR0_QUEUE, work.queue.index);
    if (batchIndex >= 0) word0 |= SWERROR0_BATCH;
    if (work.privileged) word0 |= SWERROR0_PRIVILEGED;
    if ((about.write & DSA_STATUS_WRITE) !== 0) word0 |= SWERROR0_WRITE;
    const pasid = work.pasid === NO_PASID ? 0 : work.pasid;
    registers.set(at + 4, fieldPrep(SWERROR1_OPERATION, operationOf(words)) | fieldPrep(SWERROR1_PASID, pasid));
    registers.set(at + 8, fieldPrep(SWERROR2_BATCH_INDEX, Math.max(batchIndex, 0)));
    registers.set(at + 12, about.invalidFlags);
    registers.set(at + 16, about.faultLow);
    registers.set(at + 20, about.faultHigh);
  }
  registers.set(at, word0);
}
