/** Protection of a mapping as bits of a leaf. */

import type { PageTableFormat } from '@iommukit/hw';
import { IOMMU_CACHE, IOMMU_NOEXEC, IOMMU_PRIV, IOMMU_READ, IOMMU_WRITE } from '../domain.ts';

/** Low half of a leaf without its address and size, for IOMMU_ bits of which at least one allows to read or write. */
export function leafLow(format: PageTableFormat, prot: number): number {
  const writable = (prot & IOMMU_WRITE) !== 0;
  let low = format.leaf;
  if ((prot & IOMMU_READ) !== 0) low |= format.read;
  if (writable) low |= format.write;
  if ((prot & IOMMU_PRIV) === 0) low |= format.user;
  if ((prot & IOMMU_CACHE) !== 0) low |= format.snoop;
  if ((prot & IOMMU_NOEXEC) === 0) low |= format.execute;
  // Hardware that cannot be told to leave these bits alone would write each of them once.
  if (format.alwaysMarks) low |= format.accessed | (writable ? format.dirty : 0);
  return low;
}

/** High half of a leaf without its address. */
export function leafHigh(format: PageTableFormat, prot: number): number {
  let high = 0;
  if ((prot & IOMMU_READ) !== 0) high |= format.readHigh;
  if ((prot & IOMMU_WRITE) !== 0) high |= format.writeHigh;
  if ((prot & IOMMU_CACHE) !== 0) high |= format.snoopHigh;
  if ((prot & IOMMU_NOEXEC) !== 0) high |= format.noExecuteHigh;
  return high;
}
