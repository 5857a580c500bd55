/** A file that a program hands in by its descriptor, as far as it is a file of memory: a memfd, or one in /dev/shm. */

import { closeSync, fstatSync } from 'node:fs';
import { type FilePages, type Kernel, type PfnRuns, SysError } from '@iommukit/iommu-core';
import type { ForeignFrames } from './foreign-frames.ts';
import { fileName } from './mapping.ts';
import { openFile } from './proc.ts';
import type { SharedFiles } from './shared-file.ts';

/** Closes what nobody refers to any more: who maps a file keeps its pages, and says nothing when it lets them go. */
const descriptors = new FinalizationRegistry<number>((descriptor) => closeSync(descriptor));

export class ProgramFile implements FilePages {
  private readonly kernel: Kernel;
  private readonly frames: ForeignFrames;
  private readonly files: SharedFiles;
  private readonly descriptor: number;

  /** Takes `descriptor` over, a descriptor of this process. */
  constructor(kernel: Kernel, frames: ForeignFrames, files: SharedFiles, descriptor: number) {
    this.kernel = kernel;
    this.frames = frames;
    this.files = files;
    this.descriptor = descriptor;
    descriptors.register(this, descriptor);
  }

  pin(index: number, pages: number, into: PfnRuns): number {
    const call = 'memfd_pin_folios';
    this.kernel.checkpoint(call);
    const { dev, ino } = fstatSync(this.descriptor);
    const reopen = (): number | null => openFile(`/proc/self/fd/${this.descriptor}`);
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
