/**
 * How many intervals of page indexes cover each index of a pin group: the rule that a page is pinned exactly while
 * something covers it. Counts are kept per range, never per page; ranges split where an interval ends inside one, and
 * join again when their counts become equal.
 */

import { type IndexRange, RangeList } from './range-list.ts';

type Counted = { readonly first: number; last: number; readonly users: number };

export class Coverage {
  /** Covered ranges, each with at least one user. */
  private readonly ranges = new RangeList<Counted>();

  /** Reference counters in use. */
  get counters(): number {
    return this.ranges.size;
  }

  get covered(): readonly IndexRange[] {
    return this.ranges.all();
  }

  /** The parts of [first, last] that nothing covers, ascending. */
  holes(first: number, last: number): IndexRange[] {
    const holes: IndexRange[] = [];
    let next = first;
    for (const range of this.ranges.meeting(first, last)) {
      if (range.first > next) holes.push({ first: next, last: range.first - 1 });
      next = range.last + 1;
    }
    if (next <= last) holes.push({ first: next, last });
    return holes;
  }

  add(first: number, last: number): void {
    const after: Counted[] = [];
    let next = first;
    for (const range of this.ranges.meeting(first - 1, last + 1)) {
      append(after, range.first, Math.min(range.last, first - 1), range.users);
      append(after, next, Math.min(range.first - 1, last), 1);
      append(after, Math.max(range.first, first), Math.min(range.last, last), range.users + 1);
      append(after, Math.max(range.first, last + 1), range.last, range.users);
      next = Math.max(range.last + 1, first);
    }
    append(after, next, last, 1);
    this.ranges.replace(first - 1, last + 1, after);
  }

  /** Takes away an interval that was added. Gives the parts that nothing covers any more, ascending. */
  remove(first: number, last: number): IndexRange[] {
    const after: Counted[] = [];
    for (const range of this.ranges.meeting(first - 1, last + 1)) {
      append(after, range.first, Math.min(range.last, first - 1), range.users);
      append(after, Math.max(range.first, first), Math.min(range.last, last), range.users - 1);
      append(after, Math.max(range.first, last + 1), range.last, range.users);
    }
    this.ranges.replace(first - 1, last + 1, after);
    return this.holes(first, last);
  }
}

/** Appends [first, last] unless it is empty or without users, joining it to a last range with as many that it adjoins. */
function append(ranges: Counted[], first: number, last: number, users: number): void {
  if (first > last || users === 0) return;
  const before = ranges[ranges.length - 1];
  if (before !== undefined && before.last + 1 === first && before.users === users) before.last = last;
  else ranges.push({ first, last, users });
}
