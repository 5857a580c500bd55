/** memfd_create(2): a file of memory. */

import type { FilePages, MemoryFile } from '@iommukit/iommu-core';
import type { Caller, File, Mapping } from './file.ts';

export class MemFd implements File {
  readonly name: string;
  /** The pages; pinned by who maps the file for DMA. */
  readonly file: MemoryFile;

  constructor(name: string, file: MemoryFile) {
    this.name = `/memfd:${name}`;
    this.file = file;
  }

  get pages(): FilePages {
    return this.file;
  }

  mmap(_caller: Caller, _length: bigint, _protection: number, _shared: boolean, offset: bigint): Mapping {
    return { backing: this.file, offset };
  }

  release(): void {
    this.file.close();
  }
}
