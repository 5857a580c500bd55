/** The naive model of a pin group: pages that are pinned and charged while anything covers them, in a map by index. */

import { type BufferModel, type Cell, type FileModel, PAGE, type ProcessModel, Refusal } from './memory-model.ts';

export type SourceModel =
  | { readonly kind: 'user'; readonly process: ProcessModel; readonly page: number }
  | { readonly kind: 'file'; readonly file: FileModel | null; readonly page: number }
  | { readonly kind: 'dma-buf'; readonly buffer: BufferModel; readonly page: number };

/** A pin group. */
export class GroupModel {
  readonly source: SourceModel;
  readonly writable: boolean;
  readonly mode: 'none' | 'user' | 'mm';
  payer: ProcessModel;
  /** Pages covered now, by index. Those of a dma-buf have no cell. */
  readonly cells = new Map<number, Cell | null>();
  revoked = false;

  constructor(source: SourceModel, writable: boolean, mode: 'none' | 'user' | 'mm', payer: ProcessModel) {
    this.source = source;
    this.writable = writable;
    this.mode = source.kind === 'dma-buf' ? 'none' : mode;
    this.payer = payer;
  }

  get pinned(): number {
    return this.source.kind === 'dma-buf' ? 0 : this.cells.size;
  }

  /** The page behind an index as pinning finds it now. */
  find(index: number): Cell | null {
    const { source } = this;
    if (source.kind === 'dma-buf') return null;
    const cell =
      source.kind === 'user'
        ? source.process.cellAt(source.page + index, this.writable)
        : (source.file?.cells[source.page + index] ?? null);
    if (cell === null) throw new Refusal(source.kind === 'user' ? 'EFAULT' : 'EINVAL');
    return cell;
  }

  /** Pins what is not pinned of [first, last], all or nothing. */
  cover(first: number, last: number): void {
    const fresh = new Map<number, Cell | null>();
    for (let index = first; index <= last; index++) if (!this.cells.has(index)) fresh.set(index, this.find(index));
    if (fresh.size === 0) return;
    const counter = this.counter;
    if (counter !== null) {
      if (counter.locked + fresh.size > this.payer.memlock) throw new Refusal('ENOMEM');
      counter.locked += fresh.size;
    }
    for (const [index, cell] of fresh) this.cells.set(index, cell);
  }

  /** Unpins everything but `kept`. */
  keep(kept: ReadonlySet<number>): void {
    for (const index of this.cells.keys()) {
      if (kept.has(index)) continue;
      this.cells.delete(index);
      if (this.counter !== null) this.counter.locked--;
    }
  }

  /** What counts the locked pages. */
  get counter(): { locked: number } | null {
    if (this.mode === 'none') return null;
    return this.mode === 'user' ? this.payer.user : this.payer;
  }
}

export type SliceModel = { readonly group: GroupModel; readonly startByte: bigint; readonly length: bigint };

/** Where the memory of a slice lies, in the process, the file or the dma-buf. */
export function addressOf({ group, startByte }: Pick<SliceModel, 'group' | 'startByte'>): bigint {
  return BigInt(group.source.page) * PAGE + startByte;
}
