/**
 * Disjoint closed intervals of I/O virtual addresses, in order: a B+-tree whose nodes lie in typed arrays.
 *
 * A position is a page number (a double, exact to the full 52 bits) and a byte offset in the page, because areas are
 * byte-granular. Every entry of a node, leaf or inner, has a first and a last position; an inner entry stands for its
 * child's whole extent and knows the widest gap inside it, so that the first gap that is wide enough is found without
 * looking at the intervals before it. Nodes are freed only when they are empty.
 */

/** Entries of a node. */
const FANOUT = 64;
/** Numbers of an entry in `pages`: first page, last page, and the widest gap under an inner entry, in bytes. */
const STRIDE = 3;
const LAST = 1;
const GAP = 2;
/** No node; a height of 12 levels holds more intervals than there are pages. */
const NONE = -1;
const MAX_HEIGHT = 12;
/** Widths saturate here: 2^53 bytes, beyond which a double does not count bytes. */
const WIDTH_MAX = 2 ** 53;
const WIDTH_MAX_PAGES = 2 ** 41;
const LAST_PAGE = 2 ** 52 - 1;

/** What `findGap` looks for. */
export type GapRequest = {
  /** Bytes wanted, less one: whole pages, and the rest in bytes. */
  readonly pages: number;
  readonly bytes: number;
  /** Power of two, at most 2^31. */
  readonly alignment: number;
  /** Set in the aligned address; below `alignment` rounded up to a page. */
  readonly pageOffset: number;
};

export class IntervalTree<T> {
  /** STRIDE numbers for each entry of each node. The gap of a leaf entry is 0. */
  private pages = new Float64Array(FANOUT * STRIDE);
  /** Byte of the first and of the last position in its page, for each entry. */
  private bytes = new Uint16Array(FANOUT * 2);
  /** Child node of an inner entry, index into `items` of a leaf entry. */
  private child = new Int32Array(FANOUT);
  private counts = new Uint8Array(1);
  private readonly items: (T | null)[] = [];
  private readonly freeItems: number[] = [];
  /** Head of the list of free nodes, linked through `child`; nodes from `used` on have never been used. */
  private free = NONE;
  private used = 1;
  private root = 0;
  private rootGap = 0;
  private height = 1;
  private total = 0;
  /** Nodes from the root to a leaf, and the slot taken in each, of the last descent; index 0 is the leaf level. */
  private readonly pathNode = new Int32Array(MAX_HEIGHT);
  private readonly pathSlot = new Int32Array(MAX_HEIGHT);
  private cursorPage = 0;
  private cursorByte = 0;
  private endPage = 0;
  private endByte = 0;
  /** Position of the last gap found, already aligned. */
  foundPage = 0;
  foundByte = 0;

  /** Intervals in the tree. */
  get size(): number {
    return this.total;
  }

  /** Adds an interval that meets no other. */
  insert(startPage: number, startByte: number, lastPage: number, lastByte: number, item: T): void {
    const leaf = this.descend(startPage, startByte, true);
    const count = this.counts[leaf]!;
    const slot = this.lowerBound(leaf, count, startPage, startByte);
    const before = slot > 0 && slot < count ? this.between(leaf, slot - 1) : 0;
    this.openSlot(leaf, slot);
    const at = leaf * FANOUT + slot;
    this.pages[at * STRIDE] = startPage;
    this.pages[at * STRIDE + LAST] = lastPage;
    this.pages[at * STRIDE + GAP] = 0;
    this.bytes[at * 2] = startByte;
    this.bytes[at * 2 + 1] = lastByte;
    this.child[at] = this.addItem(item);
    this.total++;
    this.updateUp(0, before, this.contribution(leaf, slot));
  }

  /** Takes out the interval that starts at exactly this position. Null when there is none. */
  remove(startPage: number, startByte: number): T | null {
    const leaf = this.descend(startPage, startByte, false);
    const slot = this.lowerBound(leaf, this.counts[leaf]!, startPage, startByte);
    const at = leaf * FANOUT + slot;
    if (slot === this.counts[leaf]) return null;
    if (this.pages[at * STRIDE] !== startPage || this.bytes[at * 2] !== startByte) return null;
    const index = this.child[at]!;
    const item = this.items[index] as T;
    this.items[index] = null;
    this.freeItems.push(index);
    this.total--;
    this.removeEntry(0, leaf, slot);
    return item;
  }

  /** The first interval that ends at or after this position. */
  firstFrom(page: number, byte: number): T | null {
    const leaf = this.descend(page, byte, false);
    const slot = this.lowerBound(leaf, this.counts[leaf]!, page, byte);
    return slot === this.counts[leaf] ? null : this.items[this.child[leaf * FANOUT + slot]!]!;
  }

  /** Calls `visit` for every interval, ascending. The tree must not change meanwhile. */
  walk(visit: (item: T) => void): void {
    this.visitNode(this.root, this.height - 1, visit);
  }

  /**
   * The first position in [from, to] at which the request fits: aligned, and free of intervals to its last byte.
   * True leaves the position in `foundPage` and `foundByte`. Gaps are tried in ascending order. As in Linux, a gap
   * whose aligned part is a single byte is passed over.
   */
  findGap(fromPage: number, fromByte: number, toPage: number, toByte: number, request: GapRequest): boolean {
    this.cursorPage = fromPage;
    this.cursorByte = fromByte;
    this.endPage = toPage;
    this.endByte = toByte;
    const need = request.pages >= WIDTH_MAX_PAGES ? WIDTH_MAX : request.pages * 4096 + request.bytes + 1;
    if (this.total > 0) {
      if (this.searchNode(this.root, this.height - 1, need, request)) return true;
      if (this.cursorPage > LAST_PAGE) return false;
    }
    return this.fits(this.endPage, this.endByte, request);
  }

  /**
   * Tries the gaps under `node` that lie after the cursor, moving the cursor past each interval. False with the
   * cursor after the last interval, or past the end of the search.
   */
  private searchNode(node: number, level: number, need: number, request: GapRequest): boolean {
    const base = node * FANOUT;
    const count = this.counts[node]!;
    for (let slot = this.lowerBound(node, count, this.cursorPage, this.cursorByte); slot < count; slot++) {
      const at = base + slot;
      const page = this.pages[at * STRIDE]!;
      const byte = this.bytes[at * 2]!;
      if (page > this.endPage || (page === this.endPage && byte > this.endByte)) {
        // The last gap is tried here: the levels above move the cursor past the whole node.
        return this.fits(this.endPage, this.endByte, request);
      }
      if (page > this.cursorPage || (page === this.cursorPage && byte > this.cursorByte)) {
        if (this.fits(byte > 0 ? page : page - 1, byte > 0 ? byte - 1 : 4095, request)) return true;
      }
      if (
        level > 0 &&
        this.pages[at * STRIDE + GAP]! >= need &&
        this.searchNode(this.child[at]!, level - 1, need, request)
      )
        return true;
      const lastPage = this.pages[at * STRIDE + LAST]!;
      const lastByte = this.bytes[at * 2 + 1]!;
      this.cursorPage = lastByte === 4095 ? lastPage + 1 : lastPage;
      this.cursorByte = lastByte === 4095 ? 0 : lastByte + 1;
    }
    return false;
  }

  /** Whether the request fits between the cursor and (`lastPage`, `lastByte`), cut to the end of the search. */
  private fits(lastPage: number, lastByte: number, request: GapRequest): boolean {
    if (lastPage > this.endPage || (lastPage === this.endPage && lastByte > this.endByte)) {
      lastPage = this.endPage;
      lastByte = this.endByte;
    }
    let page = this.cursorPage;
    let byte = this.cursorByte;
    const { alignment } = request;
    if (alignment >= 4096) {
      const unit = alignment / 4096;
      page = Math.ceil((byte > 0 ? page + 1 : page) / unit) * unit;
      byte = 0;
    } else {
      byte = (byte + alignment - 1) & -alignment;
      if (byte === 4096) {
        page++;
        byte = 0;
      }
    }
    byte |= request.pageOffset;
    if (page > lastPage || (page === lastPage && byte >= lastByte)) return false;
    const end = byte + request.bytes;
    const endPage = page + request.pages + (end >= 4096 ? 1 : 0);
    if (endPage > lastPage || (endPage === lastPage && (end & 4095) > lastByte)) return false;
    this.foundPage = page;
    this.foundByte = byte;
    return true;
  }

  private visitNode(node: number, level: number, visit: (item: T) => void): void {
    const base = node * FANOUT;
    for (let slot = 0; slot < this.counts[node]!; slot++) {
      const child = this.child[base + slot]!;
      if (level === 0) visit(this.items[child] as T);
      else this.visitNode(child, level - 1, visit);
    }
  }

  /** Goes to the leaf where a position belongs, noting the path. `split` makes room on the way, for one more entry. */
  private descend(page: number, byte: number, split: boolean): number {
    if (split && this.counts[this.root] === FANOUT) this.growRoot();
    let node = this.root;
    for (let level = this.height - 1; ; level--) {
      this.pathNode[level] = node;
      if (level === 0) return node;
      const count = this.counts[node]!;
      let slot = Math.min(this.lowerBound(node, count, page, byte), count - 1);
      if (split && this.counts[this.child[node * FANOUT + slot]!] === FANOUT) {
        this.splitChild(node, slot, page, byte);
        slot = Math.min(this.lowerBound(node, count + 1, page, byte), count);
      }
      this.pathSlot[level] = slot;
      node = this.child[node * FANOUT + slot]!;
    }
  }

  /** Slot of the first of `count` entries that ends at or after the position. */
  private lowerBound(node: number, count: number, page: number, byte: number): number {
    const { pages } = this;
    const base = node * FANOUT;
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >> 1;
      const last = pages[(base + middle) * STRIDE + LAST]!;
      if (last < page || (last === page && this.bytes[(base + middle) * 2 + 1]! < byte)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Bytes between entries `slot` and `slot + 1` of a node. */
  private between(node: number, slot: number): number {
    const at = node * FANOUT + slot;
    const pages = this.pages[(at + 1) * STRIDE]! - this.pages[at * STRIDE + LAST]!;
    if (pages >= WIDTH_MAX_PAGES) return WIDTH_MAX;
    return pages * 4096 + this.bytes[(at + 1) * 2]! - this.bytes[at * 2 + 1]! - 1;
  }

  /** The widest gap that entry `slot` has a part in: inside it, before it or after it. */
  private contribution(node: number, slot: number): number {
    let widest = this.pages[(node * FANOUT + slot) * STRIDE + GAP]!;
    if (slot > 0) widest = Math.max(widest, this.between(node, slot - 1));
    if (slot + 1 < this.counts[node]!) widest = Math.max(widest, this.between(node, slot));
    return widest;
  }

  private widestGap(node: number): number {
    let widest = 0;
    for (let slot = 0; slot < this.counts[node]!; slot++) {
      widest = Math.max(widest, this.pages[(node * FANOUT + slot) * STRIDE + GAP]!);
      if (slot > 0) widest = Math.max(widest, this.between(node, slot - 1));
    }
    return widest;
  }

  /**
   * After a change in the node at `level` of the path that replaced a contribution of `before` by one of `after`:
   * brings the node's summary in its parent up to date, and so on up to the root.
   */
  private updateUp(level: number, before: number, after: number): void {
    for (; ; level++) {
      const node = this.pathNode[level]!;
      const isRoot = level === this.height - 1;
      const parent = isRoot ? NONE : this.pathNode[level + 1]!;
      const slot = isRoot ? 0 : this.pathSlot[level + 1]!;
      const at = parent * FANOUT + slot;
      const old = isRoot ? this.rootGap : this.pages[at * STRIDE + GAP]!;
      const widest = after >= old ? after : before < old ? old : this.widestGap(node);
      if (isRoot) {
        this.rootGap = widest;
        return;
      }
      if (this.standsFor(at, node, widest)) return;
      before = this.contribution(parent, slot);
      this.summarize(at, node, widest);
      after = this.contribution(parent, slot);
    }
  }

  /** Whether the entry at index `at` says of `node` what `summarize` would make it say. */
  private standsFor(at: number, node: number, widest: number): boolean {
    const { pages, bytes } = this;
    const first = node * FANOUT;
    const last = first + this.counts[node]! - 1;
    return (
      pages[at * STRIDE + GAP] === widest &&
      pages[at * STRIDE] === pages[first * STRIDE] &&
      pages[at * STRIDE + LAST] === pages[last * STRIDE + LAST] &&
      bytes[at * 2] === bytes[first * 2] &&
      bytes[at * 2 + 1] === bytes[last * 2 + 1]
    );
  }

  /** Makes the entry at index `at` stand for `node`. */
  private summarize(at: number, node: number, widest: number): void {
    const first = node * FANOUT;
    const last = first + this.counts[node]! - 1;
    this.pages[at * STRIDE] = this.pages[first * STRIDE]!;
    this.pages[at * STRIDE + LAST] = this.pages[last * STRIDE + LAST]!;
    this.pages[at * STRIDE + GAP] = widest;
    this.bytes[at * 2] = this.bytes[first * 2]!;
    this.bytes[at * 2 + 1] = this.bytes[last * 2 + 1]!;
    this.child[at] = node;
  }

  /** Takes an entry out of the node at `level` of the path; a node that is empty then goes too. */
  private removeEntry(level: number, node: number, slot: number): void {
    const before = this.contribution(node, slot);
    this.closeSlot(node, slot);
    if (this.counts[node] === 0) {
      if (level === this.height - 1) {
        this.height = 1;
        this.rootGap = 0;
        return;
      }
      this.freeNode(node);
      this.removeEntry(level + 1, this.pathNode[level + 1]!, this.pathSlot[level + 1]!);
      return;
    }
    const joined = slot > 0 && slot < this.counts[node]! ? this.between(node, slot - 1) : 0;
    this.updateUp(level, before, joined);
    while (this.height > 1 && this.counts[this.root] === 1) {
      const old = this.root;
      this.root = this.child[old * FANOUT]!;
      this.rootGap = this.pages[old * FANOUT * STRIDE + GAP]!;
      this.freeNode(old);
      this.height--;
    }
  }

  private growRoot(): void {
    const node = this.allocateNode();
    this.counts[node] = 1;
    this.summarize(node * FANOUT, this.root, this.rootGap);
    this.root = node;
    this.height++;
  }

  /**
   * Moves the upper half of a full child into a new one; where the tree grows at its end, only the last entry, so
   * that ascending insertion fills nodes. The parent's own widest gap stays what it is.
   */
  private splitChild(parent: number, slot: number, page: number, byte: number): void {
    const old = this.child[parent * FANOUT + slot]!;
    const end = old * FANOUT + FANOUT;
    const last = this.pages[(end - 1) * STRIDE + LAST]!;
    const append = page > last || (page === last && byte > this.bytes[(end - 1) * 2 + 1]!);
    const keep = append ? FANOUT - 1 : FANOUT / 2;
    const fresh = this.allocateNode();
    this.move(fresh * FANOUT, old * FANOUT + keep, end);
    this.counts[old] = keep;
    this.counts[fresh] = FANOUT - keep;
    this.openSlot(parent, slot + 1);
    this.summarize(parent * FANOUT + slot, old, this.widestGap(old));
    this.summarize(parent * FANOUT + slot + 1, fresh, this.widestGap(fresh));
  }

  private openSlot(node: number, slot: number): void {
    const count = this.counts[node]!;
    const at = node * FANOUT + slot;
    this.move(at + 1, at, node * FANOUT + count);
    this.counts[node] = count + 1;
  }

  private closeSlot(node: number, slot: number): void {
    const count = this.counts[node]!;
    const at = node * FANOUT + slot;
    this.move(at, at + 1, node * FANOUT + count);
    this.counts[node] = count - 1;
  }

  /** Copies entries [from, end) to `to`. */
  private move(to: number, from: number, end: number): void {
    this.pages.copyWithin(to * STRIDE, from * STRIDE, end * STRIDE);
    this.bytes.copyWithin(to * 2, from * 2, end * 2);
    this.child.copyWithin(to, from, end);
  }

  private addItem(item: T): number {
    const index = this.freeItems.pop() ?? this.items.length;
    this.items[index] = item;
    return index;
  }

  private allocateNode(): number {
    if (this.free !== NONE) {
      const node = this.free;
      this.free = this.child[node * FANOUT]!;
      return node;
    }
    if (this.used === this.counts.length) this.growPool();
    return this.used++;
  }

  private freeNode(node: number): void {
    this.counts[node] = 0;
    this.child[node * FANOUT] = this.free;
    this.free = node;
  }

  private growPool(): void {
    const nodes = this.counts.length * 2;
    this.pages = grown(this.pages, new Float64Array(nodes * FANOUT * STRIDE));
    this.bytes = grown(this.bytes, new Uint16Array(nodes * FANOUT * 2));
    this.child = grown(this.child, new Int32Array(nodes * FANOUT));
    this.counts = grown(this.counts, new Uint8Array(nodes));
  }
}

function grown<A extends Float64Array | Uint16Array | Int32Array | Uint8Array>(old: A, fresh: A): A {
  fresh.set(old);
  return fresh;
}
