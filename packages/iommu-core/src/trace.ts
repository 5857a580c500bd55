/**
 * Trace events of the iommu core and its drivers. Names follow the kernel's tracepoints (include/trace/events/iommu.h,
 * drivers/iommu/intel/trace.h) where it has one.
 */

/** `pasid` is NO_PASID (-1) for requests without PASID; `domain` is `Domain.id`; `access` holds hw's ACCESS_ bits. */
export type IommuEvent =
  | { readonly name: 'add_device_to_group'; readonly group: number; readonly rid: number }
  | { readonly name: 'remove_device_from_group'; readonly group: number; readonly rid: number }
  | AttachEvent<'attach_device_to_domain'>
  | AttachEvent<'detach_device_from_domain'>
  | { readonly name: 'authorize_pasid'; readonly rid: number; readonly pasid: number }
  | { readonly name: 'deauthorize_pasid'; readonly rid: number; readonly pasid: number }
  | {
      readonly name: 'map';
      readonly domain: number;
      readonly iova: bigint;
      readonly paddr: bigint;
      readonly size: number;
    }
  | {
      readonly name: 'unmap';
      readonly domain: number;
      readonly iova: bigint;
      readonly size: number;
      readonly unmapped: number;
    }
  /** A fault the hardware recorded: nothing can be done about it. */
  | {
      readonly name: 'io_page_fault';
      readonly rid: number;
      readonly pasid: number;
      readonly iova: bigint;
      /** Fault reason of the hardware's specification. */
      readonly reason: number;
      readonly access: number;
    }
  | {
      readonly name: 'prq_report';
      readonly rid: number;
      readonly pasid: number;
      readonly group: number;
      readonly last: boolean;
      readonly iova: bigint;
      readonly access: number;
    }
  | {
      readonly name: 'page_response';
      readonly rid: number;
      readonly pasid: number;
      readonly group: number;
      /** PRG_ code. */
      readonly code: number;
    }
  /** An invalidation descriptor was queued: its type and first two quadwords. */
  | { readonly name: 'qi_submit'; readonly type: number; readonly qw0: bigint; readonly qw1: bigint }
  | { readonly name: 'qi_error'; readonly status: number; readonly detail: bigint }
  /** The device left an invalidation unanswered and lost the use of what it has cached. */
  | { readonly name: 'device_tlb_timeout'; readonly rid: number }
  /** A PASID-table entry became present, changed, or went. `domainId` is the hardware's tag. */
  | PasidEntryEvent<'pasid_entry_set'>
  | PasidEntryEvent<'pasid_entry_replace'>
  | PasidEntryEvent<'pasid_entry_clear'>
  | { readonly name: 'prq_drain'; readonly rid: number; readonly pasid: number }
  | { readonly name: 'prq_overflow' }
  | { readonly name: 'reset_prepare'; readonly rid: number }
  | { readonly name: 'reset_done'; readonly rid: number }
  /** Subscribers of an IOASID are about to be told, if there are any. `set` is `IoasidSet.id`. */
  | {
      readonly name: 'ioasid_notify';
      readonly kind: 'alloc' | 'free' | 'bind' | 'unbind';
      readonly id: number;
      readonly spid: number;
      readonly set: number;
    }
  /** The last reference of an IOASID is gone. */
  | { readonly name: 'ioasid_reclaim'; readonly id: number; readonly set: number }
  /** A call that cannot refuse had nothing to do; `subject` is the IOASID, set or capacity that it named. */
  | {
      readonly name: 'ioasid_ignored';
      readonly call: string;
      readonly subject: number;
      readonly reason: 'installed' | 'no_spid' | 'unknown' | 'wrong_set';
    };

type AttachEvent<Name extends string> = {
  readonly name: Name;
  readonly rid: number;
  readonly pasid: number;
  readonly domain: number;
  readonly kind: string;
};

type PasidEntryEvent<Name extends string> = {
  readonly name: Name;
  readonly rid: number;
  readonly pasid: number;
  readonly domainId: number;
};
