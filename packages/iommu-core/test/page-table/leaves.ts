/**
 * A page table as a list of its leaves, read entry by entry over bigints, with what must hold of its tables. Pages are
 * the format's smallest.
 */

import type { PageTableFormat, PhysicalMemory } from '@iommukit/hw';

export type Leaf = { first: number; pages: number; pfn: number; entry: bigint };

export type TableContents = { leaves: Leaf[]; tables: number[]; emptyTables: number };

const ADDRESS = 0x000f_ffff_ffff_f000n;

export function readTable(
  memory: PhysicalMemory,
  format: PageTableFormat,
  rootPfn: number,
  levels: number,
): TableContents {
  const contents: TableContents = { leaves: [], tables: [], emptyTables: 0 };
  const bytes = new Uint8Array(4096);
  const visit = (table: number, level: number, base: number): void => {
    contents.tables.push(table);
    memory.read(table * 4096, bytes);
    const entries = new BigUint64Array(bytes.slice().buffer);
    const span = 512 ** level;
    let used = 0;
    entries.forEach((entry, index) => {
      if (entry === 0n) return;
      used++;
      const first = base + index * span;
      if (level > 0 && (entry & BigInt(format.leafMask)) !== BigInt(format.large)) {
        visit(Number((entry & ADDRESS) >> 12n), level - 1, first);
      } else {
        const address = entry & ADDRESS & ~(BigInt(span) * 4096n - 1n);
        contents.leaves.push({ first, pages: span, pfn: Number(address >> 12n), entry });
      }
    });
    if (used === 0 && table !== rootPfn) contents.emptyTables++;
  };
  visit(rootPfn, levels - 1, 0);
  return contents;
}
