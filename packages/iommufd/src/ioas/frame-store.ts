/**
 * The frames of a pin group's pinned pages, by page index. This is what mappings are built from and what unpinning
 * gives back, so that nothing depends on what the process does to its addresses meanwhile.
 */

import { PfnRuns } from '@iommukit/iommu-core';

/** Pages pinned in one piece: bounds the work of taking a part of it out. */
export const PIECE_PAGES = 4096;

/** Pinned pages from index `first`. */
export type Piece = { readonly first: number; readonly runs: PfnRuns };

export class FrameStore {
  /** Ascending and disjoint; holes are pages that are not pinned. */
  private pieces: Piece[] = [];
  private count = 0;

  /** Pages whose frames are here. */
  get pages(): number {
    return this.count;
  }

  /** Stores the frames of the pages from index `first`, none of which is here. */
  put(first: number, runs: PfnRuns): void {
    this.pieces.splice(this.find(first), 0, { first, runs });
    this.count += runs.pages;
  }

  /** Takes the frames of [first, last] out, all of which are here, a list of runs for each piece. */
  take(first: number, last: number): PfnRuns[] {
    const from = this.find(first);
    let to = from;
    const taken: PfnRuns[] = [];
    const kept: Piece[] = [];
    for (; to < this.pieces.length && this.pieces[to]!.first <= last; to++) {
      const piece = this.pieces[to]!;
      const pieceLast = piece.first + piece.runs.pages - 1;
      if (piece.first < first) kept.push({ first: piece.first, runs: slice(piece, piece.first, first - 1) });
      if (pieceLast > last) kept.push({ first: last + 1, runs: slice(piece, last + 1, pieceLast) });
      const whole = piece.first >= first && pieceLast <= last;
      taken.push(whole ? piece.runs : slice(piece, Math.max(first, piece.first), Math.min(last, pieceLast)));
    }
    this.pieces.splice(from, to - from, ...kept);
    for (const runs of taken) this.count -= runs.pages;
    return taken;
  }

  /** Calls `visit` for the longest runs of adjoining frames behind [first, last], all of which are here, in order. */
  forEachRun(first: number, last: number, visit: (pfn: number, pages: number) => void): void {
    let start = 0;
    let length = 0;
    for (let at = this.find(first); at < this.pieces.length && this.pieces[at]!.first <= last; at++) {
      const { first: pieceFirst, runs } = this.pieces[at]!;
      let index = pieceFirst;
      for (let run = 0; run < runs.count && index <= last; run++) {
        const from = Math.max(index, first);
        const pages = Math.min(index + runs.lengths[run]! - 1, last) - from + 1;
        const pfn = runs.starts[run]! + (from - index);
        index += runs.lengths[run]!;
        if (pages <= 0) continue;
        if (length > 0 && start + length === pfn) {
          length += pages;
          continue;
        }
        if (length > 0) visit(start, length);
        start = pfn;
        length = pages;
      }
    }
    if (length > 0) visit(start, length);
  }

  /** Index of the first piece that ends at or after `index`. */
  private find(index: number): number {
    let low = 0;
    let high = this.pieces.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const piece = this.pieces[middle]!;
      if (piece.first + piece.runs.pages <= index) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** The part [first, last] of a piece. */
function slice(piece: Piece, first: number, last: number): PfnRuns {
  const part = new PfnRuns();
  let index = piece.first;
  for (let run = 0; run < piece.runs.count && index <= last; run++) {
    const length = piece.runs.lengths[run]!;
    const from = Math.max(index, first);
    const pages = Math.min(index + length - 1, last) - from + 1;
    if (pages > 0) part.push(piece.runs.starts[run]! + (from - index), pages);
    index += length;
  }
  return part;
}
