/**
 * The naive model's memory: processes, files and dma-bufs as arrays of pages that know nothing of frames. A page is an
 * object; what a pin keeps is that very object, whatever becomes of the place where it was found.
 */

export const PAGE = 4096n;

/** What a call is refused with. */
export class Refusal extends Error {
  readonly code: string;

  constructor(code: string) {
    super(code);
    this.code = code;
  }
}

/** A page of memory, of which each half is filled with one number. */
export class Cell {
  readonly halves: [number, number] = [0, 0];
}

/** Byte at an address, from the number that fills its half: its four bytes one after another. */
export function byteOfStamp(stamp: number, address: number): number {
  return (stamp >>> ((address & 3) * 8)) & 0xff;
}

export class FileModel {
  readonly name: string;
  readonly cells: Cell[];

  constructor(name: string, pages: number) {
    this.name = name;
    this.cells = Array.from({ length: pages }, () => new Cell());
  }

  resize(pages: number): void {
    this.cells.length = Math.min(this.cells.length, pages);
    while (this.cells.length < pages) this.cells.push(new Cell());
  }
}

/** Memory of a device: frames [pfn, pfn + frames), which are never pinned. */
export class BufferModel {
  readonly name: string;
  readonly pfn: number;
  readonly frames: number;
  revoked = false;

  constructor(name: string, pfn: number, frames: number) {
    this.name = name;
    this.pfn = pfn;
    this.frames = frames;
  }
}

export class UserModel {
  locked = 0;
}

/** A page of a process: private memory, or a page of a file that it maps shared. */
type PageModel = {
  readonly at: Cell | { readonly file: FileModel; readonly index: number };
  readonly writable: boolean;
};

export class ProcessModel {
  readonly name: string;
  readonly user: UserModel;
  /** Holds CAP_IPC_LOCK: what it pins is not charged. */
  readonly privileged: boolean;
  /** RLIMIT_MEMLOCK in pages. */
  memlock: number;
  alive = true;
  locked = 0;
  readonly pages = new Map<number, PageModel>();

  constructor(name: string, user: UserModel, privileged: boolean, memlock: number) {
    this.name = name;
    this.user = user;
    this.privileged = privileged;
    this.memlock = memlock;
  }

  mapPrivate(first: number, count: number): void {
    for (let page = first; page < first + count; page++) this.pages.set(page, { at: new Cell(), writable: true });
  }

  mapFile(first: number, count: number, file: FileModel): void {
    for (let index = 0; index < count; index++) {
      this.pages.set(first + index, { at: { file, index }, writable: true });
    }
  }

  unmap(first: number, count: number): void {
    for (let page = first; page < first + count; page++) this.pages.delete(page);
  }

  protect(first: number, count: number, writable: boolean): void {
    for (let page = first; page < first + count; page++) {
      this.pages.set(page, { at: this.pages.get(page)!.at, writable });
    }
  }

  isMapped(first: number, count: number): boolean {
    for (let page = first; page < first + count; page++) if (!this.pages.has(page)) return false;
    return true;
  }

  /** The page there, or null when the access is a fault that nothing resolves. */
  cellAt(page: number, write: boolean): Cell | null {
    const found = this.alive ? this.pages.get(page) : undefined;
    if (found === undefined || (write && !found.writable)) return null;
    return found.at instanceof Cell ? found.at : (found.at.file.cells[found.at.index] ?? null);
  }

  forkTo(child: ProcessModel): void {
    for (const [page, { at, writable }] of this.pages) {
      const copy = at instanceof Cell ? Object.assign(new Cell(), { halves: [...at.halves] }) : at;
      child.pages.set(page, { at: copy, writable });
    }
  }

  exit(): void {
    this.alive = false;
    this.pages.clear();
  }
}
