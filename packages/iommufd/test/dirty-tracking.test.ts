import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as uapi from '../src/uapi/iommufd.ts';
import { E2BIG } from './support/errno.ts';
import type { FakeDomain } from './support/fakes.ts';
import { BUFFER, Host, MEMORY } from './support/host.ts';
import { VtdHost } from './support/vtd-host.ts';

const PAGE = 4096;
const PASID = 5;

describe('against a naive model', () => {
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant('write' as const), page: fc.nat(63) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('track' as const), on: fc.boolean() }) },
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constant('map' as const),
        first: fc.nat(60),
        pages: fc.integer({ min: 1, max: 9 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('unmap' as const), area: fc.nat(9) }) },
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant('get' as const),
        first: fc.nat(63),
        pages: fc.integer({ min: 1, max: 64 }),
        // Of the bitmap: half a page, a page, 2, 3 (which counts as 1) and 8 pages.
        unit: fc.constantFrom(0.5, 1, 2, 3, 8),
        offset: fc.nat(4200),
        keep: fc.boolean(),
        twice: fc.boolean(),
      }),
    },
  );

  test('GET_DIRTY_BITMAP gives every page written since it was last cleared, once; NO_CLEAR any number of times', () => {
    const check = fc.property(fc.array(step, { minLength: 10, maxLength: 60, size: 'max' }), (steps) => {
      const host = new Host();
      host.driver.capabilities.add('dirty-tracking');
      const device = host.bind();
      const ioasId = host.client.ioasAlloc();
      const hwptId = host.client.hwptAllocPaging({ deviceId: device.id, ioasId, dirtyTracking: true });
      const { dirty } = host.driver.live[0] as FakeDomain;
      const areas = new Map<number, number>();
      const written = new Set<number>();
      const mapped = (page: number): boolean =>
        [...areas].some(([first, pages]) => page >= first && page < first + pages);
      /** Sets the bits of [first, first + pages) in `bitmap`, up to the first page that is not mapped. */
      const expectBits = (bitmap: Uint8Array, first: number, pages: number, unit: number): number[] => {
        const seen: number[] = [];
        for (let page = first; page < first + pages && mapped(page); page++) {
          if (!written.has(page)) continue;
          seen.push(page);
          const bit = unit < 1 ? (page - first) * 2 : Math.floor((page - first) / (unit & -unit));
          for (const each of unit < 1 ? [bit, bit + 1] : [bit]) bitmap[each >> 3]! |= 1 << (each & 7);
        }
        return seen;
      };
      for (const action of steps) {
        if (action.do === 'write') {
          if (!mapped(action.page)) continue;
          dirty!.write(BigInt(action.page * PAGE));
          if (dirty!.enabled) written.add(action.page);
        } else if (action.do === 'track') {
          host.client.hwptSetDirtyTracking(hwptId, action.on);
          if (action.on) written.clear();
        } else if (action.do === 'map') {
          const { first, pages } = action;
          if (Array.from({ length: pages }, (_, index) => first + index).some(mapped)) continue;
          host.client.ioasMap({ ioasId, userVa: MEMORY, length: pages * PAGE, iova: first * PAGE });
          areas.set(first, pages);
        } else if (action.do === 'unmap') {
          const area = [...areas][action.area];
          if (area === undefined) continue;
          host.client.ioasUnmap(ioasId, area[0] * PAGE, area[1] * PAGE);
          areas.delete(area[0]);
          for (let page = area[0]; page < area[0] + area[1]; page++) {
            written.delete(page);
            dirty!.leaves.delete(page);
          }
        } else {
          const { unit, offset, keep } = action;
          const step = Math.max(unit, 1);
          // Aligned to the mask of the page size, as the kernel reads it.
          const first = unit === 3 ? action.first & ~3 : Math.floor(action.first / step) * step;
          const pages = unit === 3 ? (action.pages + 3) & ~3 : Math.ceil(action.pages / step) * step;
          const before = new Uint8Array(32).map((_, index) => (index * 73) & 0xff);
          for (let round = 0; round < (action.twice ? 2 : 1); round++) {
            const expected = before.slice();
            host.space.write(BUFFER + BigInt(offset), before);
            const seen = expectBits(expected, first, pages, unit);
            const { result } = host.ioctl(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, uapi.iommuHwptGetDirtyBitmap, {
              hwptId,
              flags: keep ? uapi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR : 0,
              iova: BigInt(first * PAGE),
              length: BigInt(pages * PAGE),
              pageSize: BigInt(unit * PAGE),
              data: BUFFER + BigInt(offset),
            });
            const after = new Uint8Array(32);
            host.space.read(BUFFER + BigInt(offset), after);
            expect([result, [...after]]).toEqual([0, [...expected]]);
            if (!keep) for (const page of seen) written.delete(page);
          }
        }
        expect(dirty!.stale.size).toBe(0);
        expect([...dirty!.leaves].sort()).toEqual([...written].sort());
      }
    });
    fc.assert(check, { numRuns: 150 });
  });
});

/** Guest memory of 32 pages behind a nest parent that tracks, and a nested table at guest-physical 0x10000. */
function guest() {
  const host = new VtdHost();
  const { client, device, tester } = host;
  const va = host.memory(32);
  const ioasId = client.ioasAlloc();
  client.ioasMap({ ioasId, userVa: va, length: 32 * PAGE, iova: 0n });
  const request = { deviceId: device.id, ioasId, nestParent: true, dirtyTracking: true, pasid: true };
  const parentId = client.hwptAllocPaging(request);
  const root = 0x10000n;
  for (let page = 0n; page < 8n; page++) host.fill(va + root + page * 4096n, 0);
  const gva = (page: number): bigint => 0x7f00_0000_0000n + BigInt(page * PAGE);
  for (let page = 0; page < 4; page++) host.stage1Map(va, root, gva(page), BigInt(24 + page) << 12n);
  const nestedId = client.hwptAllocVtdS1({
    deviceId: device.id,
    parentId,
    pageTable: root,
    addressWidth: 48,
    pasid: true,
  });
  /** Guest pages that are dirty, of data or of the whole memory. */
  const read = (options: { keep?: boolean; whole?: boolean } = {}): number[] => {
    const { keep = false, whole = false } = options;
    const first = whole ? 0 : 24;
    const bitmap = new Uint8Array(4);
    const range = { iova: first * PAGE, length: (32 - first) * PAGE };
    client.hwptGetDirtyBitmap({ hwptId: parentId, ...range, bitmap, keep });
    const pages: number[] = [];
    for (let bit = 0; bit < 32; bit++) if (((bitmap[bit >> 3]! >> (bit & 7)) & 1) === 1) pages.push(first + bit);
    return pages;
  };
  const write = (page: number, pasid?: number): boolean =>
    tester.write(gva(page), 0x77, pasid === undefined ? {} : { pasid });
  return { host, client, device, va, ioasId, parentId, nestedId, gva, read, write };
}

describe('on VT-d, with DMA of a device', () => {
  test('D23 what is written through a nested table is dirty in its parent at the guest-physical address', () => {
    for (const pasid of [PASID, undefined]) {
      const { host, client, device, va, parentId, nestedId, read, write } = guest();
      client.hwptSetDirtyTracking(parentId, true);
      host.inKernel(() => device.attach(nestedId, ...(pasid === undefined ? [] : [pasid])));
      expect([write(1, pasid), write(3, pasid)]).toEqual([true, true]);
      expect(host.byteAt(va + 27n * 4096n)).toBe(0x77);
      expect(read()).toEqual([25, 27]);
      // The walk through the guest's own table has set accessed and dirty bits in it: its four pages from 0x10000.
      expect(read({ whole: true })).toEqual([16, 17, 18, 19]);
      expect(read({ whole: true })).toEqual([]);
    }
  });

  test('D24 what was written before tracking is clean, what is written after it is read once, or kept', () => {
    const { host, client, device, parentId, nestedId, read, write } = guest();
    host.inKernel(() => device.attach(nestedId, PASID));
    expect(write(0, PASID)).toBe(true);
    expect(read({ whole: true })).toEqual([]);
    client.hwptSetDirtyTracking(parentId, true);
    expect(read({ whole: true })).toEqual([]);
    expect([write(0, PASID), write(2, PASID)]).toEqual([true, true]);
    for (let round = 0; round < 2; round++) expect(read({ keep: true })).toEqual([24, 26]);
    expect([read(), read()]).toEqual([[24, 26], []]);
    // Through what the unit has cached, it is marked again.
    expect([write(2, PASID), read()]).toEqual([true, [26]]);
    client.hwptSetDirtyTracking(parentId, true);
    expect([write(1, PASID), write(3, PASID)]).toEqual([true, true]);
    // Enabling again starts anew.
    client.hwptSetDirtyTracking(parentId, true);
    expect(read()).toEqual([]);
    client.hwptSetDirtyTracking(parentId, false);
    expect([write(1, PASID), read()]).toEqual([true, []]);
  });

  test('D24 of a table without nesting, over areas and holes, into a bitmap at any address', () => {
    const host = new VtdHost();
    const { client, device, tester, system } = host;
    const va = host.memory(16);
    const ioasId = client.ioasAlloc();
    // Areas back to back, then a hole of one page.
    const areas = [
      [0, 4],
      [4, 1],
      [5, 3],
      [9, 7],
    ] as const;
    const base = 0x4000_0000n;
    for (const [first, pages] of areas) {
      const iova = base + BigInt(first * PAGE);
      client.ioasMap({ ioasId, userVa: va + BigInt(first * PAGE), length: pages * PAGE, iova });
    }
    const hwptId = client.hwptAllocPaging({ deviceId: device.id, ioasId, dirtyTracking: true });
    host.inKernel(() => device.attach(hwptId));
    client.hwptSetDirtyTracking(hwptId, true);
    for (const page of [0, 3, 4, 7, 9, 15]) expect(tester.write(base + BigInt(page * PAGE), 1)).toBe(true);
    // The bitmap begins in the last byte of a page.
    const bitmap = system.mmap({ length: 2 * PAGE }) + 4095n;
    const layout = uapi.iommuHwptGetDirtyBitmap;
    const argument = system.mmap({ length: PAGE });
    const get = (first: number, pages: number, size: number = layout.size): number => {
      const bytes = new Uint8Array(Math.max(size, layout.size));
      const range = { iova: base + BigInt(first * PAGE), length: BigInt(pages * PAGE), pageSize: 4096n };
      layout.write({ size, hwptId, flags: 0, reserved: 0, data: bitmap, ...range }, bytes);
      bytes.fill(1, layout.size);
      host.process.addressSpace.write(argument, bytes);
      return system.ioctl(client.fd, uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, argument);
    };
    expect(get(0, 16, 49)).toBe(E2BIG);
    expect(get(0, 16)).toBe(0);
    expect([host.byteAt(bitmap), host.byteAt(bitmap + 1n)]).toEqual([0b1001_1001, 0]);
    expect(get(9, 7)).toBe(0);
    // Of the second range; the bits of the first stay.
    expect([host.byteAt(bitmap), host.byteAt(bitmap + 1n)]).toEqual([0b1101_1001, 0]);
    expect(get(0, 8)).toBe(0);
    expect(host.byteAt(bitmap)).toBe(0b1101_1001);
  });
});
