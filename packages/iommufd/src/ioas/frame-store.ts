/**
 * The frames of a pin group's pinned pages, by page index. This is what mappings are built from and what unpinning
 * gives back, so that nothing depends on what the process does to its addresses meanwhile.
 */

import { PfnRuns } from '@iommukit/iommu-core';
import { RangeList } from './range-list.ts';

/** Pages pinned in one piece: bounds the work of taking a part of it out. */
export const PIECE_PAGES = 4096;

/** Pinned pages from index `first`: all of `runs`, which is not empty. */
export class Piece {
  readonly first: number;
  readonly last: number;
  readonly runs: PfnRuns;

  constructor(first: number, runs: PfnRuns) {
    this.first = first;
    this.last = first + runs.pages - 1;
    this.runs = runs;
  }
}

/** Sees `pages` adjoining frames from `pfn`, behind the pages `done` pages further than where the visit began. */
export type RunVisitor = (pfn: number, pages: number, done: number) => void;

export class FrameStore {
  /** Holes between them are pages that are not pinned. */
  private readonly pieces = new RangeList<Piece>();
  private count = 0;

  /** Pages whose frames are here. */
  get pages(): number {
    return this.count;
  }

  /** Stores the frames of pages none of which is here. */
  put(piece: Piece): void {
    this.pieces.replace(piece.first, piece.last, [piece]);
    this.count += piece.runs.pages;
  }

  /** Takes the frames of [first, last] out, all of which are here, a list of runs for each piece. */
  take(first: number, last: number): PfnRuns[] {
    const taken: PfnRuns[] = [];
    const kept: Piece[] = [];
    for (const piece of this.pieces.meeting(first, last)) {
      if (piece.first < first) kept.push(slice(piece, piece.first, first - 1));
      if (piece.last > last) kept.push(slice(piece, last + 1, piece.last));
      const whole = piece.first >= first && piece.last <= last;
      taken.push(whole ? piece.runs : slice(piece, Math.max(first, piece.first), Math.min(last, piece.last)).runs);
    }
    this.pieces.replace(first, last, kept);
    this.count -= last - first + 1;
    return taken;
  }

  /** Calls `visit` for the longest runs of adjoining frames behind [first, last], all of which are here, in order. */
  forEachRun(first: number, last: number, visit: RunVisitor): void {
    let start = 0;
    let length = 0;
    let done = 0;
    for (const piece of this.pieces.meeting(first, last)) {
      const { starts, lengths, count } = piece.runs;
      let index = piece.first;
      for (let run = 0; run < count && index <= last; run++) {
        const from = Math.max(index, first);
        const pages = Math.min(index + lengths[run]! - 1, last) - from + 1;
        const pfn = starts[run]! + (from - index);
        index += lengths[run]!;
        if (pages <= 0) continue;
        if (length > 0 && start + length === pfn) {
          length += pages;
          continue;
        }
        if (length > 0) visit(start, length, done);
        done += length;
        start = pfn;
        length = pages;
      }
    }
    if (length > 0) visit(start, length, done);
  }
}

/** The part [first, last] of a piece. */
function slice(piece: Piece, first: number, last: number): Piece {
  const runs = new PfnRuns();
  let index = piece.first;
  for (let run = 0; run < piece.runs.count && index <= last; run++) {
    const length = piece.runs.lengths[run]!;
    const from = Math.max(index, first);
    const pages = Math.min(index + length - 1, last) - from + 1;
    if (pages > 0) runs.push(piece.runs.starts[run]! + (from - index), pages);
    index += length;
  }
  return new Piece(first, runs);
}
