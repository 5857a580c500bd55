/** Tracepoints of the PCI fabric and its functions. Addresses are byte addresses, PASIDs are -1 where there is none. */

export type PciEvent =
  /** A function-level, hot or conventional reset of one function. */
  | { name: 'pci_reset'; rid: number }
  /** VF Enable went up (`count` functions appear) or down (0). */
  | { name: 'sriov_enable'; rid: number; count: number }
  /** A message-signalled interrupt left the function. */
  | { name: 'msi'; rid: number; vector: number; address: bigint; data: number }
  /** A translation request and what its completion granted; `status` is a completion status. */
  | { name: 'ats_request'; rid: number; pasid: number; iova: bigint; access: number; status: number; granted: number }
  /** An invalidation request came to its end; `completed` false: the function did not answer in time. */
  | {
      name: 'ats_invalidate';
      rid: number;
      pasid: number;
      global: boolean;
      iova: bigint;
      sizeLg2: number;
      completed: boolean;
    }
  | {
      name: 'page_request';
      rid: number;
      pasid: number;
      group: number;
      iova: bigint;
      access: number;
      last: boolean;
    }
  | { name: 'page_response'; rid: number; pasid: number; group: number; code: number };
