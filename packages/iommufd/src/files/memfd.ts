/** memfd_create(2): a file of memory. */

import { ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import { type FilePages, type MemoryFile, SysError } from '@iommukit/iommu-core';
import type { Caller, File } from './file.ts';

const PROTECTION = ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE;

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

  mmap({ process }: Caller, length: bigint, protection: number, shared: boolean, offset: bigint): bigint {
    if (process.memory === null) throw new SysError('ENODEV', 'mmap', `${process.name} maps its own memory`);
    return process.memory.map({ length, protection: protection & PROTECTION, backing: this.file, offset, shared });
  }

  release(): void {
    this.file.close();
  }
}
