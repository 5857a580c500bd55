/**
 * Domains whose table the kernel fills: first stage by default, second stage where nesting or dirty tracking needs it
 * (Linux: intel_iommu_domain_alloc_paging_flags, drivers/iommu/intel/iommu.c).
 */

import { hex, joinU64, PGTT_FIRST_STAGE, PGTT_SECOND_STAGE, pageNumber, vtdSecondStage, x86_64 } from '@iommukit/hw';
import { IOMMU_WRITE, type PagingDomain } from '../domain.ts';
import { SysError } from '../errno.ts';
import { ALLOC_DIRTY_TRACKING, ALLOC_NEST_PARENT, ALLOC_PASID, type IommuDriver } from '../iommu-driver.ts';
import type { FaultGroup } from '../page-fault.ts';
import { PageTableEditor } from '../page-table/editor.ts';
import { Attachments, coveringRange } from './attachments.ts';
import { type DirtyTrackingHost, StageTwoDirtyTracking } from './dirty-tracking.ts';
import type { IntelNestedDomain } from './nested-domain.ts';
import type { PasidEntry } from './pasid-entry.ts';
import type { IntelUnit } from './unit.ts';

export type PagingDomainOptions = {
  unit: IntelUnit;
  driver: IommuDriver;
  kind: 'unmanaged' | 'dma';
  /** ALLOC_ flags. */
  flags: number;
  /** Rewrites the PASID-table entries of every attachment of a domain. */
  refresh: (domain: IntelPagingDomain | IntelNestedDomain) => void;
};

/** Address bits that four levels of the first stage translate; the highest is a sign, and the aperture the positive half. */
const STAGE1_BITS = 48;

export class IntelPagingDomain implements PagingDomain {
  readonly kind: 'unmanaged' | 'dma';
  readonly scopes = ['rid', 'pasid'] as const;
  faultHandler: ((group: FaultGroup) => void) | null = null;
  readonly driver: IommuDriver;
  readonly pageSizesLg2: readonly number[];
  readonly aperture: { readonly first: bigint; readonly last: bigint };
  readonly nestParent: boolean;
  readonly pasidCapable: boolean;
  readonly dirty: StageTwoDirtyTracking | null;
  readonly attachments: Attachments;
  /** Nested domains on this one: their translations are made with this table too. */
  readonly children: Set<IntelNestedDomain> = new Set();
  private readonly unit: IntelUnit;
  private readonly domainId: number;
  private readonly firstStage: boolean;
  /** Pages in the aperture. */
  private readonly pages: number;
  private readonly table: PageTableEditor;
  /** Pages whose cached translations are to be flushed; `firstStale` > `lastStale`: none. */
  private firstStale = Number.POSITIVE_INFINITY;
  private lastStale = -1;

  /** @throws {SysError} EOPNOTSUPP flags; ENOSPC, ENOMEM */
  constructor(options: PagingDomainOptions) {
    const { unit, driver, kind, flags } = options;
    this.unit = unit;
    this.driver = driver;
    this.kind = kind;
    this.firstStage = choosesFirstStage(unit, flags);
    this.nestParent = (flags & ALLOC_NEST_PARENT) !== 0;
    this.pasidCapable = (flags & ALLOC_PASID) !== 0;
    const { capabilities } = unit;
    this.pageSizesLg2 = this.firstStage ? capabilities.stage1PageSizesLg2 : capabilities.stage2PageSizesLg2;
    const levels = this.firstStage ? 4 : unit.stage2Levels;
    const { guestAddressBits } = capabilities;
    const bits = this.firstStage
      ? Math.min(STAGE1_BITS, guestAddressBits) - 1
      : Math.min(12 + 9 * levels, guestAddressBits);
    this.pages = 2 ** (bits - 12);
    this.aperture = { first: 0n, last: (1n << BigInt(bits)) - 1n };
    this.domainId = unit.domainIds.allocate();
    try {
      const format = this.firstStage ? x86_64 : vtdSecondStage;
      this.table = new PageTableEditor(unit.kernel, format, levels, this.pageSizesLg2);
    } catch (error) {
      unit.domainIds.release(this.domainId);
      throw error;
    }
    this.attachments = new Attachments(
      unit.queue,
      capabilities,
      this.domainId,
      this.firstStage ? PGTT_FIRST_STAGE : PGTT_SECOND_STAGE,
    );
    const tracks = (flags & ALLOC_DIRTY_TRACKING) !== 0;
    this.dirty = tracks ? new StageTwoDirtyTracking(this.table, this.dirtyHost(options.refresh)) : null;
  }

  get id(): number {
    return this.domainId;
  }

  entry(): PasidEntry {
    if (!this.firstStage) return { ...this.stage2(), domainId: this.domainId, translation: PGTT_SECOND_STAGE };
    return {
      domainId: this.domainId,
      translation: PGTT_FIRST_STAGE,
      stage2Levels: this.unit.stage2Levels,
      stage1Root: BigInt(this.table.rootPfn) << 12n,
      noExecute: this.unit.capabilities.executeRequests,
      pageWalkSnoop: this.unit.capabilities.pageWalkCoherency,
    };
  }

  /** The part of an entry that describes this table as second stage. */
  stage2(): Pick<PasidEntry, 'stage2Levels' | 'stage2Root' | 'stage2Dirty' | 'pageWalkSnoop'> {
    return {
      stage2Levels: this.unit.stage2Levels,
      stage2Root: BigInt(this.table.rootPfn) << 12n,
      stage2Dirty: this.dirty?.enabled ?? false,
      pageWalkSnoop: this.unit.capabilities.pageWalkCoherency,
    };
  }

  map(iovaLo: number, iovaHi: number, physLo: number, physHi: number, bytes: number, prot: number): void {
    // Some units write accessed and dirty bits through a nested walk whatever the second stage says (erratum 772415).
    if (this.nestParent && (prot & IOMMU_WRITE) === 0) {
      throw new SysError('EINVAL', 'iommu_map', `read-only mapping in nest parent ${this.domainId}`);
    }
    if (pageNumber(iovaLo, iovaHi) + Math.ceil(bytes / 4096) > this.pages) {
      throw new SysError(
        'ERANGE',
        'iommu_map',
        `${hex(joinU64(iovaLo, iovaHi))} + ${hex(bytes)} is outside the aperture`,
      );
    }
    this.table.map(iovaLo, iovaHi, physLo, physHi, bytes, prot);
    const { trace } = this.unit;
    if (trace.enabled) {
      const iova = joinU64(iovaLo, iovaHi);
      trace.emit({ name: 'map', domain: this.id, iova, paddr: joinU64(physLo, physHi), size: bytes });
    }
  }

  unmap(iovaLo: number, iovaHi: number, bytes: number): number {
    const unmapped = this.table.unmap(iovaLo, iovaHi, bytes);
    if (unmapped > 0) this.noteStale(this.table.firstChanged, this.table.lastChanged);
    const { trace } = this.unit;
    if (trace.enabled) {
      trace.emit({ name: 'unmap', domain: this.id, iova: joinU64(iovaLo, iovaHi), size: bytes, unmapped });
    }
    return unmapped;
  }

  syncMap(iovaLo: number, iovaHi: number, bytes: number): void {
    if (this.firstStage || !this.unit.capabilities.cachingMode || bytes === 0) return;
    const first = pageNumber(iovaLo, iovaHi);
    const { address, sizeLg2 } = coveringRange(first, first + Math.ceil(bytes / 4096) - 1);
    this.attachments.addCachingModeFlush(address, sizeLg2);
    for (const child of this.children) child.attachments.addOuterStageFlush();
    this.unit.queue.submit();
  }

  sync(): void {
    if (this.lastStale >= this.firstStale) {
      const { address, sizeLg2 } = coveringRange(this.firstStale, this.lastStale);
      // `leaf`: no table was unlinked.
      this.attachments.addFlush(address, sizeLg2, !this.table.hasGathered);
      for (const child of this.children) child.attachments.addOuterStageFlush();
      this.unit.queue.submit();
      this.firstStale = Number.POSITIVE_INFINITY;
      this.lastStale = -1;
    }
    this.table.freeGathered();
  }

  iovaToPhys(iova: bigint): bigint | null {
    return iova > this.aperture.last ? null : this.table.iovaToPhys(iova);
  }

  free(): void {
    this.table.free();
    this.unit.domainIds.release(this.domainId);
  }

  private noteStale(first: number, last: number): void {
    this.firstStale = Math.min(this.firstStale, first);
    this.lastStale = Math.max(this.lastStale, last);
  }

  private dirtyHost(refresh: PagingDomainOptions['refresh']): DirtyTrackingHost {
    return {
      refresh: () => {
        refresh(this);
        for (const child of this.children) refresh(child);
      },
      noteStale: (first, last) => this.noteStale(first, last),
    };
  }
}

/** @throws {SysError} EOPNOTSUPP */
function choosesFirstStage({ capabilities }: IntelUnit, flags: number): boolean {
  const call = 'iommu_domain_alloc_paging';
  if ((flags & ~(ALLOC_NEST_PARENT | ALLOC_DIRTY_TRACKING | ALLOC_PASID)) !== 0) {
    throw new SysError('EOPNOTSUPP', call, `flags ${flags}`);
  }
  if ((flags & ALLOC_NEST_PARENT) !== 0 && !capabilities.nesting) {
    throw new SysError('EOPNOTSUPP', call, 'the unit cannot nest');
  }
  if ((flags & ALLOC_DIRTY_TRACKING) !== 0 && !capabilities.secondStageDirty) {
    throw new SysError('EOPNOTSUPP', call, 'the unit does not track writes');
  }
  const needsSecond = (flags & (ALLOC_NEST_PARENT | ALLOC_DIRTY_TRACKING)) !== 0;
  if (needsSecond && !capabilities.secondStage) throw new SysError('EOPNOTSUPP', call, 'the unit has no second stage');
  return !needsSecond && capabilities.firstStage;
}
