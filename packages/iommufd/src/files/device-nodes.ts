/** /dev: what a path opens. Each layer registers its own nodes. */

import { SysError } from '@iommukit/iommu-core';
import type { Caller, File } from './file.ts';

export class DeviceNodes {
  private readonly nodes = new Map<string, (caller: Caller) => File>();

  /** @throws {SysError} EEXIST when the path is taken */
  register(path: string, open: (caller: Caller) => File): void {
    if (this.nodes.has(path)) throw new SysError('EEXIST', 'mknod', `${path} exists`);
    this.nodes.set(path, open);
  }

  unregister(path: string): void {
    this.nodes.delete(path);
  }

  /** Paths in the order of registration. */
  list(): string[] {
    return [...this.nodes.keys()];
  }

  /** @throws {SysError} ENOENT, or whatever the node refuses with */
  open(path: string, caller: Caller): File {
    const open = this.nodes.get(path);
    if (open === undefined) throw new SysError('ENOENT', 'open', `no ${path}`);
    return open(caller);
  }
}
