import { U64_MAX } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { errnoOf, ProcessHost, sweep } from '../support/process-host.ts';

const PAGE = 0x1000n;

function empty() {
  const host = new ProcessHost();
  const ioasId = host.client.ioasAlloc();
  const userVa = host.memory(host.first, 8);
  const map = (pages: number): bigint | null => {
    try {
      return host.client.ioasMap({ ioasId, userVa, length: pages * 4096 });
    } catch (error) {
      expect(error).toMatchObject({ code: 'ENOSPC' });
      return null;
    }
  };
  const allow = (...ranges: [bigint, bigint][]): unknown =>
    errnoOf(() =>
      host.client.ioasAllowIovas(
        ioasId,
        ranges.map(([start, last]) => ({ start, last })),
      ),
    );
  return { host, ioasId, userVa, map, allow };
}

describe('allowed ranges', () => {
  test('are where chosen addresses lie, in their order; a fixed address may be anywhere', () => {
    const { host, ioasId, userVa, map, allow } = empty();
    expect(allow([0x40000n, 0x41fffn], [0x20000n, 0x20fffn])).toBeNull();
    expect([map(2), map(1), map(1)]).toEqual([0x40000n, 0x20000n, null]);
    expect(host.client.ioasMap({ ioasId, userVa, length: 0x1000, iova: 0x80000n })).toBe(0x80000n);
    expect(host.client.ioasIovaRanges(ioasId).ranges).toEqual([{ start: 0n, last: U64_MAX }]);
  });

  test('that adjoin are one', () => {
    const { map, allow } = empty();
    expect(allow([0x41000n, 0x42fffn], [0x40000n, 0x40fffn], [0x43000n, 0x43fffn])).toBeNull();
    expect([map(4), map(1)]).toEqual([0x40000n, null]);
  });

  test('are replaced as a whole, and lifted by none', () => {
    const { map, allow } = empty();
    allow([0x40000n, 0x40fffn]);
    allow([0x50000n, 0x50fffn]);
    expect([map(1), map(1)]).toEqual([0x50000n, null]);
    allow();
    expect(map(1)).toBe(PAGE);
  });

  test('never give address 0, nor one in the last page', () => {
    const { map, allow } = empty();
    allow([0n, 0xfffn], [U64_MAX - 0x1fffn, U64_MAX]);
    expect([map(1), map(1)]).toEqual([U64_MAX - 0x1fffn, null]);
  });

  test('of which one is bad leave the list as it was', () => {
    const { host, ioasId, map, allow } = empty();
    allow([0x40000n, 0x40fffn]);
    host.table(ioasId).space.reserve(0x60000n, 0x60fffn, {});
    expect([allow([0x50000n, 0x50fffn], [0x70000n, 0x70000n]), allow([0x50000n, 0x4ffffn])]).toEqual([
      'EINVAL',
      'EINVAL',
    ]);
    expect([allow([0n, U64_MAX], [5n, 6n]), allow([0x50000n, 0x51fffn], [0x51fffn, 0x52fffn])]).toEqual([
      'EINVAL',
      'EINVAL',
    ]);
    expect(allow([0x50000n, 0x50fffn], [0x5f000n, 0x60000n])).toBe('EADDRINUSE');
    expect([map(1), map(1)]).toEqual([0x40000n, null]);
    expect(errnoOf(() => host.client.ioasAllowIovas(99, []))).toBe('ENOENT');
  });

  test('keep what comes later from reserving them', () => {
    const { host, ioasId, allow } = empty();
    const reserve = (start: bigint, last: bigint): unknown =>
      errnoOf(() => host.table(ioasId).space.reserve(start, last, {}));
    allow([0x40000n, 0x40fffn]);
    expect([reserve(0x40fffn, 0x50000n), reserve(0x41000n, 0x50000n)]).toEqual(['EADDRINUSE', null]);
    const aperture = { first: 0n, last: 0x40ffen };
    expect([errnoOf(() => host.addDomain(ioasId, { aperture })), host.table(ioasId).domains]).toEqual([
      'EADDRINUSE',
      [],
    ]);
  });

  test('a place of which only the last byte is left is passed over', () => {
    const { host, ioasId, userVa, allow } = empty();
    allow([0x40000n, 0x40002n]);
    const places = [0, 1, 2].map(() => {
      let iova: bigint | null = null;
      errnoOf(() => (iova = host.client.ioasMap({ ioasId, userVa, length: 1 })));
      return iova;
    });
    expect(places).toEqual([0x40000n, 0x40001n, null]);
  });

  test('X5 fail at any point without a change', () => {
    const points = sweep(() => {
      const { host, ioasId, allow } = empty();
      allow([0x40000n, 0x40fffn]);
      const ranges = [0n, 1n, 2n, 3n].map((at) => ({ start: at * PAGE * 2n, last: at * PAGE * 2n + 1n }));
      return { host, operation: () => host.client.ioasAllowIovas(ioasId, ranges) };
    });
    expect(points).toBe(4);
  });
});
