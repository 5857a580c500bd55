/**
 * Disjoint closed intervals of page indexes in ascending order, with what belongs to each. They lie in a list of short
 * lists: what happens at one place costs hardly more with a million intervals than with a few.
 */

/** A closed interval of page indexes. */
export type IndexRange = { readonly first: number; readonly last: number };

/** A list that grows longer than this is cut into halves of it. */
const LIMIT = 128;

export class RangeList<T extends IndexRange> {
  /** None is empty. */
  private lists: T[][] = [];
  private count = 0;

  /** Intervals in the list. */
  get size(): number {
    return this.count;
  }

  /** All intervals, ascending. */
  all(): T[] {
    return this.lists.flat();
  }

  /** The intervals that meet [first, last], ascending. */
  meeting(first: number, last: number): T[] {
    const found: T[] = [];
    for (let list = this.listAt(first); list < this.lists.length; list++) {
      const ranges = this.lists[list]!;
      for (let at = lowerBound(ranges, first); at < ranges.length; at++) {
        const range = ranges[at]!;
        if (range.first > last) return found;
        found.push(range);
      }
    }
    return found;
  }

  /** Puts `fresh`, which are ascending and meet none of the others, in place of the intervals that meet [first, last]. */
  replace(first: number, last: number, fresh: readonly T[]): void {
    const { lists } = this;
    if (lists.length === 0) {
      this.lists = [fresh.slice()];
      this.count = fresh.length;
      this.balance(0);
      return;
    }
    const list = Math.min(this.listAt(first), lists.length - 1);
    const ranges = lists[list]!;
    const at = lowerBound(ranges, first);
    const gone = upperBound(ranges, last) - at;
    this.count += fresh.length - gone;
    if (at + gone === ranges.length) this.dropFrom(list + 1, last);
    if (fresh.length > 1) lists[list] = ranges.slice(0, at).concat(fresh, ranges.slice(at + gone));
    else if (fresh.length === 1) ranges.splice(at, gone, fresh[0]!);
    else ranges.splice(at, gone);
    this.balance(list);
  }

  /** Takes out what begins at or before `last` in `list` and those after it. */
  private dropFrom(list: number, last: number): void {
    const { lists } = this;
    let whole = list;
    for (; whole < lists.length; whole++) {
      const ranges = lists[whole]!;
      const gone = upperBound(ranges, last);
      this.count -= gone;
      if (gone === ranges.length) continue;
      ranges.splice(0, gone);
      break;
    }
    lists.splice(list, whole - list);
  }

  private balance(list: number): void {
    const ranges = this.lists[list]!;
    if (ranges.length === 0) this.lists.splice(list, 1);
    if (ranges.length <= LIMIT) return;
    const parts: T[][] = [];
    for (let at = 0; at < ranges.length; at += LIMIT / 2) parts.push(ranges.slice(at, at + LIMIT / 2));
    this.lists = this.lists.slice(0, list).concat(parts, this.lists.slice(list + 1));
  }

  /** Index of the first list that ends at or after `index`. */
  private listAt(index: number): number {
    const { lists } = this;
    let low = 0;
    let high = lists.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const ranges = lists[middle]!;
      if (ranges[ranges.length - 1]!.last < index) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Index of the first interval that ends at or after `index`. */
function lowerBound(ranges: readonly IndexRange[], index: number): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle]!.last < index) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Index of the first interval that begins after `index`. */
function upperBound(ranges: readonly IndexRange[], index: number): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle]!.first <= index) low = middle + 1;
    else high = middle;
  }
  return low;
}
