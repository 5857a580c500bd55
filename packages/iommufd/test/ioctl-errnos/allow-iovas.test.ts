import { describe, expect, test } from 'vitest';
import * as uapi from '../../src/uapi/iommufd.ts';
import { EADDRINUSE, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP } from '../support/errno.ts';
import { BUFFER, Host } from '../support/host.ts';

const U64_MAX = 2n ** 64n - 1n;
const NOWHERE = 0xdead_0000n;

type Range = readonly [start: bigint, last: bigint];

function setUp() {
  const host = new Host();
  const device = host.bind();
  const ioasId = host.client.ioasAlloc();
  const { space } = host.table(ioasId);
  const allow = (ranges: readonly Range[], values: object = {}): number => {
    const bytes = new Uint8Array(BigUint64Array.from(ranges.flat()).buffer);
    if (bytes.length > 0) host.space.write(BUFFER, bytes);
    const good = { ioasId, numIovas: ranges.length, allowedIovas: BUFFER };
    return host.ioctl(uapi.IOMMU_IOAS_ALLOW_IOVAS, uapi.iommuIoasAllowIovas, { ...good, ...values }).result;
  };
  const allowed = (): Range[] => space.allowedRanges.map(({ start, last }) => [start, last]);
  const kept: Range = [0x40_0000n, 0x40_ffffn];
  expect(allow([kept])).toBe(0);
  return { host, device, ioasId, space, allow, allowed, kept };
}

describe('IOMMU_IOAS_ALLOW_IOVAS', () => {
  test('EOPNOTSUPP for the reserved field, before the id is looked at', () => {
    const { allow, allowed, kept } = setUp();
    expect([allow([], { reserved: 1, ioasId: 99 }), allowed()]).toEqual([EOPNOTSUPP, [kept]]);
  });

  test('ENOENT for an id that names no IOAS, before the ranges are read', () => {
    const { device, allow, allowed, kept } = setUp();
    for (const ioasId of [0, 99, device.id]) {
      expect(allow([], { ioasId, numIovas: 1, allowedIovas: NOWHERE })).toBe(ENOENT);
    }
    expect(allowed()).toEqual([kept]);
  });

  test('EFAULT for ranges that cannot be read, however many they are said to be', () => {
    const { allow, allowed, kept } = setUp();
    expect(allow([], { numIovas: 1, allowedIovas: NOWHERE })).toBe(EFAULT);
    expect(allow([], { numIovas: 0xffff_ffff, allowedIovas: NOWHERE })).toBe(EFAULT);
    expect(allow([], { numIovas: 2, allowedIovas: U64_MAX - 7n })).toBe(EFAULT);
    expect([allow([], { allowedIovas: NOWHERE }), allowed()]).toEqual([0, []]);
    expect([allow([kept]), allowed()]).toEqual([0, [kept]]);
  });

  test('EINVAL for ranges of less than two addresses, and for ranges that meet', () => {
    const { allow, allowed, kept } = setUp();
    expect(allow([[0x1000n, 0x1000n]])).toBe(EINVAL);
    expect(allow([[0x1000n, 0xfffn]])).toBe(EINVAL);
    expect(
      allow([
        [0n, 1n],
        [U64_MAX, U64_MAX],
      ]),
    ).toBe(EINVAL);
    expect(
      allow([
        [0x2000n, 0x2fffn],
        [0x1000n, 0x2000n],
      ]),
    ).toBe(EINVAL);
    expect(
      allow([
        [0n, U64_MAX],
        [5n, 6n],
      ]),
    ).toBe(EINVAL);
    expect(allowed()).toEqual([kept]);
  });

  test('EINVAL of the first bad range before EFAULT of one behind it', () => {
    const { host, allow } = setUp();
    host.space.write(BUFFER, new Uint8Array(BigUint64Array.of(5n, 5n).buffer));
    expect(allow([], { numIovas: 0xffff_ffff })).toBe(EINVAL);
    const end = BUFFER + 0x8000n;
    host.space.write(end - 16n, new Uint8Array(BigUint64Array.of(5n, 5n).buffer));
    expect(allow([], { numIovas: 2, allowedIovas: end - 16n })).toBe(EINVAL);
    expect(allow([], { numIovas: 2, allowedIovas: end })).toBe(EFAULT);
  });

  test('EADDRINUSE for a range that meets a reserved one, after all have been read', () => {
    const { allow, allowed, kept, space } = setUp();
    space.reserve(0x60_0000n, 0x60_0fffn, {});
    const good: Range = [0x1000n, 0x1fffn];
    expect(allow([good, [0x50_0000n, 0x60_0000n]])).toBe(EADDRINUSE);
    expect(allow([[0x60_0fffn, U64_MAX], good, good])).toBe(EINVAL);
    expect(allowed()).toEqual([kept]);
    expect([allow([good, [0x60_1000n, U64_MAX]]), allowed()]).toEqual([0, [good, [0x60_1000n, U64_MAX]]]);
  });

  test('ENOMEM without memory for a range; nothing changes', () => {
    const { host, allow, allowed, kept } = setUp();
    const ranges: Range[] = [
      [0n, 1n],
      [4n, 5n],
    ];
    for (const nth of [1, 2]) {
      host.kernel.failpoints.arm(nth);
      expect([allow(ranges), allowed()]).toEqual([ENOMEM, [kept]]);
    }
    host.kernel.failpoints.arm(3);
    expect([allow(ranges), host.kernel.failpoints.hit]).toEqual([0, null]);
  });
});
