import { describe, expect, test } from 'vitest';
import {
  IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
  IOMMU_TEST_INVALIDATE_FLAG_ALL,
  IOMMU_TEST_IOTLB_DEFAULT,
  IOMMU_TEST_OP_DIRTY,
  IOMMU_TEST_OP_MD_CHECK_IOTLB,
  IOMMU_TEST_OP_MD_CHECK_MAP,
  IOMMU_TEST_OP_MD_CHECK_REFS,
  iommuHwptInvalidateSelftest,
  MOCK_IOMMUPT_HUGE,
} from '../../src/selftest/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import { EFAULT, EINVAL, EIO, ENOENT, EOPNOTSUPP, EOVERFLOW } from '../support/errno.ts';
import { NOWHERE, PAGE, SelftestHost } from './support.ts';

const IOVA = 1n << 24n;
const U64_MAX = 2n ** 64n - 1n;
const READ = 4;

function setUp() {
  const host = new SelftestHost();
  const ioas = host.ioas();
  return { host, ioas, ...host.device(ioas) };
}

describe('MD_CHECK_MAP', () => {
  const check = (host: SelftestHost, hwpt: number, iova: bigint, uptr: bigint, length: bigint): number =>
    host.test(IOMMU_TEST_OP_MD_CHECK_MAP, 'checkMap', hwpt, { iova, uptr, length }).result;

  test('compares what is behind the addresses in steps of 2 KiB', () => {
    const { host, ioas, hwpt } = setUp();
    const { memory } = host;
    expect(host.map(ioas, IOVA, 0, 4)).toBe(0);
    expect(check(host, hwpt, IOVA, memory, 4n * PAGE)).toBe(0);
    expect(check(host, hwpt, IOVA + 2048n, memory + 2048n, 3n * PAGE)).toBe(0);
    expect(check(host, hwpt, IOVA + PAGE, memory, PAGE)).toBe(EINVAL);
    expect(check(host, hwpt, IOVA, memory, 5n * PAGE)).toBe(EINVAL);
    expect(check(host, hwpt, IOVA - 2048n, memory, 2048n)).toBe(EINVAL);
    // Halves of pages, at addresses that have nothing in common with theirs.
    const half = { ioasId: ioas, userVa: memory + 2048n, length: 3n * 2048n, flags: 7 };
    expect(host.mapBytes({ ...half, iova: IOVA + 0x10_0800n })).toBe(0);
    expect(check(host, hwpt, IOVA + 0x10_0800n, memory + 2048n, 3n * 2048n)).toBe(0);
    expect(host.mapBytes({ ...half, iova: IOVA + 0x20_0000n })).toBe(0);
    expect(check(host, hwpt, IOVA + 0x20_0000n, memory + 2048n, 3n * 2048n)).toBe(0);
    expect(check(host, hwpt, IOVA + 0x20_0000n, memory, 2048n)).toBe(EINVAL);
    expect(host.unmap(ioas, IOVA, 4n * PAGE)).toBe(0);
    expect(check(host, hwpt, IOVA, memory, 2048n)).toBe(EINVAL);
    expect(check(host, hwpt, IOVA, memory, 0n)).toBe(0);
  });

  test('a copy on write afterwards shows: the table has the page that was pinned', () => {
    const { host, ioas, hwpt } = setUp();
    expect(host.map(ioas, IOVA, 0, 2)).toBe(0);
    expect(check(host, hwpt, IOVA, host.memory, 2n * PAGE)).toBe(0);
    host.system.munmap(host.memory, PAGE);
    expect(check(host, hwpt, IOVA, host.memory, 2n * PAGE)).toBe(EFAULT);
    expect(check(host, hwpt, IOVA + PAGE, host.memory + PAGE, PAGE)).toBe(0);
    expect(host.unmap(ioas, IOVA, 2n * PAGE)).toBe(0);
  });

  test('EINVAL for what is misaligned or wraps, ENOENT without a paging table, EFAULT without memory', () => {
    const { host, ioas, stdev, idev, hwpt } = setUp();
    const { memory } = host;
    expect(host.map(ioas, IOVA, 0, 1)).toBe(0);
    expect(check(host, hwpt, IOVA + 1n, memory, 2048n)).toBe(EINVAL);
    expect(check(host, hwpt, IOVA, memory + 1024n, 2048n)).toBe(EINVAL);
    expect(check(host, hwpt, IOVA, memory, 2047n)).toBe(EINVAL);
    expect(check(host, hwpt, IOVA, U64_MAX - 2047n, 2048n)).toBe(EINVAL);
    expect(check(host, hwpt, IOVA, memory, U64_MAX - 2047n)).toBe(EINVAL);
    for (const id of [0, 99, ioas, stdev, idev]) expect(check(host, id, IOVA, memory, 2048n)).toBe(ENOENT);
    expect(check(host, hwpt, IOVA, NOWHERE & ~0xfffn, PAGE)).toBe(EFAULT);
    expect(check(host, hwpt, U64_MAX - 2047n, memory, PAGE)).toBe(EINVAL);
    const huge = host.hwpt(idev, ioas, 0, { iotlb: 0, pagetableType: MOCK_IOMMUPT_HUGE });
    expect(check(host, huge, IOVA, memory, PAGE)).toBe(0);
    expect(check(host, huge, IOVA + 2048n, memory + 2048n, 2048n)).toBe(EINVAL);
  });
});

describe('MD_CHECK_REFS', () => {
  const check = (host: SelftestHost, uptr: bigint, length: bigint, refs: number): number =>
    host.test(IOMMU_TEST_OP_MD_CHECK_REFS, 'checkRefs', 0, { uptr, length, refs }).result;

  test('counts the pins of each page, whoever holds them, and pins nothing', () => {
    const { host, ioas } = setUp();
    const { memory } = host;
    expect(host.map(ioas, IOVA, 1, 2)).toBe(0);
    expect([check(host, memory, PAGE, 0), check(host, memory + PAGE, 2n * PAGE, 1)]).toEqual([0, 0]);
    expect([check(host, memory, 2n * PAGE, 0), check(host, memory, 3n * PAGE, 1)]).toEqual([EIO, EIO]);
    expect(host.map(ioas, IOVA + 0x10_0000n, 2, 2)).toBe(0);
    expect([check(host, memory + PAGE, PAGE, 1), check(host, memory + 2n * PAGE, PAGE, 2)]).toEqual([0, 0]);
    expect(check(host, memory, 64n * PAGE, 0)).toBe(EIO);
    // A table of another file counts as well.
    const other = host.system.open('/dev/iommu');
    host.system.close(host.fd);
    const refs = { uptr: memory, length: 64n * PAGE, refs: 0 };
    expect(host.test(IOMMU_TEST_OP_MD_CHECK_REFS, 'checkRefs', 0, refs, other).result).toBe(0);
    expect(host.process.addressSpace.pinnedPages).toBe(0);
  });

  test('EINVAL for what is no page or wraps, EFAULT without memory', () => {
    const { host } = setUp();
    expect(check(host, host.memory + 2048n, PAGE, 0)).toBe(EINVAL);
    expect(check(host, host.memory, 2048n, 0)).toBe(EINVAL);
    expect(check(host, U64_MAX - 4095n, PAGE, 0)).toBe(EINVAL);
    expect(check(host, NOWHERE & ~0xfffn, PAGE, 0)).toBe(EFAULT);
    expect(check(host, host.memory, 65n * PAGE, 0)).toBe(EFAULT);
    expect(check(host, host.memory, (U64_MAX >> 13n) << 13n, 0)).toBe(EINVAL);
    expect(check(host, NOWHERE & ~0xfffn, 0n, 7)).toBe(0);
  });
});

describe('DIRTY', () => {
  const PAGES = 8;
  const prepare = (huge = false) => {
    const made = setUp();
    const { host, ioas, idev } = made;
    expect(host.map(ioas, IOVA, 0, PAGES)).toBe(0);
    const data = huge ? { iotlb: 0, pagetableType: MOCK_IOMMUPT_HUGE } : null;
    const tracking = host.hwpt(idev, ioas, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING, data);
    const track = (flags: number) =>
      host.ioctl(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.iommuHwptSetDirtyTracking, { hwptId: tracking, flags })
        .result;
    expect(track(1)).toBe(0);
    return { ...made, tracking, track };
  };
  /** Writes to the pages in `bits`, and gives the result and the count. */
  const write = (host: SelftestHost, id: number, bits: readonly number[], values: object = {}): [number, bigint] => {
    const bitmap = new Uint8Array(64);
    for (const bit of bits) bitmap[bit >> 3] = bitmap[bit >> 3]! | (1 << (bit & 7));
    host.poke(host.buffer, bitmap);
    const all = { iova: IOVA, length: BigInt(PAGES) * PAGE, pageSize: 2048n, uptr: host.buffer, ...values };
    const { result, cmd } = host.test(IOMMU_TEST_OP_DIRTY, 'dirty', id, all);
    return [result, cmd.outNrDirty];
  };
  const read = (host: SelftestHost, hwptId: number, flags = 0): number[] => {
    host.poke(host.buffer, new Uint8Array(64));
    const values = { hwptId, flags, iova: IOVA, length: BigInt(PAGES) * PAGE, pageSize: 2048n, data: host.buffer };
    const { result } = host.ioctl(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, uapi.iommuHwptGetDirtyBitmap, values);
    expect(result).toBe(0);
    const bytes = host.peek(host.buffer, 64);
    return Array.from({ length: 512 }, (_, bit) => bit).filter((bit) => ((bytes[bit >> 3]! >> (bit & 7)) & 1) === 1);
  };

  test('marks the half pages whose bits are set, and no others', () => {
    const { host, tracking } = prepare();
    expect(write(host, tracking, [0, 3, 7, 15])).toEqual([0, 4n]);
    expect(read(host, tracking, uapi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR)).toEqual([0, 3, 7, 15]);
    expect([read(host, tracking), read(host, tracking)]).toEqual([[0, 3, 7, 15], []]);
  });

  test('of a larger page size only the first half page, and beyond the range nothing', () => {
    const { host, tracking } = prepare();
    expect(write(host, tracking, [0, 2], { pageSize: 2n * PAGE })).toEqual([0, 2n]);
    expect(read(host, tracking)).toEqual([0, 8]);
    expect(write(host, tracking, [0, 1, 2, 9], { length: 2n * 2048n })).toEqual([0, 2n]);
    expect(read(host, tracking)).toEqual([0, 1]);
  });

  test('a page that is not mapped is counted, too', () => {
    const { host, ioas, tracking } = prepare();
    host.unmap(ioas, IOVA, BigInt(PAGES) * PAGE);
    expect(write(host, tracking, [1])).toEqual([0, 1n]);
    expect(write(host, tracking, [1], { iova: U64_MAX - 0xfffn, length: PAGE })).toEqual([0, 1n]);
  });

  test('a leaf of 1 MiB is marked whole', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { idev } = host.device(ioas);
    // The machine gives frames in order, so that 2 MiB of memory hold 1 MiB that is aligned.
    const memory = host.system.mmap({ length: 0x20_0000n });
    host.poke(memory, new Uint8Array(0x20_0000));
    let first = 0;
    while (host.frame(memory + BigInt(first) * PAGE) % 256 !== 0) first++;
    const userVa = memory + BigInt(first) * PAGE;
    expect(host.frame(userVa + 0xf_f000n)).toBe(host.frame(userVa) + 255);
    const huge = { iotlb: 0, pagetableType: MOCK_IOMMUPT_HUGE };
    const hwptId = host.hwpt(idev, ioas, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING, huge);
    expect(host.mapBytes({ ioasId: ioas, iova: IOVA, userVa, length: 0x10_0000n, flags: 7 })).toBe(0);
    const track = { hwptId, flags: 1 };
    host.ioctl(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.iommuHwptSetDirtyTracking, track);
    expect(write(host, hwptId, [3])).toEqual([0, 1n]);
    const values = { hwptId, flags: 0, iova: IOVA, length: 0x10_0000n, pageSize: 2048n, data: host.buffer };
    host.ioctl(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, uapi.iommuHwptGetDirtyBitmap, values);
    expect(host.peek(host.buffer, 64)).toEqual(new Uint8Array(64).fill(0xff));
  });

  test('EINVAL, EOVERFLOW, ENOENT and EFAULT in the order of the kernel; EINVAL while tracking is off', () => {
    const { host, ioas, hwpt, tracking, track } = prepare();
    const bad = [{ pageSize: 0n }, { length: 0n }, { iova: IOVA + 1n }, { length: 2049n }, { uptr: 0n }];
    for (const values of bad) expect([values, write(host, 99, [0], values)[0]]).toEqual([values, EINVAL]);
    const long = { pageSize: 1n, length: 2n ** 27n + 1n };
    expect(write(host, 99, [0], long)[0]).toBe(EOVERFLOW);
    for (const id of [0, 99, ioas]) expect(write(host, id, [0])[0]).toBe(ENOENT);
    expect(write(host, hwpt, [0], { uptr: NOWHERE })[0]).toBe(EINVAL);
    expect(write(host, tracking, [0], { uptr: NOWHERE })[0]).toBe(EFAULT);
    expect([track(0), write(host, tracking, [0])[0]]).toEqual([0, EINVAL]);
  });
});

describe('MD_CHECK_IOTLB and HWPT_INVALIDATE', () => {
  const prepare = () => {
    const made = setUp();
    const { host, ioas, idev } = made;
    const parent = host.hwpt(idev, ioas, uapi.IOMMU_HWPT_ALLOC_NEST_PARENT);
    const nested = host.hwpt(idev, parent, 0, { iotlb: IOMMU_TEST_IOTLB_DEFAULT, pagetableType: 0 });
    const check = (hwpt: number, id: number, iotlb: number): number =>
      host.test(IOMMU_TEST_OP_MD_CHECK_IOTLB, 'checkIotlb', hwpt, { id, iotlb }).result;
    const words = () => [0, 1, 2, 3].map((id) => (check(nested, id, 0) === 0 ? 0 : 1));
    const invalidate = (entries: readonly { flags: number; iotlbId: number }[], values: object = {}) => {
      const bytes = new Uint8Array(8 * entries.length);
      entries.forEach((entry, index) => iommuHwptInvalidateSelftest.write(entry, bytes, 8 * index));
      host.poke(host.buffer, bytes);
      const { result, reply } = host.ioctl(uapi.IOMMU_HWPT_INVALIDATE, uapi.iommuHwptInvalidate, {
        hwptId: nested,
        dataUptr: host.buffer,
        dataType: IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
        entryLen: 8,
        entryNum: entries.length,
        ...values,
      });
      return [result, reply.entryNum];
    };
    return { ...made, parent, nested, check, words, invalidate };
  };

  test('compare and clear one of four words, or all', () => {
    const { nested, check, words, invalidate } = prepare();
    for (let id = 0; id < 4; id++) expect(check(nested, id, IOMMU_TEST_IOTLB_DEFAULT)).toBe(0);
    expect(invalidate([{ flags: 0, iotlbId: 1 }])).toEqual([0, 1]);
    expect([words(), check(nested, 0, 1)]).toEqual([[1, 0, 1, 1], EINVAL]);
    expect(invalidate([{ flags: IOMMU_TEST_INVALIDATE_FLAG_ALL, iotlbId: 0 }])).toEqual([0, 1]);
    expect(words()).toEqual([0, 0, 0, 0]);
    expect([check(nested, 4, 0), check(nested, 0xffff_ffff, 0)]).toEqual([EINVAL, EINVAL]);
  });

  test('entries before a bad one are carried out and counted', () => {
    const { words, invalidate } = prepare();
    const good = { flags: 0, iotlbId: 2 };
    expect(invalidate([good, { flags: 2, iotlbId: 1 }, good])).toEqual([EOPNOTSUPP, 1]);
    expect(invalidate([{ flags: 0, iotlbId: 4 }])).toEqual([EINVAL, 0]);
    expect(invalidate([{ flags: 1, iotlbId: 4 }])).toEqual([EINVAL, 0]);
    expect(words()).toEqual([1, 1, 0, 1]);
    for (const entryLen of [1, 7, 9, 16]) expect(invalidate([good], { entryLen })).toEqual([EINVAL, 0]);
    expect(invalidate([good], { dataType: 0 })).toEqual([EINVAL, 0]);
    expect([invalidate([]), invalidate([], { dataType: 1 })]).toEqual([
      [0, 0],
      [EINVAL, 0],
    ]);
  });

  test('ENOENT for what is no nested table', () => {
    const { hwpt, parent, ioas, check } = prepare();
    for (const id of [0, 99, hwpt, parent, ioas]) expect(check(id, 0, 0)).toBe(ENOENT);
  });
});

test('a readable mapping of private memory pins the page that a later write finds', () => {
  const { host, ioas, hwpt } = setUp();
  const child = host.system.fork();
  expect(host.map(ioas, IOVA, 0, 1, READ)).toBe(0);
  host.poke(host.memory, Uint8Array.of(1, 2, 3));
  const values = { iova: IOVA, uptr: host.memory, length: PAGE };
  expect(host.test(IOMMU_TEST_OP_MD_CHECK_MAP, 'checkMap', hwpt, values).result).toBe(0);
  child.exit();
});
