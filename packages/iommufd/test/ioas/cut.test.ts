import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errnoOf, ProcessHost, sweep } from '../support/process-host.ts';

const IOVA = 0x10000n;

/** Pages of memory at IOVA, in an IOAS without large pages, shown by two tables. */
function mapped(pages = 8) {
  const host = new ProcessHost();
  const ioasId = host.client.ioasAlloc();
  host.client.setHugePages(ioasId, false);
  const domains = [host.addDomain(ioasId), host.addDomain(ioasId, { smallestLg2: 11 })];
  const userVa = host.memory(host.first, pages);
  host.client.ioasMap({ ioasId, userVa, length: pages * 4096, iova: IOVA });
  return { host, ioasId, userVa, domains, table: host.table(ioasId) };
}

function lockedBy({ first: { process } }: ProcessHost): number[] {
  const { addressSpace, credentials } = process;
  return [addressSpace.pinnedPages, addressSpace.lockedPages, credentials.user.lockedPages];
}

describe('cutting an area', () => {
  test('leaves two on the same pages, and no device notices', () => {
    const { host, ioasId, domains, table } = mapped();
    const units = domains.map((domain) => new Map(domain.units));
    table.cutAt(IOVA + 0x3000n);
    table.cutAt(IOVA + 0x5000n);
    const areas = host.areas(ioasId);
    expect(areas.map(({ iova, length, startByte }) => [iova, length, startByte])).toEqual([
      [IOVA, 0x3000n, 0n],
      [IOVA + 0x3000n, 0x2000n, 0x3000n],
      [IOVA + 0x5000n, 0x3000n, 0x5000n],
    ]);
    expect(new Set(areas.map(({ pages }) => pages)).size).toBe(1);
    expect([areas[0]!.pages.users, host.processes.counts.pinned]).toEqual([3, 8]);
    expect(domains.map((domain) => domain.units)).toEqual(units);
    expect(host.client.ioasUnmap(ioasId, IOVA + 0x3000n, 0x2000)).toBe(0x2000n);
    expect([domains[0]!.units.size, host.processes.counts.pinned]).toEqual([12, 6]);
    expect(host.client.ioasUnmapAll(ioasId)).toBe(0x6000n);
    expect([domains[0]!.units.size, host.processes.counts.pinned]).toEqual([0, 0]);
  });

  test('has its errno for each thing that is wrong', () => {
    const { host, ioasId, userVa, table } = mapped();
    const cut = (iova: bigint): unknown => errnoOf(() => table.cutAt(iova));
    expect([cut(IOVA + 0x800n), cut(IOVA + 2n)]).toEqual(['EINVAL', 'EINVAL']);
    const { fd } = host.dmabuf(2);
    host.client.ioasMapFile({ ioasId, fd, length: 0x2000, iova: 0x4000n });
    expect(cut(0x5000n)).toBe('EOPNOTSUPP');
    const driver = host.access();
    driver.access.attach(ioasId);
    driver.pin(IOVA, 0x1000n);
    expect(cut(IOVA + 0x4000n)).toBe('EINVAL');
    driver.letGo(0n, 1n << 60n);
    // With large pages the area may be in a leaf that reaches over the cut.
    host.client.setHugePages(ioasId, true);
    expect(cut(IOVA + 0x4000n)).toBe('EINVAL');
    const other = host.client.ioasAlloc();
    host.client.ioasMap({ ioasId: other, userVa, length: 0x2000, iova: IOVA });
    expect(errnoOf(() => host.table(other).cutAt(IOVA + 0x7ffn))).toBeNull();
    expect(host.areas(other).length).toBe(2);
    expect(host.areas(ioasId).length).toBe(2);
  });

  test('while it is being unmapped is refused', () => {
    const { host, ioasId, table } = mapped();
    const driver = host.access(true, () => {});
    driver.access.attach(ioasId);
    driver.pin(IOVA, 0x1000n);
    expect(errnoOf(() => host.client.ioasUnmapAll(ioasId))).toBe('EDEADLK');
    expect(errnoOf(() => table.cutAt(IOVA + 0x1000n))).toBe('EBUSY');
  });

  test('at its ends, or where nothing is, does nothing', () => {
    const { host, ioasId, table } = mapped();
    for (const iova of [0n, 1n, IOVA, IOVA + 0x8000n, 0xffff_ffff_ffff_ffffn]) table.cutAt(iova);
    expect(host.areas(ioasId).map(({ length }) => length)).toEqual([0x8000n]);
  });

  test('inside a page, where no table forbids it, leaves the page to both parts', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const userVa = host.memory(host.first, 3);
    host.client.ioasMap({ ioasId, userVa, length: 0x3000, iova: IOVA });
    host.table(ioasId).cutAt(IOVA + 0x1800n);
    const domain = host.addDomain(ioasId, { smallestLg2: 11 });
    expect(host.processes.counts.pinned).toBe(3);
    host.client.ioasUnmap(ioasId, IOVA, 0x1800);
    expect([host.processes.counts.pinned, domain.units.size]).toEqual([2, 3]);
    expect(host.byteOf(Number(domain.iovaToPhys(IOVA + 0x1800n)! / 4096n))).toBe(2);
  });

  test('X5 fails at any point without a change', () => {
    const points = sweep(() => {
      const { host, table } = mapped();
      return { host, operation: () => table.cutAt(IOVA + 0x3000n) };
    });
    expect(points).toBeGreaterThan(0);
  });

  test('property 14: whatever is cut, unmapping the parts in any order is unmapping the area', () => {
    const run = fc.record({
      pages: fc.integer({ min: 1, max: 12 }),
      cuts: fc.array(fc.nat(12), { maxLength: 6 }),
      order: fc.array(fc.nat(20), { minLength: 7, maxLength: 7 }),
      kind: fc.constantFrom('user', 'file'),
      domains: fc.nat(2),
      copied: fc.boolean(),
    });
    fc.assert(
      fc.property(run, ({ pages, cuts, order, kind, domains, copied }) => {
        const furnish = (): { host: ProcessHost; ioasId: number } => {
          const host = new ProcessHost();
          const ioasId = host.client.ioasAlloc();
          const other = host.client.ioasAlloc();
          host.client.setHugePages(ioasId, false);
          for (let index = 0; index < domains; index++) host.addDomain(ioasId);
          const length = pages * 4096;
          if (kind === 'file') host.client.ioasMapFile({ ioasId, fd: host.memfd(pages).fd, length, iova: IOVA });
          else host.client.ioasMap({ ioasId, userVa: host.memory(host.first, pages), length, iova: IOVA });
          host.addDomain(other);
          const half = Math.ceil(pages / 2) * 4096;
          if (copied) host.client.ioasCopy({ srcIoasId: ioasId, srcIova: IOVA, length: half, dstIoasId: other });
          return { host, ioasId };
        };
        const [whole, parts] = [furnish(), furnish()];
        expect(whole.host.client.ioasUnmap(whole.ioasId, IOVA, pages * 4096)).toBe(BigInt(pages * 4096));
        for (const at of cuts) parts.host.table(parts.ioasId).cutAt(IOVA + BigInt(at * 4096));
        let bytes = 0n;
        for (let areas = parts.host.areas(parts.ioasId); areas.length > 0; areas = parts.host.areas(parts.ioasId)) {
          const { iova, length } = areas[order[areas.length % order.length]! % areas.length]!;
          bytes += parts.host.client.ioasUnmap(parts.ioasId, iova, length);
        }
        expect(bytes).toBe(BigInt(pages * 4096));
        expect(parts.host.snapshot()).toEqual(whole.host.snapshot());
        expect(lockedBy(parts.host)).toEqual(lockedBy(whole.host));
      }),
      { numRuns: 60 },
    );
  });
});
