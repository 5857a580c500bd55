import { describe, expect, test } from 'vitest';
import { bindMediatedDevice } from '../../src/mediated-device.ts';
import { fakeDevice } from '../support/fakes.ts';
import { MEMORY } from '../support/host.ts';
import { errno, FakeIoasidHost, IoasidHost, PAGE } from '../support/ioasid-host.ts';

const GVA = 0x7000_0000_1000n;
const ROOT = 0x10000n;

describe('formats', () => {
  test('a device tells what it can do before there is any IOASID', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const device = host.bind();
    const before = host.machine.driver.unit.domainIds.allocate();
    const info = host.client.deviceInfo(0x100);
    expect(info).toMatchObject({
      mapping: true,
      hardwareNesting: true,
      softwareNesting: true,
      formats: [1],
      pasidRouting: 'host-table',
      enforceSnoop: true,
      pageFaults: true,
      maxPasidLog2: 20,
      pasids: { delegated: false, cpu: false, cpuTranslated: false },
    });
    expect(info.vendor).toEqual(device.device.bound.device.hwInfo());
    expect(info.permitted[0]).toEqual({ start: 0n, last: 0xfedf_ffffn });
    expect(info.permitted[1]!.start).toBe(0xfef0_0000n);
    expect(info.permitted).toHaveLength(2);
    expect(errno(() => host.client.deviceInfo(0x101))).toBe('ENOENT');
    // Nothing is left of the look.
    expect([host.context.iommufd.objects.size, host.machine.driver.unit.domainIds.allocate()]).toEqual([1, before + 1]);
  });

  test('mappings are made before a device is attached, and pinned when one is', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(2), size: 2n * PAGE });
    expect([device.read(0n), host.pins]).toEqual([null, [0, 0]]);
    device.attach(gpa);
    expect([device.read(0n), device.read(PAGE), host.pins]).toEqual([1, 2, [2, 2]]);
    device.detach(gpa);
    expect([device.read(0n), host.pins, client.unmapAll(gpa)]).toEqual([null, [0, 0], 2n * PAGE]);
  });

  test('a table of the user is named when the IOASID is made, and checked against the device that is attached', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    device.attach(gpa);
    const va = host.memory(32);
    client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 32n * PAGE });
    for (let page = 0n; page < 8n; page++) host.fill(va + ROOT + page * PAGE, 0);
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    const giova = client.alloc({ parent: gpa, pageTable: { address: ROOT } });
    expect(device.read(0x3000n)).toBe(4);
    device.attach(giova);
    expect([device.read(GVA), device.read(0x3000n)]).toEqual([4, null]);
    expect(errno(() => client.map({ ioasid: giova, iova: 0, vaddr: 0, size: PAGE }))).toBe('EINVAL');
    host.stage1Map(va, ROOT, GVA, 0x5000n);
    client.invalidate({ ioasid: giova, range: { address: GVA, size: PAGE }, cookie: 0x100 });
    expect([device.read(GVA), errno(() => client.invalidate({ ioasid: giova, cookie: 7 }))]).toEqual([6, 'ENOENT']);
    device.detach(giova);
    expect(device.read(0x3000n)).toBe(4);
    // Nobody uses it: there is nothing cached that could be invalidated.
    client.invalidate({ ioasid: giova });
    for (const pageTable of [
      { address: ROOT, format: 2 },
      { address: ROOT, addressWidth: 40 },
    ]) {
      const wrong = client.alloc({ parent: gpa, pageTable });
      expect([errno(() => device.attach(wrong, 5)), host.context.get(wrong, 'test').table]).toEqual(['EINVAL', null]);
    }
  });

  test('a child is attached without its parent, whose table is there while it is', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    const va = host.memory(32);
    client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 32n * PAGE });
    for (let page = 0n; page < 8n; page++) host.fill(va + ROOT + page * PAGE, 0);
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    const gva = client.alloc({ parent: gpa, pageTable: { address: ROOT } });
    device.attach(gva, 5);
    expect([device.read(GVA, 5), device.read(0x3000n), host.pins]).toEqual([4, null, [32, 32]]);
    device.detach(gva, 5);
    expect([device.read(GVA, 5), host.pins, host.context.get(gpa, 'test').table]).toEqual([null, [0, 0], null]);
    device.attach(gpa);
    device.attach(gva);
    device.detach(gpa);
    expect([device.read(GVA), device.read(0x3000n)]).toEqual([4, null]);
    expect(errno(() => device.attach(gpa))).toBe('EBUSY');
  });

  test('what makes no sense is refused', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client } = host;
    const gpa = client.alloc();
    const gva = client.alloc({ parent: gpa, pageTable: { address: ROOT } });
    const shared = client.alloc({ shared: true });
    const refused = (request: object): string | null => errno(() => client.alloc(request));
    expect(refused({ parent: 99 })).toBe('ENOENT');
    for (const request of [
      { pageTable: { address: ROOT } },
      { pasidTable: { address: ROOT, pasidBits: 8 } },
      { parent: gva },
      { parent: shared },
      { parent: gpa, shared: true },
      { faults: true },
    ]) {
      expect([request, refused(request)]).toEqual([request, 'EINVAL']);
    }
    expect(errno(() => new FakeIoasidHost('v2').client.alloc({ shared: true }))).toBe('EOPNOTSUPP');
    expect(errno(() => client.map({ ioasid: shared, iova: 0, vaddr: 0, size: PAGE }))).toBe('EINVAL');
    expect([errno(() => client.invalidate({ ioasid: gpa })), errno(() => client.free(gpa))]).toEqual([
      'EINVAL',
      'EBUSY',
    ]);
  });
});

test('nesting has four levels', () => {
  const host = new FakeIoasidHost('v2');
  const { client } = host;
  let deepest = client.alloc();
  for (let level = 1; level < 4; level++) deepest = client.alloc({ parent: deepest });
  const before = host.snapshot();
  expect(errno(() => client.alloc({ parent: deepest }))).toBe('EINVAL');
  expect(errno(() => client.alloc({ parent: deepest, pageTable: { address: 0 } }))).toBe('EINVAL');
  expect(host.snapshot()).toEqual(before);
  client.free(deepest);
});

describe('what is mapped before a device is attached must suit it', () => {
  test('a window that no table can hold, or in a region that the device reserves, though the parent maps nothing there', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    for (const [iova, pasid] of [
      [1n << 62n, 5],
      [1n << 62n, null],
      [0xfee0_0000n, null],
    ] as const) {
      const child = client.alloc({ parent: gpa });
      client.map({ ioasid: child, iova, vaddr: 0, size: PAGE });
      expect(errno(() => device.attach(child, pasid))).toBe('EADDRINUSE');
      expect([device.device.pasids, host.context.get(child, 'test').table]).toEqual([[], null]);
      client.unmapAll(child);
      device.attach(child, pasid);
      expect(errno(() => client.map({ ioasid: child, iova, vaddr: 0, size: PAGE }))).toBe('EINVAL');
      device.detach(child, pasid);
    }
  });

  test('read-only memory gives a table that VT-d cannot nest on, and that works otherwise', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(1, 9), size: PAGE, writable: false });
    device.attach(gpa);
    expect([device.read(0n), device.tester.write(0n, 1)]).toEqual([9, false]);
    const giova = client.alloc({ parent: gpa, pageTable: { address: 0 } });
    expect([errno(() => device.attach(giova)), device.read(0n)]).toEqual(['EOPNOTSUPP', 9]);
    device.detach(gpa);
    client.unmapAll(gpa);
    device.attach(giova);
  });
});

describe('roots', () => {
  test('two roots over the same memory pin and charge it twice; under a dummy root it is once', () => {
    const host = new IoasidHost({ rules: 'v2', memlock: 12 * 4096 });
    const { client } = host;
    const devices = [host.bind(0), host.bind(1)];
    const va = host.memory(8);
    const roots = devices.map((device) => {
      const root = client.alloc();
      device.attach(root);
      return root;
    });
    const map = (ioasid: number, vaddr: bigint): string | null =>
      errno(() => client.map({ ioasid, iova: 0, vaddr, size: 8n * PAGE }));
    expect([...roots.map((root) => map(root, va)), ...host.pins]).toEqual([null, 'ENOMEM', 8, 8]);
    client.unmapAll(roots[0]!);
    const dummy = client.alloc();
    client.map({ ioasid: dummy, iova: va, vaddr: va, size: 8n * PAGE });
    const children = devices.map((device, index) => {
      device.detach(roots[index]!);
      const child = client.alloc({ parent: dummy });
      device.attach(child);
      return child;
    });
    expect([...children.map((child) => map(child, va)), ...host.pins]).toEqual([null, null, 8, 8]);
    expect(devices.map((device) => device.read(7n * PAGE))).toEqual([8, 8]);
    // A level further down the hardware nests.
    const guest = children[0]!;
    const gva = client.alloc({ parent: guest, pageTable: { address: 0 } });
    for (let page = 0n; page < 4n; page++) host.fill(va + page * PAGE, 0);
    host.stage1Map(va, 0n, GVA, 5n * PAGE);
    devices[0]!.attach(gva, 3);
    expect([devices[0]!.read(GVA, 3), host.pins]).toEqual([6, [8, 8]]);
    client.unmap(dummy, va, 8n * PAGE);
    expect([devices[0]!.read(GVA, 3), devices[1]!.read(7n * PAGE), host.pins]).toEqual([null, null, [0, 0]]);
  });

  test('enforce-snoop takes a device whose IOMMU can, and none that cannot', () => {
    for (const snoopControl of [true, false]) {
      const host = new IoasidHost({ rules: 'v2', features: { snoopControl } });
      const { client } = host;
      const device = host.bind();
      const [strict, lax] = [client.alloc({ enforceSnoop: true }), client.alloc()];
      client.map({ ioasid: strict, iova: 0, vaddr: host.memory(1, 6), size: PAGE });
      expect(client.deviceInfo(0x100).enforceSnoop).toBe(snoopControl);
      expect(errno(() => device.attach(strict))).toBe(snoopControl ? null : 'EINVAL');
      expect(device.read(0n)).toBe(snoopControl ? 6 : null);
      expect(errno(() => device.attach(lax, 5))).toBeNull();
      expect(errno(() => device.allow(strict, 6))).toBe(snoopControl ? null : 'EINVAL');
      const mine = client.alloc({ shared: true, enforceSnoop: true });
      expect(errno(() => device.attach(mine))).toBe(snoopControl ? null : 'EINVAL');
      expect(host.machine.core.pasids.size).toBe(snoopControl ? 1 : 0);
    }
  });
});

describe('shared address spaces', () => {
  test('a device uses the caller’s addresses with a PASID of the process, until it is detached', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    first.attach(gpa);
    const mine = client.alloc({ shared: true });
    expect(errno(() => first.attach(mine, 5))).toBe('EINVAL');
    const pasid = first.attach(mine)!;
    const va = host.memory(2, 40);
    expect([first.read(va, pasid), first.read(va + PAGE, pasid), host.pins]).toEqual([40, 41, [0, 0]]);
    expect([first.tester.write(va, 77, { pasid }), host.byteAt(va)]).toEqual([true, 77]);
    expect([second.attach(mine), errno(() => first.attach(mine))]).toEqual([pasid, 'EBUSY']);
    expect(errno(() => first.allow(host.context.get(mine, 'test').handle, 9))).toBe('EOPNOTSUPP');
    first.detach(mine);
    expect([first.read(va, pasid), second.read(va, pasid)]).toEqual([null, 77]);
    client.free(mine);
    expect([second.read(va, pasid), host.machine.core.pasids.size]).toEqual([null, 0]);
  });

  test('the process may end first', () => {
    const host = new IoasidHost({ rules: 'v2' });
    const { client } = host;
    const device = host.bind();
    const mine = client.alloc({ shared: true });
    const pasid = device.attach(mine)!;
    const va = host.memory(1, 40);
    expect(device.read(va, pasid)).toBe(40);
    host.system.exit();
    expect([device.read(va, pasid), host.machine.core.pasids.size]).toEqual([null, 0]);
    device.unbind();
    expect(host.node.iommufd.objects).toBe(0);
  });
});

describe('kinds of devices', () => {
  const noDma = { attach() {}, replace() {}, detach() {} };

  test('devices that take their PASIDs from the CPU are all functions or all mediated', () => {
    const host = new FakeIoasidHost('v2');
    const mediated = (cookie: bigint, cpuPasids: boolean): string | null => {
      const dma = { device: fakeDevice(host.driver, Number(cookie)), maxPasids: 16, ...noDma };
      return errno(() => host.context.adopt((iommufd) => bindMediatedDevice(iommufd, dma), cookie, { cpuPasids }));
    };
    expect(errno(() => host.bind(undefined, {}, { cpuPasids: true }))).toBeNull();
    const objects = host.context.iommufd.objects.size;
    expect([mediated(1n, false), mediated(2n, true)]).toEqual([null, 'EINVAL']);
    expect(host.context.iommufd.objects.size).toBe(objects + 1);
    expect(errno(() => host.bind(undefined, {}, { cpuPasids: true }))).toBeNull();
    expect([host.client.deviceInfo(0x100).pasids, host.client.deviceInfo(1).pasids]).toEqual([
      { delegated: false, cpu: true, cpuTranslated: false },
      { delegated: false, cpu: false, cpuTranslated: false },
    ]);
  });

  test('a mediated device is attached by its driver, which translates what its user calls PASIDs', () => {
    const host = new FakeIoasidHost('v2');
    const { client } = host;
    const calls: [string, number, number | null][] = [];
    const dma = {
      device: fakeDevice(host.driver, 0x500),
      maxPasids: 16,
      attach: (pasid: number, handle: { domain: { id: number } }) => calls.push(['attach', pasid, handle.domain.id]),
      replace: (pasid: number, handle: { domain: { id: number } }) => calls.push(['replace', pasid, handle.domain.id]),
      detach: (pasid: number) => calls.push(['detach', pasid, null]),
    };
    const device = host.context.adopt((iommufd) => bindMediatedDevice(iommufd, dma), 1n);
    const gpa = client.alloc();
    client.map({ ioasid: gpa, iova: 0, vaddr: MEMORY, size: PAGE });
    host.attach(device, gpa);
    const child = client.alloc({ parent: gpa, pageTable: { address: 0 } });
    host.attach(device, child);
    host.attach(device, child, 3);
    expect(host.space.pinnedPages).toBe(1);
    expect(errno(() => device.allow(host.context.get(gpa, 'test'), 4))).toBe('EOPNOTSUPP');
    host.detach(device, child);
    device.unbind();
    const [parentDomain, childDomain] = [calls[0]![2], calls[1]![2]];
    expect(calls).toEqual([
      ['attach', -1, parentDomain],
      ['replace', -1, childDomain],
      ['attach', 3, childDomain],
      ['replace', -1, parentDomain],
      ['detach', -1, null],
      ['detach', 3, null],
    ]);
    expect([host.space.pinnedPages, host.driver.live]).toEqual([0, []]);
  });
});
