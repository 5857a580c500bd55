/**
 * Files of memory that programs map or hold: shared anonymous memory, memfds, huge pages. A file is known by its device
 * and inode, so that all processes' views of it are one. While its pages are pinned it is held open, which keeps them
 * through munmap and the end of every process.
 */

import { closeSync, readSync, statfsSync, writeSync } from 'node:fs';
import type { ForeignFrames, PageSource } from './foreign-frames.ts';
import { type Proc, sizeOf } from './proc.ts';

/** File systems whose files are memory (include/uapi/linux/magic.h). */
const TMPFS_MAGIC = 0x01021994;
const HUGETLBFS_MAGIC = 0x958458f6;

/** Pages of the file that a process has mapped: the way to them when the file itself cannot be opened. */
type View = { readonly proc: Proc; readonly vpn: number; readonly page: number; readonly pages: number };

export class SharedFile implements PageSource {
  /** False: it lies on a disk. */
  readonly isMemory: boolean;
  private readonly descriptor: number | null;
  private readonly onUnused: () => void;
  private readonly views: View[] = [];

  /** `descriptor` is an open descriptor of this process, taken over; null when there is none to be had. */
  constructor(name: string, descriptor: number | null, onUnused: () => void) {
    this.descriptor = descriptor;
    this.onUnused = onUnused;
    this.isMemory = descriptor === null ? !isOnDisk(name) : isMemory(descriptor);
  }

  /** Pages that the file has; Infinity when it cannot be asked. */
  get pages(): number {
    return this.descriptor === null ? Number.POSITIVE_INFINITY : Math.ceil(sizeOf(this.descriptor) / 4096);
  }

  /** To be called when its pages are pinned through a mapping. */
  addView(view: View): void {
    const known = this.views.findIndex(({ proc, vpn }) => proc === view.proc && vpn === view.vpn);
    if (known < 0) view.proc.hold();
    this.views.splice(known < 0 ? this.views.length : known, 1, view);
  }

  read(position: number, into: Uint8Array): void {
    if (this.descriptor === null) {
      if (!this.throughViews(position, (proc, address) => proc.read(address, into))) into.fill(0);
      return;
    }
    const count = readSync(this.descriptor, into, 0, into.length, position);
    into.fill(0, count);
  }

  /** What is behind the end of the file is lost, as a page cut off is. Huge pages take no write(2). */
  write(position: number, from: Uint8Array): void {
    if (this.descriptor !== null) {
      const room = sizeOf(this.descriptor) - position;
      if (room <= 0) return;
      try {
        writeSync(this.descriptor, from, 0, Math.min(from.length, room), position);
        return;
      } catch {}
    }
    this.throughViews(position, (proc, address) => proc.write(address, from));
  }

  unused(): void {
    if (this.descriptor !== null) closeSync(this.descriptor);
    for (const { proc } of this.views.splice(0)) proc.release();
    this.onUnused();
  }

  private throughViews(position: number, move: (proc: Proc, address: number) => boolean): boolean {
    const page = position / 4096;
    return this.views.some(({ proc, vpn, page: first, pages }) => {
      return page >= first && page < first + pages && move(proc, (vpn - first) * 4096 + position);
    });
  }
}

/** By the name that `Mapping.file` gives it: file systems without a block device have major number 0. */
function isOnDisk(name: string): boolean {
  return !name.startsWith('00:');
}

function isMemory(descriptor: number): boolean {
  const { type } = statfsSync(`/proc/self/fd/${descriptor}`);
  return type === TMPFS_MAGIC || type === HUGETLBFS_MAGIC;
}

/** The files with pinned pages. */
export class SharedFiles {
  private readonly frames: ForeignFrames;
  private readonly files = new Map<string, SharedFile>();

  constructor(frames: ForeignFrames) {
    this.frames = frames;
  }

  /** Calls `body` with the file `name`. It is kept when pages of it are pinned then. `open` gives a descriptor of it. */
  use<T>(name: string, open: () => number | null, body: (file: SharedFile) => T): T {
    let file = this.files.get(name);
    if (file === undefined) {
      file = new SharedFile(name, open(), () => this.files.delete(name));
      this.files.set(name, file);
    }
    try {
      return body(file);
    } finally {
      if (!this.frames.holds(file)) file.unused();
    }
  }
}
