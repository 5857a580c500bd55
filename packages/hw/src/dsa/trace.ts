/** Tracepoints of a DSA. Addresses are byte addresses, PASIDs are -1 where there is none. */

export type DsaEvent =
  /** A write reached a portal: queued, refused with Retry, or dropped (a posted write that the queue does not take). */
  | {
      name: 'dsa_submit';
      rid: number;
      queue: number;
      pasid: number;
      operation: number;
      outcome: 'queued' | 'retry' | 'dropped';
    }
  /** A descriptor is done; `batchIndex` is its place in a batch, or -1. */
  | {
      name: 'dsa_complete';
      rid: number;
      queue: number;
      pasid: number;
      operation: number;
      batchIndex: number;
      status: number;
      bytesCompleted: number;
    }
  /** A translation was denied; `blocked`: a page request went out and the descriptor waits for its response. */
  | { name: 'dsa_fault'; rid: number; queue: number; pasid: number; iova: bigint; write: boolean; blocked: boolean }
  /** Work was thrown away by an abort or a reset. */
  | { name: 'dsa_abort'; rid: number; queue: number; pasid: number; operation: number }
  | { name: 'dsa_command'; rid: number; command: number; operand: number; error: number }
  | { name: 'dsa_software_error'; rid: number; queue: number; pasid: number; error: number };
