/**
 * The nodes of an interval tree, in one buffer: 2 KiB each, so that a search in one touches little memory. An entry, of a
 * leaf or above, has a first and a last position and stands for something: an interval's item, or a node, whose whole
 * extent it covers and whose widest gap it knows.
 *
 * `at` names an entry: the node's number and the slot in it. Positions are a page number and a byte in the page.
 */

/** Entries of a node. */
export const FANOUT = 64;
/** log2 of the doubles of a node: for each entry its last page, its first page and the widest gap under it, in bytes... */
const NODE_LG2 = 8;
const FIRST = FANOUT;
const GAP = 2 * FANOUT;
/** ... and in place of a fourth two words: the bytes of its last and its first position, and what it stands for. */
const WORDS = 3 * FANOUT;
const BYTE_BITS = 12;
const BYTE_MASK = 4095;
/** No node. */
export const NONE = -1;
/** Widths saturate here: 2^53 bytes, beyond which a double does not count bytes. */
export const WIDTH_MAX: number = 2 ** 53;

export class IntervalNodes {
  private numbers = new Float64Array(1 << NODE_LG2);
  private words = new Int32Array(this.numbers.buffer);
  private counts = new Uint8Array(1);
  /** Head of the list of free nodes, linked through what their first entries stand for; from `used` on all are unused. */
  private free = NONE;
  private used = 0;

  /** An empty node. */
  allocate(): number {
    if (this.free !== NONE) {
      const node = this.free;
      this.free = this.item(entry(node, 0));
      return node;
    }
    if (this.used === this.counts.length) this.grow();
    return this.used++;
  }

  release(node: number): void {
    this.counts[node] = 0;
    this.words[wordOf(entry(node, 0)) + 1] = this.free;
    this.free = node;
  }

  /** Entries of the node. */
  count(node: number): number {
    return this.counts[node]!;
  }

  firstPage(at: number): number {
    return this.numbers[at + FIRST]!;
  }

  firstByte(at: number): number {
    return this.words[wordOf(at)]! & BYTE_MASK;
  }

  lastPage(at: number): number {
    return this.numbers[at]!;
  }

  lastByte(at: number): number {
    return this.words[wordOf(at)]! >>> BYTE_BITS;
  }

  /** Bytes of the widest gap between intervals under an entry; 0 for one of a leaf. */
  gap(at: number): number {
    return this.numbers[at + GAP]!;
  }

  /** What the entry stands for: a node, or in a leaf whatever it was set to. */
  item(at: number): number {
    return this.words[wordOf(at) + 1]!;
  }

  /** Makes the entry of a leaf. */
  set(at: number, firstPage: number, firstByte: number, lastPage: number, lastByte: number, item: number): void {
    this.numbers[at] = lastPage;
    this.numbers[at + FIRST] = firstPage;
    this.numbers[at + GAP] = 0;
    this.words[wordOf(at)] = firstByte | (lastByte << BYTE_BITS);
    this.words[wordOf(at) + 1] = item;
  }

  /** Makes the entry stand for `node`. */
  summarize(at: number, node: number, widest: number): void {
    const first = entry(node, 0);
    const last = first + this.counts[node]! - 1;
    this.numbers[at] = this.numbers[last]!;
    this.numbers[at + FIRST] = this.numbers[first + FIRST]!;
    this.numbers[at + GAP] = widest;
    this.words[wordOf(at)] = this.firstByte(first) | (this.lastByte(last) << BYTE_BITS);
    this.words[wordOf(at) + 1] = node;
  }

  /** Whether the entry says of `node` what `summarize` would make it say. */
  standsFor(at: number, node: number, widest: number): boolean {
    const first = entry(node, 0);
    const last = first + this.counts[node]! - 1;
    return (
      this.numbers[at + GAP] === widest &&
      this.numbers[at] === this.numbers[last] &&
      this.numbers[at + FIRST] === this.numbers[first + FIRST] &&
      this.words[wordOf(at)] === (this.firstByte(first) | (this.lastByte(last) << BYTE_BITS))
    );
  }

  /** Slot of the first entry that ends at or after the position; the number of entries when there is none. */
  lowerBound(node: number, page: number, byte: number): number {
    const { numbers } = this;
    const base = entry(node, 0);
    let low = 0;
    let high = this.counts[node]!;
    while (low < high) {
      const middle = (low + high) >> 1;
      const last = numbers[base + middle]!;
      if (last < page || (last === page && this.lastByte(base + middle) < byte)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Makes room for an entry at `slot`; the node is not full. */
  open(node: number, slot: number): void {
    const count = this.counts[node]!;
    this.move(entry(node, slot) + 1, entry(node, slot), count - slot);
    this.counts[node] = count + 1;
  }

  /** Takes the entry at `slot` out. */
  close(node: number, slot: number): void {
    const count = this.counts[node]! - 1;
    this.move(entry(node, slot), entry(node, slot) + 1, count - slot);
    this.counts[node] = count;
  }

  /** Moves the entries of a node from `slot` on into an empty one. */
  split(node: number, slot: number, into: number): void {
    const count = this.counts[node]! - slot;
    this.move(entry(into, 0), entry(node, slot), count);
    this.counts[node] = slot;
    this.counts[into] = count;
  }

  /** Bytes between entries `slot` and `slot + 1`. */
  between(node: number, slot: number): number {
    const at = entry(node, slot);
    const pages = this.numbers[at + 1 + FIRST]! - this.numbers[at]!;
    const width = pages * 4096 + (this.firstByte(at + 1) - this.lastByte(at) - 1);
    return Math.min(width, WIDTH_MAX);
  }

  /** The widest gap that entry `slot` has a part in: inside it, before it or after it. */
  contribution(node: number, slot: number): number {
    const inside = this.numbers[entry(node, slot) + GAP]!;
    const before = slot > 0 ? this.between(node, slot - 1) : 0;
    const after = slot + 1 < this.counts[node]! ? this.between(node, slot) : 0;
    return Math.max(inside, before, after);
  }

  /** The widest gap in the node. */
  widestGap(node: number): number {
    const { numbers, words } = this;
    const first = entry(node, 0);
    const end = first + this.counts[node]!;
    let widest = numbers[first + GAP]!;
    let lastByte = this.lastByte(first);
    for (let at = first + 1; at < end; at++) {
      const word = words[wordOf(at)]!;
      const before = (numbers[at + FIRST]! - numbers[at - 1]!) * 4096 + ((word & BYTE_MASK) - lastByte - 1);
      if (before > widest) widest = before;
      const inside = numbers[at + GAP]!;
      if (inside > widest) widest = inside;
      lastByte = word >>> BYTE_BITS;
    }
    return Math.min(widest, WIDTH_MAX);
  }

  /** Copies `count` entries, which may overlap those they are copied to. One by one: they are few. */
  private move(to: number, from: number, count: number): void {
    if (to < from) for (let i = 0; i < count; i++) this.copy(to + i, from + i);
    else for (let i = count - 1; i >= 0; i--) this.copy(to + i, from + i);
  }

  private copy(to: number, from: number): void {
    const { numbers, words } = this;
    numbers[to] = numbers[from]!;
    numbers[to + FIRST] = numbers[from + FIRST]!;
    numbers[to + GAP] = numbers[from + GAP]!;
    words[wordOf(to)] = words[wordOf(from)]!;
    words[wordOf(to) + 1] = words[wordOf(from) + 1]!;
  }

  private grow(): void {
    const nodes = this.counts.length * 2;
    const numbers = new Float64Array(nodes << NODE_LG2);
    const counts = new Uint8Array(nodes);
    numbers.set(this.numbers);
    counts.set(this.counts);
    this.numbers = numbers;
    this.words = new Int32Array(numbers.buffer);
    this.counts = counts;
  }
}

/** The entry in a slot of a node. */
export function entry(node: number, slot: number): number {
  return (node << NODE_LG2) + slot;
}

/** Index of the first word of an entry. */
function wordOf(at: number): number {
  return (at + WORDS) << 1;
}
