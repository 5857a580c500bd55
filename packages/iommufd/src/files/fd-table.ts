/** A process's file descriptors: small numbers for open file descriptions, which dup and fork share. */

import { SysError } from '@iommukit/iommu-core';
import type { Descriptors, File } from './file.ts';

/** Linux's default RLIMIT_NOFILE. */
const MAX_DESCRIPTORS = 1024;

type OpenFile = { readonly file: File; references: number };

export class FdTable implements Descriptors {
  private readonly slots: (OpenFile | null)[] = [];

  /** Open descriptors. */
  get size(): number {
    return this.slots.reduce((count, slot) => (slot === null ? count : count + 1), 0);
  }

  install(file: File): number {
    return this.place({ file, references: 0 });
  }

  get(fd: number): File {
    return this.slot(fd).file;
  }

  /** A second descriptor for the same open file. @throws {SysError} EBADF, EMFILE */
  duplicate(fd: number): number {
    return this.place(this.slot(fd));
  }

  close(fd: number): void {
    const slot = this.slot(fd);
    this.slots[fd] = null;
    if (--slot.references === 0) slot.file.release();
  }

  /** Closes everything, in ascending order, as process exit does. */
  closeAll(): void {
    for (let fd = 0; fd < this.slots.length; fd++) if (this.slots[fd] !== null) this.close(fd);
  }

  /** A table with the same descriptors for a forked child. */
  fork(): FdTable {
    const child = new FdTable();
    for (const slot of this.slots) {
      if (slot !== null) slot.references++;
      child.slots.push(slot);
    }
    return child;
  }

  private slot(fd: number): OpenFile {
    const slot = this.slots[fd] ?? null;
    if (slot === null) throw new SysError('EBADF', 'fd', `descriptor ${fd} is not open`);
    return slot;
  }

  private place(slot: OpenFile): number {
    let fd = this.slots.indexOf(null);
    if (fd < 0) fd = this.slots.length;
    if (fd >= MAX_DESCRIPTORS) throw new SysError('EMFILE', 'fd', `${MAX_DESCRIPTORS} descriptors are open`);
    slot.references++;
    this.slots[fd] = slot;
    return fd;
  }
}
