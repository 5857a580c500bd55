/**
 * How many intervals of page indexes cover each index of a pin group: the rule that a page is pinned exactly while
 * something covers it. Counts are kept per range, never per page; ranges split where an interval ends inside one, and
 * join again when their counts become equal.
 */

/** A closed interval of page indexes. */
export type IndexRange = { readonly first: number; readonly last: number };

type Counted = { readonly first: number; readonly last: number; users: number };

export class Coverage {
  /** Covered ranges, ascending, disjoint, each with at least one user. */
  private ranges: Counted[] = [];

  /** Reference counters in use. */
  get counters(): number {
    return this.ranges.length;
  }

  get covered(): readonly IndexRange[] {
    return this.ranges;
  }

  /** The parts of [first, last] that nothing covers, ascending. */
  holes(first: number, last: number): IndexRange[] {
    const holes: IndexRange[] = [];
    let next = first;
    for (let at = this.find(first); at < this.ranges.length && this.ranges[at]!.first <= last; at++) {
      const range = this.ranges[at]!;
      if (range.first > next) holes.push({ first: next, last: range.first - 1 });
      next = range.last + 1;
    }
    if (next <= last) holes.push({ first: next, last });
    return holes;
  }

  add(first: number, last: number): void {
    const holes = this.holes(first, last);
    this.splitAt(first);
    this.splitAt(last + 1);
    for (let at = this.find(first); at < this.ranges.length && this.ranges[at]!.first <= last; at++) {
      this.ranges[at]!.users++;
    }
    for (const hole of holes) this.ranges.splice(this.find(hole.first), 0, { ...hole, users: 1 });
    this.join(first, last);
  }

  /** Takes away an interval that was added. Gives the parts that nothing covers any more, ascending. */
  remove(first: number, last: number): IndexRange[] {
    this.splitAt(first);
    this.splitAt(last + 1);
    const from = this.find(first);
    let to = from;
    const kept: Counted[] = [];
    const gone: IndexRange[] = [];
    for (; to < this.ranges.length && this.ranges[to]!.first <= last; to++) {
      const range = this.ranges[to]!;
      if (--range.users > 0) {
        kept.push(range);
        continue;
      }
      const before = gone[gone.length - 1];
      if (before !== undefined && before.last + 1 === range.first) {
        gone[gone.length - 1] = { first: before.first, last: range.last };
      } else gone.push({ first: range.first, last: range.last });
    }
    this.ranges.splice(from, to - from, ...kept);
    this.join(first, last);
    return gone;
  }

  /** Index of the first range that ends at or after `index`. */
  private find(index: number): number {
    let low = 0;
    let high = this.ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ranges[middle]!.last < index) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Makes no range lie on both sides of the boundary before `index`. */
  private splitAt(index: number): void {
    const at = this.find(index);
    const range = this.ranges[at];
    if (range === undefined || range.first >= index) return;
    const { first, last, users } = range;
    this.ranges.splice(at, 1, { first, last: index - 1, users }, { first: index, last, users });
  }

  /** Joins equal neighbours from the range before `first` to the one after `last`. */
  private join(first: number, last: number): void {
    const from = Math.max(this.find(first) - 1, 0);
    let to = from;
    const joined: Counted[] = [];
    for (; to < this.ranges.length && (to === from || this.ranges[to - 1]!.first <= last); to++) {
      const range = this.ranges[to]!;
      const before = joined[joined.length - 1];
      if (before !== undefined && before.last + 1 === range.first && before.users === range.users) {
        joined[joined.length - 1] = { first: before.first, last: range.last, users: range.users };
      } else joined.push(range);
    }
    if (joined.length < to - from) this.ranges.splice(from, to - from, ...joined);
  }
}
