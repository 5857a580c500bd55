/** Mapping and unmapping of whole ranges: what a page costs, in one table and in several. */

import { PAGE_SIZE } from '@iommukit/hw';
import type { Ioas } from '@iommukit/iommufd';
import { measureParts, type Passes, type Sample } from '../measure.ts';
import { IOVA, memory, PAGE, type Program } from './host.ts';
import { SYNTHETIC_BASE } from './memory.ts';

/** What is mapped: memory of the program from an address, or a file from its start. */
export type Mapped = { readonly va: bigint } | { readonly fd: number };

/** Maps `pages` pages at IOVA, and takes them out again. */
export function measureMapping(
  name: string,
  program: Program,
  what: Mapped,
  pages: number,
  domains: number,
  passes?: Passes,
): Sample[] {
  const { client } = program;
  const ioas = program.ioas(domains);
  const length = pages * PAGE_SIZE;
  const body = (mark: (part: number | null) => void): number => {
    if ('fd' in what) client.ioasMapFile({ ioasId: ioas.id, fd: what.fd, length, iova: IOVA });
    else client.ioasMap({ ioasId: ioas.id, userVa: what.va, length, iova: IOVA });
    mark(0);
    const sum = look(ioas, pages);
    mark(null);
    client.ioasUnmap(ioas.id, IOVA, length);
    mark(1);
    return sum;
  };
  return measureParts([`map-${name}`, `unmap-${name}`], pages, body, passes);
}

/** What the tables lead to: the numbers in every 61st page, or the frames where there is no memory. */
function look({ hwpts }: Ioas, pages: number): number {
  let sum = 0;
  for (const { domain } of hwpts) {
    for (let page = 0; page < pages; page += 61) {
      const address = domain.iovaToPhys(IOVA + BigInt(page) * PAGE)!;
      const pfn = Number(address / PAGE);
      sum = (sum + (pfn < memory.ramFrames ? memory.readWord(pfn, 0) : pfn - SYNTHETIC_BASE)) | 0;
    }
  }
  return sum;
}
