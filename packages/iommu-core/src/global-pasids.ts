/**
 * PASIDs that must mean the same on every device, because a CPU puts them into ENQCMD: one per address space (Linux:
 * iommu_global_pasid_ida). Others are chosen per device by whoever attaches. The two kinds meet in the routes of a
 * group: what is attached at a global PASID there cannot be attached over (EBUSY).
 */

import { SysError } from './errno.ts';
import type { Kernel } from './kernel.ts';

const FIRST = 1;

export class GlobalPasids {
  private readonly kernel: Kernel;
  private readonly used = new Set<number>();

  constructor(kernel: Kernel) {
    this.kernel = kernel;
  }

  /** PASIDs allocated now. */
  get size(): number {
    return this.used.size;
  }

  has(pasid: number): boolean {
    return this.used.has(pasid);
  }

  /** The lowest free PASID that is below `limit` and for which `usable` holds. @throws {SysError} ENOSPC, ENOMEM */
  allocate(limit: number, usable: (pasid: number) => boolean = () => true): number {
    this.kernel.checkpoint('global_pasid');
    for (let pasid = FIRST; pasid < limit; pasid++) {
      if (this.used.has(pasid) || !usable(pasid)) continue;
      this.used.add(pasid);
      return pasid;
    }
    throw new SysError('ENOSPC', 'iommu_alloc_global_pasid', `no free PASID below ${limit}`);
  }

  /** Gives `pasid` back. Nothing may be attached at it any more. */
  free(pasid: number): void {
    this.used.delete(pasid);
  }
}
