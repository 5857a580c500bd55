/**
 * PASIDs that must mean the same on every device, because a CPU puts them into ENQCMD: one per address space (Linux:
 * iommu_global_pasid_ida). Others are chosen per device by whoever attaches: a route or an authorisation is what reserves
 * a number there. The two kinds meet in the routes of a group: what is attached at a global PASID there cannot be
 * attached over (EBUSY).
 *
 * A number that is given back while something still names it is parked: nobody gets it before the last name is gone.
 * Names are not counted. Whoever can name PASIDs, in a table, a reference, a queue or a device, registers a function
 * that says whether it does, so a count can never go out of step with what it counts.
 */

import { SysError } from './errno.ts';
import type { Kernel } from './kernel.ts';

const FIRST = 1;

/** Says who names a PASID, for messages, or null when nobody does. */
export type PasidReferrer = (pasid: number) => string | null;

export type PasidRange = {
  /** Lowest PASID to give out; 1 by default. */
  first?: number;
  /** PASIDs below this can be given out. */
  end: number;
  /** False for a PASID that does not suit. */
  usable?: (pasid: number) => boolean;
  /** Only one that nobody names, so that it is not parked when it is given back unused; false by default. */
  unnamed?: boolean;
};

export class GlobalPasids {
  private readonly kernel: Kernel;
  private readonly parks: boolean;
  private readonly used = new Set<number>();
  private readonly given = new Set<number>();
  private readonly referrers = new Set<PasidReferrer>();

  /** `parking` false gives numbers out again at once, named or not: for tests that show what parking is for. */
  constructor(kernel: Kernel, { parking = true }: { parking?: boolean } = {}) {
    this.kernel = kernel;
    this.parks = parking;
  }

  /** PASIDs allocated now. */
  get size(): number {
    return this.used.size;
  }

  /** PASIDs that were given back and are still named, ascending. */
  get parked(): number[] {
    this.unpark();
    return [...this.given].sort((a, b) => a - b);
  }

  has(pasid: number): boolean {
    return this.used.has(pasid);
  }

  /** The lowest PASID of a range that is neither allocated nor parked. @throws {SysError} ENOSPC, ENOMEM */
  allocate({ first = FIRST, end, usable = () => true, unnamed = false }: PasidRange): number {
    this.kernel.checkpoint('global_pasid');
    this.unpark();
    for (let pasid = first; pasid < end; pasid++) {
      if (this.used.has(pasid) || this.given.has(pasid) || !usable(pasid)) continue;
      if (unnamed && this.parks && this.namedBy(pasid) !== null) continue;
      this.used.add(pasid);
      return pasid;
    }
    throw new SysError('ENOSPC', 'iommu_alloc_global_pasid', `no free PASID in ${first}..${end - 1}`);
  }

  /** Gives `pasid` back. It is parked while something names it. Never fails. */
  free(pasid: number): void {
    if (this.used.delete(pasid) && this.parks && this.namedBy(pasid) !== null) this.given.add(pasid);
  }

  /** Who names `pasid` now, or null. */
  namedBy(pasid: number): string | null {
    for (const referrer of this.referrers) {
      const name = referrer(pasid);
      if (name !== null) return name;
    }
    return null;
  }

  /** Has `referrer` asked before a number is given out again, until the function given back is called. */
  addReferrer(referrer: PasidReferrer): () => void {
    this.referrers.add(referrer);
    return () => this.referrers.delete(referrer);
  }

  private unpark(): void {
    for (const pasid of this.given) if (this.namedBy(pasid) === null) this.given.delete(pasid);
  }
}
