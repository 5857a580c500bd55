/** A hardware table that takes back complete ranges only, as they were given, and knows which frames it still shows. */

import type { PageCounts } from '@iommukit/iommu-core';
import { FakeDomain } from '../../support/fakes.ts';
import { ensure, Violation } from './violation.ts';

export class RecordingDomain extends FakeDomain {
  override unmap(iovaLo: number, iovaHi: number, bytes: number): number {
    let gone: number;
    try {
      gone = super.unmap(iovaLo, iovaHi, bytes);
    } catch (error) {
      throw new Violation(10, (error as Error).message);
    }
    ensure(gone === bytes, 10, () => `${gone} bytes of ${bytes} were unmapped`);
    return gone;
  }
}

/** Property 11: when the last pin of a page goes, no hardware table may show it, nor have cached that it did. */
export function watchUnpins(counts: PageCounts, domains: () => Iterable<RecordingDomain>): void {
  const unpin = counts.unpin.bind(counts);
  counts.unpin = (runs, dirty) => {
    for (let index = 0; index < runs.pages; index++) {
      const pfn = runs.at(index);
      if (counts.pinCount(pfn) > 1) continue;
      for (const domain of domains()) {
        ensure(!domain.reaches(pfn), 11, () => `frame ${pfn} is unpinned while domain ${domain.id} reaches it`);
      }
    }
    unpin(runs, dirty);
  };
}
