/** The caller's memory as system calls read and write it: any address and length may be nonsense. */

import { hex, U64_MAX } from '@iommukit/hw';
import { SysError } from './errno.ts';
import type { AddressSpace } from './process/address-space.ts';

const CHUNK = 4096;

/** @throws {SysError} EFAULT */
export function copyFromUser(space: AddressSpace, address: bigint, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  checkRange(address, length);
  if (length > 0) space.read(address, bytes);
  return bytes;
}

/** @throws {SysError} EFAULT; a part may have been stored */
export function copyToUser(space: AddressSpace, address: bigint, bytes: Uint8Array): void {
  checkRange(address, bytes.length);
  if (bytes.length > 0) space.write(address, bytes);
}

/** @throws {SysError} EFAULT; a part may have been cleared */
export function clearUser(space: AddressSpace, address: bigint, length: number): void {
  const zeros = new Uint8Array(Math.min(length, CHUNK));
  checkRange(address, length);
  for (let done = 0; done < length; done += CHUNK) {
    space.write(address + BigInt(done), zeros.subarray(0, Math.min(CHUNK, length - done)));
  }
}

/** Whether `length` bytes are all zero. @throws {SysError} EFAULT */
export function isUserZero(space: AddressSpace, address: bigint, length: number): boolean {
  checkRange(address, length);
  for (let done = 0; done < length; done += CHUNK) {
    const bytes = copyFromUser(space, address + BigInt(done), Math.min(CHUNK, length - done));
    if (bytes.some((byte) => byte !== 0)) return false;
  }
  return true;
}

function checkRange(address: bigint, length: number): void {
  if (address + BigInt(length) <= U64_MAX + 1n) return;
  throw new SysError('EFAULT', 'copy_user', `${length} bytes at ${hex(address)}`);
}
