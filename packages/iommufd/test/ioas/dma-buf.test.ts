import { IOMMU_CACHE, IOMMU_MMIO } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { errnoOf, ProcessHost, sweep } from '../support/process-host.ts';

const IOVA = 0x10000n;

/** Four frames of a device, mapped at IOVA of an IOAS. */
function mapped() {
  const host = new ProcessHost();
  const ioasId = host.client.ioasAlloc();
  const { fd, buffer } = host.dmabuf(4);
  host.client.ioasMapFile({ ioasId, fd, length: 0x4000, iova: IOVA });
  return { host, ioasId, fd, buffer };
}

describe('a mapped dma-buf', () => {
  test('is reached as memory of a device, without pin or charge', () => {
    const { host, ioasId, fd, buffer } = mapped();
    host.first.process.limits.memlock = 0;
    const domain = host.addDomain(ioasId);
    expect([0n, 3n].map((page) => domain.iovaToPhys(IOVA + page * 4096n))).toEqual([
      BigInt(buffer.pfn * 4096),
      BigInt((buffer.pfn + 3) * 4096),
    ]);
    for (const { prot } of domain.units.values()) expect(prot & (IOMMU_MMIO | IOMMU_CACHE)).toBe(IOMMU_MMIO);
    host.client.ioasMapFile({ ioasId, fd, start: 0x2000, length: 0x2000, iova: 0x4000n });
    expect(domain.iovaToPhys(0x5000n)).toBe(BigInt((buffer.pfn + 3) * 4096));
    const { addressSpace, credentials } = host.first.process;
    expect([host.processes.counts.pinned, addressSpace.pinnedPages, credentials.user.lockedPages]).toEqual([0, 0, 0]);
    expect(host.areas(ioasId).map(({ pages }) => pages.pinned)).toEqual([0, 0]);
  });

  test('has to be as large as what is mapped of it', () => {
    const { host, ioasId, fd } = mapped();
    const map = (start: number, length: number): unknown =>
      errnoOf(() => host.client.ioasMapFile({ ioasId, fd, start, length }));
    expect([map(0, 0x4001), map(0x1000, 0x4000), map(0x4000, 0x1000), map(0, 0)]).toEqual(new Array(4).fill('EINVAL'));
    expect([map(0x3000, 0x1000), map(0x3fff, 1)]).toEqual([null, null]);
  });

  test('that is revoked is at once in no table of any IOAS, and the areas stay', () => {
    const { host, ioasId, fd, buffer } = mapped();
    const other = host.client.ioasAlloc();
    host.client.ioasCopy({
      srcIoasId: ioasId,
      srcIova: IOVA + 0x1000n,
      length: 0x2000,
      dstIoasId: other,
      dstIova: IOVA,
    });
    host.client.ioasMapFile({ ioasId: other, fd, length: 0x1000, iova: 0x4000n });
    const userVa = host.memory(host.first, 1);
    host.client.ioasMap({ ioasId, userVa, length: 0x1000, iova: 0x4000n });
    const domains = [host.addDomain(ioasId), host.addDomain(ioasId), host.addDomain(other)];
    expect(domains.map(({ units }) => units.size)).toEqual([10, 10, 6]);
    buffer.revoke();
    expect(domains.map(({ units, cached }) => [units.size, cached.size])).toEqual([
      [2, 0],
      [2, 0],
      [0, 0],
    ]);
    expect([host.areas(ioasId).length, host.areas(other).length]).toEqual([2, 2]);
    expect(host.client.ioasUnmapAll(ioasId)).toBe(0x5000n);
  });

  test('is not mapped while it is revoked; what was mapped before does not come back', () => {
    const { host, ioasId, fd, buffer } = mapped();
    const domain = host.addDomain(ioasId);
    buffer.revoke();
    const map = (iova: bigint): unknown => errnoOf(() => host.client.ioasMapFile({ ioasId, fd, length: 0x1000, iova }));
    expect([map(0x4000n), buffer.revoked]).toEqual(['ENODEV', true]);
    buffer.restore();
    expect([map(0x4000n), domain.units.size]).toEqual([null, 2]);
    // Neither in a new table, nor in a copy of the old area.
    const late = host.addDomain(ioasId);
    host.client.ioasCopy({ srcIoasId: ioasId, srcIova: IOVA, length: 0x4000, dstIoasId: ioasId, dstIova: 0x20000n });
    expect([late.iovaToPhys(IOVA), late.iovaToPhys(0x20000n), late.units.size]).toEqual([null, null, 2]);
    expect([domain.iovaToPhys(0x20000n), domain.iovaToPhys(0x4000n)]).toEqual([null, BigInt(buffer.pfn * 4096)]);
    buffer.revoke();
    buffer.revoke();
    expect([domain.units.size, late.units.size]).toEqual([0, 0]);
    host.table(ioasId).removeDomain(late);
    expect(host.client.ioasUnmapAll(ioasId)).toBe(0x9000n);
  });

  test('revoked without a table is not shown by one that comes later', () => {
    const { host, ioasId, buffer } = mapped();
    buffer.revoke();
    buffer.restore();
    expect(host.addDomain(ioasId).units.size).toBe(0);
  });

  test('is kept by what is mapped of it, and given back with the last area', () => {
    let released = 0;
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const { fd, buffer } = host.dmabuf(2, () => released++);
    host.client.ioasMapFile({ ioasId, fd, length: 0x2000, iova: IOVA });
    host.client.ioasCopy({ srcIoasId: ioasId, srcIova: IOVA, length: 0x1000, dstIoasId: ioasId, dstIova: 0x4000n });
    host.first.system.close(fd);
    host.client.ioasUnmap(ioasId, IOVA, 0x2000);
    expect(released).toBe(0);
    host.client.ioasUnmapAll(ioasId);
    expect(released).toBe(1);
    buffer.revoke();
  });

  test('cannot be handed to another process', () => {
    const { host } = mapped();
    expect(errnoOf(() => host.client.ioasChangeProcess())).toBe('EINVAL');
  });

  test('X5 a map of it that fails at any point has changed nothing, and does not keep it', () => {
    let released = 0;
    let swept = 0;
    const points = sweep(() => {
      const host = new ProcessHost();
      const ioasId = host.client.ioasAlloc();
      const { fd } = host.dmabuf(2, () => released++);
      host.addDomain(ioasId);
      host.addDomain(ioasId);
      swept++;
      const operation = (): void => {
        try {
          host.client.ioasMapFile({ ioasId, fd, length: 0x2000 });
        } finally {
          host.first.system.close(fd);
        }
      };
      return { host, operation };
    });
    expect(points).toBeGreaterThan(4);
    // All but the one that was mapped.
    expect(released).toBe(swept - 1);
  });
});
