/** The frames of a file's pages, by index: tables of 512, so that nothing is looked up for each page of a range. */

/** Pages of a table; a power of two. */
const TABLE = 512;
const NONE = -1;

type Table = { readonly frames: Int32Array; used: number };

export class FileFrames {
  private readonly tables = new Map<number, Table>();
  private count = 0;

  /** Pages that have a frame. */
  get size(): number {
    return this.count;
  }

  /** Frame of page `index`, or -1. */
  get(index: number): number {
    return this.tables.get(Math.floor(index / TABLE))?.frames[index & (TABLE - 1)] ?? NONE;
  }

  /** Gives a page that has none a frame. */
  set(index: number, pfn: number): void {
    const number = Math.floor(index / TABLE);
    let table = this.tables.get(number);
    if (table === undefined) {
      table = { frames: new Int32Array(TABLE).fill(NONE), used: 0 };
      this.tables.set(number, table);
    }
    table.frames[index & (TABLE - 1)] = pfn;
    table.used++;
    this.count++;
  }

  /** Calls `visit` for the frames of pages from `index`, at most `pages`, up to the first page that has none; how many. */
  walk(index: number, pages: number, visit: (pfn: number) => void): number {
    let done = 0;
    while (done < pages) {
      const table = this.tables.get(Math.floor((index + done) / TABLE));
      if (table === undefined) return done;
      const { frames } = table;
      const first = (index + done) & (TABLE - 1);
      const end = Math.min(TABLE, first + pages - done);
      for (let at = first; at < end; at++, done++) {
        const pfn = frames[at]!;
        if (pfn === NONE) return done;
        visit(pfn);
      }
    }
    return done;
  }

  /** Takes the frames of pages from `index` away, handing each to `gone`. */
  cut(index: number, gone: (pfn: number) => void): void {
    for (const [number, table] of this.tables) {
      const first = Math.max(index - number * TABLE, 0);
      for (let at = first; at < TABLE; at++) {
        const pfn = table.frames[at]!;
        if (pfn === NONE) continue;
        table.frames[at] = NONE;
        table.used--;
        this.count--;
        gone(pfn);
      }
      if (table.used === 0) this.tables.delete(number);
    }
  }
}
