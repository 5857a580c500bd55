/** The page table of a mock domain, and the one thing that hardware would do with it: mark what is written to. */

import { amdv1Mock, high32, low32 } from '@iommukit/hw';
import { type Kernel, PageTableEditor } from '@iommukit/iommu-core';

/** Three levels, which span 38 bits of address. */
const LEVELS = 3;
export const MOCK_TABLE_BITS: number = amdv1Mock.pageSizesLg2[0]! + 9 * LEVELS;

export class MockTable extends PageTableEditor {
  /** @throws {SysError} ENOMEM */
  constructor(kernel: Kernel, pageSizesLg2: readonly number[]) {
    super(kernel, amdv1Mock, LEVELS, pageSizesLg2);
  }

  /** Marks the leaf behind `iova`, if any, as written. */
  setDirty(iova: bigint): void {
    const page = this.pageOf(low32(iova), high32(iova));
    if (page < 0) return;
    this.eachRun(page, page, (word) => {
      if (this.words[word] === 0) return;
      this.words[word] = this.words[word]! | this.format.dirty;
      this.memory.noteWrite(word >>> 10);
    });
  }
}
