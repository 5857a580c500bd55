import { describe, expect, test } from 'vitest';
import { errno, IoasidHost, PAGE } from '../support/ioasid-host.ts';

describe('memory registered on the file', () => {
  test('C1 C2 cannot be unregistered while an IOASID maps it, and can after', () => {
    const host = new IoasidHost();
    const { client } = host;
    const device = host.bind();
    const ioasid = client.alloc();
    device.attach(ioasid);
    const va = host.memory(4, 10);
    client.registerMemory(va, 4n * PAGE);
    expect(host.pins).toEqual([4, 4]);
    client.map({ ioasid, iova: 0, vaddr: va + PAGE, size: PAGE });
    expect(errno(() => client.unregisterMemory(va, 4n * PAGE))).toBe('EBUSY');
    host.system.munmap(va, 4n * PAGE);
    const other = host.memory(4, 70);
    expect([device.read(0n), device.tester.write(0n, 99), device.read(0n)]).toEqual([11, true, 99]);
    expect([0n, 1n, 2n, 3n].map((page) => host.byteAt(other + page * PAGE))).toEqual([70, 71, 72, 73]);
    expect(client.unmap(ioasid, 0, PAGE)).toBe(PAGE);
    expect([device.read(0n), host.pins]).toEqual([null, [4, 4]]);
    client.unregisterMemory(va, 4n * PAGE);
    expect([host.pins, errno(() => client.unregisterMemory(va, 4n * PAGE))]).toEqual([[0, 0], 'ENOENT']);
  });

  test('C3 is pinned and charged once, however many IOASIDs map it; without, each is', () => {
    const host = new IoasidHost({ memlock: 20 * 4096 });
    const { client } = host;
    const devices = [host.bind(0), host.bind(1), host.bind(2)];
    const va = host.memory(8);
    const ioasids = devices.map((device) => {
      const ioasid = client.alloc();
      device.attach(ioasid);
      return ioasid;
    });
    const map = (ioasid: number): string | null =>
      errno(() => client.map({ ioasid, iova: 0, vaddr: va, size: 8n * PAGE }));
    expect([...ioasids.map(map), ...host.pins]).toEqual([null, null, 'ENOMEM', 16, 16]);
    for (const ioasid of ioasids) client.unmapAll(ioasid);
    client.registerMemory(va, 8n * PAGE);
    expect([...ioasids.map(map), ...host.pins]).toEqual([null, null, null, 8, 8]);
    expect(devices.map((device) => device.read(7n * PAGE))).toEqual([8, 8, 8]);
  });

  test('once there has been any, every mapped address must lie in it', () => {
    const host = new IoasidHost();
    const { client } = host;
    const device = host.bind();
    const ioasid = client.alloc();
    device.attach(ioasid);
    const va = host.memory(8);
    const map = (iova: bigint, vaddr: bigint, pages: bigint): string | null =>
      errno(() => client.map({ ioasid, iova, vaddr, size: pages * PAGE }));
    expect(map(0n, va, 1n)).toBeNull();
    client.registerMemory(va + 2n * PAGE, 2n * PAGE);
    client.registerMemory(va + 4n * PAGE, 2n * PAGE);
    expect([map(0x10000n, va, 1n), map(0x10000n, va + PAGE, 2n), map(0x10000n, va + 5n * PAGE, 2n)]).toEqual([
      'ENOENT',
      'ENOENT',
      'ENOENT',
    ]);
    // Two ranges that adjoin are as good as one.
    expect([map(0x10000n, va + 3n * PAGE, 2n), device.read(0x10000n), device.read(0x11000n)]).toEqual([null, 4, 5]);
    client.unmap(ioasid, 0x10000, 2n * PAGE);
    client.unregisterMemory(va + 2n * PAGE, 2n * PAGE);
    client.unregisterMemory(va + 4n * PAGE, 2n * PAGE);
    expect([map(0x10000n, va, 1n), device.read(0n)]).toEqual(['ENOENT', 1]);
  });

  test('a child maps its parent’s addresses, which are not memory to be registered', () => {
    const host = new IoasidHost();
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    device.attach(gpa);
    const va = host.memory(4);
    client.registerMemory(va, 4n * PAGE);
    client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 4n * PAGE });
    const child = client.createNesting(gpa);
    device.attach(child);
    client.map({ ioasid: child, iova: 0x7000, vaddr: 2n * PAGE, size: PAGE });
    expect([device.read(0x7000n), host.pins]).toEqual([3, [4, 4]]);
    client.unmapAll(gpa);
    expect([device.read(0x7000n), host.pins, errno(() => client.unregisterMemory(va, 4n * PAGE))]).toEqual([
      null,
      [4, 4],
      null,
    ]);
  });
});
