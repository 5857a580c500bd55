/**
 * IOMMU domains: one I/O address space each, of one driver (Linux: struct iommu_domain, include/linux/iommu.h).
 *
 * The kinds differ in what can be done with them, and the types say so: only a paging domain has map and unmap, a
 * nested domain's table belongs to its user.
 */

import type { SysError } from './errno.ts';
import type { AttachScope, IommuDriver } from './iommu-driver.ts';
import type { FaultGroup } from './page-fault.ts';

/** Protection bits of a mapping; values of include/linux/iommu.h. */
export const IOMMU_READ = 1;
export const IOMMU_WRITE = 2;
export const IOMMU_CACHE = 4;
export const IOMMU_NOEXEC = 8;
export const IOMMU_MMIO = 16;
export const IOMMU_PRIV = 32;

export type DomainKind = 'blocked' | 'identity' | 'unmanaged' | 'dma' | 'sva' | 'nested';

/** What every domain has. */
export type DomainBase = {
  /** Names the domain in traces and messages; unique within a driver. */
  readonly id: number;
  readonly kind: DomainKind;
  /** How it can be attached. */
  readonly scopes: readonly AttachScope[];
  /** The driver that made it: only devices of the same driver can be attached. */
  readonly driver: IommuDriver;
  /** Page faults of attachments to this domain go here; null when the domain cannot take any. */
  faultHandler: ((group: FaultGroup) => void) | null;
  /** Frees the domain. It must be attached to nothing. Never fails. */
  free(): void;
};

/** Blocks or passes all DMA; one static object per driver. */
export type StaticDomain = DomainBase & { readonly kind: 'blocked' | 'identity' };

/** A table the kernel fills. Addresses are int32 halves, sizes are bytes as safe integers. */
export type PagingDomain = DomainBase & {
  readonly kind: 'unmanaged' | 'dma';
  /** log2 of every page size the table can hold, ascending. */
  readonly pageSizesLg2: readonly number[];
  /** IOVAs that can be mapped: a closed interval. */
  readonly aperture: { readonly first: bigint; readonly last: bigint };
  /** True when stage 2, allocated to be the parent of nested domains. */
  readonly nestParent: boolean;
  /** True when the table takes part in PASID attachments made through a user interface. */
  readonly pasidCapable: boolean;
  /** Null when the hardware or the allocation flags do not offer it. */
  readonly dirty: DirtyTracking | null;
  /**
   * Maps `bytes` (a multiple of the smallest page) at `iova` to adjoining physical addresses, choosing the largest
   * pages that fit. `prot` holds IOMMU_ bits. On failure nothing of the range is mapped.
   * @throws {SysError} EEXIST where something is mapped, ENOMEM, EINVAL misaligned or read-only where the hardware forbids it, ERANGE outside the aperture
   */
  map(iovaLo: number, iovaHi: number, physLo: number, physHi: number, bytes: number, prot: number): void;
  /**
   * Unmaps what is mapped in the range and gives the bytes unmapped: more than asked when a large page overhangs, fewer
   * where it meets a hole. Allocates nothing. Cached translations live on until `sync`.
   */
  unmap(iovaLo: number, iovaHi: number, bytes: number): number;
  /** Makes new mappings visible where the hardware caches absence (Linux: iotlb_sync_map). */
  syncMap(iovaLo: number, iovaHi: number, bytes: number): void;
  /**
   * Flushes every cached translation that was unmapped, or whose dirty bit was cleared, since the last sync, device TLBs
   * included; waits for the hardware.
   */
  sync(): void;
  /** Physical address behind `iova`, or null. */
  iovaToPhys(iova: bigint): bigint | null;
};

/** Dirty tracking of a paging domain (Linux: struct iommu_dirty_ops). */
export type DirtyTracking = {
  readonly enabled: boolean;
  /** Turns hardware tracking on or off on every attachment. On failure nothing changes. @throws {SysError} */
  setEnabled(enabled: boolean): void;
  /**
   * Visits the dirty leaves that meet the range, ascending and whole, and clears their bits unless `keep`. Hardware may
   * write through what it has cached of them without setting the bits again until the domain's `sync`.
   */
  read(iovaLo: number, iovaHi: number, bytes: number, keep: boolean, visit: DirtyVisitor): void;
};

/** Sees a range that has been written to; adjoining leaves may come as one. */
export type DirtyVisitor = (iovaLo: number, iovaHi: number, bytes: number) => void;

/** Stage 1 in user memory, on a nest parent's stage 2. No map, no unmap: there is nothing to call. */
export type NestedDomain = DomainBase & {
  readonly kind: 'nested';
  readonly parent: PagingDomain;
  /**
   * Carries out user invalidation entries in order, `entryLength` bytes each, of the driver's data type. With 0 bytes each
   * there are none, and the type is probed; else there are none when the first cannot be read, and type and length are
   * looked at before that is reported. Null where invalidations go through the vIOMMU alone.
   * @returns entries carried out; when fewer than given, `failure` says why
   */
  readonly invalidate:
    | ((dataType: number, entries: Uint8Array, entryLength: number, count: number) => InvalidateResult)
    | null;
};

export type InvalidateResult = { readonly handled: number; readonly failure: SysError | null };

/** Stage 1 is a process's own page table. */
export type SvaDomain = DomainBase & {
  readonly kind: 'sva';
  readonly addressSpaceId: number;
  /**
   * Flushes what is cached of the table in [start, last], page-table entries above leaves included, device TLBs too;
   * waits for the hardware. Changes that the process makes are flushed without it.
   */
  flush(start: bigint, last: bigint): void;
};

export type Domain = StaticDomain | PagingDomain | NestedDomain | SvaDomain;
