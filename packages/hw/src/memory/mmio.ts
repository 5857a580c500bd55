/** Device registers in the physical address space. */

/** Bytes of one register access; accesses are naturally aligned. */
export type AccessWidth = 1 | 2 | 4 | 8;

/**
 * What stands behind an MMIO range. Offsets are relative to the start of the range and stay below 2^32.
 * A handler never throws for anything that software can write: unknown offsets read as zero and ignore writes.
 */
export type MmioHandler = {
  read(offset: number, width: AccessWidth): bigint;
  write(offset: number, width: AccessWidth, value: bigint): void;
  /** A 64-byte direct store (MOVDIR64B): posted, never refused. Without it the store is eight 8-byte writes. */
  store64?(offset: number, data: Uint8Array): void;
  /** A 64-byte deferrable write (ENQCMD, PCIe DMWr). True when accepted, false for Retry. Without it: Retry. */
  enqueue64?(offset: number, data: Uint8Array): boolean;
};
