import { describe, expect, test } from 'vitest';
import { type Access, createAccess } from '../../src/access.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import { E2BIG, EADDRINUSE, EBUSY, EFAULT, EINVAL, ENOENT, EOPNOTSUPP, EPERM } from '../support/errno.ts';
import { ARGUMENT, Host, MEMORY } from '../support/host.ts';

const U64_MAX = 2n ** 64n - 1n;
const RLIMIT = uapi.IOMMU_OPTION_RLIMIT_MODE;
const HUGE = uapi.IOMMU_OPTION_HUGE_PAGES;
const SET = uapi.IOMMU_OPTION_OP_SET;
const GET = uapi.IOMMU_OPTION_OP_GET;

type Values = Partial<Parameters<typeof uapi.iommuOption.write>[0]>;

function option(host: Host, values: Values): number {
  return host.ioctl(uapi.IOMMU_OPTION, uapi.iommuOption, values).result;
}

function read(host: Host, values: Values): [number, bigint] {
  const { result, reply } = host.ioctl(uapi.IOMMU_OPTION, uapi.iommuOption, { op: GET, val64: 99n, ...values });
  return [result, reply.val64];
}

const privileged = (): Host => new Host({ capabilities: ['CAP_SYS_RESOURCE'] });

describe('IOMMU_OPTION', () => {
  test('EOPNOTSUPP for a reserved field, and for an unknown option', () => {
    const host = privileged();
    for (const optionId of [RLIMIT, HUGE, 2, 0xffff_ffff]) {
      expect(option(host, { optionId, reserved: 1 })).toBe(EOPNOTSUPP);
    }
    for (const optionId of [2, 0xffff_ffff]) expect(option(host, { optionId, objectId: 99 })).toBe(EOPNOTSUPP);
  });

  test('EINVAL, E2BIG and EFAULT for the structure', () => {
    const host = privileged();
    expect(host.ioctl(uapi.IOMMU_OPTION, uapi.iommuOption, {}, 23).result).toBe(EINVAL);
    const bytes = new Uint8Array(25);
    bytes[0] = 25;
    bytes[24] = 1;
    host.space.write(ARGUMENT, bytes);
    expect(host.system.ioctl(host.fd, uapi.IOMMU_OPTION, ARGUMENT)).toBe(E2BIG);
    expect(host.system.ioctl(host.fd, uapi.IOMMU_OPTION, 0n)).toBe(EFAULT);
  });

  test('only the value is answered, and EFAULT where that cannot be, when a set has happened all the same', () => {
    const host = privileged();
    const put = (at: bigint, values: Values): number => {
      const bytes = new Uint8Array(24);
      uapi.iommuOption.write({ ...uapi.iommuOption.read(bytes), ...values, size: 24 }, bytes);
      host.space.write(at, bytes);
      for (const page of [0x100, 0x101]) host.space.pages.get(page)!.writable = false;
      return host.system.ioctl(host.fd, uapi.IOMMU_OPTION, at);
    };
    // All but the value lies on the page before.
    const at = ARGUMENT + 0x1000n - 16n;
    expect(put(at, { optionId: RLIMIT, op: SET, val64: 1n })).toBe(EFAULT);
    expect(host.context.accounting).toBe('mm');
    host.space.pages.get(0x101)!.writable = true;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_OPTION, at)).toBe(0);
  });
});

describe('IOMMU_OPTION_RLIMIT_MODE', () => {
  test('EOPNOTSUPP for an object, before anything else of it, and for an unknown operation', () => {
    const host = new Host();
    expect(option(host, { optionId: RLIMIT, op: SET, objectId: 1 })).toBe(EOPNOTSUPP);
    expect(option(host, { optionId: RLIMIT, op: GET, objectId: 1 })).toBe(EOPNOTSUPP);
    for (const op of [2, 0xffff]) expect(option(host, { optionId: RLIMIT, op })).toBe(EOPNOTSUPP);
  });

  test('EPERM to set it without CAP_SYS_RESOURCE, before its value is looked at; to get it needs nothing', () => {
    const host = new Host();
    host.client.ioasAlloc();
    expect(option(host, { optionId: RLIMIT, op: SET, val64: 2n })).toBe(EPERM);
    expect(read(host, { optionId: RLIMIT })).toEqual([0, 0n]);
    expect(read(new Host({ accountMm: true }), { optionId: RLIMIT })).toEqual([0, 1n]);
  });

  test('EBUSY to set it once there is an object, before its value is looked at', () => {
    const host = privileged();
    const id = host.client.ioasAlloc();
    expect(option(host, { optionId: RLIMIT, op: SET, val64: 2n })).toBe(EBUSY);
    host.client.destroy(id);
    expect(option(host, { optionId: RLIMIT, op: SET, val64: 1n })).toBe(0);
  });

  test('EINVAL for a value other than 0 and 1, which changes nothing', () => {
    const host = privileged();
    expect(option(host, { optionId: RLIMIT, op: SET, val64: 1n })).toBe(0);
    for (const val64 of [2n, 1n << 32n, U64_MAX]) {
      expect(option(host, { optionId: RLIMIT, op: SET, val64 })).toBe(EINVAL);
    }
    expect(read(host, { optionId: RLIMIT })).toEqual([0, 1n]);
  });

  test('says who pays for what is pinned', () => {
    const charged = (mode: 'user' | 'mm'): number[] => {
      const host = privileged();
      host.client.setRlimitMode(mode);
      expect(host.client.rlimitMode()).toBe(mode);
      const ioasId = host.client.ioasAlloc();
      host.bind().attach(ioasId);
      host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x3000n });
      return [host.user.lockedPages, host.space.lockedPages];
    };
    expect([charged('user'), charged('mm')]).toEqual([
      [3, 0],
      [0, 3],
    ]);
  });
});

describe('IOMMU_OPTION_HUGE_PAGES', () => {
  test('ENOENT for an object that is no IOAS, before the operation is looked at', () => {
    const host = new Host();
    const { id } = host.bind();
    for (const objectId of [0, 99, id]) {
      for (const op of [GET, SET, 7]) expect(option(host, { optionId: HUGE, op, objectId, val64: 5n })).toBe(ENOENT);
    }
  });

  test('EOPNOTSUPP for an unknown operation', () => {
    const host = new Host();
    const objectId = host.client.ioasAlloc();
    expect(option(host, { optionId: HUGE, op: 2, objectId })).toBe(EOPNOTSUPP);
  });

  test('EINVAL for a value other than 0 and 1, which changes nothing', () => {
    const host = new Host();
    const objectId = host.client.ioasAlloc();
    for (const val64 of [2n, U64_MAX]) expect(option(host, { optionId: HUGE, op: SET, objectId, val64 })).toBe(EINVAL);
    expect(read(host, { optionId: HUGE, objectId })).toEqual([0, 1n]);
  });

  test('EINVAL to turn them off while there are a domain and an area, one of which alone does not matter', () => {
    const host = new Host();
    const objectId = host.client.ioasAlloc();
    const off = { optionId: HUGE, op: SET, objectId, val64: 0n };
    const on = { ...off, val64: 1n };
    const iova = host.client.ioasMap({ ioasId: objectId, userVa: MEMORY, length: 0x1000n });
    expect([option(host, off), read(host, { optionId: HUGE, objectId })]).toEqual([0, [0, 0n]]);
    expect(option(host, on)).toBe(0);
    const device = host.bind();
    device.attach(objectId);
    expect([option(host, off), read(host, { optionId: HUGE, objectId })]).toEqual([EINVAL, [0, 1n]]);
    host.client.ioasUnmap(objectId, iova, 0x1000n);
    expect(option(host, off)).toBe(0);
    host.client.ioasMap({ ioasId: objectId, userVa: MEMORY, length: 0x1000n });
    // To turn them off again, and on, is always possible.
    expect([option(host, off), option(host, on), option(host, off)]).toEqual([0, 0, EINVAL]);
  });

  test('EADDRINUSE to turn them off over areas that are not of whole pages', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    const off = { optionId: HUGE, op: SET, objectId: ioasId, val64: 0n };
    for (const [userVa, length, iova] of [
      [MEMORY, 0x800n, 0x1000n],
      [MEMORY + 0x800n, 0x1000n, 0x1000n],
      [MEMORY, 0x1000n, 0x1001n],
    ] as const) {
      host.client.ioasMap({ ioasId, userVa, length, iova });
      expect([option(host, off), host.client.hugePages(ioasId)]).toEqual([EADDRINUSE, true]);
      host.client.ioasUnmapAll(ioasId);
    }
    host.client.setHugePages(ioasId, false);
    expect(host.client.ioasIovaRanges(ioasId).alignment).toBe(4096);
    expect(() => host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x800n })).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
    host.client.setHugePages(ioasId, true);
    expect(host.client.ioasIovaRanges(ioasId).alignment).toBe(1);
  });

  test('an access alone is no domain', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    const access: Access = createAccess(host.context, { needsPinPages: true, unmap() {} });
    access.attach(ioasId);
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x1000n });
    host.client.setHugePages(ioasId, false);
    expect(host.client.hugePages(ioasId)).toBe(false);
    access.close();
  });
});
