/** What the typed clients of /dev/iommu have in common: an open descriptor, on which each method is one system call. */

import type { SystemCalls } from '../files/system-calls.ts';
import type { IommufdCaller } from '../ioctl/command.ts';
import { iommufdFileOf } from '../iommufd-file.ts';

export abstract class ContextClient {
  readonly system: SystemCalls;
  readonly fd: number;
  private readonly caller: IommufdCaller;

  /** `fd` is a descriptor of /dev/iommu. @throws {SysError} EBADF, EBADFD */
  constructor(system: SystemCalls, fd: number) {
    this.system = system;
    this.fd = fd;
    this.caller = iommufdFileOf(system.file(fd)).on(system.caller);
  }

  protected call<T>(name: string, body: (caller: IommufdCaller) => T): T {
    return this.system.call(name, () => body(this.caller));
  }
}
