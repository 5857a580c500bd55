/** Memory as a register-level model sees it: host physical memory, or a guest's through the VMM's slots. */

import type { U64 } from '../u64.ts';

export type MemoryPort = {
  /** Fills `into` from `address`. False, with nothing promised of `into`, when a byte has no memory behind it. */
  read(address: U64, into: Uint8Array): boolean;
  /** Stores `from` at `address`. False, with nothing written, when a byte has no memory behind it. */
  write(address: U64, from: Uint8Array): boolean;
};
