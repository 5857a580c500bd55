/**
 * Tracepoints of a remapping unit: the kernel's name where it has one, else the specification's noun. Addresses are
 * byte addresses, PASIDs are -1 where there is none.
 */

import type { VtdInvalidation } from './backend.ts';

export type VtdEvent =
  /** The unit took a descriptor from the invalidation queue; `words` has 4 or 8 of them. */
  | { name: 'qi_submit'; type: number; words: readonly number[] }
  | { name: 'invalidate'; request: VtdInvalidation }
  | { name: 'invalidation_wait'; status: bigint; data: number; interrupt: boolean }
  | { name: 'invalidation_error'; status: number; info: number }
  /** A fault was recorded, or lost to overflow. */
  | {
      name: 'io_page_fault';
      reason: number;
      rid: number;
      pasid: number;
      iova: bigint;
      access: number;
      addressType: number;
      recorded: boolean;
    }
  /** A page request reached the queue in memory, or was dropped because of overflow. */
  | {
      name: 'prq_report';
      rid: number;
      pasid: number;
      iova: bigint;
      access: number;
      last: boolean;
      group: number;
      queued: boolean;
    }
  | { name: 'page_group_response'; rid: number; pasid: number; group: number; code: number }
  | { name: 'set_root_table'; address: bigint; mode: number }
  | { name: 'set_interrupt_table'; address: bigint; entries: number }
  | { name: 'global_status'; status: number };
