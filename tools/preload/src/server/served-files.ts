/** The open files that programs hold, and whether they show as readable. */

import { type File, POLLIN } from '@iommukit/iommufd';
import type { FileKey } from './call.ts';
import type { Readiness } from './transport.ts';

type Served = { file: File | null; readonly readiness: Readiness; readable: boolean };

export class ServedFiles {
  private readonly files = new Map<FileKey, Served>();
  private readonly polled = new Set<Served>();

  /** Files behind descriptors. */
  get open(): number {
    return [...this.files.values()].filter(({ file }) => file !== null).length;
  }

  /** False: there is a file of that name. */
  offer(key: FileKey, readiness: Readiness): boolean {
    if (this.files.has(key)) return false;
    this.files.set(key, { file: null, readiness, readable: false });
    return true;
  }

  /** Puts `file` behind the offer `key`. False: there is no such offer, or it is taken. */
  install(key: FileKey, file: File): boolean {
    const served = this.files.get(key);
    if (served === undefined || served.file !== null) return false;
    served.file = file;
    if (file.poll !== undefined) this.polled.add(served);
    return true;
  }

  /** Makes a file an offer again; the caller has the file then. */
  uninstall(key: FileKey): File | null {
    const served = this.files.get(key);
    const file = served?.file ?? null;
    if (served !== undefined) {
      served.file = null;
      this.polled.delete(served);
    }
    return file;
  }

  get(key: FileKey): File | null {
    return this.files.get(key)?.file ?? null;
  }

  /** Forgets the file, which the caller has then. */
  remove(key: FileKey): File | null {
    const file = this.uninstall(key);
    this.files.delete(key);
    return file;
  }

  removeAll(): File[] {
    return [...this.files.keys()].map((key) => this.remove(key)).filter((file) => file !== null);
  }

  /** Lets every program see what its files are now. */
  refresh(): void {
    for (const served of this.polled) {
      const readable = (served.file!.poll!() & POLLIN) !== 0;
      if (readable === served.readable) continue;
      served.readable = readable;
      served.readiness(readable);
    }
  }
}
