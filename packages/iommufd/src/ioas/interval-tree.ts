/**
 * Disjoint closed intervals of I/O virtual addresses, in order: a B+-tree whose nodes lie in typed arrays.
 *
 * A position is a page number (a double, exact to the full 52 bits) and a byte offset in the page, because areas are
 * byte-granular. Every entry of a node, leaf or inner, has a first and a last position; an inner entry stands for its
 * child's whole extent and knows the widest gap inside it, so that the first gap that is wide enough is found without
 * looking at the intervals before it. Nodes are freed only when they are empty.
 */

import { entry, FANOUT, IntervalNodes, NONE, WIDTH_MAX } from './interval-nodes.ts';

/** A height of 12 levels holds more intervals than there are pages. */
const MAX_HEIGHT = 12;
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
  /** What an entry of a leaf stands for is an index into `items`. */
  private readonly nodes = new IntervalNodes();
  private readonly items: (T | null)[] = [];
  private readonly freeItems: number[] = [];
  private root = this.nodes.allocate();
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
    const { nodes } = this;
    const leaf = this.descend(startPage, startByte, true);
    const slot = nodes.lowerBound(leaf, startPage, startByte);
    const before = slot > 0 && slot < nodes.count(leaf) ? nodes.between(leaf, slot - 1) : 0;
    nodes.open(leaf, slot);
    nodes.set(entry(leaf, slot), startPage, startByte, lastPage, lastByte, this.addItem(item));
    this.total++;
    this.updateUp(0, before, nodes.contribution(leaf, slot));
  }

  /** Takes out the interval that starts at exactly this position. Null when there is none. */
  remove(startPage: number, startByte: number): T | null {
    const { nodes } = this;
    const leaf = this.descend(startPage, startByte, false);
    const slot = nodes.lowerBound(leaf, startPage, startByte);
    const at = entry(leaf, slot);
    if (slot === nodes.count(leaf) || nodes.firstPage(at) !== startPage || nodes.firstByte(at) !== startByte)
      return null;
    const index = nodes.item(at);
    const item = this.items[index] as T;
    this.items[index] = null;
    this.freeItems.push(index);
    this.total--;
    this.removeEntry(0, leaf, slot);
    return item;
  }

  /** The first interval that ends at or after this position. */
  firstFrom(page: number, byte: number): T | null {
    const { nodes } = this;
    const leaf = this.descend(page, byte, false);
    const slot = nodes.lowerBound(leaf, page, byte);
    return slot === nodes.count(leaf) ? null : this.items[nodes.item(entry(leaf, slot))]!;
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
    const need = Math.min(request.pages * 4096 + (request.bytes + 1), WIDTH_MAX);
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
    const { nodes, endPage } = this;
    const count = nodes.count(node);
    let cursorPage = this.cursorPage;
    for (let slot = nodes.lowerBound(node, cursorPage, this.cursorByte); slot < count; slot++) {
      const at = entry(node, slot);
      const page = nodes.firstPage(at);
      const byte = nodes.firstByte(at);
      if (page > endPage || (page === endPage && byte > this.endByte)) {
        // The last gap is tried here: the levels above move the cursor past the whole node.
        this.cursorPage = cursorPage;
        return this.fits(endPage, this.endByte, request);
      }
      // Most gaps are narrower than the whole pages that are wanted.
      if (page - cursorPage >= request.pages && (page > cursorPage || byte > this.cursorByte)) {
        this.cursorPage = cursorPage;
        if (this.fits(byte > 0 ? page : page - 1, byte > 0 ? byte - 1 : 4095, request)) return true;
      }
      if (level > 0 && nodes.gap(at) >= need) {
        this.cursorPage = cursorPage;
        if (this.searchNode(nodes.item(at), level - 1, need, request)) return true;
      }
      const lastByte = nodes.lastByte(at);
      cursorPage = nodes.lastPage(at) + (lastByte === 4095 ? 1 : 0);
      this.cursorByte = lastByte === 4095 ? 0 : lastByte + 1;
    }
    this.cursorPage = cursorPage;
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
    const { nodes } = this;
    for (let slot = 0; slot < nodes.count(node); slot++) {
      const below = nodes.item(entry(node, slot));
      if (level === 0) visit(this.items[below] as T);
      else this.visitNode(below, level - 1, visit);
    }
  }

  /** Goes to the leaf where a position belongs, noting the path. `split` makes room on the way, for one more entry. */
  private descend(page: number, byte: number, split: boolean): number {
    const { nodes } = this;
    if (split && nodes.count(this.root) === FANOUT) this.growRoot();
    let node = this.root;
    for (let level = this.height - 1; ; level--) {
      this.pathNode[level] = node;
      if (level === 0) return node;
      let slot = Math.min(nodes.lowerBound(node, page, byte), nodes.count(node) - 1);
      if (split && nodes.count(nodes.item(entry(node, slot))) === FANOUT) {
        this.splitChild(node, slot, page, byte);
        slot = Math.min(nodes.lowerBound(node, page, byte), nodes.count(node) - 1);
      }
      this.pathSlot[level] = slot;
      node = nodes.item(entry(node, slot));
    }
  }

  /**
   * After a change in the node at `level` of the path that replaced a contribution of `before` by one of `after`:
   * brings the node's summary in its parent up to date, and so on up to the root.
   */
  private updateUp(level: number, before: number, after: number): void {
    const { nodes } = this;
    for (; ; level++) {
      const node = this.pathNode[level]!;
      const isRoot = level === this.height - 1;
      const parent = isRoot ? NONE : this.pathNode[level + 1]!;
      const slot = isRoot ? 0 : this.pathSlot[level + 1]!;
      const at = entry(parent, slot);
      const old = isRoot ? this.rootGap : nodes.gap(at);
      const widest = after >= old ? after : before < old ? old : nodes.widestGap(node);
      if (isRoot) {
        this.rootGap = widest;
        return;
      }
      if (nodes.standsFor(at, node, widest)) return;
      before = nodes.contribution(parent, slot);
      nodes.summarize(at, node, widest);
      after = nodes.contribution(parent, slot);
    }
  }

  /** Takes an entry out of the node at `level` of the path; a node that is empty then goes too. */
  private removeEntry(level: number, node: number, slot: number): void {
    const { nodes } = this;
    const before = nodes.contribution(node, slot);
    nodes.close(node, slot);
    if (nodes.count(node) === 0) {
      if (level === this.height - 1) {
        this.height = 1;
        this.rootGap = 0;
        return;
      }
      nodes.release(node);
      this.removeEntry(level + 1, this.pathNode[level + 1]!, this.pathSlot[level + 1]!);
      return;
    }
    const joined = slot > 0 && slot < nodes.count(node) ? nodes.between(node, slot - 1) : 0;
    this.updateUp(level, before, joined);
    while (this.height > 1 && nodes.count(this.root) === 1) {
      const old = this.root;
      this.root = nodes.item(entry(old, 0));
      this.rootGap = nodes.gap(entry(old, 0));
      nodes.release(old);
      this.height--;
    }
  }

  private growRoot(): void {
    const { nodes } = this;
    const node = nodes.allocate();
    nodes.open(node, 0);
    nodes.summarize(entry(node, 0), this.root, this.rootGap);
    this.root = node;
    this.height++;
  }

  /**
   * Moves the upper half of a full child into a new one; where the tree grows at its end, only the last entry, so
   * that ascending insertion fills nodes. The parent's own widest gap stays what it is.
   */
  private splitChild(parent: number, slot: number, page: number, byte: number): void {
    const { nodes } = this;
    const old = nodes.item(entry(parent, slot));
    const end = entry(old, FANOUT - 1);
    const last = nodes.lastPage(end);
    const append = page > last || (page === last && byte > nodes.lastByte(end));
    const fresh = nodes.allocate();
    nodes.split(old, append ? FANOUT - 1 : FANOUT / 2, fresh);
    nodes.open(parent, slot + 1);
    nodes.summarize(entry(parent, slot), old, nodes.widestGap(old));
    nodes.summarize(entry(parent, slot + 1), fresh, nodes.widestGap(fresh));
  }

  private addItem(item: T): number {
    const index = this.freeItems.pop() ?? this.items.length;
    this.items[index] = item;
    return index;
  }
}
