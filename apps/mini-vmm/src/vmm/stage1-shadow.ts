/**
 * What the host has for one guest PASID entry: a stage 1 that is the guest's own first-stage table, and the page
 * requests of it that the guest has not answered.
 */

import {
  fieldGet,
  high32,
  low32,
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
import { SysError } from '@iommukit/iommufd';
import type { DmaInterface, GuestTable, Stage1 } from './dma-interface.ts';
import { isWellFormed, type PasidEntry, pointer } from './guest-tables.ts';
import type { VmmEvent } from './trace.ts';

/** What a shadow needs of the VMM. */
export type Stage1Host = {
  dma: DmaInterface;
  /** What the guest's unit shows. */
  features: VtdFeatures;
  /** Puts a page request in the guest's page-request queue. */
  enqueuePageRequest(request: PageRequest): void;
  trace: TraceSink<VmmEvent>;
};

export class Stage1Shadow {
  readonly stage1: Stage1;
  private readonly host: Stage1Host;
  /** The guest's PASID; NO_PASID for requests without one. */
  private readonly pasid: number;
  private readonly entry: PasidEntry;
  /** Cookie of each page request group that the guest has not answered, by group index. */
  private readonly cookies = new Map<number, number>();

  /**
   * Shadows `entry`, in place of `old` when there is one: `old` is used up on success, and to be destroyed on failure.
   * @throws {SysError} EINVAL an entry that the host cannot nest; and what attaching refuses with
   */
  constructor(host: Stage1Host, pasid: number, entry: PasidEntry, old: Stage1Shadow | null) {
    if (fieldGet(PASID0_PGTT, entry[0]!) !== PGTT_FIRST_STAGE || !isWellFormed(entry, host.features)) {
      throw new SysError('EINVAL', 'shadow', `the entry of guest PASID ${pasid} is no first-stage table`);
    }
    const { dma, trace } = host;
    this.host = host;
    this.pasid = pasid;
    this.entry = entry;
    const table = guestTable(entry);
    this.stage1 = dma.nest(pasid, table, old?.stage1 ?? null);
    if (trace.enabled) {
      const { hostPasid, object } = this.stage1;
      trace.emit({ name: 'shadow_set', pasid, hostPasid, ...object, table: table.root, replaced: old !== null });
    }
  }

  /** True when the guest's entry says what it said when this was made. */
  matches(entry: PasidEntry): boolean {
    return this.entry.every((word, index) => word === entry[index]);
  }

  /** `pages` 4 KiB pages from `address`; 2^64 - 1 pages from 0 is everything. @throws {SysError} */
  invalidate(address: bigint, pages: bigint, leaf: boolean): void {
    const { pasid, stage1 } = this;
    const { trace } = this.host;
    stage1.invalidate(address, pages, leaf);
    if (trace.enabled) trace.emit({ name: 'stage1_invalidate', pasid, ...stage1.object, address, pages });
  }

  /** Moves page requests from the host's queue to the guest's. */
  pumpPageRequests(rid: number): void {
    const { pasid } = this;
    const { trace } = this.host;
    for (const { group, last, access, address, cookie } of this.stage1.readPageRequests()) {
      this.cookies.set(group, cookie);
      if (trace.enabled) trace.emit({ name: 'page_request_inject', pasid, group, address, last, cookie });
      this.host.enqueuePageRequest({
        rid,
        pasid,
        access,
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
    const { pasid } = this;
    const { trace } = this.host;
    if (trace.enabled) trace.emit({ name: 'page_response_forward', pasid, group, code, cookie });
    try {
      this.stage1.respond(cookie, code === PRG_SUCCESS);
    } catch (error) {
      // The host has answered it: the function has been reset meanwhile.
      if (!(error instanceof SysError)) throw error;
    }
  }

  /** Blocks the PASID, and what ENQCMD sends for it; the host answers what the guest has not. Never fails. */
  destroy(): void {
    const { pasid, stage1 } = this;
    const { trace } = this.host;
    stage1.destroy();
    if (trace.enabled) trace.emit({ name: 'shadow_clear', pasid, hostPasid: stage1.hostPasid, ...stage1.object });
  }
}

function guestTable(entry: PasidEntry): GuestTable {
  const word = entry[4]!;
  return {
    root: pointer(entry, 4),
    addressWidth: fieldGet(PASID4_FSPM, word) === 0 ? 48 : 57,
    supervisorRequests: (word & PASID4_SRE) !== 0,
    extendedAccessed: (word & PASID4_EAFE) !== 0,
    writeProtect: (word & PASID4_WPE) !== 0,
  };
}
