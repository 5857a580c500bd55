/** The unit's tags for cached translations: one per domain, from its allocation to its end. */

import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';

/** Id 0 is reserved by hardware with caching mode; 1 tags the identity domain's pass-through entries. */
export const IDENTITY_DOMAIN_ID = 1;
const FIRST = 2;

export class DomainIds {
  private readonly kernel: Kernel;
  private readonly limit: number;
  private readonly free: number[] = [];
  private next = FIRST;

  constructor(kernel: Kernel, count: number) {
    this.kernel = kernel;
    this.limit = Math.min(count, 0x10000);
  }

  /** Ids in use. */
  get used(): number {
    return this.next - FIRST - this.free.length;
  }

  /** @throws {SysError} ENOSPC, ENOMEM */
  allocate(): number {
    this.kernel.checkpoint('domain_id');
    const id = this.free.pop() ?? this.next;
    if (id >= this.limit) throw new SysError('ENOSPC', 'iommu_domain_alloc', `all ${this.limit} domain ids are in use`);
    if (id === this.next) this.next++;
    return id;
  }

  release(id: number): void {
    this.free.push(id);
  }
}
