import { describe, expect, test } from 'vitest';
import {
  IOMMU_TEST_CMD,
  IOMMU_TEST_OP_ACCESS_PAGES,
  IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
  IOMMU_TEST_OP_ACCESS_RW,
  IOMMU_TEST_OP_CREATE_ACCESS,
  IOMMU_TEST_OP_DESTROY_ACCESS_PAGES,
  MOCK_ACCESS_RW_SLOW_PATH,
  MOCK_ACCESS_RW_WRITE,
  MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
  MOCK_FLAGS_ACCESS_SYZ,
  MOCK_FLAGS_ACCESS_WRITE,
} from '../../src/selftest/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import {
  EADDRINUSE,
  EBADE,
  EBADFD,
  EBUSY,
  EFAULT,
  EINVAL,
  ENOENT,
  ENOMEM,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
} from '../support/errno.ts';
import { NOWHERE, PAGE, SelftestHost } from './support.ts';

const IOVA = 0x140_0000n;
const PINS = MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES;
const READ = 4;
const U64_MAX = 2n ** 64n - 1n;

function setUp(flags = PINS) {
  const host = new SelftestHost();
  const ioas = host.ioas();
  expect(host.map(ioas, IOVA, 0, 4)).toBe(0);
  const create = (id: number, what = flags) => {
    const { result, cmd } = host.test(IOMMU_TEST_OP_CREATE_ACCESS, 'createAccess', id, { flags: what });
    return result === 0 ? cmd.outAccessFd : result;
  };
  const fd = create(ioas);
  const pin = (values: object, at = fd) => {
    const all = { iova: IOVA, length: PAGE, uptr: host.memory, flags: 0, ...values };
    const { result, cmd } = host.test(IOMMU_TEST_OP_ACCESS_PAGES, 'accessPages', at, all);
    return result === 0 ? cmd.outAccessPagesId : result;
  };
  const unpin = (accessPagesId: number, at = fd) =>
    host.test(IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, 'destroyAccessPages', at, { accessPagesId }).result;
  const copy = (values: object, at = fd) => {
    const all = { iova: IOVA, length: 16n, uptr: host.buffer, flags: 0, ...values };
    return host.test(IOMMU_TEST_OP_ACCESS_RW, 'accessRw', at, all).result;
  };
  const replace = (ioasId: number, at = fd) =>
    host.test(IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, 'accessReplaceIoas', at, { ioasId }).result;
  const pinned = () => host.process.addressSpace.pinnedPages;
  return { host, ioas, fd, create, pin, unpin, copy, replace, pinned };
}

describe('CREATE_ACCESS', () => {
  test('gives a descriptor, and the access goes with the last of it', () => {
    const { host, ioas, fd } = setUp();
    expect(host.context.objects.all().map(({ id, type }) => [id, type])).toEqual([
      [1, 'ioas'],
      [2, 'access'],
    ]);
    expect([host.destroy(ioas), host.destroy(2)]).toEqual([EBUSY, EBUSY]);
    const second = host.system.dup(fd);
    host.system.close(fd);
    expect(host.destroy(ioas)).toBe(EBUSY);
    host.system.close(second);
    expect([host.destroy(ioas), host.context.objects.size]).toEqual([0, 0]);
  });

  test('the access keeps the context, not the other way round', () => {
    const { host, fd, pin } = setUp();
    expect(pin({})).toBe(0);
    host.system.close(host.fd);
    expect([host.node.contexts.size, host.process.addressSpace.pinnedPages]).toEqual([1, 1]);
    host.system.close(fd);
    expect([host.node.contexts.size, host.process.addressSpace.pinnedPages]).toEqual([0, 0]);
  });

  test('EOPNOTSUPP for flags, ENOENT without an IOAS, EADDRINUSE where areas are not of whole pages', () => {
    const { host, ioas, create } = setUp();
    const before = host.snapshot();
    expect([create(ioas, 2), create(99), create(2)]).toEqual([EOPNOTSUPP, ENOENT, ENOENT]);
    const halves = host.ioas();
    const half = { ioasId: halves, iova: IOVA, userVa: host.memory, length: 2048n, flags: 7 };
    expect(host.mapBytes(half)).toBe(0);
    expect(create(halves)).toBe(EADDRINUSE);
    host.destroy(halves);
    expect(host.snapshot()).toEqual(before);
  });

  test('ENOMEM when all descriptors are taken, and EFAULT when the answer cannot be stored, leave nothing', () => {
    const { host, ioas, create } = setUp();
    const taken: number[] = [];
    while (host.descriptors.size < 1024) taken.push(host.system.eventfd());
    const before = host.snapshot();
    expect(create(ioas)).toBe(ENOMEM);
    expect(host.snapshot()).toEqual(before);
    for (const fd of taken) host.system.close(fd);
    const after = host.snapshot();
    host.poke(host.argument, host.testBytes(IOMMU_TEST_OP_CREATE_ACCESS, 'createAccess', ioas));
    host.process.memory!.protect(host.argument, 4096n, 1);
    expect(host.system.ioctl(host.fd, IOMMU_TEST_CMD, host.argument)).toBe(EFAULT);
    host.process.memory!.protect(host.argument, 4096n, 3);
    expect(host.snapshot()).toEqual(after);
  });
});

describe('ACCESS_PAGES and DESTROY_ACCESS_PAGES', () => {
  test('pin pages under numbers from 0, and unpin them', () => {
    const { host, pin, unpin, pinned } = setUp();
    expect([pin({}), pin({ length: 2n * PAGE }), pin({}), pinned()]).toEqual([0, 1, 2, 2]);
    expect([unpin(1), pinned(), unpin(1), unpin(0), pinned(), unpin(2), pinned()]).toEqual([0, 1, ENOENT, 0, 1, 0, 0]);
    expect(pin({ iova: IOVA + PAGE, uptr: host.memory + PAGE, length: 3n * PAGE })).toBe(3);
  });

  test('EBADE when other pages are behind the memory, EFAULT when none are; at 0 nothing is compared', () => {
    const { host, pin, pinned } = setUp();
    expect(pin({ uptr: host.memory + PAGE })).toBe(EBADE);
    expect(pin({ length: 2n * PAGE, uptr: NOWHERE & ~0xfffn })).toBe(EFAULT);
    expect(pinned()).toBe(0);
    expect(pin({ uptr: 0n })).toBe(0);
  });

  test('what is unmapped is unpinned, and the number is free of meaning', () => {
    const { host, ioas, pin, unpin, pinned } = setUp();
    expect(host.map(ioas, IOVA + 0x10_0000n, 8, 2)).toBe(0);
    expect([pin({}), pin({ iova: IOVA + 0x10_0000n, uptr: host.memory + 8n * PAGE })]).toEqual([0, 1]);
    expect([host.unmap(ioas, IOVA, 4n * PAGE), pinned(), unpin(0), unpin(1)]).toEqual([0, 1, ENOENT, 0]);
    expect(pin({})).toBe(ENOENT);
  });

  test('checks in the order of the kernel', () => {
    const { host, ioas, fd, create, pin } = setUp();
    expect(pin({ length: (16n << 20n) + 1n, flags: 0x100 })).toBe(ENOMEM);
    expect(pin({ flags: 2 }, 99)).toBe(EOPNOTSUPP);
    expect([pin({}, 99), pin({}, host.fd), pin({}, 0xffff_ffff)]).toEqual([EBADFD, EBADFD, EBADFD]);
    expect(pin({}, create(ioas, 0))).toBe(EOPNOTSUPP);
    expect(pin({ length: 0n })).toBe(EINVAL);
    expect(pin({ iova: U64_MAX - 0xffn, length: PAGE })).toBe(EOVERFLOW);
    expect([pin({ length: 5n * PAGE }), pin({ iova: IOVA + 1n })]).toEqual([ENOENT, EINVAL]);
    expect(host.map(ioas, IOVA + 0x10_0000n, 8, 1, READ)).toBe(0);
    const readOnly = { iova: IOVA + 0x10_0000n, uptr: host.memory + 8n * PAGE };
    expect([pin({ ...readOnly, flags: MOCK_FLAGS_ACCESS_WRITE }), pin(readOnly)]).toEqual([EPERM, 0]);
    expect(fd).toBeGreaterThan(0);
  });

  test('with the fuzzers’ flag the address is a number of an area and a byte in it', () => {
    const { host, ioas, pin } = setUp();
    expect(host.map(ioas, IOVA + 0x10_0000n, 8, 2)).toBe(0);
    const nth = (area: bigint, byte: bigint) => ({ flags: MOCK_FLAGS_ACCESS_SYZ, iova: (byte << 32n) | area });
    expect(pin({ ...nth(1n, 0x1000n), uptr: host.memory + 9n * PAGE })).toBe(0);
    expect(pin({ ...nth(0n, 0n) })).toBe(1);
    expect(pin({ ...nth(2n, 0n) })).toBe(ENOENT);
  });

  test('a failure at any allocation pins nothing', () => {
    const { host, pin, pinned } = setUp();
    host.poke(host.memory, new Uint8Array(4 * 4096));
    const before = host.snapshot();
    const { failpoints } = host.kernel;
    let failures = 0;
    for (let nth = 1; ; nth++) {
      failpoints.arm(nth);
      const result = pin({ length: 3n * PAGE, flags: MOCK_FLAGS_ACCESS_WRITE });
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) break;
      expect([hit, result]).toEqual([hit, ENOMEM]);
      expect([host.snapshot(), pinned()]).toEqual([before, 0]);
      failures++;
    }
    expect(failures).toBeGreaterThanOrEqual(3);
  });
});

describe('ACCESS_RW', () => {
  const WRITE = MOCK_ACCESS_RW_WRITE;
  const SLOW = MOCK_ACCESS_RW_SLOW_PATH;
  const text = (host: SelftestHost, at: bigint, length: number): string =>
    Buffer.from(host.peek(at, length)).toString();

  test.each([
    ['by the memory', 0],
    ['by the frames', SLOW],
  ])('reads and writes any bytes, %s', (_, how) => {
    const { host, copy } = setUp(0);
    host.poke(host.memory + 4090n, Buffer.from('over the edge'));
    expect(copy({ iova: IOVA + 4090n, length: 13n, flags: how })).toBe(0);
    expect(text(host, host.buffer, 13)).toBe('over the edge');
    host.poke(host.buffer, Buffer.from('EDGE'));
    expect(copy({ iova: IOVA + 4094n, length: 4n, flags: how | WRITE })).toBe(0);
    expect(text(host, host.memory + 4090n, 13)).toBe('overEDGE edge');
  });

  test('the slow way pins what it copies, and the quick one does not', () => {
    const { host, copy, pinned } = setUp(0);
    const { failpoints } = host.kernel;
    const way = (flags: number): string | null => {
      for (let nth = 1; nth < 9 && failpoints.hit !== 'pin_user_pages'; nth++) {
        failpoints.arm(nth);
        copy({ length: 8192n, flags });
      }
      const { hit } = failpoints;
      failpoints.arm(0);
      return hit;
    };
    expect([way(0), way(SLOW), pinned()]).toEqual([null, 'pin_user_pages', 0]);
  });

  test('reads and writes by the frames of a process that is gone', () => {
    const { host, ioas, copy } = setUp(0);
    host.device(ioas);
    const child = host.system.fork();
    const memory = child.mmap({ length: PAGE, shared: true });
    child.process.addressSpace.write(memory, Buffer.from('inherited'));
    const bytes = new Uint8Array(uapi.iommuIoasMap.size);
    const values = { ioasId: ioas, iova: 0x200_0000n, userVa: memory, length: PAGE, flags: 7, reserved: 0 };
    uapi.iommuIoasMap.write({ size: bytes.length, ...values }, bytes);
    child.process.addressSpace.write(host.argument, bytes);
    expect(child.ioctl(host.fd, uapi.IOMMU_IOAS_MAP, host.argument)).toBe(0);
    child.exit();
    expect(copy({ iova: 0x200_0000n, length: 9n })).toBe(0);
    expect(text(host, host.buffer, 9)).toBe('inherited');
  });

  test('checks in the order of the kernel', () => {
    const { host, ioas, copy } = setUp(0);
    expect(copy({ length: (16n << 20n) + 1n, flags: 2 })).toBe(ENOMEM);
    expect([copy({ flags: 2 }, 99), copy({ flags: 8 }, 99)]).toEqual([EOPNOTSUPP, EOPNOTSUPP]);
    expect([copy({}, 99), copy({}, host.fd)]).toEqual([EBADFD, EBADFD]);
    expect([copy({ uptr: NOWHERE, flags: WRITE, iova: 0n }), copy({ uptr: NOWHERE })]).toEqual([EFAULT, EFAULT]);
    expect([copy({ length: 0n }), copy({ iova: U64_MAX - 3n })]).toEqual([EINVAL, EOVERFLOW]);
    expect([copy({ iova: IOVA + 4n * PAGE - 8n }), copy({ iova: 0n })]).toEqual([ENOENT, ENOENT]);
    expect(host.map(ioas, IOVA + 0x10_0000n, 8, 1, READ)).toBe(0);
    expect([copy({ iova: IOVA + 0x10_0000n, flags: WRITE }), copy({ iova: IOVA + 0x10_0000n })]).toEqual([EPERM, 0]);
    expect(copy({ iova: 8n << 32n, flags: MOCK_FLAGS_ACCESS_SYZ | WRITE })).toBe(0);
  });
});

describe('ACCESS_REPLACE_IOAS', () => {
  test('moves the access, and unpins what it had of the old', () => {
    const { host, ioas, pin, copy, replace, pinned } = setUp();
    const other = host.ioas();
    host.map(other, IOVA, 8, 1);
    expect([pin({}), replace(other), pinned(), host.destroy(ioas)]).toEqual([0, 0, 0, 0]);
    host.poke(host.memory + 8n * PAGE, Uint8Array.of(9));
    expect([copy({ length: 1n }), host.peek(host.buffer, 1)[0], host.destroy(other)]).toEqual([0, 9, EBUSY]);
    expect([pin({}), pin({ uptr: host.memory + 8n * PAGE })]).toEqual([EBADE, 1]);
  });

  test('EBADFD without an access, ENOENT without an IOAS', () => {
    const { host, ioas, replace, pin, unpin } = setUp();
    expect([replace(ioas, 99), replace(ioas, host.fd), replace(99), pin({})]).toEqual([EBADFD, EBADFD, ENOENT, 0]);
    expect([unpin(0, 99), unpin(0, host.fd)]).toEqual([EBADFD, EBADFD]);
    expect(replace(ioas)).toBe(0);
  });
});
