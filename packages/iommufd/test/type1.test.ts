import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Type1Client } from '../src/clients/type1-client.ts';
import * as uapi from '../src/uapi/type1.ts';
import { ENOENT } from './support/errno.ts';
import { ARGUMENT, BUFFER, Host, MEMORY } from './support/host.ts';
import { VtdHost } from './support/vtd-host.ts';

const PAGE = 4096;
const ROOM = 0x200;

/** A context with an IOAS for type1 and a device attached to it. */
function container(version: number = uapi.VFIO_TYPE1v2_IOMMU, host = new Host()) {
  const ioasId = host.client.ioasAlloc();
  const device = host.bind();
  device.attach(ioasId);
  const client = new Type1Client(host.system, host.fd);
  client.setIoas(ioasId);
  client.setIommu(version);
  return { host, ioasId, device, client };
}

/** Calls VFIO_IOMMU_GET_INFO with `argsz`, on memory that is filled with 0xaa behind the size. */
function getInfo(host: Host, argsz: number): { result: number; bytes: Uint8Array } {
  const bytes = new Uint8Array(ROOM).fill(0xaa);
  new DataView(bytes.buffer).setUint32(0, argsz, true);
  host.space.write(ARGUMENT, bytes);
  const result = host.system.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, ARGUMENT);
  host.space.read(ARGUMENT, bytes);
  return { result, bytes };
}

/** What a kernel that writes as it goes leaves behind a structure for which there is `argsz` room. */
function expectedInfo(argsz: number, pageSizes: bigint, ranges: readonly [bigint, bigint][]): Uint8Array {
  const bytes = new Uint8Array(ROOM).fill(0xaa);
  const view = new DataView(bytes.buffer);
  const total = 24 + 16 + 16 + 16 * ranges.length;
  const info = new DataView(new ArrayBuffer(24));
  info.setUint32(0, total, true);
  info.setUint32(4, 3, true);
  info.setBigUint64(8, pageSizes, true);
  info.setUint32(16, argsz >= total ? 24 : 0, true);
  bytes.set(new Uint8Array(info.buffer).subarray(0, Math.min(argsz, 24)));
  if (argsz >= 36) {
    view.setUint16(24, 3, true);
    view.setUint16(26, 1, true);
    view.setUint32(28, argsz >= 40 ? 40 : 0, true);
    view.setUint32(32, 0xffff_ffff, true);
  }
  ranges.forEach(([start, last], index) => {
    if (argsz < 56 + 16 * (index + 1)) return;
    view.setBigUint64(56 + 16 * index, start, true);
    view.setBigUint64(64 + 16 * index, last, true);
  });
  if (argsz >= total) {
    view.setUint16(40, 1, true);
    view.setUint16(42, 1, true);
    view.setUint32(44, 0, true);
    view.setUint32(48, ranges.length, true);
    view.setUint32(52, 0, true);
  }
  return bytes;
}

describe('VFIO_IOMMU_GET_INFO', () => {
  test('for every size of the structure, stores what the kernel stores and nothing behind it', () => {
    const host = new Host();
    host.driver.domainOptions = { aperture: { first: 0n, last: 0xffff_ffff_ffffn } };
    host.driver.regions = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 }];
    container(uapi.VFIO_TYPE1v2_IOMMU, host);
    const ranges: [bigint, bigint][] = [
      [0n, 0xfedf_ffffn],
      [0xfef0_0000n, 0xffff_ffff_ffffn],
    ];
    for (let argsz = 16; argsz < 100; argsz++) {
      const { result, bytes } = getInfo(host, argsz);
      const expected = expectedInfo(argsz, 0x4020_1000n, ranges);
      expect([argsz, result, [...bytes]]).toEqual([argsz, 0, [...expected]]);
    }
  });

  test('the chain is followed from cap_offset; entries are padded to 8 bytes', () => {
    const { host } = container();
    const { bytes } = getInfo(host, ROOM);
    const { argsz, capOffset } = uapi.vfioIommuType1Info.read(bytes);
    const first = uapi.vfioInfoCapHeader.read(bytes, capOffset);
    expect([argsz, capOffset, first]).toEqual([72, 24, { id: 3, version: 1, next: 40 }]);
    expect(uapi.vfioInfoCapHeader.read(bytes, first.next)).toEqual({ id: 1, version: 1, next: 0 });
    expect([...bytes.subarray(36, 40)]).toEqual([0xaa, 0xaa, 0xaa, 0xaa]);
  });

  test('page sizes are those of all domains, a page for what is smaller, and at least the alignment', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    const client = new Type1Client(host.system, host.fd);
    client.setIoas(ioasId);
    // Without a domain anything goes.
    expect(client.info()).toEqual({
      pageSizes: 0xffff_ffff_ffff_f000n,
      ranges: [{ start: 0n, last: 2n ** 64n - 1n }],
    });
    const device = host.bind();
    const alloc = (smallestLg2: number): number => {
      host.driver.domainOptions = { smallestLg2 };
      return host.client.hwptAllocPaging({ deviceId: device.id, ioasId });
    };
    alloc(11);
    expect(client.info().pageSizes).toBe(0x4020_1000n);
    const other = alloc(12);
    // No small page is in both.
    expect(client.info().pageSizes).toBe(0x4020_0000n);
    host.client.destroy(other);
    expect(client.info().pageSizes).toBe(0x4020_1000n);
  });
});

describe('as the kernel’s own tests of the interface', () => {
  test.each([uapi.VFIO_TYPE1v2_IOMMU, uapi.VFIO_TYPE1_IOMMU])(
    'maps, unmaps, and unmaps pages in any order (version %i)',
    (version) => {
      const { host, client, ioasId } = container(version);
      expect(host.client.hugePages(ioasId)).toBe(version === uapi.VFIO_TYPE1v2_IOMMU);
      const map = { userVa: MEMORY, length: 16 * PAGE, iova: 0x100_0000n };
      client.map(map);
      expect(client.unmap(map.iova, map.length)).toBe(0x10000n);
      expect(client.unmap(map.iova, map.length)).toBe(0n);
      client.map(map);
      expect(client.unmapAll()).toBe(0x10000n);
      const pages = Array.from({ length: 16 }, (_, page) => page);
      for (const page of pages) {
        client.map({ userVa: MEMORY + BigInt(page * PAGE), length: PAGE, iova: map.iova + BigInt(page * PAGE) });
      }
      for (const page of pages.sort((a, b) => ((a * 7) % 16) - ((b * 7) % 16))) {
        expect(client.unmap(map.iova + BigInt(page * PAGE), PAGE)).toBe(4096n);
      }
      expect([host.space.pinnedPages, host.user.lockedPages]).toEqual([0, 0]);
    },
  );

  test('version 1 unmaps any part of a mapping, version 2 none', () => {
    for (const version of [uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU]) {
      const { host, client } = container(version);
      client.map({ userVa: MEMORY, length: 64 * PAGE, iova: 0x100_0000n });
      for (const part of [5, 0, 15, 9, 3, 12, 1, 14, 2, 7, 4, 13, 6, 11, 8, 10]) {
        const bytes = new Uint8Array(24);
        const iova = 0x100_0000n + BigInt(part * 4 * PAGE);
        uapi.vfioIommuType1DmaUnmap.write({ argsz: 24, flags: 0, iova, size: BigInt(4 * PAGE) }, bytes);
        host.space.write(BUFFER, bytes);
        const result = host.system.ioctl(host.fd, uapi.VFIO_IOMMU_UNMAP_DMA, BUFFER);
        expect([version, part, result]).toEqual([version, part, version === uapi.VFIO_TYPE1_IOMMU ? 0 : ENOENT]);
      }
      expect(host.space.pinnedPages).toBe(version === uapi.VFIO_TYPE1_IOMMU ? 0 : 64);
    }
  });
});

describe('version 1 against a naive model', () => {
  const range = { first: fc.nat(62), pages: fc.integer({ min: 1, max: 24 }) };
  const step = fc.oneof(
    fc.record({ do: fc.constant('map' as const), ...range, source: fc.nat(40) }),
    fc.record({ do: fc.constant('unmap' as const), ...range }),
    fc.record({ do: fc.constant('all' as const), first: fc.constant(0), pages: fc.constant(64) }),
  );

  test('after any maps and unmaps, exactly the pages are mapped and pinned that should be', () => {
    const check = fc.property(fc.array(step, { minLength: 5, maxLength: 40, size: 'max' }), (steps) => {
      const { host, client } = container(uapi.VFIO_TYPE1_IOMMU);
      const [domain] = host.driver.live as unknown as { iovaToPhys(iova: bigint): bigint | null }[];
      const model = new Map<number, number>();
      for (const action of steps) {
        const { first, pages } = action;
        const range = Array.from({ length: pages }, (_, index) => first + index);
        if (action.do === 'map') {
          const { source } = action;
          const map = () => {
            const userVa = MEMORY + BigInt(source * PAGE);
            client.map({ userVa, length: pages * PAGE, iova: first * PAGE });
          };
          if (range.some((page) => model.has(page))) expect(map).toThrow(expect.objectContaining({ code: 'EEXIST' }));
          else {
            map();
            range.forEach((page, index) => model.set(page, source + index));
          }
        } else {
          const gone = range.filter((page) => model.delete(page)).length;
          if (action.do === 'all') {
            const rest = model.size;
            model.clear();
            expect(client.unmapAll()).toBe(BigInt((gone + rest) * PAGE));
          } else expect(client.unmap(first * PAGE, pages * PAGE)).toBe(BigInt(gone * PAGE));
        }
        for (let page = 0; page < 90; page++) {
          const source = model.get(page);
          const { pfn } = host.space.pages.get(Number(MEMORY >> 12n) + (source ?? 0))!;
          expect(domain!.iovaToPhys(BigInt(page * PAGE))).toBe(source === undefined ? null : BigInt(pfn) << 12n);
        }
      }
      client.unmapAll();
      expect([host.space.pinnedPages, host.user.lockedPages, host.space.pins.size]).toEqual([0, 0, 0]);
    });
    fc.assert(check, { numRuns: 100 });
  });
});

test('hostile bytes give an errno, and closing leaves nothing', () => {
  const requests = Object.entries(uapi).flatMap(([name, value]) =>
    typeof value === 'number' && value >= 0x3b64 && name.startsWith('VFIO_') ? [value] : [],
  );
  const long = fc.oneof(
    fc.constantFrom(0n, 1n, 2n ** 64n - 1n, 1n << 63n, MEMORY, MEMORY + 0x1000n, 0x1000n, 0x4000n, 0x800n),
    fc.bigInt(0n, 2n ** 64n - 1n),
  );
  const call = fc.record({
    request: fc.constantFrom(...requests),
    argsz: fc.oneof(fc.nat(80), fc.constantFrom(24, 32, 72, 0xffff_ffff)),
    flags: fc.oneof(fc.nat(4), fc.nat(0xffff_ffff)),
    longs: fc.tuple(long, long, long),
    argument: fc.oneof({ weight: 5, arbitrary: fc.constant(ARGUMENT) }, { weight: 1, arbitrary: long }),
  });
  const check = fc.property(
    fc.array(call, { minLength: 5, maxLength: 40, size: 'max' }),
    fc.constantFrom(uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU),
    (calls, version) => {
      const { host, device } = container(version);
      for (const { request, argsz, flags, longs, argument } of calls) {
        const bytes = new Uint8Array(32);
        const view = new DataView(bytes.buffer);
        view.setUint32(0, argsz, true);
        view.setUint32(4, flags, true);
        longs.forEach((value, index) => view.setBigUint64(8 + 8 * index, value, true));
        host.space.write(ARGUMENT, bytes);
        const result = host.system.ioctl(host.fd, request, argument);
        expect(Number.isInteger(result) && result <= 1 && result > -200).toBe(true);
        expect(host.space.pinnedPages).toBe(host.user.lockedPages);
      }
      device.unbind();
      host.process.exit();
      expect([host.space.pinnedPages, host.user.lockedPages, host.context.objects.size]).toEqual([0, 0, 0]);
    },
  );
  fc.assert(check, { numRuns: 100 });
});

test('a device reaches what version 1 has left of a mapping, and nothing of what it has cut out', () => {
  const host = new VtdHost();
  const { client, device, tester } = host;
  const type1 = new Type1Client(host.system, client.fd);
  const ioasId = client.ioasAlloc();
  type1.setIoas(ioasId);
  type1.setIommu(uapi.VFIO_TYPE1_IOMMU);
  host.inKernel(() => device.attach(ioasId));
  expect([type1.ioas(), type1.hasExtension(uapi.VFIO_DMA_CC_IOMMU)]).toEqual([ioasId, true]);
  const va = host.memory(8);
  type1.map({ userVa: va, length: 8 * PAGE, iova: 0x10000n });
  const seen = (): (number | null)[] =>
    Array.from({ length: 8 }, (_, page) => tester.read(0x10000n + BigInt(page * PAGE)));
  expect(seen()).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(type1.unmap(0x12000n, 3 * PAGE)).toBe(0x3000n);
  expect(seen()).toEqual([1, 2, null, null, null, 6, 7, 8]);
  expect(host.processes.counts.pinned).toBe(5);
  type1.map({ userVa: va + 5n * 4096n, length: PAGE, iova: 0x13000n, writable: false });
  expect(seen()).toEqual([1, 2, null, 6, null, 6, 7, 8]);
  expect([tester.write(0x13000n, 9), tester.write(0x15000n, 9)]).toEqual([false, true]);
  expect(type1.unmapAll()).toBe(0x6000n);
  expect([seen().every((byte) => byte === null), host.processes.counts.pinned]).toEqual([true, 0]);
  type1.setIoas(null);
  expect(() => type1.info()).toThrow(expect.objectContaining({ code: 'ENODEV' }));
});
