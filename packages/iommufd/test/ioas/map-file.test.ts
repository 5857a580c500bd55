import { describe, expect, test } from 'vitest';
import { EventFd } from '../../src/files/eventfd.ts';
import { errnoOf, ProcessHost, sweep } from '../support/process-host.ts';

const IOVA = 0x10000n;

describe('a mapped memfd', () => {
  test('is reached by devices and by accesses at its frames, from any offset', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const { fd, file } = host.memfd(4);
    const domain = host.addDomain(ioasId);
    host.client.ioasMapFile({ ioasId, fd, start: 0x1000, length: 0x3000, iova: IOVA });
    expect([1, 2, 3].map((page) => file.frame(page))).toEqual(
      [0n, 1n, 2n].map((page) => Number(domain.iovaToPhys(IOVA + page * 4096n)! / 4096n)),
    );
    const { access } = host.access(false);
    access.attach(ioasId);
    const data = new Uint8Array(2);
    access.read(IOVA + 0xfffn, data);
    expect([...data]).toEqual([2, 3]);
    access.write(IOVA, Uint8Array.of(42));
    expect(host.byteOf(file.frame(1))).toBe(42);
  });

  test('is mapped at a place with the offset of the file in the page', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const { fd } = host.memfd(4);
    const iova = host.client.ioasMapFile({ ioasId, fd, start: 0x1800, length: 0x800 });
    expect(iova).toBe(0x1800n);
    expect(host.areas(ioasId)[0]).toMatchObject({ startByte: 0x800n, firstIndex: 0, lastIndex: 0 });
  });

  test('that ends before the range is EINVAL only when it is pinned', () => {
    const host = new ProcessHost();
    const [lazy, filled] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
    const { fd, file } = host.memfd(4);
    host.addDomain(filled);
    const map = (ioasId: number): unknown =>
      errnoOf(() => host.client.ioasMapFile({ ioasId, fd, length: 0x4000, iova: IOVA }));
    file.resize(0x3000);
    expect([map(filled), map(lazy), host.processes.counts.pinned]).toEqual(['EINVAL', null, 0]);
    expect([errnoOf(() => host.addDomain(lazy)), host.processes.counts.pinned]).toEqual(['EINVAL', 0]);
    const { access, pin } = host.access();
    access.attach(lazy);
    expect([errnoOf(() => pin(IOVA, 0x4000n)), errnoOf(() => pin(IOVA, 0x3000n))]).toEqual(['EINVAL', null]);
    expect(errnoOf(() => access.read(IOVA + 0x3000n, new Uint8Array(1)))).toBe('EINVAL');
    file.resize(0x4000);
    expect([errnoOf(() => host.addDomain(lazy)), host.processes.counts.pinned]).toEqual([null, 4]);
  });

  test('C5 cut off while it is pinned, its pages stay with the device', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const { fd, file } = host.memfd(2);
    const domain = host.addDomain(ioasId);
    host.client.ioasMapFile({ ioasId, fd, length: 0x2000, iova: IOVA });
    const pfn = Number(domain.iovaToPhys(IOVA + 0x1000n)! / 4096n);
    file.resize(0);
    file.resize(0x2000);
    expect([host.byteOf(pfn), host.processes.counts.pinCount(pfn), file.frame(1) === pfn]).toEqual([2, 1, false]);
    host.client.ioasUnmapAll(ioasId);
    expect([host.processes.counts.pinned, host.kernel.frames.isAllocated(pfn)]).toEqual([0, false]);
  });

  test('stays when its descriptor is closed, and when the process ends', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const { fd, file } = host.memfd(2);
    const other = host.spawn();
    host.client.ioasMapFile({ ioasId, fd, length: 0x2000, iova: IOVA });
    host.first.system.close(fd);
    expect(errnoOf(() => host.client.ioasMapFile({ ioasId, fd, length: 0x2000 }))).toBe('EBADF');
    other.system.close(fd);
    host.first.system.exit();
    const domain = host.addDomain(ioasId);
    expect(host.byteOf(Number(domain.iovaToPhys(IOVA + 0x1000n)! / 4096n))).toBe(2);
    other.client.ioasUnmapAll(ioasId);
    expect([file.cachedPages, host.processes.counts.pinned]).toEqual([0, 0]);
  });

  test('is pinned for a file that is not memory only to find that out', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const fd = host.first.system.caller.descriptors.install(new EventFd());
    expect(host.client.ioasMapFile({ ioasId, fd, length: 0x1000, iova: IOVA })).toBe(IOVA);
    expect(errnoOf(() => host.addDomain(ioasId))).toBe('EINVAL');
    host.client.ioasUnmapAll(ioasId);
    host.addDomain(ioasId);
    expect(errnoOf(() => host.client.ioasMapFile({ ioasId, fd, length: 0x1000, iova: IOVA }))).toBe('EINVAL');
    expect([host.areas(ioasId), errnoOf(() => host.client.ioasMapFile({ ioasId, fd: 77, length: 0x1000 }))]).toEqual([
      [],
      'EBADF',
    ]);
  });

  test('its pins are charged, and counted with the process that mapped it', () => {
    const host = new ProcessHost({ uid: 7, memlock: 0x3000 });
    const ioasId = host.client.ioasAlloc();
    const { fd } = host.memfd(4);
    host.addDomain(ioasId);
    const map = (length: number): unknown => errnoOf(() => host.client.ioasMapFile({ ioasId, fd, length, iova: IOVA }));
    expect([map(0x4000), map(0x3000)]).toEqual(['ENOMEM', null]);
    const { addressSpace, credentials } = host.first.process;
    expect([addressSpace.pinnedPages, addressSpace.lockedPages, credentials.user.lockedPages]).toEqual([3, 0, 3]);
  });

  test('is the same page as the one that a process maps of it, and pinned for both', () => {
    const host = new ProcessHost();
    const ioasId = host.client.ioasAlloc();
    const { fd, file } = host.memfd(1);
    const userVa = host.first.system.mmap({ length: 0x1000, fd });
    const domain = host.addDomain(ioasId);
    host.client.ioasMap({ ioasId, userVa, length: 0x1000, iova: IOVA });
    host.client.ioasMapFile({ ioasId, fd, length: 0x1000, iova: IOVA + 0x1000n });
    expect(domain.iovaToPhys(IOVA)).toBe(domain.iovaToPhys(IOVA + 0x1000n));
    expect(host.processes.counts.pinCount(file.frame(0))).toBe(2);
  });

  test('X5 a map of it that fails at any point has changed nothing', () => {
    const points = sweep(() => {
      const host = new ProcessHost();
      const ioasId = host.client.ioasAlloc();
      const { fd } = host.memfd(6);
      host.addDomain(ioasId);
      host.addDomain(ioasId, { smallestLg2: 11 });
      return { host, operation: () => host.client.ioasMapFile({ ioasId, fd, length: 0x6000 }) };
    });
    expect(points).toBeGreaterThan(5);
  });

  test('X5 a copy of it, of several areas into several tables, that fails at any point has changed nothing', () => {
    const points = sweep(() => {
      const host = new ProcessHost();
      const [srcIoasId, dstIoasId] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
      const { fd } = host.memfd(6);
      const userVa = host.memory(host.first, 2);
      host.client.ioasMapFile({ ioasId: srcIoasId, fd, length: 0x4000, iova: IOVA });
      host.client.ioasMap({ ioasId: srcIoasId, userVa, length: 0x2000, iova: IOVA + 0x4000n });
      host.client.ioasMapFile({ ioasId: srcIoasId, fd, start: 0x2000, length: 0x4000, iova: IOVA + 0x6000n });
      host.addDomain(dstIoasId);
      host.addDomain(dstIoasId);
      const length = 0x8000;
      return { host, operation: () => host.client.ioasCopy({ srcIoasId, srcIova: IOVA + 0x1000n, length, dstIoasId }) };
    });
    expect(points).toBeGreaterThan(12);
  });
});
