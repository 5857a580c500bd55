/**
 * Paging domains of the mock IOMMU, in two kinds: one whose pages are smaller than those of the CPU, and one that has
 * large pages and an aperture as wide as its table (Linux: mock_domain_alloc_pgtable,
 * drivers/iommu/iommufd/selftest.c). Nothing caches their translations.
 *
 * The table of the first kind takes pages of every power of two. Leaves are one entry each, so the larger ones of it are
 * made of leaves of 2 KiB, 1 MiB or 512 MiB, and a write marks no more than its leaf; Linux, whose leaves may be several
 * entries, marks them all and reports them but for the last.
 */

import { hex, joinU64 } from '@iommukit/hw';
import {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  type DirtyTracking,
  type DirtyVisitor,
  type FaultGroup,
  type IommuDriver,
  type Kernel,
  type PagingDomain,
  SysError,
} from '@iommukit/iommu-core';
import { MOCK_TABLE_BITS, MockTable } from './mock-table.ts';
import { MOCK_APERTURE_LAST, MOCK_APERTURE_START } from './uapi.ts';

export type MockPagingOptions = {
  kernel: Kernel;
  driver: IommuDriver;
  id: number;
  kind: 'unmanaged' | 'dma';
  /** ALLOC_ bits. */
  flags: number;
  /** MOCK_IOMMUPT_HUGE instead of MOCK_IOMMUPT_DEFAULT. */
  huge: boolean;
};

/** log2 of 2 KiB to 64 GiB: a page of half the table is the largest (Linux: pt_iommu_init_domain). */
const ALL_SIZES_LG2: readonly number[] = Array.from({ length: MOCK_TABLE_BITS - 12 }, (_, index) => 11 + index);
/** log2 of a page of the CPU, which domains of /dev/iommu must have, and of 1 MiB. */
const HUGE_SIZES_LG2: readonly number[] = [12, 20];

export class MockPagingDomain implements PagingDomain {
  readonly id: number;
  readonly kind: 'unmanaged' | 'dma';
  readonly scopes = ['rid', 'pasid'] as const;
  readonly driver: IommuDriver;
  readonly pageSizesLg2: readonly number[];
  readonly aperture: { readonly first: bigint; readonly last: bigint };
  readonly nestParent: boolean;
  readonly pasidCapable: boolean;
  readonly dirty: DirtyTracking | null;
  faultHandler: ((group: FaultGroup) => void) | null = null;
  private readonly table: MockTable;

  /** @throws {SysError} ENOMEM */
  constructor({ kernel, driver, id, kind, flags, huge }: MockPagingOptions) {
    this.id = id;
    this.kind = kind;
    this.driver = driver;
    this.nestParent = (flags & ALLOC_NEST_PARENT) !== 0;
    this.pasidCapable = (flags & ALLOC_PASID) !== 0;
    this.pageSizesLg2 = huge ? HUGE_SIZES_LG2 : ALL_SIZES_LG2;
    this.aperture = huge
      ? { first: 0n, last: (1n << BigInt(MOCK_TABLE_BITS)) - 1n }
      : { first: BigInt(MOCK_APERTURE_START), last: BigInt(MOCK_APERTURE_LAST) };
    kernel.checkpoint('mock_domain');
    this.table = new MockTable(kernel, huge ? [11, 20] : [11, 20, 29]);
    this.dirty = (flags & ALLOC_DIRTY_TRACKING) !== 0 ? new MockDirtyTracking(this.table) : null;
  }

  map(iovaLo: number, iovaHi: number, physLo: number, physHi: number, bytes: number, prot: number): void {
    const iova = joinU64(iovaLo, iovaHi);
    if (iova < this.aperture.first || iova + BigInt(bytes) - 1n > this.aperture.last) {
      throw new SysError('ERANGE', 'iommu_map', `${hex(iova)} + ${hex(bytes)} is outside the aperture`);
    }
    this.table.map(iovaLo, iovaHi, physLo, physHi, bytes, prot);
  }

  unmap(iovaLo: number, iovaHi: number, bytes: number): number {
    return this.table.unmap(iovaLo, iovaHi, bytes);
  }

  syncMap(_iovaLo: number, _iovaHi: number, _bytes: number): void {}

  sync(): void {
    this.table.freeGathered();
  }

  iovaToPhys(iova: bigint): bigint | null {
    return this.table.iovaToPhys(iova);
  }

  /** What a device's write to `iova` leaves in the table. */
  write(iova: bigint): void {
    this.table.setDirty(iova);
  }

  free(): void {
    this.table.free();
  }
}

class MockDirtyTracking implements DirtyTracking {
  enabled = false;
  private readonly table: MockTable;

  constructor(table: MockTable) {
    this.table = table;
  }

  setEnabled(enabled: boolean): void {
    this.enabled = enabled;
  }

  read(iovaLo: number, iovaHi: number, bytes: number, keep: boolean, visit: DirtyVisitor): void {
    this.table.readDirty(iovaLo, iovaHi, bytes, keep, visit);
  }
}
