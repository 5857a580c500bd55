/**
 * Dirty tracking on a second-stage table: hardware sets the dirty bits of leaves that it writes through while the
 * PASID-table entries say so (Intel VT-d specification, revision 4.1, section 3.7.2; SSADE).
 */

import type { DirtyTracking } from '../domain.ts';
import type { PageTableEditor } from '../page-table/editor.ts';
import { coveringRange } from './attachments.ts';

export type DirtyTrackingHost = {
  /** Rewrites every PASID-table entry that leads to the table. */
  refresh(): void;
  /** Flushes cached translations of a naturally aligned range, so that hardware looks at its leaves again. */
  flush(address: bigint, sizeLg2: number): void;
};

export class StageTwoDirtyTracking implements DirtyTracking {
  private readonly table: PageTableEditor;
  private readonly host: DirtyTrackingHost;
  private tracking = false;

  constructor(table: PageTableEditor, host: DirtyTrackingHost) {
    this.table = table;
    this.host = host;
  }

  get enabled(): boolean {
    return this.tracking;
  }

  setEnabled(enabled: boolean): void {
    if (this.tracking === enabled) return;
    this.tracking = enabled;
    this.host.refresh();
  }

  read(iova: bigint, bytes: bigint, keep: boolean, visit: (iova: bigint, bytes: bigint) => void): void {
    let first = -1;
    let last = -1;
    this.table.readDirty(iova, bytes, keep, (start, length) => {
      if (first < 0) first = Number(start >> 12n);
      last = Number((start + length - 1n) >> 12n);
      visit(start, length);
    });
    if (keep || first < 0) return;
    // Writes through a cached translation that is marked dirty would not mark the leaf again.
    const { address, sizeLg2 } = coveringRange(first, last);
    this.host.flush(address, sizeLg2);
  }
}
