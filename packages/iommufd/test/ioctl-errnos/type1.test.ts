import { describe, expect, test } from 'vitest';
import { createAccess } from '../../src/access.ts';
import type { Fields, Struct, StructValues } from '../../src/index.ts';
import * as iommufd from '../../src/uapi/iommufd.ts';
import * as uapi from '../../src/uapi/type1.ts';
import {
  E2BIG,
  EADDRINUSE,
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOTTY,
  EOPNOTSUPP,
  EOVERFLOW,
} from '../support/errno.ts';
import { ARGUMENT, Host, MEMORY } from '../support/host.ts';

const U64_MAX = 2n ** 64n - 1n;
const NOWHERE = 0xdead_0000n;
const READ = uapi.VFIO_DMA_MAP_FLAG_READ;
const WRITE = uapi.VFIO_DMA_MAP_FLAG_WRITE;
const ALL = uapi.VFIO_DMA_UNMAP_FLAG_ALL;

/** Puts a structure that starts with its size at ARGUMENT, calls, and gives the result and what is there then. */
function call<F extends Fields>(
  host: Host,
  request: number,
  layout: Struct<F>,
  values: Partial<StructValues<F>>,
): { result: number; reply: StructValues<F> } {
  const bytes = new Uint8Array(layout.size);
  layout.write({ ...layout.read(bytes), argsz: layout.size, ...values } as StructValues<F>, bytes);
  host.space.write(ARGUMENT, bytes);
  const result = host.system.ioctl(host.fd, request, ARGUMENT);
  host.space.read(ARGUMENT, bytes);
  return { result, reply: layout.read(bytes) };
}

type MapValues = Partial<Parameters<typeof uapi.vfioIommuType1DmaMap.write>[0]>;
type UnmapValues = Partial<Parameters<typeof uapi.vfioIommuType1DmaUnmap.write>[0]>;

function map(host: Host, values: MapValues): number {
  const defaults = { flags: READ | WRITE, vaddr: MEMORY, iova: 0x10000n, size: 0x4000n };
  return call(host, uapi.VFIO_IOMMU_MAP_DMA, uapi.vfioIommuType1DmaMap, { ...defaults, ...values }).result;
}

function unmap(host: Host, values: UnmapValues): [result: number, size: bigint] {
  const { result, reply } = call(host, uapi.VFIO_IOMMU_UNMAP_DMA, uapi.vfioIommuType1DmaUnmap, values);
  return [result, reply.size];
}

/** A context whose compatibility IOAS a device is attached to, in version 1 or 2. */
function container(version: number = uapi.VFIO_TYPE1v2_IOMMU) {
  const host = new Host();
  const ioasId = host.client.ioasAlloc();
  const device = host.bind();
  device.attach(ioasId);
  vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_SET, ioasId });
  expect(host.system.ioctl(host.fd, uapi.VFIO_SET_IOMMU, version)).toBe(0);
  return { host, ioasId, device, table: table(host, ioasId) };
}

function table(host: Host, ioasId: number) {
  const object = host.context.objects.all().find(({ id }) => id === ioasId);
  return (object as unknown as ReturnType<Host['context']['compatIoas']['get']>).table;
}

function vfioIoas(host: Host, values: object): { result: number; reply: { ioasId: number } } {
  return host.ioctl(iommufd.IOMMU_VFIO_IOAS, iommufd.iommuVfioIoas, values);
}

describe('IOMMU_VFIO_IOAS', () => {
  test('EOPNOTSUPP for a reserved field, and for an unknown operation', () => {
    const host = new Host();
    for (const op of [0, 1, 2]) expect(vfioIoas(host, { op, reserved: 1 }).result).toBe(EOPNOTSUPP);
    for (const op of [3, 0xffff]) expect(vfioIoas(host, { op, ioasId: 99 }).result).toBe(EOPNOTSUPP);
  });

  test('ENODEV to get it while none is set, was cleared, or was destroyed', () => {
    const host = new Host();
    const get = (): [number, number] => {
      const { result, reply } = vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_GET, ioasId: 77 });
      return [result, reply.ioasId];
    };
    expect(get()).toEqual([ENODEV, 77]);
    const [first, second] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
    for (const ioasId of [first, second]) {
      expect(vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_SET, ioasId }).result).toBe(0);
      expect(get()).toEqual([0, ioasId]);
    }
    host.client.destroy(first);
    expect(get()).toEqual([0, second]);
    // It is no use of the IOAS, and its id may come back as another one's.
    host.client.destroy(second);
    expect(get()).toEqual([ENODEV, 77]);
    expect([host.client.ioasAlloc(), host.client.ioasAlloc()]).toEqual([first, second]);
    expect(get()).toEqual([ENODEV, 77]);
    expect(vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_SET, ioasId: first }).result).toBe(0);
    expect(vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_CLEAR, ioasId: 99 }).result).toBe(0);
    expect(get()).toEqual([ENODEV, 77]);
  });

  test('ENOENT to set an id that names no IOAS, which changes nothing', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_SET, ioasId });
    for (const other of [0, 99, host.bind().id]) {
      expect(vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_SET, ioasId: other }).result).toBe(ENOENT);
    }
    expect(vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_GET }).reply.ioasId).toBe(ioasId);
  });

  test('EINVAL, E2BIG and EFAULT for the structure', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    const values = { ioasId, op: iommufd.IOMMU_VFIO_IOAS_SET };
    expect(host.ioctl(iommufd.IOMMU_VFIO_IOAS, iommufd.iommuVfioIoas, values, 11).result).toBe(EINVAL);
    host.space.write(ARGUMENT, Uint8Array.of(13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1));
    expect(host.system.ioctl(host.fd, iommufd.IOMMU_VFIO_IOAS, ARGUMENT)).toBe(E2BIG);
    expect(host.system.ioctl(host.fd, iommufd.IOMMU_VFIO_IOAS, NOWHERE)).toBe(EFAULT);
    // Only what is asked for needs memory for an answer.
    vfioIoas(host, values);
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, iommufd.IOMMU_VFIO_IOAS, ARGUMENT)).toBe(0);
    host.space.bytes.get(host.space.pages.get(Number(ARGUMENT >> 12n))!.pfn)![8] = iommufd.IOMMU_VFIO_IOAS_GET;
    expect(host.system.ioctl(host.fd, iommufd.IOMMU_VFIO_IOAS, ARGUMENT)).toBe(EFAULT);
  });
});

describe('type1 requests', () => {
  test('ENOTTY for what the interface does not have, whatever the argument', () => {
    const { host } = container();
    const others = [
      0,
      0x3b00,
      0x3b63,
      0x3b67,
      0x3b6a,
      0x3b6b,
      0x3b73,
      0x3b75,
      0x3b7f,
      0x3bff,
      0x4064,
      0x1_0000 + 0x3b64,
    ];
    for (const request of others) {
      for (const argument of [0n, ARGUMENT, NOWHERE]) {
        expect([request, host.system.ioctl(host.fd, request, argument)]).toEqual([request, ENOTTY]);
      }
    }
  });
});

describe('VFIO_GET_API_VERSION', () => {
  test('is 0, without an IOAS too', () => {
    expect(new Host().system.ioctl(new Host().fd, uapi.VFIO_GET_API_VERSION, NOWHERE)).toBe(0);
  });
});

describe('VFIO_CHECK_EXTENSION', () => {
  test('takes its argument by value, and knows both versions and UNMAP_ALL', () => {
    const host = new Host();
    const known = [0n, 1n, 2n, 3n, 5n, 6n, 7n, 8n, 9n, 10n, (1n << 32n) | 3n, U64_MAX].map((extension) =>
      host.system.ioctl(host.fd, uapi.VFIO_CHECK_EXTENSION, extension),
    );
    expect(known).toEqual([0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0]);
  });

  test('ENODEV for VFIO_DMA_CC_IOMMU without an IOAS; with one, whether all its tables enforce coherency', () => {
    const host = new Host();
    const ask = (): number => host.system.ioctl(host.fd, uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_DMA_CC_IOMMU);
    expect(ask()).toBe(ENODEV);
    const ioasId = host.client.ioasAlloc();
    vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_SET, ioasId });
    expect(ask()).toBe(1);
    const device = host.bind();
    host.driver.capabilities.add('enforce-cache-coherency');
    const hwpt = host.client.hwptAllocPaging({ deviceId: device.id, ioasId });
    expect(ask()).toBe(1);
    host.driver.capabilities.delete('enforce-cache-coherency');
    const other = host.client.hwptAllocPaging({ deviceId: device.id, ioasId });
    expect(ask()).toBe(0);
    host.client.destroy(other);
    expect([ask(), host.client.destroy(hwpt)]).toEqual([1, undefined]);
  });
});

describe('VFIO_SET_IOMMU', () => {
  const set = (host: Host, type: bigint | number): number => host.system.ioctl(host.fd, uapi.VFIO_SET_IOMMU, type);

  test('EINVAL for a type other than 1 and 3, before the IOAS is looked for', () => {
    const host = new Host();
    for (const type of [0, 2, 4, 6, 8, 9, (1n << 32n) | 1n, U64_MAX])
      expect([type, set(host, type)]).toEqual([type, EINVAL]);
  });

  test('ENODEV without an IOAS', () => {
    const host = new Host();
    for (const type of [1, 3]) expect(set(host, type)).toBe(ENODEV);
  });

  test('EINVAL for version 1 while something is mapped in a domain, EADDRINUSE over areas that are not of pages', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_SET, ioasId });
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x800n });
    expect([set(host, 3), set(host, 1), host.client.hugePages(ioasId)]).toEqual([0, EADDRINUSE, true]);
    host.client.ioasUnmapAll(ioasId);
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x1000n });
    host.bind().attach(ioasId);
    expect([set(host, 3), set(host, 1), host.client.hugePages(ioasId)]).toEqual([0, EINVAL, true]);
    host.client.ioasUnmapAll(ioasId);
    // Version 2 does not give large pages back, and both can be set any number of times.
    expect([set(host, 1), set(host, 3), set(host, 1), host.client.hugePages(ioasId)]).toEqual([0, 0, 0, false]);
  });
});

describe('VFIO_IOMMU_GET_INFO', () => {
  const layout = uapi.vfioIommuType1Info;
  const info = (host: Host, argsz: number): number => call(host, uapi.VFIO_IOMMU_GET_INFO, layout, { argsz }).result;

  test('EFAULT, then EINVAL below 16 bytes, then ENODEV', () => {
    const host = new Host();
    expect(host.system.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, NOWHERE)).toBe(EFAULT);
    for (const argsz of [0, 1, 15]) expect(info(host, argsz)).toBe(EINVAL);
    for (const argsz of [16, 24, 0xffff_ffff]) expect(info(host, argsz)).toBe(ENODEV);
  });

  test('EFAULT where the answer, or its chain, cannot be stored', () => {
    const { host } = container();
    const end = ARGUMENT + 0x10000n;
    const put = (at: bigint, argsz: number): number => {
      const bytes = new Uint8Array(16);
      new DataView(bytes.buffer).setUint32(0, argsz, true);
      host.space.write(at, bytes);
      return host.system.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, at);
    };
    expect(put(end - 16n, 16)).toBe(0);
    expect(put(end - 16n, 24)).toBe(EFAULT);
    expect(put(end - 24n, 24)).toBe(0);
    for (const chain of [12, 16, 32, 48]) expect([chain, put(end - 24n, 24 + chain)]).toEqual([chain, EFAULT]);
    expect(put(end - 72n, 72)).toBe(0);
    host.space.pages.get(0x100)!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, ARGUMENT)).toBe(EINVAL);
    host.space.bytes.get(host.space.pages.get(0x100)!.pfn)![0] = 16;
    expect(host.system.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, ARGUMENT)).toBe(EFAULT);
  });
});

describe('VFIO_IOMMU_MAP_DMA', () => {
  test('EFAULT, then EINVAL for argsz and flags, then ENODEV', () => {
    const host = new Host();
    expect(host.system.ioctl(host.fd, uapi.VFIO_IOMMU_MAP_DMA, ARGUMENT + 0x10000n - 31n)).toBe(EFAULT);
    for (const argsz of [0, 31]) expect(map(host, { argsz })).toBe(EINVAL);
    for (const flags of [uapi.VFIO_DMA_MAP_FLAG_VADDR, 7, 0x8000_0000]) expect(map(host, { flags })).toBe(EINVAL);
    expect(map(host, {})).toBe(ENODEV);
    expect(map(host, { argsz: 0xffff_ffff, size: 0n })).toBe(ENODEV);
  });

  test('EINVAL for what is empty, misaligned or reserved', () => {
    const { host, table: areas } = container();
    areas.space.reserve(0xfee0_0000n, 0xfeef_ffffn, host);
    for (const values of [
      { size: 0n },
      { size: 0x800n },
      { iova: 0x800n },
      { vaddr: MEMORY + 0x800n },
      { iova: 0xfedf_f000n },
      { vaddr: 0n, size: U64_MAX },
      { iova: U64_MAX },
    ]) {
      expect([values, map(host, values)]).toEqual([values, EINVAL]);
    }
    expect([areas.space.areaCount, host.space.pinnedPages]).toEqual([0, 0]);
  });

  test('EOVERFLOW for ranges past the end', () => {
    const { host } = container();
    expect(map(host, { vaddr: U64_MAX - 0xfffn, size: 0x2000n })).toBe(EOVERFLOW);
    expect(map(host, { vaddr: 0x1000n, size: U64_MAX })).toBe(EOVERFLOW);
    expect(map(host, { iova: U64_MAX - 0xfffn, size: 0x2000n })).toBe(EOVERFLOW);
  });

  test('EEXIST over what is mapped', () => {
    const { host } = container();
    expect(map(host, {})).toBe(0);
    for (const iova of [0xd000n, 0x10000n, 0x13000n]) expect(map(host, { iova })).toBe(EEXIST);
    expect(map(host, { iova: 0x14000n })).toBe(0);
  });

  test('EFAULT for memory that is not there or not writable, ENOMEM above RLIMIT_MEMLOCK, and nothing is left', () => {
    const host = new Host({ memlock: 3 * 4096 });
    const ioasId = host.client.ioasAlloc();
    host.bind().attach(ioasId);
    vfioIoas(host, { op: iommufd.IOMMU_VFIO_IOAS_SET, ioasId });
    const before = host.snapshot();
    expect(map(host, {})).toBe(ENOMEM);
    expect(map(host, { vaddr: NOWHERE, size: 0x1000n })).toBe(EFAULT);
    host.space.pages.get(Number(MEMORY >> 12n))!.writable = false;
    expect(map(host, { size: 0x1000n })).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
    expect(map(host, { size: 0x1000n, flags: READ })).toBe(0);
  });
});

describe('VFIO_IOMMU_UNMAP_DMA', () => {
  test('EFAULT, then EINVAL for argsz and flags, then ENODEV', () => {
    const host = new Host();
    expect(host.system.ioctl(host.fd, uapi.VFIO_IOMMU_UNMAP_DMA, ARGUMENT + 0x10000n - 23n)).toBe(EFAULT);
    for (const argsz of [0, 23]) expect(unmap(host, { argsz })[0]).toBe(EINVAL);
    for (const flags of [uapi.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, 4, 3, 0x8000_0000]) {
      expect(unmap(host, { flags, size: 7n })).toEqual([EINVAL, 7n]);
    }
    expect(unmap(host, { size: 0x1000n })).toEqual([ENODEV, 0x1000n]);
    expect(unmap(host, { flags: ALL, size: 0x1000n })).toEqual([ENODEV, 0x1000n]);
  });

  test.each([uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU])(
    'EINVAL for ALL with a range, and for size 0; EOVERFLOW (version %i)',
    (version) => {
      const { host } = container(version);
      expect(map(host, {})).toBe(0);
      expect(unmap(host, { flags: ALL, iova: 0x10000n })).toEqual([EINVAL, 0n]);
      expect(unmap(host, { flags: ALL, size: 0x4000n })).toEqual([EINVAL, 0x4000n]);
      expect(unmap(host, { size: 0n })[0]).toBe(EINVAL);
      expect(unmap(host, { iova: 0x10000n, size: 0n })).toEqual([EINVAL, 0n]);
      expect(unmap(host, { iova: U64_MAX - 0xfffn, size: 0x2000n })).toEqual([EOVERFLOW, 0n]);
      expect(unmap(host, { flags: ALL })).toEqual([0, 0x4000n]);
    },
  );

  test('0 and size 0 where nothing is mapped, unlike IOMMU_IOAS_UNMAP', () => {
    for (const version of [uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU]) {
      const { host } = container(version);
      expect(unmap(host, { iova: 0x10000n, size: 0x1000n })).toEqual([0, 0n]);
      expect(unmap(host, { iova: 1n, size: 1n })).toEqual([0, 0n]);
      expect(unmap(host, { size: U64_MAX })).toEqual([0, 0n]);
      expect(unmap(host, { iova: U64_MAX, size: 1n })).toEqual([0, 0n]);
      expect(unmap(host, { flags: ALL })).toEqual([0, 0n]);
    }
  });

  test('ENOENT in version 2 for a part of an area, with the size of the areas before it that are gone', () => {
    const { host } = container();
    expect([map(host, {}), map(host, { iova: 0x14000n })]).toEqual([0, 0]);
    expect(unmap(host, { iova: 0x11000n, size: 0x1000n })).toEqual([ENOENT, 0n]);
    expect(unmap(host, { iova: 0x10000n, size: 0x5000n })).toEqual([ENOENT, 0x4000n]);
    expect(unmap(host, { iova: 0x10000n, size: 0x10000n })).toEqual([0, 0x4000n]);
    expect(host.space.pinnedPages).toBe(0);
  });

  test('EINVAL in version 1 for ends that are misaligned, or in an area with accesses', () => {
    const { host, ioasId } = container(uapi.VFIO_TYPE1_IOMMU);
    expect(map(host, {})).toBe(0);
    expect(unmap(host, { iova: 0x10800n, size: 0x800n })).toEqual([EINVAL, 0x800n]);
    expect(unmap(host, { iova: 0x10000n, size: 0x1002n })).toEqual([EINVAL, 0x1002n]);
    const access = createAccess(host.context, { needsPinPages: true, unmap() {} });
    access.attach(ioasId);
    access.pinPages(0x13000n, 0x1000n, true);
    expect(unmap(host, { iova: 0x11000n, size: 0x1000n })).toEqual([EINVAL, 0x1000n]);
    access.unpinPages(0x13000n, 0x1000n);
    expect(unmap(host, { iova: 0x11000n, size: 0x1000n })).toEqual([0, 0x1000n]);
    access.close();
  });

  test('EBUSY for an area that is locked', () => {
    const { host, table: areas } = container();
    expect(map(host, {})).toBe(0);
    const area = areas.space.areaFrom(0n)!;
    area.locks++;
    expect(unmap(host, { flags: ALL })).toEqual([EBUSY, 0n]);
    expect(unmap(host, { iova: 0x10000n, size: 0x4000n })).toEqual([EBUSY, 0n]);
    area.locks--;
    expect(unmap(host, { flags: ALL })).toEqual([0, 0x4000n]);
  });

  test('EFAULT where the answer cannot be stored, when the range is unmapped all the same', () => {
    const { host, table: areas } = container();
    expect(map(host, {})).toBe(0);
    unmap(host, { iova: 0x8000n, size: 0x8000n });
    const page = host.space.pages.get(Number(ARGUMENT >> 12n))!;
    uapi.vfioIommuType1DmaUnmap.write(
      { argsz: 24, flags: 0, iova: 0x8000n, size: 0x10000n },
      host.space.bytes.get(page.pfn)!,
    );
    page.writable = false;
    expect(host.system.ioctl(host.fd, uapi.VFIO_IOMMU_UNMAP_DMA, ARGUMENT)).toBe(EFAULT);
    expect(areas.space.areaCount).toBe(0);
  });

  test('ENOMEM in version 1 to cut, and nothing is unmapped', () => {
    const { host, table: areas } = container(uapi.VFIO_TYPE1_IOMMU);
    expect(map(host, {})).toBe(0);
    host.kernel.failpoints.arm(1);
    expect(unmap(host, { iova: 0x11000n, size: 0x1000n })).toEqual([ENOMEM, 0x1000n]);
    host.kernel.failpoints.arm(0);
    expect([areas.space.areaCount, host.space.pinnedPages]).toEqual([1, 4]);
  });
});
