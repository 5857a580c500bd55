/**
 * What an open file can do (Linux: struct file_operations). The file layer knows nothing of what is behind a file;
 * /dev/iommu, VFIO devices, event and fault queues are all files of this type.
 */

import type { Backing, FilePages, Process } from '@iommukit/iommu-core';

/** Poll bits; values of include/uapi/asm-generic/poll.h. */
export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;

/** Who makes a system call. */
export type Caller = {
  readonly process: Process;
  /** The process's open files, for calls that name one or give one. */
  readonly descriptors: Descriptors;
};

export type Descriptors = {
  /** The file behind `fd`. @throws {SysError} EBADF */
  get(fd: number): File;
  /** Gives `file` the lowest free descriptor. @throws {SysError} EMFILE */
  install(file: File): number;
  /** Closes `fd`; the last close releases the file. @throws {SysError} EBADF */
  close(fd: number): void;
};

/**
 * Memory that a file gives to be mapped. Whoever maps it, in a modelled process or in one elsewhere, calls
 * `backing.mapped` when a mapping is there and `backing.unmapped` when nothing of it is left, whether by munmap(2) or by
 * the end of the process; meanwhile the backing can take its pages back (`BackingMapper.dropPages`).
 */
export type Mapping = {
  readonly backing: Backing;
  /** Byte offset of the mapping in the backing, a multiple of a page. */
  readonly offset: bigint;
};

/**
 * An open file description. Methods refuse by throwing SysError; an absent method means that this kind of file does
 * not do it, and the file layer answers with the errno Linux gives for that.
 */
export type File = {
  /** What it is, as /proc/PID/fd would show it: `/dev/iommu`, `anon_inode:[eventfd]`. */
  readonly name: string;
  /** Its pages, when it is a file of memory. */
  readonly pages?: FilePages;
  /** `argument` is the third argument of ioctl(2): usually an address in the caller's memory. Gives the result, >= 0. */
  ioctl?(caller: Caller, request: number, argument: bigint): number;
  /** Reads up to `into.length` bytes. `position` is the file offset of pread(2), null for read(2). Gives the bytes read. */
  read?(caller: Caller, into: Uint8Array, position: bigint | null): number;
  /** Writes `from`. Gives the bytes written. */
  write?(caller: Caller, from: Uint8Array, position: bigint | null): number;
  /** POLL bits that hold now. */
  poll?(): number;
  /** What is behind [offset, offset + length), to be mapped for the caller. `protection` holds hw's ACCESS_ bits. */
  mmap?(caller: Caller, length: bigint, protection: number, shared: boolean, offset: bigint): Mapping;
  /** The last descriptor is gone. Never fails. */
  release(): void;
};
