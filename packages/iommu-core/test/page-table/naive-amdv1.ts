/**
 * A walk of an AMDv1 table over bigints, straight from section 2.2.3 of the AMD IOMMU specification. Leaves count pages
 * of the format, tables frames of 4 KiB.
 */

import type { PhysicalMemory } from '@iommukit/hw';

export type AmdTranslation = {
  /** Page behind the address, and pages that the leaf maps. */
  pfn: number;
  span: number;
  read: boolean;
  write: boolean;
  forceCoherent: boolean;
};

/** What is behind `page`, or null. `dirty` marks the leaf as a write does where hardware keeps dirty bits. */
export function walkAmdv1(
  memory: PhysicalMemory,
  rootPfn: number,
  levels: number,
  page: number,
  dirty = false,
): AmdTranslation | null {
  let table = BigInt(rootPfn);
  let read = true;
  let write = true;
  for (let level = levels - 1; level >= 0; level--) {
    const span = 512 ** level;
    const at = table * 4096n + BigInt(Math.floor(page / span) % 512) * 8n;
    const entry = memory.load(at, 8);
    if ((entry & 1n) === 0n) return null;
    read &&= ((entry >> 61n) & 1n) === 1n;
    write &&= ((entry >> 62n) & 1n) === 1n;
    const address = (entry >> 12n) & (2n ** 40n - 1n);
    const nextLevel = Number((entry >> 9n) & 7n);
    if (nextLevel === 0) {
      if (dirty) memory.store(at, 8, entry | 0x40n);
      const pfn = Number(address) + (page % span);
      return { pfn, span, read, write, forceCoherent: ((entry >> 60n) & 1n) === 1n };
    }
    if (nextLevel !== level) throw new Error(`an entry of level ${level} leads to level ${nextLevel}`);
    table = address;
  }
  throw new Error('the entry of level 0 is no leaf');
}
