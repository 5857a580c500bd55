/**
 * The host's side of one guest PASID: a nested table whose stage 1 is the guest's own first-stage table, attached to the
 * function at the guest's PASID and at the host PASID that ENQCMD sends, with a fault queue of its own.
 *
 * The fault queue tells which guest PASID a page request belongs to; the number in the request may be either PASID.
 */

import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  fieldGet,
  high32,
  low32,
  NO_PASID,
  PASID0_PGTT,
  PASID4_EAFE,
  PASID4_FSPM,
  PASID4_SRE,
  PASID4_WPE,
  type PageRequest,
  PGTT_FIRST_STAGE,
  PRG_SUCCESS,
  pageHigh,
  pageLow,
  type TraceSink,
  type VtdFeatures,
} from '@iommukit/hw';
import {
  type FaultRecord,
  IOMMU_PGFAULT_PERM_EXEC,
  IOMMU_PGFAULT_PERM_PRIV,
  IOMMU_PGFAULT_PERM_READ,
  IOMMU_PGFAULT_PERM_WRITE,
  IOMMU_VTD_S1_EAFE,
  IOMMU_VTD_S1_SRE,
  IOMMU_VTD_S1_WPE,
  type IommufdClient,
  POLLIN,
  SysError,
} from '@iommukit/iommufd';
import { isWellFormed, type PasidEntry, pointer } from './guest-tables.ts';
import type { PassthroughDevice } from './passthrough.ts';
import type { VmmEvent } from './trace.ts';

/** What a shadow needs of the VMM. */
export type Stage1Host = {
  iommufd: IommufdClient;
  device: PassthroughDevice;
  /** Nest parent: the guest's physical memory as stage 2. */
  parentHwpt: number;
  /** What the guest's unit shows. */
  features: VtdFeatures;
  /** Puts a page request in the guest's page-request queue. */
  enqueuePageRequest(request: PageRequest): void;
  trace: TraceSink<VmmEvent>;
};

/** Where a shadow is attached. */
export type Stage1Place = {
  /** The guest's PASID; NO_PASID for requests without one. */
  readonly pasid: number;
  /** The host's PASID for ENQCMD; NO_PASID when there is none. */
  readonly hostPasid: number;
};

export class Stage1Shadow {
  readonly place: Stage1Place;
  readonly hwpt: number;
  private readonly host: Stage1Host;
  private readonly entry: PasidEntry;
  private readonly faultQueue: { readonly id: number; readonly fd: number };
  /** Cookie of each page request group that the guest has not answered, by group index. */
  private readonly cookies = new Map<number, number>();

  /**
   * Shadows `entry`, in place of `old` without a moment of neither when there is one. `old` is used up on success and
   * as before on failure.
   * @throws {SysError} EINVAL an entry that the host cannot nest; and what attaching refuses with
   */
  constructor(host: Stage1Host, place: Stage1Place, entry: PasidEntry, old: Stage1Shadow | null) {
    if (fieldGet(PASID0_PGTT, entry[0]!) !== PGTT_FIRST_STAGE || !isWellFormed(entry, host.features)) {
      throw new SysError('EINVAL', 'shadow', `the entry of guest PASID ${place.pasid} is no first-stage table`);
    }
    const { iommufd, device, parentHwpt, trace } = host;
    this.host = host;
    this.place = place;
    this.entry = entry;
    this.faultQueue = iommufd.faultQueueAlloc();
    const table = pointer(entry, 4);
    try {
      this.hwpt = iommufd.hwptAllocVtdS1({
        deviceId: device.id,
        parentId: parentHwpt,
        pageTable: table,
        addressWidth: fieldGet(PASID4_FSPM, entry[4]!) === 0 ? 48 : 57,
        stage1Flags: stage1Flags(entry),
        pasid: true,
        faultId: this.faultQueue.id,
      });
    } catch (error) {
      this.closeFaultQueue();
      throw error;
    }
    try {
      this.attach(old);
    } catch (error) {
      iommufd.destroy(this.hwpt);
      this.closeFaultQueue();
      throw error;
    }
    old?.release();
    if (trace.enabled) {
      trace.emit({ name: 'shadow_set', ...place, hwpt: this.hwpt, table, replaced: old !== null });
    }
  }

  /** True when the guest's entry says what it said when this was made. */
  matches(entry: PasidEntry): boolean {
    return this.entry.every((word, index) => word === entry[index]);
  }

  /** `pages` 4 KiB pages from `address`; 2^64 - 1 pages from 0 is everything. */
  invalidate(address: bigint, pages: bigint, leaf: boolean): void {
    const { iommufd, trace } = this.host;
    iommufd.hwptInvalidateVtdS1(this.hwpt, [{ address, pages, leaf }]);
    if (trace.enabled) {
      trace.emit({ name: 'stage1_invalidate', pasid: this.place.pasid, hwpt: this.hwpt, address, pages });
    }
  }

  /** Moves page requests from the host's queue to the guest's. */
  pumpPageRequests(rid: number): void {
    const { iommufd, trace } = this.host;
    const { pasid } = this.place;
    const { fd } = this.faultQueue;
    if ((iommufd.system.poll(fd) & POLLIN) === 0) return;
    for (const record of iommufd.readFaults(fd)) {
      const { group, last, address, cookie } = record;
      this.cookies.set(group, cookie);
      if (trace.enabled) trace.emit({ name: 'page_request_inject', pasid, group, address, last, cookie });
      this.host.enqueuePageRequest({
        rid,
        pasid,
        access: accessOf(record),
        last,
        group,
        pageHigh: pageHigh(high32(address)),
        pageLow: pageLow(low32(address), high32(address)),
      });
    }
  }

  /** Passes the guest's answer on; nothing happens when no such group of this PASID waits for one. */
  respond(group: number, code: number): void {
    const cookie = this.cookies.get(group);
    if (cookie === undefined) return;
    this.cookies.delete(group);
    const { iommufd, trace } = this.host;
    const { pasid } = this.place;
    if (trace.enabled) trace.emit({ name: 'page_response_forward', pasid, group, code, cookie });
    iommufd.respondFault(this.faultQueue.fd, cookie, code === PRG_SUCCESS);
  }

  /** Blocks both PASIDs; the host answers what the guest has not. Never fails. */
  destroy(): void {
    const { device, trace } = this.host;
    const { pasid, hostPasid } = this.place;
    if (hostPasid !== NO_PASID) device.detach(hostPasid);
    device.detach(pasid);
    this.release();
    if (trace.enabled) trace.emit({ name: 'shadow_clear', pasid, hostPasid, hwpt: this.hwpt });
  }

  private attach(old: Stage1Shadow | null): void {
    const { device } = this.host;
    const { pasid, hostPasid } = this.place;
    device.attach(this.hwpt, pasid);
    if (hostPasid === NO_PASID) return;
    try {
      device.attach(this.hwpt, hostPasid);
    } catch (error) {
      if (old === null) device.detach(pasid);
      else device.attach(old.hwpt, pasid);
      throw error;
    }
  }

  /** Gives the table back after something else was attached in its place. Never fails. */
  release(): void {
    this.host.iommufd.destroy(this.hwpt);
    this.closeFaultQueue();
  }

  private closeFaultQueue(): void {
    const { iommufd } = this.host;
    iommufd.system.close(this.faultQueue.fd);
    iommufd.destroy(this.faultQueue.id);
  }
}

function stage1Flags(entry: PasidEntry): number {
  const word = entry[4]!;
  return (
    ((word & PASID4_SRE) !== 0 ? IOMMU_VTD_S1_SRE : 0) |
    ((word & PASID4_EAFE) !== 0 ? IOMMU_VTD_S1_EAFE : 0) |
    ((word & PASID4_WPE) !== 0 ? IOMMU_VTD_S1_WPE : 0)
  );
}

function accessOf({ access }: FaultRecord): number {
  return (
    ((access & IOMMU_PGFAULT_PERM_READ) !== 0 ? ACCESS_READ : 0) |
    ((access & IOMMU_PGFAULT_PERM_WRITE) !== 0 ? ACCESS_WRITE : 0) |
    ((access & IOMMU_PGFAULT_PERM_EXEC) !== 0 ? ACCESS_EXECUTE : 0) |
    ((access & IOMMU_PGFAULT_PERM_PRIV) !== 0 ? ACCESS_PRIVILEGED : 0)
  );
}
