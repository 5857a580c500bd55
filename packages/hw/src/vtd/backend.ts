/**
 * What stands behind the register file of a remapping unit: the physical unit, which walks tables, or a VMM, which
 * shadows them. The register file decodes; a backend acts. Addresses are those that software programmed: host physical
 * for a physical unit, guest physical for a virtual one.
 */

import type { PageGroupResponse } from '../pci/transaction.ts';

/** A decoded invalidation request. Ranges are naturally aligned: `sizeLg2` is log2 of their byte size, 12..64. */
export type VtdInvalidation =
  | { kind: 'context-cache'; granularity: 'global' }
  | { kind: 'context-cache'; granularity: 'domain'; did: number }
  /** `functionMask`: how many bits of the function number to ignore, from its highest (bit 2) down. */
  | { kind: 'context-cache'; granularity: 'device'; did: number; sid: number; functionMask: number }
  | { kind: 'pasid-cache'; granularity: 'global' }
  | { kind: 'pasid-cache'; granularity: 'domain'; did: number }
  | { kind: 'pasid-cache'; granularity: 'pasid'; did: number; pasid: number }
  | { kind: 'iotlb'; granularity: 'global' }
  | { kind: 'iotlb'; granularity: 'domain'; did: number }
  /** `leafOnly`: entries of non-leaf tables have not changed (IH). */
  | { kind: 'iotlb'; granularity: 'page'; did: number; address: bigint; sizeLg2: number; leafOnly: boolean }
  | { kind: 'pasid-iotlb'; granularity: 'pasid'; did: number; pasid: number }
  | {
      kind: 'pasid-iotlb';
      granularity: 'page';
      did: number;
      pasid: number;
      address: bigint;
      sizeLg2: number;
      leafOnly: boolean;
    }
  /** `pasid` is NO_PASID in a request without PASID; `global`: every PASID of the function. */
  | { kind: 'device-tlb'; sid: number; pasid: number; global: boolean; address: bigint; sizeLg2: number }
  | { kind: 'interrupt-entry-cache'; granularity: 'global' }
  /** Entries [index, index + count). */
  | { kind: 'interrupt-entry-cache'; granularity: 'index'; index: number; count: number };

export type VtdBackend = {
  /** SRTP: the root table at `address` is in use from now on; `mode` is a TTM_ value. */
  setRootTable(address: bigint, mode: number): void;
  setTranslation(enabled: boolean): void;
  /** SIRTP: the interrupt remapping table. `extended`: x2APIC destinations. */
  setInterruptTable(address: bigint, entries: number, extended: boolean): void;
  setInterruptRemapping(enabled: boolean): void;
  /** Whether compatibility-format interrupts pass while remapping is on. */
  setCompatibilityInterrupts(allowed: boolean): void;
  /**
   * Starts an invalidation; calls `done` once, at once or later. Wait descriptors after it complete after that.
   * `done(false)`, for a device TLB only: the function did not answer in time.
   */
  invalidate(request: VtdInvalidation, done: (completed: boolean) => void): void;
  /** Sends a page-group response to its function: software's, or the unit's own. */
  respond(response: PageGroupResponse): void;
};
