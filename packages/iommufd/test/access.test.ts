import { U64_MAX } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { lockPages } from '../src/access.ts';
import { ioasUnmap } from '../src/ioas/ioas-commands.ts';
import { errnoOf, ProcessHost, sweep } from './support/process-host.ts';

const IOVA = 0x10000n;

/** Eight pages, filled with 1 to 8, mapped at IOVA, and an access to them. */
function mapped(needsPinPages = true, unmap?: (iova: bigint, length: bigint) => void) {
  const host = new ProcessHost();
  const ioasId = host.client.ioasAlloc();
  const va = host.memory(host.first, 8);
  host.client.ioasMap({ ioasId, userVa: va, length: 0x8000, iova: IOVA });
  const driver = host.access(needsPinPages, unmap);
  driver.access.attach(ioasId);
  return { host, ioasId, va, driver, access: driver.access };
}

function bytes(value: Uint8Array): number[] {
  return [...value];
}

describe('an access', () => {
  test('is attached once, to an IOAS, and replaced only where it is', () => {
    const { host, ioasId, access } = mapped();
    const other = host.client.ioasAlloc();
    expect(errnoOf(() => access.attach(other))).toBe('EINVAL');
    expect([errnoOf(() => access.replace(99)), access.ioas?.id]).toEqual(['ENOENT', ioasId]);
    access.replace(other);
    expect([access.ioas?.id, errnoOf(() => host.client.destroy(other))]).toEqual([other, 'EBUSY']);
    access.detach();
    access.detach();
    expect([access.ioas, errnoOf(() => access.replace(other))]).toEqual([null, 'ENOENT']);
    expect(errnoOf(() => access.attach(99))).toBe('ENOENT');
    expect(errnoOf(() => host.client.destroy(other))).toBeNull();
    expect(errnoOf(() => host.client.destroy(access.id))).toBe('EBUSY');
    access.close();
    expect(errnoOf(() => host.client.destroy(access.id))).toBe('ENOENT');
  });

  test('that pins wants areas of whole pages, and what is mapped later to be so', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const userVa = host.memory(host.first, 2);
    host.client.ioasMap({ ioasId, userVa, length: 0x800, iova: IOVA });
    const [pinning, copying] = [host.access(true).access, host.access(false).access];
    expect([errnoOf(() => copying.attach(ioasId)), errnoOf(() => pinning.attach(ioasId))]).toEqual([
      null,
      'EADDRINUSE',
    ]);
    expect([pinning.ioas, host.table(ioasId).iovaAlignment]).toEqual([null, 1]);
    host.client.ioasUnmapAll(ioasId);
    pinning.attach(ioasId);
    expect(host.table(ioasId).iovaAlignment).toBe(4096);
    expect(errnoOf(() => host.client.ioasMap({ ioasId, userVa, length: 0x800, iova: IOVA }))).toBe('EINVAL');
    pinning.detach();
    expect(host.table(ioasId).iovaAlignment).toBe(1);
  });

  test('keeps the objects when the file is closed', () => {
    const { host, driver, access } = mapped();
    driver.pin(IOVA, 0x1000n);
    host.first.system.exit();
    expect([host.context.objects.size, host.processes.counts.pinned]).toEqual([2, 1]);
    access.close();
    expect([host.context.objects.size, host.processes.counts.pinned]).toEqual([0, 0]);
  });

  test('that is replaced lets go of what it had pinned in the old IOAS first', () => {
    const { host, driver, access } = mapped();
    driver.pin(IOVA, 0x3000n);
    access.replace(host.client.ioasAlloc());
    expect([driver.notified, host.processes.counts.pinned]).toEqual([[[0n, U64_MAX]], 0]);
    access.detach();
    expect(driver.notified.length).toBe(2);
  });

  test('that leaves an IOAS pins, copies and attaches nothing until it has left, and is asked once', () => {
    const refused: unknown[] = [];
    const { host, ioasId, driver, access } = mapped(true, (iova, length) => {
      refused.push(
        errnoOf(() => access.pinPages(IOVA, 0x1000n, false)),
        errnoOf(() => access.read(IOVA, new Uint8Array(1))),
        errnoOf(() => access.attach(ioasId)),
        errnoOf(() => access.replace(ioasId)),
      );
      access.detach();
      driver.letGo(iova, length);
    });
    const other = host.client.ioasAlloc();
    driver.pin(IOVA, 0x3000n);
    access.replace(other);
    expect(refused.splice(0)).toEqual(['ENOENT', 'ENOENT', 'EBUSY', 'ENOENT']);
    expect([access.ioas?.id, driver.notified.length, host.processes.counts.pinned]).toEqual([other, 1, 0]);
    expect(errnoOf(() => host.client.destroy(ioasId))).toBeNull();
    access.detach();
    expect([access.ioas, driver.notified.length, errnoOf(() => host.client.destroy(other))]).toEqual([null, 2, null]);
  });
});

describe('pinning', () => {
  test('has its errno for each thing that is wrong, and pins nothing then', () => {
    const { host, ioasId, va, driver, access } = mapped();
    const more = { ioasId, userVa: va, length: 0x1000 };
    host.client.ioasMap({ ...more, iova: IOVA + 0x8000n, writable: false });
    host.client.ioasMap({ ...more, iova: IOVA + 0x9000n, readable: false });
    const { fd } = host.dmabuf(1);
    host.client.ioasMapFile({ ioasId, fd, length: 0x1000, iova: IOVA + 0xa000n });
    const pin = (iova: bigint, length: bigint, write = true): unknown => errnoOf(() => driver.pin(iova, length, write));
    expect(pin(IOVA, 0n)).toBe('EINVAL');
    expect(pin(U64_MAX, 2n)).toBe('EOVERFLOW');
    expect(pin(IOVA - 0x1000n, 0x2000n)).toBe('ENOENT');
    expect(pin(IOVA, 0x10_0000n, false)).toBe('EPERM');
    expect(pin(IOVA + 1n, 0x10n)).toBe('EINVAL');
    expect(pin(IOVA, 0x9000n)).toBe('EPERM');
    expect(pin(IOVA + 0x9000n, 0x1000n, false)).toBe('EPERM');
    expect(pin(IOVA + 0xa000n, 0x1000n)).toBe('EINVAL');
    expect(pin(IOVA + 0x9000n, 0x2000n)).toBe('EINVAL');
    expect(pin(IOVA + 0xa000n, 0x2000n)).toBe('EINVAL');
    access.detach();
    expect([pin(IOVA, 0x1000n), pin(IOVA, 0n)]).toEqual(['ENOENT', 'EINVAL']);
    expect([host.processes.counts.pinned, host.areas(ioasId).map(({ accesses }) => accesses)]).toEqual([
      0,
      [0, 0, 0, 0],
    ]);
  });

  test('of memory that is not there, is not writable, or is above RLIMIT_MEMLOCK, is refused', () => {
    const { host, ioasId, va, driver } = mapped();
    const { process, system } = host.first;
    system.munmap(va + 0x4000n, 0x1000);
    expect(errnoOf(() => driver.pin(IOVA, 0x6000n))).toBe('EFAULT');
    process.memory!.protect(va, 0x1000, 1);
    expect(errnoOf(() => driver.pin(IOVA, 0x1000n, false))).toBe('EFAULT');
    process.limits.memlock = 0x2000;
    expect([errnoOf(() => driver.pin(IOVA + 0x1000n, 0x3000n)), host.processes.counts.pinned]).toEqual(['ENOMEM', 0]);
    driver.pin(IOVA + 0x1000n, 0x2000n);
    expect([host.processes.counts.pinned, process.credentials.user.lockedPages]).toEqual([2, 2]);
    expect(host.areas(ioasId)[0]!.pages.covered).toMatchObject([{ first: 1, last: 2 }]);
  });

  test('gives the frames that a device reaches, across areas, and the last part may end in a page', () => {
    const { host, ioasId, va, driver } = mapped();
    host.client.ioasMap({ ioasId, userVa: va + 0x3000n, length: 0x2000, iova: IOVA + 0x8000n });
    const domain = host.addDomain(ioasId);
    const frames = driver.pin(IOVA + 0x6000n, 0x3001n);
    expect(frames.map((pfn) => host.byteOf(pfn))).toEqual([7, 8, 4, 5]);
    expect(frames).toEqual([6n, 7n, 8n, 9n].map((page) => Number(domain.iovaToPhys(IOVA + page * 4096n)! / 4096n)));
  });

  test('of two areas that do not meet at the border of a page is refused, where page offsets are odd', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const va = host.memory(host.first, 4);
    // Without a table areas may be of any bytes; an access that never asked for whole pages may try.
    host.client.ioasMap({ ioasId, userVa: va, length: 0x1800, iova: IOVA });
    host.client.ioasMap({ ioasId, userVa: va + 0x2800n, length: 0x1800, iova: IOVA + 0x1800n });
    const { access, pin } = host.access(false);
    access.attach(ioasId);
    expect(errnoOf(() => pin(IOVA, 0x2000n))).toBe('EINVAL');
    expect(errnoOf(() => pin(IOVA + 0x1800n, 0x800n))).toBe('EINVAL');
    expect(pin(IOVA, 0x1800n).map((pfn) => host.byteOf(pfn))).toEqual([1, 2]);
    expect(pin(IOVA + 0x2000n, 0x1000n).map((pfn) => host.byteOf(pfn))).toEqual([4]);
    const data = new Uint8Array(0x1000);
    access.read(IOVA + 0x1000n, data);
    expect([data[0], data[0x7ff], data[0x800], data[0xfff]]).toEqual([2, 2, 3, 3]);
  });

  test('the same range twice takes unpinning twice', () => {
    const { host, driver, access } = mapped();
    const first = driver.pin(IOVA, 0x2000n);
    expect(driver.pin(IOVA, 0x2000n)).toEqual(first);
    driver.pin(IOVA + 0x1000n, 0x2000n);
    expect(host.processes.counts.pinned).toBe(3);
    access.unpinPages(IOVA, 0x2000n);
    expect(host.processes.counts.pinned).toBe(3);
    access.unpinPages(IOVA, 0x2000n);
    expect(host.processes.counts.pinned).toBe(2);
    expect(() => access.unpinPages(IOVA, 0x2000n)).toThrow(RangeError);
    access.unpinPages(IOVA + 0x1000n, 0x2000n);
    expect([host.processes.counts.pinned, host.first.process.addressSpace.pinnedPages]).toEqual([0, 0]);
  });

  test('by two accesses and a table is one pin, which the last of them takes back', () => {
    const { host, ioasId, driver, access } = mapped();
    const second = host.access();
    second.access.attach(ioasId);
    const domain = host.addDomain(ioasId);
    driver.pin(IOVA, 0x2000n);
    second.pin(IOVA + 0x1000n, 0x2000n);
    expect(host.processes.counts.pinned).toBe(8);
    host.table(ioasId).removeDomain(domain);
    expect(host.processes.counts.pinned).toBe(3);
    access.close();
    expect(host.processes.counts.pinned).toBe(2);
    second.access.close();
    expect(host.processes.counts.pinned).toBe(0);
  });

  test('C5 holds the pages as they were, whatever the process does', () => {
    const { host, va, driver } = mapped();
    const frames = driver.pin(IOVA, 0x8000n);
    const { system } = host.first;
    system.munmap(va, 0x2000);
    system.process.memory!.protect(va + 0x2000n, 0x2000, 1);
    host.fork(host.first);
    system.process.memory!.map({ length: 0x1000, protection: 3, address: va + 0x4000n, replace: true });
    expect(frames.map((pfn) => host.byteOf(pfn))).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(frames.map((pfn) => host.processes.counts.pinCount(pfn))).toEqual(new Array(8).fill(1));
    driver.letGo(IOVA, 0x8000n);
    expect(host.processes.counts.pinned).toBe(0);
  });

  test('X5 an attach, a replace and a pin that fail at any point have changed nothing', () => {
    const prepare = () => {
      const made = mapped();
      made.host.client.ioasMap({
        ioasId: made.ioasId,
        userVa: made.va + 0x2000n,
        length: 0x3000,
        iova: IOVA + 0x8000n,
      });
      return made;
    };
    const points = (operation: (made: ReturnType<typeof prepare>) => unknown): number =>
      sweep(() => {
        const made = prepare();
        const other = made.host.client.ioasAlloc();
        if (operation === attach) made.access.detach();
        made.host.access().access.attach(other);
        return { host: made.host, operation: () => operation(made) };
      });
    const attach = ({ access, ioasId }: ReturnType<typeof prepare>): void => access.attach(ioasId);
    expect(points(attach)).toBeGreaterThan(0);
    expect(points(({ access, ioasId }) => access.replace(ioasId + 2))).toBeGreaterThan(0);
    expect(points(({ driver }) => driver.pin(IOVA + 0x6000n, 0x4000n))).toBeGreaterThan(3);
    expect(points(({ host, ioasId }) => lockPages(host.ioas(ioasId), IOVA, 0x9000n))).toBeGreaterThan(4);
    expect(points(({ host }) => host.access())).toBeGreaterThan(0);
  });
});

describe('unmapping', () => {
  test('has accesses let go first, each told of the area', () => {
    const { host, ioasId, driver } = mapped();
    const idle = host.access(false);
    idle.access.attach(ioasId);
    driver.pin(IOVA + 0x1000n, 0x1000n);
    driver.pin(IOVA, 0x8000n);
    expect(host.client.ioasUnmap(ioasId, IOVA, 0x8000)).toBe(0x8000n);
    expect([driver.notified, idle.notified]).toEqual([[[IOVA, 0x8000n]], [[IOVA, 0x8000n]]]);
    expect([driver.pins, host.processes.counts.pinned]).toEqual([[], 0]);
  });

  test('lets who is told unmap the area himself, and others besides', () => {
    let again = true;
    const { host, ioasId, va, driver } = mapped(true, (iova, length) => {
      driver.letGo(iova, length);
      if (again) ioasUnmap(host.context, ioasId, 0n, U64_MAX);
      again = false;
    });
    for (const iova of [IOVA - 0x1000n, IOVA + 0x8000n]) {
      host.client.ioasMap({ ioasId, userVa: va, length: 0x1000, iova });
    }
    const domain = host.addDomain(ioasId);
    driver.pin(IOVA, 0x1000n);
    expect(host.client.ioasUnmapAll(ioasId)).toBe(0x1000n);
    expect([host.areas(ioasId), domain.units.size, host.processes.counts.pinned]).toEqual([[], 0, 0]);
  });

  test('tells nobody who has left while others were told', () => {
    const { host, ioasId, driver } = mapped(true, (iova, length) => {
      driver.letGo(iova, length);
      later.access.detach();
    });
    const later = host.access();
    later.access.attach(ioasId);
    driver.pin(IOVA, 0x1000n);
    host.client.ioasUnmapAll(ioasId);
    expect([driver.notified.length, later.notified]).toEqual([1, [[0n, U64_MAX]]]);
  });

  test('tells nobody of an area that is not in use', () => {
    const { host, ioasId, driver } = mapped();
    host.client.ioasUnmapAll(ioasId);
    expect(driver.notified).toEqual([]);
  });

  test('calls an access for at most 101 areas that adjoin, as Linux does', () => {
    for (const gap of [0n, 0x1000n]) {
      const { host, ioasId, va, driver } = mapped();
      host.client.ioasUnmapAll(ioasId);
      for (let index = 0n; index < 150n; index++) {
        const iova = IOVA + index * (0x1000n + gap);
        host.client.ioasMap({ ioasId, userVa: va, length: 0x1000, iova });
        driver.pin(iova, 0x1000n);
      }
      expect(errnoOf(() => host.client.ioasUnmapAll(ioasId))).toBe(gap === 0n ? 'EDEADLK' : null);
      expect([driver.notified.length, host.areas(ioasId).length]).toEqual(gap === 0n ? [101, 50] : [150, 0]);
      host.client.ioasUnmapAll(ioasId);
      expect([host.areas(ioasId).length, host.processes.counts.pinned]).toEqual([0, 0]);
    }
  });

  test('gives an access up that does not let go; the area stays, with no use beginning', () => {
    const { host, ioasId, va, driver, access } = mapped(true, () => {});
    host.client.ioasMap({ ioasId, userVa: va, length: 0x1000, iova: IOVA - 0x1000n });
    const frames = driver.pin(IOVA, 0x1000n);
    const domain = host.addDomain(ioasId);
    expect(errnoOf(() => host.client.ioasUnmapAll(ioasId))).toBe('EDEADLK');
    expect(driver.notified.length).toBe(101);
    // The area before is gone; this one is whole, and a device still reaches it.
    expect(host.areas(ioasId).map(({ iova }) => iova)).toEqual([IOVA]);
    expect(domain.iovaToPhys(IOVA)).toBe(BigInt(frames[0]! * 4096));
    expect(errnoOf(() => driver.pin(IOVA + 0x1000n, 0x1000n))).toBe('EINVAL');
    expect(errnoOf(() => access.read(IOVA, new Uint8Array(1)))).toBe('EINVAL');
    expect(errnoOf(() => host.table(ioasId).cutAt(IOVA + 0x1000n))).toBe('EBUSY');
    access.unpinPages(IOVA, 0x1000n);
    expect([host.client.ioasUnmapAll(ioasId), host.processes.counts.pinned]).toEqual([0x8000n, 0]);
  });

  test('is refused while the pages are locked', () => {
    const { host, ioasId, va } = mapped();
    host.client.ioasMap({ ioasId, userVa: va, length: 0x1000, iova: IOVA + 0x8000n });
    host.client.ioasMap({ ioasId, userVa: va, length: 0x1000, iova: 0x4000n });
    const locked = lockPages(host.ioas(ioasId), IOVA + 0x1000n, 0x2000n);
    expect([...Array(2).keys()].map((page) => host.byteOf(locked.frames.at(page)))).toEqual([2, 3]);
    expect(errnoOf(() => host.client.ioasUnmap(ioasId, IOVA + 0x1000n, 0x1000))).toBe('EBUSY');
    expect(errnoOf(() => host.client.ioasUnmapAll(ioasId))).toBe('EBUSY');
    expect(host.areas(ioasId).map(({ iova }) => iova)).toEqual([IOVA, IOVA + 0x8000n]);
    expect(errnoOf(() => host.client.destroy(ioasId))).toBe('EBUSY');
    locked.release();
    expect([host.client.ioasUnmapAll(ioasId), host.processes.counts.pinned]).toEqual([0x9000n, 0]);
  });

  test('locking has its errno for each thing that is wrong', () => {
    const { host, ioasId, va, access } = mapped();
    access.detach();
    const lock = (iova: bigint, length: bigint): unknown => errnoOf(() => lockPages(host.ioas(ioasId), iova, length));
    host.client.ioasMap({ ioasId, userVa: va, length: 0x1000, iova: IOVA + 0x8000n, readable: false });
    expect([lock(IOVA, 0n), lock(U64_MAX, 2n), lock(IOVA, 0x10000n), lock(IOVA + 1n, 1n)]).toEqual([
      'EINVAL',
      'EOVERFLOW',
      'EPERM',
      'EINVAL',
    ]);
    expect([lock(0n, 0x1000n), host.table(ioasId).iovaAlignment]).toEqual(['ENOENT', 1]);
    host.client.ioasMap({ ioasId, userVa: va, length: 0x10, iova: 0x4000n });
    expect([lock(IOVA, 0x1000n), host.processes.counts.pinned]).toEqual(['EADDRINUSE', 0]);
  });
});

describe('copying', () => {
  test('reaches any bytes, across areas, and back', () => {
    const { host, ioasId, va, access } = mapped(false);
    host.client.ioasMap({ ioasId, userVa: va + 0x5003n, length: 0x1000, iova: IOVA + 0x8000n });
    const data = new Uint8Array(8);
    access.read(IOVA + 0x7ffcn, data);
    expect(bytes(data)).toEqual([8, 8, 8, 8, 6, 6, 6, 6]);
    access.write(IOVA + 0x7ffcn, Uint8Array.of(10, 11, 12, 13, 14, 15, 16, 17));
    access.read(IOVA + 0x5000n, data);
    expect(bytes(data)).toEqual([6, 6, 6, 14, 15, 16, 17, 6]);
  });

  test('has its errno for each thing that is wrong; what lies before it has been copied', () => {
    const { host, ioasId, va, access } = mapped(false);
    const more = { ioasId, userVa: va, length: 0x1000 };
    host.client.ioasMap({ ...more, iova: IOVA + 0x8000n, writable: false });
    host.client.ioasMap({ ...more, iova: IOVA + 0x9000n, readable: false });
    const { fd } = host.dmabuf(1);
    host.client.ioasMapFile({ ioasId, fd, length: 0x1000, iova: IOVA + 0xa000n });
    const read = (iova: bigint, length: number): unknown => errnoOf(() => access.read(iova, new Uint8Array(length)));
    const write = (iova: bigint, length: number): unknown =>
      errnoOf(() => access.write(iova, new Uint8Array(length).fill(99)));
    expect([read(IOVA, 0), read(U64_MAX, 2), read(IOVA - 1n, 2)]).toEqual(['EINVAL', 'EOVERFLOW', 'ENOENT']);
    expect([read(IOVA + 0x9000n, 1), read(IOVA + 0xa000n, 1)]).toEqual(['EPERM', 'EINVAL']);
    expect(write(IOVA + 0x7ffen, 4)).toBe('EPERM');
    const data = new Uint8Array(2);
    access.read(IOVA + 0x7ffen, data);
    expect(bytes(data)).toEqual([99, 99]);
    host.first.system.munmap(va, 0x1000);
    expect([read(IOVA, 1), read(IOVA + 0xfffn, 2), read(IOVA + 0x1000n, 1)]).toEqual(['EFAULT', 'EFAULT', null]);
    access.detach();
    expect([read(IOVA, 1), read(IOVA, 0)]).toEqual(['ENOENT', 'EINVAL']);
  });

  test('what is the asking process’s own is copied as its CPU would, more than a page of another’s as a device would', () => {
    const { host, ioasId, va, access } = mapped(false);
    host.addDomain(ioasId);
    const { process, system } = host.first;
    const own = process.addressSpace;
    const other = host.spawn().process.addressSpace;
    // The process has other pages at the addresses now than those that are pinned.
    system.process.memory!.map({ length: 0x2000, protection: 3, address: va, replace: true });
    own.write(va, new Uint8Array(0x2000).fill(50));
    const first = (length: number, by: typeof own | null): number => {
      const data = new Uint8Array(length);
      access.read(IOVA, data, by);
      return data[0]!;
    };
    expect([first(0x2000, own), first(0x2000, null), first(0x1000, other), first(0x2000, other)]).toEqual([
      50, 50, 50, 1,
    ]);
  });

  test('goes on after the owner has died, when a table holds the pages, and only then', () => {
    const { host, ioasId, access } = mapped(false);
    const keeper = host.spawn();
    const domain = host.addDomain(ioasId);
    host.first.system.exit();
    const data = new Uint8Array(0x2000);
    access.read(IOVA + 0x1000n, data, keeper.process.addressSpace);
    expect([data[0], data[0x1fff]]).toEqual([2, 3]);
    access.write(IOVA, Uint8Array.of(77));
    access.read(IOVA, data.subarray(0, 1));
    expect(data[0]).toBe(77);
    host.table(ioasId).removeDomain(domain);
    expect(errnoOf(() => access.read(IOVA, data))).toBe('EFAULT');
    expect(host.processes.counts.pinned).toBe(0);
  });

  test('is charged to nobody', () => {
    const { host, access } = mapped(false);
    const { process } = host.first;
    const other = host.spawn().process.addressSpace;
    process.limits.memlock = 0;
    const data = new Uint8Array(0x3000);
    access.read(IOVA, data, other);
    expect([data[0], data[0x2fff]]).toEqual([1, 3]);
    const { addressSpace, credentials } = process;
    expect([addressSpace.pinnedPages, credentials.user.lockedPages, host.processes.counts.pinned]).toEqual([0, 0, 0]);
  });
});
