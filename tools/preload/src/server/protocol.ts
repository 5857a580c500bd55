/** The messages of shim/protocol.h, which says what they mean. */

import { type StructValues, struct } from '@iommukit/iommu-core';

export const ASK_PROCESS = 1;
export const ASK_FILE = 2;
export const ASK_EVENTS = 3;
export const ASK_OPEN = 4;
export const ASK_IOCTL = 5;
export const ASK_READ = 6;
export const ASK_WRITE = 7;
export const ASK_MMAP = 8;
export const ASK_MAPPINGS = 9;
export const ASK_STATUS = 10;
export const ASK_NODE = 11;

export const ANSWER_OFFER_TAKEN = 1;
export const ANSWER_OFFER_WANTED = 2;
export const ANSWER_HOLD_WANTED = 4;
export const ANSWER_DRAIN = 8;

const questionFields = {
  length: 'u32',
  kind: 'u32',
  inode: 'u64',
  fd: 's32',
  tid: 'u32',
  argument0: 'u64',
  argument1: 'u64',
  argument2: 'u64',
  argument3: 'u64',
  offeredInode: 'u64',
  offeredFd: 's32',
  layout: 'u32',
} as const;

const answerFields = {
  result: 'u64',
  flags: 'u32',
  drainFd: 's32',
  drainInode: 'u64',
  value0: 'u64',
  value1: 'u64',
  signals: 'u64',
} as const;

export const questionLayout = struct(questionFields);
export const answerLayout = struct(answerFields);

/** Longest message: a question and a path. */
export const QUESTION_MAX: number = questionLayout.size + 4096;

export type Question = StructValues<typeof questionFields> & {
  /** What follows the structure. */
  readonly path: string;
};
