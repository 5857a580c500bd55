import { describe, expect, test } from 'vitest';
import * as uapi from '../../src/uapi/iommufd.ts';
import { E2BIG, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW } from '../support/errno.ts';
import type { FakeDomain } from '../support/fakes.ts';
import { ARGUMENT, BUFFER, Host, MEMORY } from '../support/host.ts';

const U64_MAX = 2n ** 64n - 1n;
const NOWHERE = 0xdead_0000n;

/** An IOAS of 16 pages at 0x10000 with a table that tracks, one that does not, and a nested one. */
function setUp() {
  const host = new Host();
  host.driver.capabilities.add('dirty-tracking');
  const device = host.bind();
  const ioasId = host.client.ioasAlloc();
  host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x10000n, iova: 0x10000n });
  const alloc = (options: object): number => host.client.hwptAllocPaging({ deviceId: device.id, ioasId, ...options });
  const hwptId = alloc({ dirtyTracking: true });
  const plainId = alloc({});
  const parentId = alloc({ nestParent: true });
  const nestedId = host.client.hwptAllocVtdS1({ deviceId: device.id, parentId, pageTable: 0n, addressWidth: 48 });
  const { dirty } = host.driver.live[0] as FakeDomain;
  return { host, device, ioasId, hwptId, plainId, nestedId, dirty: dirty! };
}

describe('IOMMU_HWPT_SET_DIRTY_TRACKING', () => {
  const set = (host: Host, values: object): number =>
    host.ioctl(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.iommuHwptSetDirtyTracking, values).result;

  test('EOPNOTSUPP for unknown flags, before the id is looked at', () => {
    const { host, hwptId, dirty } = setUp();
    for (const flags of [2, 3, 0x8000_0000]) expect(set(host, { hwptId, flags })).toBe(EOPNOTSUPP);
    expect(set(host, { hwptId: 99, flags: 2 })).toBe(EOPNOTSUPP);
    expect(dirty.enabled).toBe(false);
  });

  test('ENOENT for an id that names nothing, or anything but a paging table', () => {
    const { host, device, ioasId, nestedId } = setUp();
    for (const hwptId of [0, 99, 0xffff_ffff, device.id, ioasId, nestedId]) {
      expect([hwptId, set(host, { hwptId, flags: 1 })]).toEqual([hwptId, ENOENT]);
    }
  });

  test('EOPNOTSUPP for a table that was not made for tracking, also to turn it off', () => {
    const { host, plainId } = setUp();
    for (const flags of [0, 1]) expect(set(host, { hwptId: plainId, flags })).toBe(EOPNOTSUPP);
  });

  test('the reserved field is not looked at, and nothing is answered', () => {
    const { host, hwptId, dirty } = setUp();
    const values = { hwptId, flags: 1, reserved: 7 };
    const layout = uapi.iommuHwptSetDirtyTracking;
    expect(host.ioctl(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, layout, values).result).toBe(0);
    expect(dirty.enabled).toBe(true);
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, ARGUMENT)).toBe(0);
  });

  test('EINVAL, E2BIG and EFAULT for the structure', () => {
    const { host, hwptId } = setUp();
    const layout = uapi.iommuHwptSetDirtyTracking;
    const request = uapi.IOMMU_HWPT_SET_DIRTY_TRACKING;
    expect(host.ioctl(request, layout, { hwptId }, 15).result).toBe(EINVAL);
    host.space.write(ARGUMENT + 16n, Uint8Array.of(0, 1));
    const bytes = new Uint8Array(16);
    layout.write({ size: 18, flags: 0, hwptId, reserved: 0 }, bytes);
    host.space.write(ARGUMENT, bytes);
    expect(host.system.ioctl(host.fd, request, ARGUMENT)).toBe(E2BIG);
    expect(host.system.ioctl(host.fd, request, NOWHERE)).toBe(EFAULT);
  });

  test('enabling forgets what was written before, and flushes; disabling forgets nothing', () => {
    const { host, hwptId, dirty } = setUp();
    expect(set(host, { hwptId, flags: 1 })).toBe(0);
    dirty.write(0x12000n);
    dirty.write(0x1f000n);
    expect(set(host, { hwptId, flags: 0 })).toBe(0);
    expect([dirty.enabled, dirty.leaves.size]).toEqual([false, 2]);
    expect(set(host, { hwptId, flags: 1 })).toBe(0);
    expect([dirty.enabled, dirty.leaves.size, dirty.stale.size]).toEqual([true, 0, 0]);
    // Also when it is on already.
    dirty.write(0x12000n);
    expect(set(host, { hwptId, flags: 1 })).toBe(0);
    expect([dirty.leaves.size, dirty.stale.size]).toEqual([0, 0]);
  });
});

describe('IOMMU_HWPT_GET_DIRTY_BITMAP', () => {
  type Values = Parameters<typeof uapi.iommuHwptGetDirtyBitmap.write>[0];
  const RANGE = { iova: 0x10000n, length: 0x10000n, pageSize: 4096n, data: BUFFER };
  const get = (host: Host, values: Partial<Values>): number =>
    host.ioctl(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, uapi.iommuHwptGetDirtyBitmap, { ...RANGE, ...values }).result;
  const bits = (host: Host): number => {
    const bytes = new Uint8Array(2);
    host.space.read(BUFFER, bytes);
    return bytes[0]! | (bytes[1]! << 8);
  };

  test('EOPNOTSUPP for unknown flags and a reserved field, before the id is looked at', () => {
    const { host } = setUp();
    expect(get(host, { hwptId: 99, flags: 2 })).toBe(EOPNOTSUPP);
    expect(get(host, { hwptId: 99, reserved: 1 })).toBe(EOPNOTSUPP);
  });

  test('ENOENT for an id that names nothing, or anything but a paging table, before the range is looked at', () => {
    const { host, device, ioasId, nestedId } = setUp();
    for (const hwptId of [0, 99, device.id, ioasId, nestedId]) {
      expect([hwptId, get(host, { hwptId, pageSize: 0n })]).toEqual([hwptId, ENOENT]);
    }
  });

  test('EOVERFLOW for a range past the end, before its alignment is looked at', () => {
    const { host, hwptId } = setUp();
    expect(get(host, { hwptId, iova: U64_MAX, length: 2n })).toBe(EOVERFLOW);
    expect(get(host, { hwptId, iova: 0x1000n, length: U64_MAX - 0xffen, pageSize: 0n })).toBe(EOVERFLOW);
    // Length 0 is one less than nothing, and from address 0 that is everything.
    expect(get(host, { hwptId, length: 0n })).toBe(EOVERFLOW);
    expect(get(host, { hwptId, iova: 0n, length: 0n })).toBe(0);
  });

  test('EINVAL for page size 0, and a range that is not aligned to it or to the IOAS', () => {
    const { host, hwptId } = setUp();
    expect(get(host, { hwptId, pageSize: 0n })).toBe(EINVAL);
    expect(get(host, { hwptId, iova: 0x10800n })).toBe(EINVAL);
    expect(get(host, { hwptId, length: 0xf800n })).toBe(EINVAL);
    expect(get(host, { hwptId, iova: 0x10800n, pageSize: 2048n })).toBe(EINVAL);
    expect(get(host, { hwptId, length: 0xf800n, pageSize: 1n })).toBe(EINVAL);
    expect(get(host, { hwptId, iova: 0x11000n, pageSize: 0x2000n })).toBe(EINVAL);
    expect(get(host, { hwptId, length: 0xf000n, pageSize: 0x2000n })).toBe(EINVAL);
    expect(get(host, { hwptId, pageSize: U64_MAX })).toBe(EINVAL);
    expect(get(host, { hwptId, pageSize: 1n << 63n })).toBe(EINVAL);
    // Half pages are no smaller than a page of the table, and its number need not be a power of two.
    expect(get(host, { hwptId, pageSize: 2048n })).toBe(0);
    expect(get(host, { hwptId, pageSize: 0x3000n, iova: 0x10000n })).toBe(0);
  });

  test('EOPNOTSUPP for a table that was not made for tracking, after the range has been looked at', () => {
    const { host, plainId } = setUp();
    expect(get(host, { hwptId: plainId, pageSize: 0n })).toBe(EINVAL);
    expect(get(host, { hwptId: plainId, iova: U64_MAX, length: 2n })).toBe(EOVERFLOW);
    expect(get(host, { hwptId: plainId })).toBe(EOPNOTSUPP);
  });

  test('ENOMEM without memory to walk with, with nothing cleared', () => {
    const { host, hwptId, dirty } = setUp();
    host.client.hwptSetDirtyTracking(hwptId, true);
    dirty.write(0x11000n);
    host.kernel.failpoints.arm(1);
    expect(get(host, { hwptId })).toBe(ENOMEM);
    expect(host.kernel.failpoints.hit).toBe('iova_bitmap');
    host.kernel.failpoints.arm(0);
    expect(bits(host)).toBe(0);
    expect([get(host, { hwptId }), bits(host)]).toEqual([0, 2]);
  });

  test('EINVAL, E2BIG and EFAULT for the structure', () => {
    const { host, hwptId } = setUp();
    const layout = uapi.iommuHwptGetDirtyBitmap;
    const request = uapi.IOMMU_HWPT_GET_DIRTY_BITMAP;
    expect(host.ioctl(request, layout, { ...RANGE, hwptId }, 47).result).toBe(EINVAL);
    const bytes = new Uint8Array(56);
    layout.write({ ...RANGE, size: 56, hwptId, flags: 0, reserved: 0 }, bytes);
    bytes[55] = 1;
    host.space.write(ARGUMENT, bytes);
    expect(host.system.ioctl(host.fd, request, ARGUMENT)).toBe(E2BIG);
    expect(host.system.ioctl(host.fd, request, NOWHERE)).toBe(EFAULT);
  });

  test('0 where nothing is mapped: the walk ends there and says nothing', () => {
    const { host, hwptId, ioasId, dirty } = setUp();
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x2000n, iova: 0x22000n });
    host.client.hwptSetDirtyTracking(hwptId, true);
    for (const iova of [0x10000n, 0x1f000n, 0x22000n]) dirty.write(iova);
    expect([get(host, { hwptId, iova: 0xf000n, length: 0x2000n }), bits(host)]).toEqual([0, 0]);
    expect([get(host, { hwptId, length: 0x14000n }), bits(host)]).toEqual([0, 0x8001]);
    expect([...dirty.leaves]).toEqual([0x22]);
    expect([get(host, { hwptId, iova: 0x22000n, length: 0x8000n }), bits(host)]).toEqual([0, 0x8001]);
    expect(dirty.leaves.size).toBe(0);
  });

  test('0 for a bitmap that cannot be written, and what it would have held is lost', () => {
    const { host, hwptId, dirty } = setUp();
    host.client.hwptSetDirtyTracking(hwptId, true);
    for (const iova of [0x10000n, 0x1f000n]) dirty.write(iova);
    // The second byte lies behind the end of memory.
    const end = ARGUMENT + 0x10000n;
    expect(get(host, { hwptId, data: end - 1n })).toBe(0);
    const byte = new Uint8Array(1);
    host.space.read(end - 1n, byte);
    expect([byte[0], dirty.leaves.size]).toEqual([1, 0]);
    for (const data of [0n, NOWHERE, U64_MAX]) {
      dirty.write(0x13000n);
      expect([data, get(host, { hwptId, data })]).toEqual([data, 0]);
    }
  });

  test('0 while tracking is off: what was recorded before is read', () => {
    const { host, hwptId, dirty } = setUp();
    expect([get(host, { hwptId }), bits(host)]).toEqual([0, 0]);
    host.client.hwptSetDirtyTracking(hwptId, true);
    dirty.write(0x13000n);
    host.client.hwptSetDirtyTracking(hwptId, false);
    dirty.write(0x14000n);
    expect([get(host, { hwptId, flags: 1 }), bits(host)]).toEqual([0, 8]);
    expect([get(host, { hwptId }), bits(host), dirty.leaves.size]).toEqual([0, 8, 0]);
  });
});
