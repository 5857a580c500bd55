/**
 * Who pays for pinned pages, and against what limit (Linux: enum IOPT_PAGES_ACCOUNT_ of
 * drivers/iommu/iommufd/io_pagetable.h). A pin group is charged once, whatever the number of its mappings.
 */

import { PAGE_SIZE } from '@iommukit/hw';
import { type AddressSpace, type Process, SysError, type User } from '@iommukit/iommu-core';

/** none: the process holds CAP_IPC_LOCK; user: all processes of the user together; mm: the address space alone. */
export type AccountMode = 'none' | 'user' | 'mm';

/** The process that pays. */
export type Payer = {
  readonly addressSpace: AddressSpace;
  readonly user: User;
  /** RLIMIT_MEMLOCK of the process, in bytes. */
  readonly limit: () => number;
};

/**
 * Charges `pages`; none is never refused, though the limit may have come down below what is locked.
 * @throws {SysError} ENOMEM above RLIMIT_MEMLOCK; nothing is charged then
 */
export function charge(mode: AccountMode, payer: Payer, pages: number): void {
  const counter = lockCounter(mode, payer);
  if (counter === null || pages === 0) return;
  const limit = Math.floor(payer.limit() / PAGE_SIZE);
  if (counter.lockedPages + pages > limit) {
    const locked = counter.lockedPages;
    throw new SysError('ENOMEM', 'pin', `${locked} pages are locked, ${pages} more exceed RLIMIT_MEMLOCK of ${limit}`);
  }
  counter.lockedPages += pages;
}

/** Takes a charge back. */
export function uncharge(mode: AccountMode, payer: Payer, pages: number): void {
  const counter = lockCounter(mode, payer);
  if (counter !== null) counter.lockedPages -= pages;
}

function lockCounter(mode: AccountMode, payer: Payer): { lockedPages: number } | null {
  if (mode === 'none') return null;
  return mode === 'user' ? payer.user : payer.addressSpace;
}

export function payerOf(process: Process): Payer {
  const { addressSpace, credentials, limits } = process;
  return { addressSpace, user: credentials.user, limit: () => limits.memlock };
}
