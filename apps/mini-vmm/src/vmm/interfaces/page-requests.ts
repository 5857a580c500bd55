/** Page requests as the kernel's interfaces tell of them. */

import { ACCESS_EXECUTE, ACCESS_PRIVILEGED, ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import {
  IOMMU_PGFAULT_PERM_EXEC,
  IOMMU_PGFAULT_PERM_PRIV,
  IOMMU_PGFAULT_PERM_READ,
  IOMMU_PGFAULT_PERM_WRITE,
} from '@iommukit/iommufd';
import type { HostPageRequest } from '../dma-interface.ts';

/** hw's ACCESS_ bits for IOMMU_PGFAULT_PERM_ bits, which are also those of the older IOMMU_FAULT_PERM_. */
export function accessOf(permissions: number): number {
  return (
    ((permissions & IOMMU_PGFAULT_PERM_READ) !== 0 ? ACCESS_READ : 0) |
    ((permissions & IOMMU_PGFAULT_PERM_WRITE) !== 0 ? ACCESS_WRITE : 0) |
    ((permissions & IOMMU_PGFAULT_PERM_EXEC) !== 0 ? ACCESS_EXECUTE : 0) |
    ((permissions & IOMMU_PGFAULT_PERM_PRIV) !== 0 ? ACCESS_PRIVILEGED : 0)
  );
}

/** Sorts the page requests of an interface that has one queue for all tables. What is for no table is dropped. */
export class PageRequestSorter {
  private readonly boxes = new Map<number, HostPageRequest[]>();

  /** Requests that name `key` are kept from now on. */
  open(key: number): void {
    this.boxes.set(key, []);
  }

  close(key: number): void {
    this.boxes.delete(key);
  }

  put(key: number, request: HostPageRequest): void {
    this.boxes.get(key)?.push(request);
  }

  /** Those that have come since the last call. */
  take(key: number): HostPageRequest[] {
    return this.boxes.get(key)?.splice(0) ?? [];
  }
}
