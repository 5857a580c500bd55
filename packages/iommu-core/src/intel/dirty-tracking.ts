/**
 * Dirty tracking on a second-stage table: hardware sets the dirty bits of leaves that it writes through while the
 * PASID-table entries say so (Intel VT-d specification, revision 4.1, section 3.7.2; SSADE).
 */

import type { DirtyTracking, DirtyVisitor } from '../domain.ts';
import type { PageTableEditor } from '../page-table/editor.ts';

export type DirtyTrackingHost = {
  /** Rewrites every PASID-table entry that leads to the table. */
  refresh(): void;
  /** Writes through cached translations of pages [first, last] would not mark their leaves again before the next flush. */
  noteStale(first: number, last: number): void;
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

  read(iovaLo: number, iovaHi: number, bytes: number, keep: boolean, visit: DirtyVisitor): void {
    const { table } = this;
    table.readDirty(iovaLo, iovaHi, bytes, keep, visit);
    if (table.lastChanged >= table.firstChanged) this.host.noteStale(table.firstChanged, table.lastChanged);
  }
}
