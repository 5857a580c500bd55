import { describe, expect, test } from 'vitest';
import {
  IOMMU_TEST_OP_ADD_RESERVED,
  IOMMU_TEST_OP_DMABUF_GET,
  IOMMU_TEST_OP_DMABUF_REVOKE,
  IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT,
} from '../../src/selftest/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import { EADDRINUSE, EBADF, EINVAL, EMFILE, ENODEV, ENOENT, ENOMEM, EOVERFLOW } from '../support/errno.ts';
import { PAGE, SelftestHost } from './support.ts';

const IOVA = 1n << 24n;
const U64_MAX = 2n ** 64n - 1n;

describe('ADD_RESERVED', () => {
  const reserve = (host: SelftestHost, id: number, start: bigint, length: bigint): number =>
    host.test(IOMMU_TEST_OP_ADD_RESERVED, 'addReserved', id, { start, length }).result;

  test('keeps addresses from being mapped, as long as the IOAS lives', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    expect(reserve(host, ioas, 0x10_0000n, 0x1000n)).toBe(0);
    expect([host.map(ioas, 0xf_f000n, 0, 2), host.map(ioas, 0x10_1000n, 0, 1)]).toEqual([EINVAL, 0]);
    expect(reserve(host, ioas, 0n, U64_MAX)).toBe(EADDRINUSE);
    expect(reserve(host, ioas, 0x10_0800n, 0x100n)).toBe(0);
    expect([host.unmap(ioas, 0n, U64_MAX), reserve(host, ioas, 0n, U64_MAX), host.map(ioas, 0n, 0, 1)]).toEqual([
      0,
      0,
      EINVAL,
    ]);
    expect([host.destroy(ioas), host.map(host.ioas(), 0n, 0, 1)]).toEqual([0, 0]);
  });

  test('EINVAL for nothing, EOVERFLOW past the end, ENOENT without an IOAS, EADDRINUSE where it is allowed', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    expect([reserve(host, 99, 0n, 0n), reserve(host, 99, 1n, U64_MAX + 1n - 1n)]).toEqual([EINVAL, ENOENT]);
    expect([reserve(host, 99, 2n, U64_MAX), reserve(host, 99, 0n, 1n)]).toEqual([EOVERFLOW, ENOENT]);
    const range = new Uint8Array(16);
    uapi.iommuIovaRange.write({ start: 0x1000n, last: 0x1fffn }, range);
    host.poke(host.buffer, range);
    const values = { ioasId: ioas, numIovas: 1, allowedIovas: host.buffer };
    expect(host.ioctl(uapi.IOMMU_IOAS_ALLOW_IOVAS, uapi.iommuIoasAllowIovas, values).result).toBe(0);
    expect([reserve(host, ioas, 0x1800n, 1n), reserve(host, ioas, 0x2000n, 1n)]).toEqual([EADDRINUSE, 0]);
  });
});

test('SET_TEMP_MEMORY_LIMIT takes what holds one run of frames', () => {
  const host = new SelftestHost();
  const set = (limit: number): number =>
    host.test(IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT, 'memoryLimit', 0, { limit }).result;
  expect(host.selftest.temporaryMemoryLimit).toBe(65536);
  expect([set(0), set(11), set(12), host.selftest.temporaryMemoryLimit]).toEqual([EINVAL, EINVAL, 0, 12]);
  expect([set(0xffff_ffff), host.selftest.temporaryMemoryLimit]).toEqual([0, 0xffff_ffff]);
});

describe('DMABUF_GET and DMABUF_REVOKE', () => {
  const get = (host: SelftestHost, length: number): number =>
    host.test(IOMMU_TEST_OP_DMABUF_GET, 'dmabufGet', 0, { length }).result;
  const revoke = (host: SelftestHost, dmabufFd: number, revoked: number): number =>
    host.test(IOMMU_TEST_OP_DMABUF_REVOKE, 'dmabufRevoke', 0, { dmabufFd, revoked }).result;
  const mapFile = (host: SelftestHost, ioasId: number, fd: number, iova: bigint, length = 2n * PAGE): number => {
    const values = { ioasId, fd, start: 0n, length, iova, flags: 7 };
    return host.ioctl(uapi.IOMMU_IOAS_MAP_FILE, uapi.iommuIoasMapFile, values).result;
  };

  test('give a file of adjoining frames, whose memory goes with its last user', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { hwpt } = host.device(ioas);
    const before = host.kernel.frames.allocated;
    const fd = get(host, 2 * 4096 - 5);
    expect([fd > host.fd, host.kernel.frames.allocated - before]).toEqual([true, 2]);
    expect(mapFile(host, ioas, fd, IOVA)).toBe(0);
    expect(mapFile(host, ioas, fd, IOVA + 0x10_0000n, 3n * PAGE)).toBe(EINVAL);
    host.system.close(fd);
    expect(host.kernel.frames.allocated).toBeGreaterThan(before);
    expect(hwpt).toBeGreaterThan(0);
    expect([host.unmap(ioas, IOVA, 2n * PAGE), host.kernel.frames.allocated]).toEqual([0, before]);
  });

  test('take the memory away from tables; given back, it is for new mappings', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { hwpt } = host.device(ioas);
    const fd = get(host, 8192);
    expect(mapFile(host, ioas, fd, IOVA)).toBe(0);
    const behind = (iova: bigint): boolean => {
      const found = host.context.objects.all().find(({ id }) => id === hwpt) as unknown as {
        domain: { iovaToPhys(iova: bigint): bigint | null };
      };
      return found.domain.iovaToPhys(iova) !== null;
    };
    expect([behind(IOVA), revoke(host, fd, 1), behind(IOVA)]).toEqual([true, 0, false]);
    expect([mapFile(host, ioas, fd, IOVA + 0x10_0000n), revoke(host, fd, 1)]).toEqual([ENODEV, 0]);
    expect([revoke(host, fd, 0), behind(IOVA), mapFile(host, ioas, fd, IOVA + 0x10_0000n)]).toEqual([0, false, 0]);
    expect(behind(IOVA + 0x10_0000n)).toBe(true);
    // Giving back what was not taken away takes it away from those who have it.
    expect([revoke(host, fd, 0), behind(IOVA + 0x10_0000n), mapFile(host, ioas, fd, IOVA + 0x20_0000n)]).toEqual([
      0,
      false,
      0,
    ]);
    expect([host.unmap(ioas, 0n, U64_MAX), host.system.close(fd)]).toEqual([0, undefined]);
  });

  test('EINVAL for no pages and for more than 512, EMFILE and ENOMEM without a place, which leave nothing', () => {
    const host = new SelftestHost();
    expect([get(host, 0), get(host, 512 * 4096 + 1), get(host, 0xffff_ffff)]).toEqual([EINVAL, EINVAL, EINVAL]);
    host.system.close(get(host, 512 * 4096));
    const taken: number[] = [];
    while (host.descriptors.size < 1024) taken.push(host.system.eventfd());
    const before = host.snapshot();
    expect(get(host, 4096)).toBe(EMFILE);
    for (const fd of taken) host.system.close(fd);
    host.kernel.failpoints.arm(1);
    expect(get(host, 4096)).toBe(ENOMEM);
    expect(host.kernel.failpoints.hit).toBe('dma_buf');
    expect((host.snapshot() as { frames: number }).frames).toBe((before as { frames: number }).frames);
  });

  test('EBADF for a descriptor that is not open, EINVAL for another file', () => {
    const host = new SelftestHost();
    expect([revoke(host, 99, 1), revoke(host, -1, 1), revoke(host, host.fd, 1)]).toEqual([EBADF, EBADF, EINVAL]);
  });
});
