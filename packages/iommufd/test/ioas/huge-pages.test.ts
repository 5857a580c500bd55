import { describe, expect, test } from 'vitest';
import type { FakeDomain } from '../support/fakes.ts';
import { errnoOf, ProcessHost } from '../support/process-host.ts';

const IOVA = 0x10000n;

/** Bytes of each range that a table is given from now on. */
function recordSizes(domain: FakeDomain): number[] {
  const sizes: number[] = [];
  const map = domain.map.bind(domain);
  domain.map = (iovaLo, iovaHi, physLo, physHi, bytes, prot) => {
    sizes.push(bytes);
    map(iovaLo, iovaHi, physLo, physHi, bytes, prot);
  };
  return sizes;
}

function empty() {
  const host = new ProcessHost();
  const ioasId = host.client.ioasAlloc();
  const userVa = host.memory(host.first, 8);
  return { host, ioasId, userVa };
}

describe('without large pages', () => {
  test('each page is mapped alone, and adjoining ones are one range with them', () => {
    const { host, ioasId, userVa } = empty();
    const sizes = recordSizes(host.addDomain(ioasId));
    host.client.ioasMap({ ioasId, userVa, length: 0x8000, iova: IOVA });
    expect(sizes).toEqual([0x8000]);
    host.client.ioasUnmapAll(ioasId);
    host.client.setHugePages(ioasId, false);
    host.client.ioasMap({ ioasId, userVa, length: 0x8000, iova: IOVA });
    expect(sizes).toEqual([0x8000, ...new Array(8).fill(0x1000)]);
  });

  test('areas are of whole pages, also where tables have smaller ones', () => {
    const { host, ioasId, userVa } = empty();
    host.addDomain(ioasId, { smallestLg2: 11 });
    const map = (offset: bigint, length: number): unknown =>
      errnoOf(() => host.client.ioasMap({ ioasId, userVa: userVa + offset, length, iova: IOVA + offset }));
    expect([host.client.ioasIovaRanges(ioasId).alignment, map(0x800n, 0x800)]).toEqual([2048, null]);
    host.client.ioasUnmapAll(ioasId);
    host.client.setHugePages(ioasId, false);
    expect(host.client.ioasIovaRanges(ioasId).alignment).toBe(4096);
    expect([map(0x800n, 0x1000), map(0n, 0x800), map(0n, 0x1000)]).toEqual(['EINVAL', 'EINVAL', null]);
    host.client.setHugePages(ioasId, true);
    expect([host.client.ioasIovaRanges(ioasId).alignment, map(0x1800n, 0x800)]).toEqual([2048, null]);
  });

  test('they cannot be switched off under a table with areas, nor where areas are not of whole pages', () => {
    const { host, ioasId, userVa } = empty();
    const off = (): unknown => errnoOf(() => host.client.setHugePages(ioasId, false));
    host.client.ioasMap({ ioasId, userVa, length: 0x1001, iova: IOVA });
    expect([off(), host.client.hugePages(ioasId)]).toEqual(['EADDRINUSE', true]);
    host.client.ioasUnmapAll(ioasId);
    host.client.ioasMap({ ioasId, userVa, length: 0x2000, iova: IOVA });
    const domain = host.addDomain(ioasId);
    expect([off(), host.client.hugePages(ioasId)]).toEqual(['EINVAL', true]);
    host.table(ioasId).removeDomain(domain);
    expect([off(), off(), host.client.hugePages(ioasId)]).toEqual([null, null, false]);
    const sizes = recordSizes(domain);
    host.table(ioasId).addDomain(domain);
    expect(sizes).toEqual([0x1000, 0x1000]);
    host.client.setHugePages(ioasId, true);
    expect([off(), host.client.ioasUnmapAll(ioasId), off()]).toEqual(['EINVAL', 0x2000n, null]);
  });
});
