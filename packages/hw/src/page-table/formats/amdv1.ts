/**
 * Host page tables of the AMD IOMMU, with 3, 4 and 5 levels.
 *
 * AMD I/O Virtualization Technology (IOMMU) Specification (48882), section 2.2.3, as Linux 7.2 has it
 * (drivers/iommu/generic_pt/fmt/amdv1.h): an entry that leads to a table names its own level, counted from 0, and a
 * leaf says 0. Rights are in the high half, and those of all entries on the way count.
 *
 * A leaf can also say 7: it is then one of several that make one page of any power of two, whose size is in the low
 * bits of the address. Such pages save no table, only entries of hardware's caches. Here leaves are of one entry, as in
 * every format: what is mapped in larger steps translates alike, and a write marks as dirty what its own entry maps.
 * A leaf of level 3, 512 GiB, is an erratum of the hardware, and tables of one, two and six levels are of no use to an
 * operating system.
 */

import type { PageTableFormat } from '../format.ts';

const PRESENT = 1 << 0;
const ACCESSED = 1 << 5;
const DIRTY = 1 << 6;
const NEXT_LEVEL = 7 << 9;
/** Bit 60: accesses snoop, whatever the device asks for. */
const FORCE_COHERENT_HIGH = 1 << 28;
/** Bits 61 and 62. */
const READ_HIGH = 1 << 29;
const WRITE_HIGH = 1 << 30;

export const amdv1: PageTableFormat = {
  name: 'AMDv1',
  levels: [3, 4, 5],
  canonical: false,
  pageSizesLg2: [12, 21, 30],
  present: PRESENT,
  leaf: PRESENT,
  leafMask: NEXT_LEVEL,
  large: 0,
  read: 0,
  readHigh: READ_HIGH,
  write: 0,
  writeHigh: WRITE_HIGH,
  user: 0,
  execute: 0,
  noExecuteHigh: 0,
  snoop: 0,
  snoopHigh: FORCE_COHERENT_HIGH,
  global: 0,
  accessed: ACCESSED,
  dirty: DIRTY,
  alwaysMarks: false,
  table: PRESENT,
  tableLevel: 1 << 9,
  tableHigh: READ_HIGH | WRITE_HIGH,
  software: 0x19e,
};
