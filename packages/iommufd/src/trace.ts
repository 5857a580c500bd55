/**
 * Trace events of /dev/iommu. `context` tells open files of /dev/iommu apart; other ids are object ids of that context,
 * as the ioctls give them, but `pages`, which names a pin group of the context, and `domain`, which is `Domain.id`. An
 * `ioas` of 0 is a root of registered memory.
 * Lengths are bytes, counts are 4 KiB pages.
 */

export type IommufdEvent =
  | { readonly name: 'object_create'; readonly context: number; readonly id: number; readonly type: string }
  | { readonly name: 'object_destroy'; readonly context: number; readonly id: number; readonly type: string }
  | {
      readonly name: 'ioas_map';
      readonly context: number;
      readonly ioas: number;
      readonly iova: bigint;
      readonly length: bigint;
      readonly pages: number;
    }
  | {
      readonly name: 'ioas_unmap';
      readonly context: number;
      readonly ioas: number;
      readonly iova: bigint;
      readonly length: bigint;
      readonly pages: number;
    }
  | {
      readonly name: 'pin';
      readonly context: number;
      readonly pages: number;
      readonly first: number;
      readonly count: number;
    }
  | {
      readonly name: 'unpin';
      readonly context: number;
      readonly pages: number;
      readonly first: number;
      readonly count: number;
    }
  | { readonly name: 'device_bind'; readonly context: number; readonly device: number; readonly rid: number }
  | { readonly name: 'device_unbind'; readonly context: number; readonly device: number; readonly rid: number }
  | {
      readonly name: 'hwpt_alloc';
      readonly context: number;
      readonly hwpt: number;
      /** The IOAS, or the parent HWPT or vIOMMU of a nested one. */
      readonly parent: number;
      readonly kind: 'paging' | 'nested';
      readonly domain: number;
    }
  | AttachEvent<'device_attach'>
  | AttachEvent<'device_replace'>
  | AttachEvent<'device_detach'>
  | { readonly name: 'hwpt_invalidate'; readonly context: number; readonly hwpt: number; readonly entries: number }
  | {
      readonly name: 'vevent_report';
      readonly context: number;
      readonly veventq: number;
      readonly sequence: number;
      /** There was no room for it. */
      readonly lost: boolean;
    }
  | FaultEvent<'fault_queue'>
  | FaultEvent<'fault_read'>
  | (FaultEvent<'fault_response'> & {
      /** PRG_ code. */
      readonly code: number;
    });

type AttachEvent<Name extends string> = {
  readonly name: Name;
  readonly context: number;
  readonly device: number;
  /** NO_PASID or a PASID. */
  readonly pasid: number;
  readonly hwpt: number;
};

type FaultEvent<Name extends string> = {
  readonly name: Name;
  readonly context: number;
  readonly fault: number;
  /** Device id of the record. */
  readonly device: number;
  readonly pasid: number;
  /** Page request group index. */
  readonly group: number;
  /** 0 before the group is read. */
  readonly cookie: number;
};
