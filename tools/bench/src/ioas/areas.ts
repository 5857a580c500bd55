/**
 * What may grow with the number of areas. Area i is the one page 2 i + 1; behind nine tenths of them a gap of 65 pages is
 * left, and 64 are looked for.
 */

import type { Ioas } from '@iommukit/iommufd';
import { measure, type Sample } from '../measure.ts';
import { draws, reseed, shuffle } from '../random.ts';
import { PAGE, program } from './host.ts';

/** The area that a search gives; the package shows it only through `Ioas`. */
type Area = NonNullable<ReturnType<Ioas['table']['space']['areaFrom']>>;

const OPERATIONS = 65536;
const CALLS = 8192;
const GAP_PAGES = 64;

/** `va` is the memory that is mapped, over and over. */
export function measureAreas(count: number, va: bigint): Sample[] {
  reseed();
  const { client } = program;
  const ioas = program.ioas(1);
  const { id: ioasId } = ioas;
  const { space } = ioas.table;
  const order = shuffle(count);
  const drawn = draws(OPERATIONS, count);
  const iovaOf = (i: number): bigint => BigInt(2 * i + 1 + (i >= Math.floor(count / 10) * 9 ? GAP_PAGES : 0)) * PAGE;
  const vaOf = (i: number): bigint => va + BigInt(i & 0xffff) * PAGE;
  const areas = new Map<number, Area>();
  for (const i of order) client.ioasMap({ ioasId, userVa: vaOf(i), length: PAGE, iova: iovaOf(i) });
  for (const i of drawn) areas.set(i, space.areaFrom(iovaOf(i))!);
  const picked = Array.from(drawn, (i) => areas.get(i)!);
  const inside = picked.map(({ iova }) => iova + 5n);
  const between = picked.map(({ iova }) => iova + PAGE);
  const memory = Array.from(drawn, vaOf);
  const { pages } = picked[0]!;
  // An odd page, so that 4 KiB is all that the place has to be aligned to.
  const startByte = (pages.source.start & PAGE) !== 0n ? 0n : PAGE;
  const wanted = { pages, startByte, length: BigInt(GAP_PAGES) * PAGE };
  globalThis.gc?.();
  const samples = [
    measure(`area-lookup@${count}`, OPERATIONS, () => {
      let sum = 0;
      for (const iova of inside) sum = (sum + space.areaFrom(iova)!.iovaPage) | 0;
      return sum;
    }),
    measure(`area-update@${count}`, OPERATIONS, () => {
      let sum = 0;
      for (const area of picked) {
        space.remove(area);
        space.insert(area);
        sum = (sum + area.iovaPage) | 0;
      }
      return sum;
    }),
    measure(`first-fit@${count}`, CALLS, () => {
      let found = 0n;
      for (let i = 0; i < CALLS; i++) found = space.choose(wanted, wanted.length, 1);
      return Number(found / PAGE);
    }),
    measure(`map-page@${count}`, CALLS, () => {
      let unmapped = 0;
      for (let i = 0; i < CALLS; i++) {
        const iova = between[i]!;
        client.ioasMap({ ioasId, userVa: memory[i]!, length: PAGE, iova });
        if (client.ioasUnmap(ioasId, iova, PAGE) === PAGE) unmapped++;
      }
      return unmapped;
    }),
  ];
  client.ioasUnmapAll(ioasId);
  return samples;
}
