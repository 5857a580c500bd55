import { describe, expect, test } from 'vitest';
import {
  IOASID_EXT_DIRTY_TRACKING,
  IOASID_EXT_DMA_NO_SNOOP,
  IOASID_EXT_NESTING,
  IOASID_EXT_REGISTER_MEMORY,
  IOASID_EXT_SHARED,
  IoasidClient,
  ioasidContextOf,
} from '../../src/ioasid/index.ts';
import { errno, FakeIoasidHost, IoasidHost, PAGE } from '../support/ioasid-host.ts';

describe('version 1: a handle is just a number until a device is attached', () => {
  test('an IOASID without a device accepts no command but FREE', () => {
    const host = new IoasidHost();
    const { client } = host;
    const device = host.bind();
    const ioasid = client.alloc();
    const va = host.memory(1);
    const commands = [
      () => client.info(ioasid),
      () => client.map({ ioasid, iova: 0, vaddr: va, size: PAGE }),
      () => client.unmap(ioasid, 0, PAGE),
      () => client.createNesting(ioasid),
      () => client.bindPageTable({ ioasid, address: 0 }),
      () => client.unbindPageTable(ioasid),
      () => client.bindPasidTable({ ioasid, address: 0, pasidBits: 8 }),
      () => client.unbindPasidTable(ioasid),
      () => client.invalidate({ ioasid }),
    ];
    expect(commands.map(errno)).toEqual(commands.map(() => 'ENODEV'));
    device.attach(ioasid);
    client.map({ ioasid, iova: 0, vaddr: va, size: PAGE });
    expect(device.read(0n)).toBe(1);
    device.detach(ioasid);
    expect([device.read(0n), errno(() => client.unmap(ioasid, 0, PAGE)), host.pins]).toEqual([null, 'ENODEV', [0, 0]]);
    client.free(ioasid);
    expect([errno(() => client.free(ioasid)), errno(() => client.info(ioasid))]).toEqual(['ENOENT', 'ENOENT']);
  });

  test('what is mapped comes back with the next device, pinned anew', () => {
    const host = new IoasidHost();
    const { client } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const ioasid = client.alloc();
    first.attach(ioasid);
    client.map({ ioasid, iova: 0x8000, vaddr: host.memory(2, 7), size: 2n * PAGE });
    first.detach(ioasid);
    expect(host.pins).toEqual([0, 0]);
    second.attach(ioasid);
    expect([first.read(0x8000n), second.read(0x8000n), second.read(0x9000n), host.pins]).toEqual([null, 7, 8, [2, 2]]);
  });

  test('information comes with the first device', () => {
    const host = new IoasidHost();
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    device.attach(gpa);
    const info = client.info(gpa);
    expect(info).toMatchObject({
      mapping: true,
      hardwareNesting: true,
      softwareNesting: true,
      formats: [1],
      pasidRouting: 'host-table',
      enforceSnoop: true,
      pageFaults: true,
      maxPasidLog2: 20,
      children: 0,
    });
    expect(info.pageSizes & PAGE).toBe(PAGE);
    expect(info.vendor).toEqual(device.device.bound.device.hwInfo());
    expect(info.reserved).toContainEqual({ start: 0xfee0_0000n, last: 0xfeef_ffffn });
    const child = client.createNesting(gpa);
    expect([client.info(gpa).children, errno(() => client.info(child))]).toEqual([1, 'ENODEV']);
    device.attach(child);
    expect(client.info(child)).toMatchObject({ mapping: true, hardwareNesting: false, softwareNesting: false });
    expect(errno(() => client.createNesting(child))).toBe('EINVAL');
  });

  test('a unit that cannot nest says so, and nests in software only', () => {
    const host = new IoasidHost({ features: { nested: false, snoopControl: false, pageRequests: false } });
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    device.attach(gpa);
    expect(client.info(gpa)).toMatchObject({
      hardwareNesting: false,
      softwareNesting: true,
      formats: [],
      enforceSnoop: false,
    });
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(1, 9), size: PAGE });
    const child = client.createNesting(gpa);
    device.attach(child);
    expect(errno(() => client.bindPageTable({ ioasid: child, address: 0 }))).toBe('EOPNOTSUPP');
    client.map({ ioasid: child, iova: 0x4000, vaddr: 0, size: PAGE });
    expect(device.read(0x4000n)).toBe(9);
  });
});

describe('attaching', () => {
  test('a device is at one root at a time, and at several with PASIDs', () => {
    const host = new IoasidHost();
    const { client } = host;
    const device = host.bind();
    const [one, two] = [client.alloc(), client.alloc()];
    device.attach(one);
    expect([errno(() => device.attach(one)), errno(() => device.attach(two))]).toEqual(['EBUSY', 'EBUSY']);
    expect([device.attach(two, 5), device.attach(two, 6), device.attach(one, 7)]).toEqual([5, 6, 7]);
    client.map({ ioasid: one, iova: 0, vaddr: host.memory(1, 21), size: PAGE });
    client.map({ ioasid: two, iova: 0, vaddr: host.memory(1, 22), size: PAGE });
    expect([undefined, 5, 6, 7, 8].map((pasid) => device.read(0n, pasid))).toEqual([21, 22, 22, 21, null]);
    device.detach(two, 5);
    expect([device.read(0n, 5), device.read(0n, 6)]).toEqual([null, 22]);
    expect(errno(() => device.detach(two, 5))).toBe('ENOENT');
    for (const pasid of [0, -1, 1.5, 1 << 20, 0xffff_ffff])
      expect(errno(() => device.attach(two, pasid))).toBe('EINVAL');
  });

  test('a child takes only a device that is attached to its parent, and holds it there', () => {
    const host = new IoasidHost();
    const { client } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    first.attach(gpa);
    const child = client.createNesting(gpa);
    expect([errno(() => second.attach(child)), errno(() => second.attach(child, 5))]).toEqual(['EINVAL', 'EINVAL']);
    first.attach(child, 5);
    expect(errno(() => first.detach(gpa))).toBe('EBUSY');
    first.detach(child, 5);
    first.detach(gpa);
    expect(errno(() => first.attach(child))).toBe('EINVAL');
  });

  test('regions that a device reserves cannot be mapped, wherever its DMA goes meanwhile', () => {
    const host = new IoasidHost();
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    device.attach(gpa);
    const child = client.createNesting(gpa);
    device.attach(child);
    const va = host.memory(1);
    const window = { iova: 0xfee0_0000, size: PAGE };
    expect(errno(() => client.map({ ioasid: gpa, vaddr: va, ...window }))).toBe('EINVAL');
    expect(errno(() => client.map({ ioasid: child, vaddr: 0, ...window }))).toBe('EINVAL');
    device.detach(child);
    device.detach(gpa);
    const other = host.bind(1);
    other.attach(gpa, 5);
    // Requests with PASID are translated in the window, and so nothing is reserved.
    client.map({ ioasid: gpa, vaddr: va, ...window });
    expect([errno(() => device.attach(gpa)), device.device.pasids]).toEqual(['EADDRINUSE', []]);
  });

  test('a table of another IOMMU is refused, and both are as before', () => {
    const host = new FakeIoasidHost('v1');
    const elsewhere = new FakeIoasidHost('v1');
    const first = host.bind();
    const ioasid = host.client.alloc();
    host.attach(first, ioasid);
    const foreign = elsewhere.bind();
    const device = host.context.adopt(() => foreign.bound, 99n);
    const before = host.snapshot();
    expect(errno(() => host.attach(device, ioasid))).toBe('EINVAL');
    expect(host.snapshot()).toEqual(before);
    expect(errno(() => elsewhere.attach(foreign, elsewhere.client.alloc()))).toBeNull();
    expect(errno(() => foreign.attach(host.context.get(ioasid, 'test'), null))).toBe('EINVAL');
  });

  test('two devices cannot have one cookie', () => {
    const host = new IoasidHost();
    host.bind(0);
    expect(errno(() => host.inKernel((context) => context.bind(host.testers[1]!.device, 0x100n)))).toBe('EEXIST');
    expect(host.testers[1]!.device.group.owner).toBeNull();
    host.bind(1);
    expect(errno(() => host.inKernel((context) => context.device(0x102n, 'test')))).toBe('ENOENT');
  });
});

describe('free and close', () => {
  test('freeing blocks DMA at once, and a parent waits for its children', () => {
    const host = new IoasidHost();
    const { client } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    for (const device of [first, second]) device.attach(gpa);
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(4), size: 4n * PAGE });
    const child = client.createNesting(gpa);
    second.attach(child);
    second.attach(child, 5);
    client.map({ ioasid: child, iova: 0x7000, vaddr: PAGE, size: PAGE });
    expect([second.read(0x7000n), second.read(0x7000n, 5), errno(() => client.free(gpa))]).toEqual([2, 2, 'EBUSY']);
    client.free(child);
    // Of its attachments only that to the parent is left.
    expect([second.read(0x7000n), second.read(0x7000n, 5), second.read(PAGE)]).toEqual([null, null, 2]);
    client.free(gpa);
    expect([first.read(PAGE), second.read(PAGE), host.pins]).toEqual([null, null, [0, 0]]);
    expect(host.context.iommufd.objects.all().map(({ type }) => type)).toEqual(['device', 'device']);
    first.attach(client.alloc());
  });

  test('C7 closing the file drops everything, what is nested first, and leaves the devices blocked', () => {
    const host = new IoasidHost();
    const { client, system } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    for (const device of [first, second]) device.attach(gpa);
    const va = host.memory(32);
    client.registerMemory(va, 32n * PAGE);
    client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 32n * PAGE });
    const [soft, hard] = [client.createNesting(gpa), client.createNesting(gpa)];
    first.attach(soft);
    client.map({ ioasid: soft, iova: 0, vaddr: 0, size: PAGE });
    second.attach(hard, 5);
    client.bindPageTable({ ioasid: hard, address: 0x10000, faults: true });
    second.allow(gpa, 9);
    expect([first.read(0n), second.read(0n), second.read(0n, 9), host.pins]).toEqual([1, 1, 1, [32, 32]]);
    const { context } = host;
    system.close(client.fd);
    expect([first.read(0n), second.read(0n), second.read(0n, 9), host.pins]).toEqual([null, null, null, [0, 0]]);
    expect(context.iommufd.objects.all().map(({ type }) => type)).toEqual(['device', 'device']);
    expect(first.tester.device.group.owner).not.toBeNull();
    for (const { device } of [first, second]) host.machine.kernel.call('driver', () => device.unbind());
    expect([host.node.iommufd.objects, host.node.iommufd.contexts.size]).toEqual([0, 0]);
    expect(first.tester.device.group.owner).toBeNull();
  });

  test('C7 all DMA of all devices is blocked before anything else of a close, however they were authorised', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client, machine } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    const va = host.memory(1, 5);
    client.map({ ioasid: gpa, iova: 0, vaddr: va, size: PAGE });
    first.attach(gpa);
    first.attach(gpa, 6);
    second.allow(gpa, 7);
    const shared = second.attach(client.alloc({ shared: true }))!;
    const reached = (): (number | null)[] => [
      first.tester.probe(0n, -1),
      first.tester.probe(0n, 6),
      second.tester.probe(0n, 7),
      second.tester.probe(va, shared),
    ];
    expect(reached()).toEqual([5, 5, 5, 5]);
    const { routes } = host.context;
    const drop = routes.drop.bind(routes);
    const seen: unknown[] = [];
    routes.drop = (...where) => {
      seen.push(reached());
      drop(...where);
    };
    host.system.close(client.fd);
    expect(seen).toEqual([0, 1].map(() => [null, null, null, null]));
    expect([host.pins, machine.core.pasids.size, second.tester.device.authorizedPasids.size]).toEqual([[0, 0], 0, 0]);
  });

  test('C13 a device that is given up is detached, blocked and released, and its file goes on', () => {
    const host = new IoasidHost();
    const { client } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    for (const device of [first, second]) device.attach(gpa);
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(1, 5), size: PAGE });
    const child = client.createNesting(gpa);
    first.attach(child, 6);
    first.allow(gpa, 7);
    first.unbind();
    expect([undefined, 6, 7].map((pasid) => first.read(0n, pasid))).toEqual([null, null, null]);
    expect(second.read(0n)).toBe(5);
    const { device } = first.tester;
    expect([device.group.owner, device.authorizedPasids.size, device.group.pasidHandles.size]).toEqual([null, 0, 0]);
    host.bind(0).attach(gpa);
    expect(first.read(0n)).toBe(5);
  });
});

describe('the file', () => {
  test('commands of one version are unknown to a file of the other', () => {
    const [v1, v2] = [new FakeIoasidHost('v1').client, new FakeIoasidHost('v2').client];
    expect([errno(() => v1.deviceInfo(1)), errno(() => v1.alloc({}))]).toEqual(['ENOTTY', 'ENOTTY']);
    const onlyV1 = [
      () => v2.info(1),
      () => v2.createNesting(1),
      () => v2.registerMemory(0, PAGE),
      () => v2.unregisterMemory(0, PAGE),
      () => v2.bindPageTable({ ioasid: 1, address: 0 }),
      () => v2.unbindPageTable(1),
      () => v2.bindPasidTable({ ioasid: 1, address: 0, pasidBits: 8 }),
      () => v2.unbindPasidTable(1),
    ];
    expect(onlyV1.map(errno)).toEqual(onlyV1.map(() => 'ENOTTY'));
    const extensions = [
      IOASID_EXT_NESTING,
      IOASID_EXT_REGISTER_MEMORY,
      IOASID_EXT_DMA_NO_SNOOP,
      IOASID_EXT_SHARED,
      IOASID_EXT_DIRTY_TRACKING,
      12345,
    ];
    expect(extensions.map((extension) => v1.checkExtension(extension))).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
    ]);
    expect(extensions.map((extension) => v2.checkExtension(extension))).toEqual([
      true,
      false,
      true,
      false,
      false,
      false,
    ]);
  });

  test('another file is not /dev/ioasid', () => {
    const host = new FakeIoasidHost('v1');
    const fd = host.system.eventfd();
    expect(errno(() => new IoasidClient(host.system, fd))).toBe('EBADFD');
    expect(errno(() => ioasidContextOf(host.system.file(fd)))).toBe('EBADFD');
    expect(errno(() => host.system.read(host.client.fd, new Uint8Array(40), 0))).toBe('ESPIPE');
  });
});
