/** A file that a program hands in by its descriptor, as far as it is a file of memory: a memfd, or one in /dev/shm. */

import { closeSync, fstatSync } from 'node:fs';
import { type FilePages, type Kernel, type PfnRuns, SysError } from '@iommukit/iommu-core';
import type { ForeignFrames } from './foreign-frames.ts';
import { fileName } from './mapping.ts';
import { openFile } from './proc.ts';
import type { SharedFiles } from './shared-file.ts';

export class ProgramFile implements FilePages {
  private readonly kernel: Kernel;
  private readonly frames: ForeignFrames;
  private readonly files: SharedFiles;
  private readonly open: () => number | null;
  private descriptor: number | null = null;
  private holders = 0;

  /** `open` gives a descriptor of this process for the file, or null when it is not one that can be opened. */
  constructor(kernel: Kernel, frames: ForeignFrames, files: SharedFiles, open: () => number | null) {
    this.kernel = kernel;
    this.frames = frames;
    this.files = files;
    this.open = open;
  }

  hold(): void {
    if (this.holders++ === 0) this.descriptor = this.open();
  }

  close(): void {
    if (--this.holders > 0 || this.descriptor === null) return;
    closeSync(this.descriptor);
    this.descriptor = null;
  }

  pin(index: number, pages: number, into: PfnRuns): number {
    const call = 'memfd_pin_folios';
    this.kernel.checkpoint(call);
    const { descriptor } = this;
    if (descriptor === null) throw new SysError('EINVAL', call, 'the file is not a file of memory');
    const { dev, ino } = fstatSync(descriptor);
    const reopen = (): number | null => openFile(`/proc/self/fd/${descriptor}`);
    return this.files.use(fileName(dev, ino), reopen, (file) => {
      const count = file.isMemory ? Math.min(pages, file.pages - index) : 0;
      if (count <= 0) throw new SysError('EINVAL', call, `page ${index} of ${file.pages}, or not a file of memory`);
      this.frames.pin(file, index, count, into);
      return count;
    });
  }

  unpin(runs: PfnRuns, _dirty: boolean): void {
    this.frames.unpin(runs);
  }
}
