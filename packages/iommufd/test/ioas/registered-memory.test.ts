import { type ErrnoCode, SysError } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { IommufdClient } from '../../src/clients/iommufd-client.ts';
import { Host, MEMORY, MEMORY_PAGES } from '../support/host.ts';
import { VtdHost } from '../support/vtd-host.ts';

const PAGE = 4096n;

function errno(body: () => unknown): ErrnoCode | null {
  try {
    body();
    return null;
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
}

/** Pinned, charged, and how often each pinned frame is pinned. */
function pins(host: Host): { pinned: number; charged: number; most: number } {
  const { space, user } = host;
  return { pinned: space.pinnedPages, charged: user.lockedPages, most: Math.max(0, ...space.pins.values()) };
}

describe('registered memory', () => {
  test('C1 a registered range that is mapped cannot be unregistered away from under the device', () => {
    const host = new VtdHost();
    const { client, device, tester, process } = host;
    const va = host.memory(4, 10);
    client.registerMemory(va, 4n * PAGE);
    expect(process.addressSpace.pinnedPages).toBe(4);
    const ioasId = client.ioasAlloc();
    host.inKernel(() => device.attach(ioasId));
    const iova = client.ioasMapRegistered({ ioasId, userVa: va + PAGE, length: PAGE, iova: 0x5000n });
    expect(tester.read(iova)).toBe(11);
    expect(errno(() => client.unregisterMemory(va, 4n * PAGE))).toBe('EBUSY');
    // The process drops its addresses; the page is nobody's to reuse while the device can reach it.
    host.system.munmap(va, 4n * PAGE);
    const other = host.memory(4, 90);
    expect([tester.read(iova), tester.write(iova, 55), tester.read(iova)]).toEqual([11, true, 55]);
    expect([0n, 1n, 2n, 3n].map((page) => host.byteAt(other + page * PAGE))).toEqual([90, 91, 92, 93]);
    expect(host.processes.counts.pinned).toBe(4);
  });

  test('C2 unmapped and then unregistered, everything is as before', () => {
    const host = new VtdHost();
    const { client, device, tester } = host;
    const ioasId = client.ioasAlloc();
    host.inKernel(() => device.attach(ioasId));
    const va = host.memory(4);
    const { user } = host.process.credentials;
    client.registerMemory(va, 4n * PAGE);
    const iova = client.ioasMapRegistered({ ioasId, userVa: va, length: 4n * PAGE });
    client.ioasUnmap(ioasId, iova, 4n * PAGE);
    expect([host.processes.counts.pinned, user.lockedPages]).toEqual([4, 4]);
    client.unregisterMemory(va, 4n * PAGE);
    expect([host.processes.counts.pinned, user.lockedPages, tester.read(iova)]).toEqual([0, 0, null]);
  });

  test('C3 registered memory mapped in three address spaces with devices is pinned and charged once', () => {
    const host = new Host({ memlock: MEMORY_PAGES * 4096 });
    const { client } = host;
    client.registerMemory(MEMORY, BigInt(MEMORY_PAGES) * PAGE);
    const once = { pinned: MEMORY_PAGES, charged: MEMORY_PAGES, most: 1 };
    expect(pins(host)).toEqual(once);
    for (let count = 0; count < 3; count++) {
      const ioasId = client.ioasAlloc();
      host.bind().attach(ioasId);
      const before = host.eventsOf('pin').length;
      client.ioasMapRegistered({ ioasId, userVa: MEMORY, length: BigInt(MEMORY_PAGES) * PAGE });
      expect([host.eventsOf('pin').length, pins(host)]).toEqual([before, once]);
      const groups = host.eventsOf('ioas_map').map(({ pages }) => pages);
      expect(new Set(groups).size).toBe(1);
    }
    // Without registration the second map of the same memory is charged, and there is no room for that.
    const ioasId = client.ioasAlloc();
    host.bind().attach(ioasId);
    expect(errno(() => client.ioasMap({ ioasId, userVa: MEMORY, length: PAGE }))).toBe('ENOMEM');
  });

  test('C4 mapping pieces of registered memory counts references by range, never by page', () => {
    const host = new Host();
    const { client, context } = host;
    client.registerMemory(MEMORY, 64n * PAGE);
    const [slice] = context.registered.slices(host.space, MEMORY, 64n * PAGE);
    const { pages } = slice!;
    pages.put();
    expect([pages.counters, pages.users]).toEqual([1, 1]);
    const ioasId = client.ioasAlloc();
    host.bind().attach(ioasId);
    for (let count = 1; count <= 4; count++) {
      client.ioasMapRegistered({ ioasId, userVa: MEMORY, length: 64n * PAGE });
      expect([pages.counters, pages.users]).toEqual([1, 1 + count]);
    }
    client.ioasMapRegistered({ ioasId, userVa: MEMORY + 8n * PAGE, length: 8n * PAGE });
    expect([pages.counters, pages.users]).toEqual([3, 6]);
    client.ioasUnmapAll(ioasId);
    expect([pages.counters, pages.users, pages.pinned]).toEqual([1, 1, 64]);
  });

  test('C5 a map reaches the pages as they were registered, whatever the process has at these addresses now', () => {
    const host = new VtdHost();
    const { client, device, tester, system } = host;
    const va = host.memory(2, 30);
    client.registerMemory(va, 2n * PAGE);
    system.munmap(va, 2n * PAGE);
    host.process.memory!.map({ address: va, length: 2n * PAGE, protection: 3 });
    host.fill(va, 77);
    const [registered, plain] = [client.ioasAlloc(), client.ioasAlloc()];
    client.ioasMapRegistered({ ioasId: registered, userVa: va, length: PAGE, iova: 0x5000n });
    client.ioasMap({ ioasId: plain, userVa: va, length: PAGE, iova: 0x5000n });
    host.inKernel(() => device.attach(registered));
    expect(tester.read(0x5000n)).toBe(30);
    // A map by address alone never finds the registered group.
    host.inKernel(() => device.replace(plain));
    expect(tester.read(0x5000n)).toBe(77);
  });

  test('C7 closing the file gives registrations back with all else, mapped or not', () => {
    const host = new VtdHost();
    const { client, device, tester, system } = host;
    const va = host.memory(8);
    client.registerMemory(va, 4n * PAGE);
    client.registerMemory(va + 4n * PAGE, 4n * PAGE);
    const ioasId = client.ioasAlloc();
    host.inKernel(() => device.attach(ioasId));
    const iova = client.ioasMapRegistered({ ioasId, userVa: va + 2n * PAGE, length: 4n * PAGE });
    expect([tester.read(iova), tester.read(iova + 3n * PAGE)]).toEqual([3, 6]);
    system.exit();
    host.inKernel(() => device.unbind());
    expect([host.processes.counts.pinned, host.process.credentials.user.lockedPages]).toEqual([0, 0]);
    expect(tester.read(iova)).toBeNull();
  });

  test('what is refused', () => {
    const host = new Host({ memlock: 32 * 4096 });
    const { client } = host;
    const register = (va: bigint, length: bigint): ErrnoCode | null => errno(() => client.registerMemory(va, length));
    const unregister = (va: bigint, length: bigint): ErrnoCode | null =>
      errno(() => client.unregisterMemory(va, length));
    const before = host.snapshot();
    expect([register(MEMORY, 0n), register(MEMORY + 1n, PAGE), register(MEMORY, PAGE + 1n)]).toEqual([
      'EINVAL',
      'EINVAL',
      'EINVAL',
    ]);
    expect(register(0xffff_ffff_ffff_f000n, PAGE)).toBe('EOVERFLOW');
    expect(register(MEMORY, 1n << 62n)).toBe('EFAULT');
    expect(register(MEMORY + 63n * PAGE, 2n * PAGE)).toBe('EFAULT');
    expect(register(MEMORY, 33n * PAGE)).toBe('ENOMEM');
    expect(unregister(MEMORY, PAGE)).toBe('ENOENT');
    const ioasId = client.ioasAlloc();
    expect(errno(() => client.ioasMapRegistered({ ioasId, userVa: MEMORY, length: PAGE }))).toBe('ENOENT');
    client.destroy(ioasId);
    expect(host.snapshot()).toEqual(before);

    client.registerMemory(MEMORY, 4n * PAGE);
    expect([register(MEMORY, 4n * PAGE), register(MEMORY + 3n * PAGE, 2n * PAGE)]).toEqual(['EEXIST', 'EEXIST']);
    expect([unregister(MEMORY, PAGE), unregister(MEMORY + PAGE, PAGE)]).toEqual(['ENOENT', 'ENOENT']);
    const fresh = client.ioasAlloc();
    const map = (va: bigint, length: bigint): ErrnoCode | null =>
      errno(() => client.ioasMapRegistered({ ioasId: fresh, userVa: va, length }));
    expect([map(MEMORY + 3n * PAGE, 2n * PAGE), map(MEMORY - PAGE, 2n * PAGE)]).toEqual(['ENOENT', 'ENOENT']);
    expect([map(MEMORY, 0n), map(MEMORY, 0xffff_ffff_ffff_ffffn)]).toEqual(['EINVAL', 'EOVERFLOW']);
    expect(pins(host)).toEqual({ pinned: 4, charged: 4, most: 1 });
  });

  test('the registrations of one process are not those of its child, whose addresses are the same', () => {
    const host = new VtdHost();
    const { client, system } = host;
    const va = host.memory(1);
    client.registerMemory(va, PAGE);
    const child = system.fork();
    const childClient = new IommufdClient(child, client.fd);
    const ioasId = client.ioasAlloc();
    expect(errno(() => childClient.ioasMapRegistered({ ioasId, userVa: va, length: PAGE }))).toBe('ENOENT');
    expect(errno(() => childClient.unregisterMemory(va, PAGE))).toBe('ENOENT');
    childClient.registerMemory(va, PAGE);
    expect(host.processes.counts.pinned).toBe(2);
    client.ioasMapRegistered({ ioasId, userVa: va, length: PAGE });
    childClient.unregisterMemory(va, PAGE);
    expect(errno(() => client.unregisterMemory(va, PAGE))).toBe('EBUSY');
  });

  test('a registration or a map of it that fails at any point leaves everything as it was', () => {
    const host = new Host();
    const { client, kernel } = host;
    const ioasId = client.ioasAlloc();
    host.bind().attach(ioasId);
    const sweep = (body: () => unknown): number => {
      const before = host.snapshot();
      for (let nth = 1; ; nth++) {
        kernel.failpoints.arm(nth);
        const code = errno(body);
        const { hit } = kernel.failpoints;
        kernel.failpoints.arm(0);
        if (hit === null) {
          expect(code).toBeNull();
          return nth;
        }
        expect([hit, code, host.context.registered.count]).toEqual([hit, 'ENOMEM', registered]);
        expect(host.snapshot()).toEqual(before);
      }
    };
    let registered = 0;
    expect(sweep(() => client.registerMemory(MEMORY, 8n * PAGE))).toBeGreaterThan(3);
    registered = 1;
    const request = { ioasId, userVa: MEMORY + PAGE, length: 3n * PAGE };
    expect(sweep(() => client.ioasMapRegistered(request))).toBeGreaterThan(3);
  });
});
