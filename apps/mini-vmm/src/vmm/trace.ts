/** Trace events of the VMM. `pasid` is the guest's, `hostPasid` the one that ENQCMD sends; addresses are the guest's. */

/** The host's object for a guest's table, by the name that the interface has for its kind; some have none. */
export type Stage1Object = { readonly hwpt?: number; readonly ioasid?: number };

export type VmmEvent =
  /** The guest gives the running process a PASID; `cpuCr3` is what the CPU has in CR3 at that moment. */
  | { name: 'guest_pasid_bind'; pasid: number; cr3: bigint; cpuCr3: bigint }
  /** The guest says it has written a PASID entry: whether it is there. */
  | { name: 'guest_pasid_entry'; pasid: number; address: bigint; present: boolean }
  /** The guest flushed its PASID cache: whether the entry is there now; `pasid` is -1 when more than one is meant. */
  | { name: 'pasid_cache_flush'; pasid: number; present: boolean }
  | ({ name: 'shadow_set'; pasid: number; hostPasid: number; table: bigint; replaced: boolean } & Stage1Object)
  | ({ name: 'shadow_clear'; pasid: number; hostPasid: number } & Stage1Object)
  /** The guest's entry cannot be shadowed: the PASID stays blocked. */
  | { name: 'shadow_refused'; pasid: number; message: string }
  /**
   * The guest wrote 64 bytes to the device, as a descriptor in a portal; `pasid` is what the write carries, 0 for
   * MOVDIR64B, `source` the descriptor's first address. `accepted` is false when the host or the queue refused it.
   */
  | {
      name: 'portal_write';
      instruction: 'enqcmd' | 'movdir64b';
      pasid: number;
      cr3: bigint;
      source: bigint;
      accepted: boolean;
    }
  /** ENQCMD with a guest PASID that has no host PASID: answered with Retry. */
  | { name: 'command_refused'; pasid: number }
  | { name: 'page_request_inject'; pasid: number; group: number; address: bigint; last: boolean; cookie: number }
  | { name: 'page_response_forward'; pasid: number; group: number; code: number; cookie: number }
  | ({ name: 'stage1_invalidate'; pasid: number; address: bigint; pages: bigint } & Stage1Object)
  /** The guest has unmapped memory that the device could reach; its invalidation follows. */
  | { name: 'guest_munmap'; pid: number; cpuCr3: bigint; address: bigint; bytes: number }
  | { name: 'interrupt_inject'; vector: number }
  | { name: 'power_off'; status: number };
