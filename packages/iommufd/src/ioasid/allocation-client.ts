/** /dev/ioasid as an allocator, for programs written in TypeScript: each method is one system call on an open descriptor. */

import { SysError } from '@iommukit/iommu-core';
import type { SystemCalls } from '../files/system-calls.ts';
import { IoasidAllocationFile } from './allocation.ts';
import { IOASID_API_VERSION } from './allocation-uapi.ts';

export class IoasidAllocationClient {
  readonly system: SystemCalls;
  readonly fd: number;
  private readonly file: IoasidAllocationFile;

  /** `fd` is a descriptor of the allocating /dev/ioasid. @throws {SysError} EBADF, EBADFD */
  constructor(system: SystemCalls, fd: number) {
    const file = system.file(fd);
    if (!(file instanceof IoasidAllocationFile)) {
      throw new SysError('EBADFD', 'ioasid', `${file.name} allocates no IOASIDs`);
    }
    this.system = system;
    this.fd = fd;
    this.file = file;
  }

  get apiVersion(): number {
    return IOASID_API_VERSION;
  }

  /** Bits of the largest id. @throws {SysError} EPERM another process opened the file */
  bits(): number {
    return this.file.kernel.call('IOASID_GET_INFO', () => this.file.bits(this.system.process));
  }

  /** The lowest free id of min..max. @throws {SysError} EPERM, EINVAL, EAGAIN, ENOMEM */
  alloc(min: number, max: number): number {
    return this.file.kernel.call('IOASID_REQUEST_ALLOC', () => this.file.alloc(this.system.process, min, max));
  }

  /** Frees an id; it can be allocated again when nothing names it any more. @throws {SysError} EPERM */
  free(id: number): void {
    this.file.kernel.call('IOASID_REQUEST_FREE', () => this.file.free(this.system.process, id));
  }
}
