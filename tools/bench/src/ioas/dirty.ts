/** GET_DIRTY_BITMAP on 128 MiB, a bit for each 4 KiB. */

import { AT_UNTRANSLATED, COMPLETION_SUCCESS, NO_PASID, PAGE_SIZE } from '@iommukit/hw';
import { measureParts, type Sample } from '../measure.ts';
import { IOVA, program } from './host.ts';

const PAGES = 32768;
const FIRST_PAGE = Number(IOVA) / PAGE_SIZE;

/** An IOAS with such an area of `va`, shown to the function by a table that tracks what it writes. Gives the table. */
export function trackedTable(va: bigint): number {
  const { client, device } = program;
  const { id: ioasId } = program.ioas(0);
  const hwptId = client.hwptAllocPaging({ deviceId: device.id, ioasId, dirtyTracking: true });
  client.ioasMap({ ioasId, userVa: va, length: PAGES * PAGE_SIZE, iova: IOVA });
  program.inKernel(() => device.attach(hwptId));
  client.hwptSetDirtyTracking(hwptId, true);
  return hwptId;
}

/** Reads and clears what the function has written: every `step`-th page, or none for 0. */
export function measureDirty(name: string, hwptId: number, step: number): Sample {
  const { client } = program;
  const bitmap = new Uint8Array(PAGES / 8);
  const body = (mark: (part: number | null) => void): number => {
    if (step > 0) writePages(step);
    bitmap.fill(0);
    mark(null);
    client.hwptGetDirtyBitmap({ hwptId, iova: IOVA, length: PAGES * PAGE_SIZE, bitmap });
    mark(0);
    return bitmap.reduce((sum, byte) => (Math.imul(sum, 31) + byte) | 0, 0);
  };
  return measureParts([name], PAGES, body, { warm: 200, measured: 15 })[0]!;
}

/** By DMA, each page its own number once more, as its first word. */
function writePages(step: number): void {
  const { upstream } = program.fn;
  const number = new Uint32Array(1);
  const bytes = new Uint8Array(number.buffer);
  for (let page = 0; page < PAGES; page += step) {
    number[0] = page;
    const at = FIRST_PAGE + page;
    const status = upstream.writeFrom(AT_UNTRANSLATED, NO_PASID, 0, at << 12, at >>> 20, bytes);
    if (status !== COMPLETION_SUCCESS) throw new Error(`DMA to page ${page}: status ${status}`);
  }
}
