/** The list of IOAS_ALLOW_IOVAS while it is read: disjoint ranges in any order (Linux: iommufd_ioas_load_iovas, ioas.c). */

import { hex } from '@iommukit/hw';
import { type Kernel, SysError } from '@iommukit/iommu-core';
import { byteOf, pageOf } from './area.ts';
import { IntervalTree } from './interval-tree.ts';
import type { IovaRange } from './reserved.ts';

export class AllowedRanges {
  private readonly kernel: Kernel;
  private readonly tree = new IntervalTree<IovaRange>();

  constructor(kernel: Kernel) {
    this.kernel = kernel;
  }

  /** @throws {SysError} EINVAL fewer than two addresses, as in Linux, or the range meets one that was added; ENOMEM */
  add(range: IovaRange): void {
    const call = 'IOMMU_IOAS_ALLOW_IOVAS';
    const { start, last } = range;
    if (start >= last) throw new SysError('EINVAL', call, `the range ${hex(start)}..${hex(last)}`);
    const next = this.tree.firstFrom(pageOf(start), byteOf(start));
    if (next !== null && next.start <= last) {
      const other = `${hex(next.start)}..${hex(next.last)}`;
      throw new SysError('EINVAL', call, `${hex(start)}..${hex(last)} meets ${other}`);
    }
    this.kernel.checkpoint('iopt_allowed');
    this.tree.insert(pageOf(start), byteOf(start), pageOf(last), byteOf(last), range);
  }

  /** Ascending; adjoining ones are joined. */
  joined(): IovaRange[] {
    const joined: IovaRange[] = [];
    this.tree.walk((range) => {
      const before = joined[joined.length - 1];
      if (before !== undefined && before.last + 1n === range.start) {
        joined[joined.length - 1] = { start: before.start, last: range.last };
      } else joined.push(range);
    });
    return joined;
  }
}
