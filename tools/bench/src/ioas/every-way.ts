/**
 * Uses everything that the jobs use in every way that programs do, so that no job runs on code that has seen only its own
 * types: both styles of interface, memory of all kinds, tables of all formats, small and large pages, areas that start
 * and end anywhere, accesses, copies and refusals.
 */

import { PAGE_SIZE } from '@iommukit/hw';
import { createAccess, DmaBuf, SysError } from '@iommukit/iommufd';
import { IOVA, PAGE, type Program, program } from './host.ts';

const BLOCK = 512;
const PAGES = 3 * BLOCK;
const ROUNDS = 200;

export function useInEveryWay(synthetic: Program): void {
  const { system, client } = program;
  const length = PAGES * PAGE_SIZE;
  const anonymous = system.mmap({ length });
  const shared = system.mmap({ length, shared: true });
  const fd = system.memfd('warm', length);
  const mapped = system.mmap({ fd, length });
  const lent = program.inKernel(() => {
    const buffer = new DmaBuf({ pfn: 2 ** 22, frames: PAGES });
    return program.system.caller.descriptors.install(buffer);
  });
  const tables = [0, 1, 2, 8].map((domains) => program.ioas(domains));
  const large = synthetic.ioas(2);
  for (let round = 0; round < ROUNDS; round++) {
    const { id: ioasId } = tables[round % tables.length]!;
    const { id: other } = tables[(round + 1) % tables.length]!;
    const pages = [1, 2, 7, BLOCK, BLOCK + 1, PAGES][round % 6]!;
    const first = (round * 7) % (PAGES - pages + 1);
    const at = BigInt(first) * PAGE;
    const iova = IOVA + at;
    client.ioasMap({ ioasId, userVa: anonymous + at, length: pages * PAGE_SIZE, iova });
    const free = client.ioasMap({ ioasId, userVa: shared + at, length: pages * PAGE_SIZE, writable: round % 4 !== 1 });
    client.ioasMap({ ioasId, userVa: mapped + at, length: PAGE_SIZE });
    client.ioasMapFile({ ioasId, fd, start: at, length: pages * PAGE_SIZE });
    client.ioasMapFile({ ioasId, fd: lent, start: at, length: pages * PAGE_SIZE });
    client.ioasCopy({ srcIoasId: ioasId, srcIova: iova, length: PAGE_SIZE, dstIoasId: other, dstIova: 8n * IOVA });
    useAccess(ioasId, iova);
    if (round % tables.length === 0) client.ioasMap({ ioasId, userVa: anonymous + 5n, length: 9 });
    refused(() => client.ioasMap({ ioasId, userVa: anonymous, length: PAGE_SIZE, iova }));
    refused(() => client.ioasUnmap(ioasId, iova, 5));
    client.ioasIovaRanges(ioasId);
    client.ioasUnmap(ioasId, free, pages * PAGE_SIZE);
    client.ioasUnmapAll(ioasId);
    client.ioasUnmapAll(other);
    const { id } = large;
    synthetic.client.ioasMap({ ioasId: id, userVa: at, length: pages * PAGE_SIZE, iova: (1n << 40n) + at });
    synthetic.client.ioasMap({ ioasId: id, userVa: at, length: pages * PAGE_SIZE });
    synthetic.client.ioasUnmapAll(id);
  }
  system.munmap(anonymous, length);
  system.munmap(shared, length);
  system.munmap(mapped, length);
  system.close(fd);
  system.close(lent);
}

/** As the driver of a mediated device. */
function useAccess(ioasId: number, iova: bigint): void {
  program.inKernel(() => {
    const access = createAccess(program.context, { needsPinPages: true, unmap() {} });
    access.attach(ioasId);
    access.pinPages(iova, PAGE, true);
    access.write(iova + 9n, new Uint8Array(8));
    access.read(iova, new Uint8Array(8));
    access.unpinPages(iova, PAGE);
    access.detach();
    access.close();
  });
}

function refused(call: () => unknown): void {
  try {
    call();
  } catch (error) {
    if (error instanceof SysError) return;
    throw error;
  }
  throw new Error('a call was to be refused');
}
