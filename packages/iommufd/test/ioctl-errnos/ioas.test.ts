import { describe, expect, test } from 'vitest';
import { createAccess, lockPages } from '../../src/access.ts';
import type { Ioas } from '../../src/ioas/ioas.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import {
  EBUSY,
  EDEADLK,
  EEXIST,
  EFAULT,
  EINVAL,
  EMSGSIZE,
  ENOENT,
  ENOMEM,
  ENOSPC,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
} from '../support/errno.ts';
import { ARGUMENT, BUFFER, Host, MEMORY } from '../support/host.ts';

const U64_MAX = 2n ** 64n - 1n;
const NOWHERE = 0xdead_0000n;
const FIXED = uapi.IOMMU_IOAS_MAP_FIXED_IOVA;
const READ = uapi.IOMMU_IOAS_MAP_READABLE;
const WRITE = uapi.IOMMU_IOAS_MAP_WRITEABLE;
const RW = READ | WRITE;

/** An IOAS, by default with a table, so that what is mapped is pinned and aligned to pages. */
function setUp(options: { attached?: boolean; memlock?: number } = {}) {
  const { attached = true, memlock } = options;
  const host = new Host(memlock === undefined ? {} : { memlock });
  const device = host.bind();
  const ioasId = host.client.ioasAlloc();
  const ioas = host.context.objects.all().find(({ id }) => id === ioasId) as Ioas;
  if (attached) device.attach(ioasId);
  return { host, device, ioasId, ioas };
}

/** `body` with the n-th failpoint failing, for every n: the errnos, with nothing changed by any. */
function sweep(host: Host, body: () => number): number[] {
  const results: number[] = [];
  const before = host.snapshot();
  for (let nth = 1; ; nth++) {
    host.kernel.failpoints.arm(nth);
    const result = body();
    const { hit } = host.kernel.failpoints;
    host.kernel.failpoints.arm(0);
    if (hit === null) {
      expect([result, nth > 1]).toEqual([0, true]);
      return results;
    }
    expect(host.snapshot()).toEqual(before);
    results.push(result);
  }
}

describe('IOMMU_IOAS_ALLOC', () => {
  const alloc = (host: Host, flags = 0): number =>
    host.ioctl(uapi.IOMMU_IOAS_ALLOC, uapi.iommuIoasAlloc, { flags }).result;

  test('EOPNOTSUPP for any flag', () => {
    const host = new Host();
    for (const flags of [1, 0x8000_0000]) expect(alloc(host, flags)).toBe(EOPNOTSUPP);
    expect(host.context.objects.size).toBe(0);
  });

  test('ENOMEM without memory, and EFAULT where the id cannot be stored; no object stays', () => {
    const host = new Host();
    expect(new Set(sweep(host, () => alloc(host)))).toEqual(new Set([ENOMEM]));
    const before = host.snapshot();
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_IOAS_ALLOC, ARGUMENT)).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
  });
});

describe('IOMMU_IOAS_IOVA_RANGES', () => {
  const ranges = (host: Host, values: object) =>
    host.ioctl(uapi.IOMMU_IOAS_IOVA_RANGES, uapi.iommuIoasIovaRanges, { numIovas: 4, allowedIovas: BUFFER, ...values });

  test('EOPNOTSUPP for a reserved field, before the id is looked at', () => {
    expect(ranges(new Host(), { ioasId: 99, reserved: 1 }).result).toBe(EOPNOTSUPP);
  });

  test('ENOENT for an id that names no IOAS', () => {
    const { host, device } = setUp();
    for (const ioasId of [0, 99, device.id]) expect(ranges(host, { ioasId }).result).toBe(ENOENT);
  });

  test('EMSGSIZE for too little room, when those that fit and the number of all are stored', () => {
    const { host, ioasId, ioas } = setUp();
    ioas.table.space.reserve(0x1000n, 0x1fffn, host);
    ioas.table.space.reserve(0x3000n, U64_MAX, host);
    for (const room of [0, 1]) {
      host.space.write(BUFFER, new Uint8Array(48).fill(0xaa));
      const { result, reply } = ranges(host, { ioasId, numIovas: room });
      expect([result, reply.numIovas, reply.outIovaAlignment]).toEqual([EMSGSIZE, 2, 4096n]);
      const bytes = new Uint8Array(48);
      host.space.read(BUFFER, bytes);
      expect(bytes.subarray(16 * room).every((byte) => byte === 0xaa)).toBe(true);
      if (room > 0) expect(uapi.iommuIovaRange.read(bytes)).toEqual({ start: 0n, last: 0xfffn });
    }
    expect(ranges(host, { ioasId, numIovas: 2 }).result).toBe(0);
  });

  test('EFAULT where the ranges or the answer cannot be stored', () => {
    const { host, ioasId } = setUp();
    expect(ranges(host, { ioasId, allowedIovas: NOWHERE }).result).toBe(EFAULT);
    expect(ranges(host, { ioasId, allowedIovas: U64_MAX }).result).toBe(EFAULT);
    expect(ranges(host, { ioasId, allowedIovas: NOWHERE, numIovas: 0 }).result).toBe(EMSGSIZE);
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_IOAS_IOVA_RANGES, ARGUMENT)).toBe(EFAULT);
  });
});

type MapValues = Partial<Parameters<typeof uapi.iommuIoasMap.write>[0]>;

describe('IOMMU_IOAS_MAP', () => {
  const map = (host: Host, values: MapValues): number => {
    const defaults = { flags: FIXED | RW, userVa: MEMORY, length: 0x2000n, iova: 0x10000n };
    return host.ioctl(uapi.IOMMU_IOAS_MAP, uapi.iommuIoasMap, { ...defaults, ...values }).result;
  };

  test('EOPNOTSUPP for unknown flags and a reserved field, before anything else', () => {
    const { host } = setUp();
    const bad = { ioasId: 99, length: U64_MAX };
    for (const flags of [8, 0x8000_0000]) expect(map(host, { ...bad, flags })).toBe(EOPNOTSUPP);
    expect(map(host, { ...bad, reserved: 1 })).toBe(EOPNOTSUPP);
  });

  test('EOVERFLOW for an address or length of 2^64 - 1, before access and id; and for what wraps', () => {
    const { host, ioasId } = setUp();
    expect(map(host, { ioasId: 99, flags: 0, iova: U64_MAX })).toBe(EOVERFLOW);
    expect(map(host, { ioasId: 99, flags: 0, length: U64_MAX })).toBe(EOVERFLOW);
    expect(map(host, { ioasId, userVa: U64_MAX - 0xfffn })).toBe(EOVERFLOW);
    expect(map(host, { ioasId, iova: U64_MAX - 0xfffn })).toBe(EOVERFLOW);
    // More than is ever given out, when the address is to be chosen.
    expect(map(host, { ioasId, flags: RW, userVa: 0n, length: 1n << 63n })).toBe(EOVERFLOW);
  });

  test('EINVAL for neither readable nor writable, before the id', () => {
    const { host } = setUp();
    for (const flags of [0, FIXED]) expect(map(host, { ioasId: 99, flags })).toBe(EINVAL);
  });

  test('ENOENT for an id that names no IOAS, before the memory', () => {
    const { host, device } = setUp();
    for (const ioasId of [0, 99, device.id]) expect(map(host, { ioasId, length: 0n })).toBe(ENOENT);
  });

  test('EINVAL for what is empty, misaligned, or reserved', () => {
    const { host, ioasId, ioas } = setUp();
    ioas.table.space.reserve(0xfee0_0000n, 0xfeef_ffffn, host);
    for (const values of [
      { length: 0n },
      { userVa: 0n, length: U64_MAX - 0xffen },
      { length: 0x1800n },
      { iova: 0x10800n },
      { userVa: MEMORY + 0x800n },
      { flags: RW, userVa: MEMORY + 0x800n },
      { iova: 0xfedf_f000n },
      { iova: 0xfeef_f000n },
    ]) {
      expect([values, map(host, { ioasId, ...values })]).toEqual([values, EINVAL]);
    }
    expect(ioas.table.space.areaCount).toBe(0);
  });

  test('EEXIST over what is mapped', () => {
    const { host, ioasId } = setUp();
    expect(map(host, { ioasId })).toBe(0);
    for (const iova of [0xf000n, 0x10000n, 0x11000n]) expect(map(host, { ioasId, iova })).toBe(EEXIST);
    expect(map(host, { ioasId, iova: 0x8000n, length: 0x10000n })).toBe(EEXIST);
  });

  test('ENOSPC for an address to be chosen where none fits', () => {
    const { host, ioasId, ioas } = setUp();
    ioas.table.space.reserve(0x4000n, U64_MAX, host);
    expect(map(host, { ioasId, flags: RW, length: 0x4000n })).toBe(ENOSPC);
    expect(map(host, { ioasId, flags: RW })).toBe(0);
    expect(map(host, { ioasId, flags: RW })).toBe(ENOSPC);
  });

  test('EFAULT for memory that is not there or not writable, with a table; without one it does not matter', () => {
    const { host, ioasId } = setUp();
    const before = host.snapshot();
    expect(map(host, { ioasId, userVa: NOWHERE })).toBe(EFAULT);
    expect(map(host, { ioasId, userVa: MEMORY + 63n * 4096n })).toBe(EFAULT);
    host.space.pages.get(Number(MEMORY >> 12n) + 1)!.writable = false;
    expect(map(host, { ioasId })).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
    expect(map(host, { ioasId, flags: FIXED | READ })).toBe(0);
    const lazy = setUp({ attached: false });
    expect(map(lazy.host, { ioasId: lazy.ioasId, userVa: NOWHERE })).toBe(0);
  });

  test('EFAULT where the address cannot be answered, when it is mapped all the same', () => {
    const { host, ioasId, ioas } = setUp();
    expect([map(host, { ioasId }), host.client.ioasUnmapAll(ioasId)]).toEqual([0, 0x2000n]);
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_IOAS_MAP, ARGUMENT)).toBe(EFAULT);
    expect(ioas.table.space.areaCount).toBe(1);
  });

  test('ENOMEM above RLIMIT_MEMLOCK, and without memory; nothing changes', () => {
    const { host, ioasId } = setUp({ memlock: 3 * 4096 });
    const before = host.snapshot();
    expect(map(host, { ioasId, length: 0x4000n })).toBe(ENOMEM);
    expect(host.snapshot()).toEqual(before);
    expect(new Set(sweep(host, () => map(host, { ioasId, length: 0x3000n })))).toEqual(new Set([ENOMEM]));
    expect(map(host, { ioasId, iova: 0x20000n, length: 0x1000n })).toBe(ENOMEM);
  });
});

describe('IOMMU_IOAS_COPY', () => {
  /** A source of 4 writable pages at 0x10000, then 2 that can only be read, and a destination. */
  const copies = () => {
    const { host, device, ioasId: src } = setUp();
    const dst = host.client.ioasAlloc();
    host.client.hwptAllocPaging({ deviceId: device.id, ioasId: dst });
    host.client.ioasMap({ ioasId: src, userVa: MEMORY, length: 0x4000n, iova: 0x10000n });
    host.client.ioasMap({ ioasId: src, userVa: MEMORY + 0x8000n, length: 0x2000n, iova: 0x14000n, writable: false });
    const copy = (values: object): number =>
      host.ioctl(uapi.IOMMU_IOAS_COPY, uapi.iommuIoasCopy, {
        flags: FIXED | READ,
        srcIoasId: src,
        dstIoasId: dst,
        length: 0x2000n,
        srcIova: 0x10000n,
        dstIova: 0x80000n,
        ...values,
      }).result;
    return { host, device, src, dst, copy };
  };

  test('EOPNOTSUPP for unknown flags, before anything else', () => {
    const { copy } = copies();
    expect(copy({ flags: 8, length: U64_MAX, srcIoasId: 99 })).toBe(EOPNOTSUPP);
  });

  test('EOVERFLOW for an address or length of 2^64 - 1, before access and ids; and for what wraps', () => {
    const { copy } = copies();
    for (const field of ['length', 'srcIova', 'dstIova']) {
      expect(copy({ [field]: U64_MAX, flags: 0, srcIoasId: 99 })).toBe(EOVERFLOW);
    }
    expect(copy({ srcIova: U64_MAX - 0xfffn, dstIoasId: 99 })).toBe(EOVERFLOW);
    expect(copy({ dstIova: U64_MAX - 0xfffn })).toBe(EOVERFLOW);
  });

  test('EINVAL for neither readable nor writable, before the ids; for length 0, before the destination', () => {
    const { copy } = copies();
    expect(copy({ flags: FIXED, srcIoasId: 99 })).toBe(EINVAL);
    expect(copy({ length: 0n, dstIoasId: 99 })).toBe(EINVAL);
  });

  test('ENOENT for ids that name no IOAS, and for a hole in the source', () => {
    const { device, copy } = copies();
    for (const id of [0, 99, device.id]) {
      expect(copy({ srcIoasId: id, length: 0n })).toBe(ENOENT);
      expect(copy({ dstIoasId: id })).toBe(ENOENT);
    }
    for (const range of [
      { srcIova: 0xf000n },
      { srcIova: 0x15000n },
      { srcIova: 0x16000n },
      { length: 0x7000n },
      { srcIova: 0n, length: U64_MAX - 1n },
    ]) {
      expect([range, copy({ ...range, dstIoasId: 99 })]).toEqual([range, ENOENT]);
    }
  });

  test('EPERM to write to what was mapped for reading', () => {
    const { copy } = copies();
    for (const flags of [WRITE, RW]) expect(copy({ flags: FIXED | flags, srcIova: 0x13000n })).toBe(EPERM);
    expect(copy({ srcIova: 0x13000n })).toBe(0);
  });

  test('EINVAL for what is misaligned or reserved in the destination', () => {
    const { host, dst, copy } = copies();
    const ioas = host.context.objects.all().find(({ id }) => id === dst) as Ioas;
    ioas.table.space.reserve(0xfee0_0000n, 0xfeef_ffffn, host);
    for (const values of [
      { dstIova: 0x80800n },
      { length: 0x1800n },
      { srcIova: 0x10800n },
      { dstIova: 0xfee0_0000n },
    ]) {
      expect([values, copy(values)]).toEqual([values, EINVAL]);
    }
  });

  test('EEXIST over what is mapped in the destination, ENOSPC where no address can be chosen', () => {
    const { host, dst, copy } = copies();
    expect(copy({})).toBe(0);
    for (const dstIova of [0x7f000n, 0x80000n, 0x81000n]) expect(copy({ dstIova })).toBe(EEXIST);
    const ioas = host.context.objects.all().find(({ id }) => id === dst) as Ioas;
    ioas.table.space.reserve(0n, 0x7ffffn, host);
    ioas.table.space.reserve(0x83000n, U64_MAX, host);
    expect(copy({ flags: READ })).toBe(ENOSPC);
    expect(copy({ flags: READ, length: 0x1000n })).toBe(0);
  });

  test('ENOMEM without memory; nothing changes', () => {
    const { host, copy } = copies();
    expect(new Set(sweep(host, () => copy({ srcIova: 0x13000n })))).toEqual(new Set([ENOMEM]));
  });

  test('EFAULT from pinning, where the source is not pinned, and where the address cannot be answered', () => {
    const host = new Host();
    const device = host.bind();
    const [src, dst] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
    host.client.hwptAllocPaging({ deviceId: device.id, ioasId: dst });
    host.client.ioasMap({ ioasId: src, userVa: NOWHERE, length: 0x1000n, iova: 0n });
    const values = { flags: FIXED | READ, srcIoasId: src, dstIoasId: dst, length: 0x1000n };
    expect(host.ioctl(uapi.IOMMU_IOAS_COPY, uapi.iommuIoasCopy, values).result).toBe(EFAULT);
    host.client.ioasUnmapAll(src);
    host.client.ioasMap({ ioasId: src, userVa: MEMORY, length: 0x1000n, iova: 0n });
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_IOAS_COPY, ARGUMENT)).toBe(EFAULT);
    expect(host.client.ioasUnmapAll(dst)).toBe(0x1000n);
  });
});

describe('IOMMU_IOAS_UNMAP', () => {
  const unmap = (host: Host, values: object): [number, bigint] => {
    const { result, reply } = host.ioctl(uapi.IOMMU_IOAS_UNMAP, uapi.iommuIoasUnmap, values);
    return [result, reply.length];
  };

  test('ENOENT for an id that names no IOAS, before the range', () => {
    const { host, device } = setUp();
    for (const ioasId of [0, 99, device.id]) expect(unmap(host, { ioasId, length: 0n })).toEqual([ENOENT, 0n]);
  });

  test('EOVERFLOW for an address or length of 2^64 - 1, and for what wraps', () => {
    const { host, ioasId } = setUp();
    expect(unmap(host, { ioasId, iova: U64_MAX, length: 0n })[0]).toBe(EOVERFLOW);
    expect(unmap(host, { ioasId, iova: 1n, length: U64_MAX })[0]).toBe(EOVERFLOW);
    expect(unmap(host, { ioasId, iova: 0x1000n, length: U64_MAX - 1n })[0]).toBe(EOVERFLOW);
  });

  test('EINVAL for length 0', () => {
    const { host, ioasId } = setUp();
    expect(unmap(host, { ioasId })).toEqual([EINVAL, 0n]);
  });

  test('ENOENT where nothing is mapped; all of an empty IOAS is no error', () => {
    const { host, ioasId } = setUp();
    expect(unmap(host, { ioasId, iova: 0x1000n, length: 0x1000n })).toEqual([ENOENT, 0x1000n]);
    expect(unmap(host, { ioasId, length: U64_MAX - 1n })).toEqual([ENOENT, U64_MAX - 1n]);
    expect(unmap(host, { ioasId, length: U64_MAX })).toEqual([0, 0n]);
  });

  test('ENOENT for a part of an area; those before it are gone, and the length is not stored', () => {
    const { host, ioasId, ioas } = setUp();
    for (const iova of [0x10000n, 0x12000n, 0x14000n]) {
      host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x2000n, iova });
    }
    expect(unmap(host, { ioasId, iova: 0x11000n, length: 0x5000n })).toEqual([ENOENT, 0x5000n]);
    expect(ioas.table.space.areaCount).toBe(3);
    expect(unmap(host, { ioasId, iova: 0x10000n, length: 0x5000n })).toEqual([ENOENT, 0x5000n]);
    expect(ioas.table.space.areaCount).toBe(1);
    expect(host.space.pinnedPages).toBe(2);
  });

  test('EBUSY for an area that an object has locked; those before it are gone', () => {
    const { host, ioasId, ioas } = setUp();
    for (const iova of [0x10000n, 0x20000n]) host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x2000n, iova });
    const locked = lockPages(ioas, 0x20000n, 0x1000n);
    expect(unmap(host, { ioasId, iova: 0x20000n, length: 0x2000n })[0]).toBe(EBUSY);
    // Before it is seen that it is in the range only in part.
    expect(unmap(host, { ioasId, iova: 0x20000n, length: 0x1000n })[0]).toBe(EBUSY);
    expect(unmap(host, { ioasId, length: U64_MAX })[0]).toBe(EBUSY);
    expect(ioas.table.space.areaCount).toBe(1);
    locked.release();
    expect(unmap(host, { ioasId, length: U64_MAX })).toEqual([0, 0x2000n]);
  });

  test('EDEADLOCK for an access that does not let go', () => {
    const { host, ioasId } = setUp();
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x2000n, iova: 0x10000n });
    let calls = 0;
    const access = createAccess(host.context, { needsPinPages: true, unmap: () => void calls++ });
    access.attach(ioasId);
    access.pinPages(0x10000n, 0x1000n, true);
    expect(unmap(host, { ioasId, length: U64_MAX })[0]).toBe(EDEADLK);
    expect(calls).toBe(101);
    access.unpinPages(0x10000n, 0x1000n);
    expect(unmap(host, { ioasId, length: U64_MAX })).toEqual([0, 0x2000n]);
    access.close();
  });

  test('EFAULT where the length cannot be stored, when it is unmapped all the same', () => {
    const { host, ioasId, ioas } = setUp();
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x2000n, iova: 0x10000n });
    const bytes = new Uint8Array(24);
    uapi.iommuIoasUnmap.write({ size: 24, ioasId, iova: 0x10000n, length: 0x2000n }, bytes);
    host.space.write(ARGUMENT, bytes);
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_IOAS_UNMAP, ARGUMENT)).toBe(EFAULT);
    expect(ioas.table.space.areaCount).toBe(0);
  });
});
