/** What programs ask of `IommufdClient`, and what they are told. Ids are object ids, lengths bytes. */

import type { U64 } from '@iommukit/hw';

/** What the mapping allows; both by default. */
export type MapAccess = { readable?: boolean; writable?: boolean };

export type MapRequest = MapAccess & {
  ioasId: number;
  userVa: U64;
  length: U64;
  /** Where to map; where it fits by default. */
  iova?: U64;
};

export type MapFileRequest = MapAccess & {
  ioasId: number;
  fd: number;
  /** Byte offset into the file; 0 by default. */
  start?: U64;
  length: U64;
  /** Where to map; where it fits by default. */
  iova?: U64;
};

export type CopyRequest = MapAccess & {
  srcIoasId: number;
  srcIova: U64;
  length: U64;
  dstIoasId: number;
  /** Where to map; where it fits by default. */
  dstIova?: U64;
};

export type HwptRequest = {
  deviceId: number;
  /** The table can be attached together with PASIDs. */
  pasid?: boolean;
  /** Fault queue for page requests. */
  faultId?: number;
};

export type PagingRequest = HwptRequest & {
  ioasId: number;
  nestParent?: boolean;
  dirtyTracking?: boolean;
};

export type NestedRequest = HwptRequest & {
  /** A nest parent or a vIOMMU. */
  parentId: number;
  /** IOMMU_HWPT_DATA_ value, with its structure. */
  type: number;
  data: Uint8Array;
};

export type VtdStage1Request = HwptRequest & {
  parentId: number;
  /** Guest physical address of the table's root. */
  pageTable: U64;
  /** Bits of a stage-1 address: 48 or 57. */
  addressWidth: number;
  /** IOMMU_VTD_S1_ bits. */
  stage1Flags?: number;
};

export type InvalidateRequest = {
  /** A nested table or a vIOMMU. */
  hwptId: number;
  /** IOMMU_HWPT_INVALIDATE_DATA_ or IOMMU_VIOMMU_INVALIDATE_DATA_ value. */
  type: number;
  /** Entries of `entryLength` bytes, one after the other. */
  entries: Uint8Array;
  entryLength: number;
};

export type VtdInvalidation = {
  /** Page-aligned stage-1 address. */
  address: U64;
  /** 4 KiB pages; 2^64 - 1 from address 0 is everything. */
  pages: U64;
  /** Only the last level of the table has changed. */
  leaf?: boolean;
};

export type DirtyRequest = {
  hwptId: number;
  iova: U64;
  length: U64;
  /** Bytes that a bit stands for; 4096 by default. */
  pageSize?: U64;
  /** Bits are set here, and none is cleared: bit n % 8 of byte n / 8 for page n of the range. */
  bitmap: Uint8Array;
  /** The pages stay dirty for the next read. */
  keep?: boolean;
};

/** A page request, as read from a fault queue. */
export type FaultRecord = {
  readonly deviceId: number;
  /** Null for a request without PASID. */
  readonly pasid: number | null;
  readonly group: number;
  readonly last: boolean;
  /** IOMMU_PGFAULT_PERM_ bits. */
  readonly access: number;
  readonly address: bigint;
  /** Names the group in its answer. */
  readonly cookie: number;
};
