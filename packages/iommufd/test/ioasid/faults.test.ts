import { PRG_INVALID_REQUEST, PRG_SUCCESS, TEST_COMMAND } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import type { EventFd } from '../../src/files/eventfd.ts';
import { type IoasidRules, ioasidFault, ioasidFaultResponse } from '../../src/ioasid/index.ts';
import { type BoundTester, errno, IoasidHost, PAGE } from '../support/ioasid-host.ts';

const GVA = 0x7000_0000_1000n;
const ROOT = 0x10000n;
const PASID = 5;
const ACCESS_READ = 1;

/** A device at guest memory of 32 pages, and at PASID 5 at an empty table of the guest's that takes page requests. */
function faulting(rules: IoasidRules = 'v1', index = 0) {
  const host = new IoasidHost({ rules });
  const { client } = host;
  const device = host.bind(index);
  const gpa = client.alloc();
  device.attach(gpa);
  const va = host.memory(32);
  client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 32n * PAGE });
  for (let page = 0n; page < 8n; page++) host.fill(va + ROOT + page * PAGE, 0);
  const gva = table(host, gpa, device);
  return { host, client, device, gpa, gva, va };
}

function table({ client, context }: IoasidHost, parent: number, device: BoundTester): number {
  if (context.rules === 'v2') {
    const gva = client.alloc({ parent, pageTable: { address: ROOT }, faults: true });
    device.attach(gva, PASID);
    return gva;
  }
  const gva = client.createNesting(parent);
  device.attach(gva, PASID);
  client.bindPageTable({ ioasid: gva, address: ROOT, faults: true });
  return gva;
}

/** Starts a read that asks for a page when it is denied. */
function start({ tester }: BoundTester, host: IoasidHost, pasid = PASID): void {
  tester.start(TEST_COMMAND.read, GVA, 1, { pasid, addressing: 'cached', requestPages: true });
  host.machine.settle();
}

describe.each<IoasidRules>(['v1', 'v2'])('page requests, by the rules of %s', (rules) => {
  test('D15 name the IOASID, the device’s cookie and the PASID; after the answer the DMA completes', () => {
    const { host, client, device, gva, va } = faulting(rules, 1);
    const fd = host.system.eventfd();
    client.setFaultEventfd(fd);
    start(device, host);
    expect([host.system.poll(client.fd) & 1, (host.system.file(fd) as EventFd).take(), device.tester.busy]).toEqual([
      1,
      1n,
      true,
    ]);
    const [fault, ...rest] = client.readFaults();
    expect(rest).toEqual([]);
    expect(fault).toMatchObject({
      ioasid: gva,
      cookie: 0x101n,
      pasid: PASID,
      last: true,
      access: ACCESS_READ,
      address: GVA,
    });
    expect(host.system.poll(client.fd) & 1).toBe(0);
    host.stage1Map(va, ROOT, GVA, 0x8000n);
    client.respondFault(fault!, true);
    expect(device.tester.wait()).toBe(true);
    expect([device.tester.response, device.tester.result, device.tester.bufferByte]).toEqual([PRG_SUCCESS, 0, 9]);
    expect(errno(() => client.respondFault(fault!, true))).toBe('EINVAL');
  });

  test('D16 an answer of failure reaches the device, and a bad one nobody', () => {
    const { host, client, device, gva } = faulting(rules);
    start(device, host);
    const { token } = client.readFaults()[0]!;
    const write = (values: object): string | null => {
      const bytes = new Uint8Array(ioasidFaultResponse.size);
      ioasidFaultResponse.write({ ioasid: gva, token, code: 0, reserved: 0, ...values }, bytes);
      return errno(() => host.system.write(client.fd, bytes));
    };
    const bad = [{ code: 7 }, { token: token + 1 }, { ioasid: gva + 9 }, { ioasid: 1 }, { reserved: 1 }];
    expect(bad.map(write)).toEqual(bad.map(() => 'EINVAL'));
    expect([errno(() => host.system.write(client.fd, new Uint8Array(17))), device.tester.busy]).toEqual([
      'ESPIPE',
      true,
    ]);
    client.respondFault({ ioasid: gva, token }, false);
    expect([device.tester.wait(), device.tester.response]).toEqual([true, PRG_INVALID_REQUEST]);
  });

  test.each([false, true])(
    'D18 a request that is pending when its attachment goes is answered once (read: %s)',
    (read) => {
      for (const leave of ['detach', 'free', 'close', 'unbind'] as const) {
        const { host, client, device, gva } = faulting(rules);
        start(device, host);
        const token = read ? client.readFaults()[0]!.token : 1;
        const poll = (): number => host.system.poll(client.fd) & 1;
        expect(poll()).toBe(read ? 0 : 1);
        if (leave === 'detach') device.detach(gva, PASID);
        else if (leave === 'free') client.free(gva);
        else if (leave === 'close') host.system.close(client.fd);
        else device.unbind();
        expect([leave, device.tester.wait(), device.tester.response, device.tester.requests]).toEqual([
          leave,
          true,
          PRG_INVALID_REQUEST,
          1,
        ]);
        if (leave === 'close') continue;
        expect([errno(() => client.respondFault({ ioasid: gva, token }, true)), poll(), client.readFaults()]).toEqual([
          'EINVAL',
          0,
          [],
        ]);
      }
    },
  );
});

test('groups of several IOASIDs are read in the order in which they came, whole', () => {
  const { host, client, device, gpa, gva } = faulting();
  const other = host.bind(1);
  other.attach(gpa);
  const second = table(host, gpa, other);
  start(other, host);
  start(device, host);
  const { size } = ioasidFault;
  expect(errno(() => host.system.read(client.fd, new Uint8Array(size - 1)))).toBe('ESPIPE');
  expect(host.system.read(client.fd, new Uint8Array(0))).toBe(0);
  host.machine.kernel.failpoints.arm(1);
  expect(errno(() => client.readFaults())).toBe('ENOMEM');
  expect(client.readFaults(1)).toMatchObject([{ ioasid: second, cookie: 0x101n, token: 1 }]);
  expect(client.readFaults(1)).toMatchObject([{ ioasid: gva, cookie: 0x100n, token: 1 }]);
  client.respondFault({ ioasid: gva, token: 1 }, false);
  expect([device.tester.wait(), other.tester.busy]).toEqual([true, true]);
});

test('the order is kept when a group before is answered by the kernel', () => {
  const { host, client, device, gpa, gva } = faulting();
  const other = host.bind(1);
  other.attach(gpa);
  const second = table(host, gpa, other);
  start(device, host);
  start(other, host);
  device.detach(gva, PASID);
  expect([device.tester.wait(), device.tester.response]).toEqual([true, PRG_INVALID_REQUEST]);
  device.attach(gva, PASID);
  start(device, host);
  expect(client.readFaults()).toMatchObject([{ ioasid: second }, { ioasid: gva }]);
});

test('the table that the kernel fills after an unbind takes no page requests', () => {
  const { host, client, device, gva } = faulting();
  const { failpoints } = host.machine.kernel;
  for (let nth = 1; ; nth++) {
    failpoints.arm(nth);
    const code = errno(() => client.unbindPageTable(gva));
    const { hit } = failpoints;
    failpoints.arm(0);
    if (hit === null) break;
    expect(code).toBe('ENOMEM');
    // A table that is made anew after the failure takes them as before.
    device.detach(gva, PASID);
    device.attach(gva, PASID);
    start(device, host);
    const [fault] = client.readFaults();
    client.respondFault(fault!, false);
    expect(device.tester.wait()).toBe(true);
  }
  start(device, host);
  expect([device.tester.wait(), device.tester.response, client.readFaults()]).toEqual([true, PRG_INVALID_REQUEST, []]);
  expect(host.context.get(gva, 'test').faults).toBeNull();
});

test('a table that takes no page requests has them answered at once', () => {
  const { host, client, device, gva } = faulting();
  client.bindPageTable({ ioasid: gva, address: ROOT });
  start(device, host);
  expect([device.tester.wait(), device.tester.response, client.readFaults()]).toEqual([true, PRG_INVALID_REQUEST, []]);
  expect(host.context.get(gva, 'test').faults).toBeNull();
  // And one that does is refused to a device that has none.
  const plain = new IoasidHost({ features: { pageRequests: false } });
  const deaf = plain.bind();
  const root = plain.client.alloc();
  deaf.attach(root);
  const child = plain.client.createNesting(root);
  deaf.attach(child);
  expect(errno(() => plain.client.bindPageTable({ ioasid: child, address: ROOT, faults: true }))).toBe('ENODEV');
  plain.client.bindPageTable({ ioasid: child, address: ROOT });
});

test('a pending request survives the bind of another table only to be answered by the kernel', () => {
  const { host, client, device, gva } = faulting();
  start(device, host);
  const [fault] = client.readFaults();
  client.bindPageTable({ ioasid: gva, address: 0x18000, faults: true });
  expect([device.tester.wait(), device.tester.response]).toEqual([true, PRG_INVALID_REQUEST]);
  expect(errno(() => client.respondFault(fault!, true))).toBe('EINVAL');
  start(device, host);
  expect(client.readFaults()).toHaveLength(1);
});

test('a child that the kernel fills takes page requests by the rules of version 2', () => {
  const host = new IoasidHost({ rules: 'v2' });
  const { client } = host;
  const device = host.bind();
  const gpa = client.alloc();
  client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(2, 33), size: 2n * PAGE });
  const giova = client.alloc({ parent: gpa, faults: true });
  device.attach(giova, PASID);
  start(device, host);
  const [fault] = client.readFaults();
  expect(fault).toMatchObject({ ioasid: giova, cookie: 0x100n, pasid: PASID, address: GVA });
  client.map({ ioasid: giova, iova: GVA, vaddr: PAGE, size: PAGE });
  client.respondFault(fault!, true);
  expect([device.tester.wait(), device.tester.bufferByte]).toEqual([true, 34]);
  expect(errno(() => client.alloc({ faults: true }))).toBe('EINVAL');
});

test('the eventfd is one, or none', () => {
  const { host, client, device } = faulting();
  expect([errno(() => client.setFaultEventfd(99)), errno(() => client.setFaultEventfd(client.fd))]).toEqual([
    'EBADF',
    'EINVAL',
  ]);
  const fd = host.system.eventfd();
  const event = host.system.file(fd) as EventFd;
  client.setFaultEventfd(fd);
  client.setFaultEventfd(null);
  start(device, host);
  expect([event.take(), client.readFaults()]).toMatchObject([0n, [{ pasid: PASID }]]);
});
