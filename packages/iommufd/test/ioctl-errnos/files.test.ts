/** The commands on mappings of files: IOAS_MAP_FILE and IOAS_CHANGE_PROCESS. */

import { SysError, User } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { DmaBuf } from '../../src/files/dma-buf.ts';
import { EventFd } from '../../src/files/eventfd.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import {
  EBADF,
  EEXIST,
  EFAULT,
  EINVAL,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOSPC,
  EOPNOTSUPP,
  EOVERFLOW,
} from '../support/errno.ts';
import { FakeAddressSpace, fakeProcess } from '../support/fakes.ts';
import { ARGUMENT, Host, MEMORY } from '../support/host.ts';

const U64_MAX = 2n ** 64n - 1n;
const RW = uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE;
const FIXED = RW | uapi.IOMMU_IOAS_MAP_FIXED_IOVA;

/** An IOAS, by default with a table, and a memfd of four pages. */
function setUp({ attached = true, memlock }: { attached?: boolean; memlock?: number } = {}) {
  const host = new Host(memlock === undefined ? {} : { memlock });
  const device = host.bind();
  const ioasId = host.client.ioasAlloc();
  if (attached) device.attach(ioasId);
  const fd = host.system.memfd('memory', 0x4000);
  const good = { ioasId, fd, flags: FIXED, length: 0x4000n, iova: 0x10000n };
  const map = (values: object): number =>
    host.ioctl(uapi.IOMMU_IOAS_MAP_FILE, uapi.iommuIoasMapFile, { ...good, ...values }).result;
  return { host, device, ioasId, fd, map, areas: (): number => host.table(ioasId).space.areaCount };
}

describe('IOMMU_IOAS_MAP_FILE', () => {
  test('EOPNOTSUPP for unknown flags, before anything else', () => {
    const { map } = setUp();
    for (const flags of [8, 0x8000_0000]) expect(map({ flags, ioasId: 99, iova: U64_MAX })).toBe(EOPNOTSUPP);
  });

  test('EOVERFLOW for an address or length of 2^64 - 1, before access and id; for what wraps, before the descriptor', () => {
    const { map } = setUp();
    expect(map({ flags: 0, ioasId: 99, iova: U64_MAX })).toBe(EOVERFLOW);
    expect(map({ flags: 0, ioasId: 99, length: U64_MAX })).toBe(EOVERFLOW);
    expect(map({ fd: 99, start: U64_MAX, length: 2n })).toBe(EOVERFLOW);
    expect(map({ iova: U64_MAX - 0xfffn, length: 0x2000n })).toBe(EOVERFLOW);
    expect(map({ flags: RW, length: 2n ** 63n - 0x1000n })).toBe(EINVAL);
    expect(map({ flags: RW, length: 2n ** 63n })).toBe(EOVERFLOW);
  });

  test('EINVAL for neither readable nor writable, before the id; for length 0, after it and before the descriptor', () => {
    const { map } = setUp();
    expect(map({ flags: uapi.IOMMU_IOAS_MAP_FIXED_IOVA, ioasId: 99 })).toBe(EINVAL);
    expect(map({ length: 0n, fd: 99, start: U64_MAX })).toBe(EINVAL);
    expect(map({ length: U64_MAX - 1n, start: 0n })).toBe(EINVAL);
  });

  test('ENOENT for an id that names no IOAS, before the descriptor', () => {
    const { device, map } = setUp();
    for (const ioasId of [0, 99, device.id]) expect(map({ ioasId, fd: 99, length: 0n })).toBe(ENOENT);
  });

  test('EBADF for a descriptor that is not open, before the address', () => {
    const { map } = setUp();
    for (const fd of [99, -1, -0x8000_0000, 0x7fff_ffff]) expect(map({ fd, iova: 1n })).toBe(EBADF);
  });

  test('EINVAL for a file that is no memory or ends too early, but only when it is pinned', () => {
    for (const attached of [true, false]) {
      const { host, device, ioasId, map, areas } = setUp({ attached });
      const eventfd = host.descriptors.install(new EventFd());
      const wrong = [{ fd: eventfd }, { fd: host.fd }, { start: 0x1000n }, { start: 2n ** 62n }];
      const iovaOf = (at: number): bigint => 0x10000n * BigInt(at + 1);
      const results = wrong.map((values, at) => map({ ...values, iova: iovaOf(at) }));
      expect([results, areas()]).toEqual(attached ? [[EINVAL, EINVAL, EINVAL, EINVAL], 0] : [[0, 0, 0, 0], 4]);
      if (attached) continue;
      const alloc = { devId: device.id, ptId: ioasId };
      expect(host.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, alloc).result).toBe(EINVAL);
    }
  });

  test('EINVAL for what is misaligned or reserved, EEXIST over what is mapped, ENOSPC where no address can be chosen', () => {
    const { host, ioasId, map } = setUp();
    expect([map({ length: 0x3fffn }), map({ iova: 0x10001n }), map({ start: 1n, length: 0x1000n })]).toEqual([
      EINVAL,
      EINVAL,
      EINVAL,
    ]);
    const { space } = host.table(ioasId);
    space.reserve(0x13000n, 0x13fffn, {});
    expect(map({})).toBe(EINVAL);
    expect([map({ iova: 0x20000n }), map({ iova: 0x23000n })]).toEqual([0, EEXIST]);
    space.allow([{ start: 0x30000n, last: 0x32fffn }]);
    expect(map({ flags: RW })).toBe(ENOSPC);
  });

  test('EINVAL for a dma-buf that is too short, before ENODEV for one that is revoked, and nothing holds it then', () => {
    const { host, ioasId, map, areas } = setUp();
    let released = 0;
    const buffer = new DmaBuf({ pfn: 0x10_0000, frames: 4, onRelease: () => void released++ });
    const fd = host.descriptors.install(buffer);
    for (const values of [{ length: 0x4001n }, { start: 0x1000n }, { start: U64_MAX - 0x4000n }]) {
      expect(map({ fd, ...values })).toBe(EINVAL);
    }
    buffer.revoke();
    expect([map({ fd, length: 0x5000n }), map({ fd }), areas()]).toEqual([EINVAL, ENODEV, 0]);
    buffer.restore();
    expect([map({ fd }), areas()]).toEqual([0, 1]);
    host.client.ioasUnmapAll(ioasId);
    host.system.close(fd);
    expect(released).toBe(1);
  });

  test('ENOMEM above RLIMIT_MEMLOCK, and without memory; nothing changes', () => {
    const { host, ioasId, map, areas } = setUp({ memlock: 0x3fff });
    const before = host.snapshot();
    expect([map({}), areas()]).toEqual([ENOMEM, 0]);
    expect(host.snapshot()).toEqual({ ...(before as object), frames: host.kernel.frames.allocated });
    host.process.limits.memlock = 0x4000;
    for (let nth = 1; ; nth++) {
      host.kernel.failpoints.arm(nth);
      const result = map({});
      const { hit } = host.kernel.failpoints;
      host.kernel.failpoints.arm(0);
      if (hit === null) {
        expect([result, nth > 4, areas(), host.user.lockedPages]).toEqual([0, true, 1, 4]);
        return;
      }
      // A page that could not be pinned with those before it may be pinned by itself.
      if (result === 0) host.client.ioasUnmapAll(ioasId);
      else expect(result).toBe(ENOMEM);
      expect([areas(), host.user.lockedPages, host.space.pinnedPages]).toEqual([0, 0, 0]);
    }
  });

  test('EFAULT where the address cannot be answered, when it is mapped all the same', () => {
    const { host, ioasId, fd, areas } = setUp();
    const bytes = new Uint8Array(uapi.iommuIoasMapFile.size);
    const values = { size: bytes.length, flags: FIXED, ioasId, fd, start: 0n, length: 0x1000n, iova: 0x1000n };
    uapi.iommuIoasMapFile.write(values, bytes);
    host.space.write(ARGUMENT, bytes);
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect([host.system.ioctl(host.fd, uapi.IOMMU_IOAS_MAP_FILE, ARGUMENT), areas()]).toEqual([EFAULT, 1]);
  });
});

describe('IOMMU_IOAS_CHANGE_PROCESS', () => {
  /** The result for another process, of a user of his own, that has the file open. */
  function changeTo(host: Host, memlock: number, reserved = 0) {
    const space = new FakeAddressSpace();
    space.map(Number(ARGUMENT >> 12n), 1);
    const user = new User(2000);
    const process = fakeProcess(space, { user, memlock });
    const bytes = new Uint8Array(8);
    uapi.iommuIoasChangeProcess.write({ size: 8, reserved }, bytes);
    space.write(ARGUMENT, bytes);
    const caller = { process, descriptors: host.descriptors };
    try {
      host.system.file(host.fd).ioctl!(caller, uapi.IOMMU_IOAS_CHANGE_PROCESS, ARGUMENT);
      return { result: 0, user, space };
    } catch (error) {
      if (error instanceof SysError) return { result: -error.errno, user, space };
      throw error;
    }
  }

  test('EOPNOTSUPP for the reserved field, before anything else', () => {
    const { host, ioasId } = setUp();
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x1000n });
    expect(changeTo(host, 0, 1).result).toBe(EOPNOTSUPP);
  });

  test('EINVAL where something else than a file is mapped, in whatever IOAS, before the limit', () => {
    const { host, map } = setUp();
    const other = host.client.ioasAlloc();
    expect(map({})).toBe(0);
    host.client.ioasMap({ ioasId: other, userVa: MEMORY, length: 0x1000n });
    const before = host.snapshot();
    expect([changeTo(host, 0).result, host.snapshot()]).toEqual([EINVAL, before]);
    host.client.ioasUnmapAll(other);
    const buffer = host.descriptors.install(new DmaBuf({ pfn: 0x10_0000, frames: 1 }));
    expect(map({ fd: buffer, ioasId: other, length: 0x1000n })).toBe(0);
    expect(changeTo(host, 0x4000).result).toBe(EINVAL);
    host.client.ioasUnmapAll(other);
    expect(changeTo(host, 0x4000).result).toBe(0);
  });

  test('ENOMEM above RLIMIT_MEMLOCK of the caller, and without memory; the old process goes on paying', () => {
    const { host, map } = setUp();
    expect(map({})).toBe(0);
    const before = host.snapshot();
    const { result, user, space } = changeTo(host, 0x3fff);
    expect([result, user.lockedPages, space.pinnedPages, host.snapshot()]).toEqual([ENOMEM, 0, 0, before]);
    host.kernel.failpoints.arm(1);
    expect([changeTo(host, 0x4000).result, host.snapshot()]).toEqual([ENOMEM, before]);
    host.kernel.failpoints.arm(0);
    const next = changeTo(host, 0x4000);
    expect([next.result, next.user.lockedPages, next.space.pinnedPages]).toEqual([0, 4, 4]);
    expect([host.user.lockedPages, host.space.pinnedPages]).toEqual([0, 0]);
  });
});
