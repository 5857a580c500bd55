/**
 * A process's memory as the kernel's other parts use it (rule 11 of the architecture). The modelled implementation
 * keeps a real CPU page table in physical memory; one that stands for another process's memory has foreign frames and
 * no root.
 */

import type { U64 } from '@iommukit/hw';
import type { PfnRuns } from '../pfn-runs.ts';

/** Told of changes, as Linux's mmu notifiers are. Called inside the call that changes the address space. */
export type AddressSpaceNotifier = {
  /** Translations of [start, last] are about to go or to lose permissions; caches of them must be gone on return. */
  invalidate?(start: bigint, last: bigint): void;
  /** The address space is going away: no use of it may remain on return. */
  release?(): void;
};

export type AddressSpace = {
  /** Unique within a kernel, never used again. */
  readonly id: number;
  /** False from the moment the process ends, before notifiers hear of it. */
  readonly alive: boolean;
  /** Frame of the root of an x86-64 page table that hardware can walk; null when there is none. */
  readonly rootPfn: number | null;
  /** Pages pinned now, counted once per pin (Linux: VmPin). */
  pinnedPages: number;
  /** Pages charged against the memory lock limit now (Linux: VmLck). */
  lockedPages: number;

  /**
   * Faults in and pins `pages` pages from the page of `va`, appending their frames to `into`. Pinned frames stay with
   * their contents until `unpin`, whatever the process does with its addresses.
   * @returns pages pinned: fewer than asked when a later page cannot be
   * @throws {SysError} EFAULT when not even the first page can be pinned; ENOMEM
   */
  pin(va: U64, pages: number, write: boolean, into: PfnRuns): number;
  /** Releases frames pinned before, naming them by what `pin` gave, never by address. `dirty` marks them written. Never fails. */
  unpin(runs: PfnRuns, dirty: boolean): void;
  /** Pins held on a frame that `pin` gave, by whomever (Linux: page_maybe_dma_pinned, exactly). */
  pinCount(pfn: number): number;

  /** Copies from the process, faulting pages in. @throws {SysError} EFAULT */
  read(va: U64, into: Uint8Array): void;
  /** Copies to the process, faulting pages in. @throws {SysError} EFAULT */
  write(va: U64, from: Uint8Array): void;
  /**
   * Resolves a fault at `va` as the CPU's fault handler would. `access` holds hw's ACCESS_ bits.
   * False: no region, or the region does not allow it.
   */
  handleFault(va: U64, access: number): boolean;

  addNotifier(notifier: AddressSpaceNotifier): void;
  removeNotifier(notifier: AddressSpaceNotifier): void;
};
