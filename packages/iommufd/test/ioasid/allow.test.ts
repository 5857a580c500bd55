import { describe, expect, test } from 'vitest';
import { errno, IoasidHost, PAGE } from '../support/ioasid-host.ts';

const GVA = 0x7000_0000_1000n;
const ROOT = 0x10000n;
const PASID = 9;

function guest(paired = false) {
  const host = new IoasidHost({ paired });
  const { client } = host;
  const [first, second] = [host.bind(0), host.bind(1)];
  const gpa = client.alloc();
  for (const device of [first, second]) device.attach(gpa);
  const va = host.memory(32);
  client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 32n * PAGE });
  for (let page = 0n; page < 8n; page++) host.fill(va + ROOT + page * PAGE, 0);
  host.stage1Map(va, ROOT, GVA, 0x3000n);
  const gva = client.createNesting(gpa);
  return { host, client, first, second, gpa, gva, va };
}

describe('authorising and mapping are distinct', () => {
  test('V7 an authorised device finds nothing before a table is bound, and that, without attaching, after', () => {
    const { client, first, gva } = guest();
    first.allow(gva, PASID);
    expect([first.read(GVA, PASID), first.device.pasids]).toEqual([null, [-1]]);
    client.bindPageTable({ ioasid: gva, address: ROOT });
    expect([first.read(GVA, PASID), first.read(GVA)]).toEqual([4, null]);
    client.unbindPageTable(gva);
    expect(first.read(GVA, PASID)).toBeNull();
  });

  test('V6 a device that is not authorised is blocked, whatever the IOASID maps, and follows at any time', () => {
    const { client, first, second, gva } = guest();
    first.allow(gva, PASID);
    client.bindPageTable({ ioasid: gva, address: ROOT });
    expect([first.read(GVA, PASID), second.read(GVA, PASID)]).toEqual([4, null]);
    second.allow(gva, PASID);
    expect([first.read(GVA, PASID), second.read(GVA, PASID)]).toEqual([4, 4]);
  });

  test('V8 one that is no longer allowed is blocked at once; others go on', () => {
    for (const paired of [false, true]) {
      const { client, first, second, gva } = guest(paired);
      for (const device of [first, second]) device.allow(gva, PASID);
      client.bindPageTable({ ioasid: gva, address: ROOT });
      expect([first.read(GVA, PASID), second.read(GVA, PASID)]).toEqual([4, 4]);
      first.disallow(gva, PASID);
      expect([first.read(GVA, PASID), second.read(GVA, PASID)]).toEqual([null, 4]);
      expect(errno(() => first.disallow(gva, PASID))).toBe('ENOENT');
      second.disallow(gva, PASID);
      expect([second.read(GVA, PASID), second.tester.device.group.pasidHandles.size]).toEqual([null, 0]);
    }
  });

  test('V6 in one group too: the route is the group’s, the authority each device’s own', () => {
    const { client, first, second, gpa, gva } = guest(true);
    first.allow(gpa, PASID);
    expect([first.read(0x3000n, PASID), second.read(0x3000n, PASID)]).toEqual([4, null]);
    expect(errno(() => second.allow(gva, PASID))).toBe('EINVAL');
    second.allow(gpa, PASID);
    expect(second.read(0x3000n, PASID)).toBe(4);
    expect(client.info(gpa).mapping).toBe(true);
  });

  test('a PASID is used one way at a time', () => {
    const { first, second, gpa, gva } = guest();
    first.allow(gpa, PASID);
    expect([errno(() => first.allow(gpa, PASID)), errno(() => first.attach(gpa, PASID))]).toEqual(['EBUSY', 'EBUSY']);
    first.attach(gva, 10);
    expect(errno(() => first.allow(gpa, 10))).toBe('EBUSY');
    expect(first.read(0x3000n, PASID)).toBe(4);
    for (const pasid of [0, -1, 1 << 20]) expect(errno(() => first.allow(gpa, pasid))).toBe('EINVAL');
    second.detach(gpa);
    expect(errno(() => second.allow(gva, PASID))).toBe('EINVAL');
    expect(second.tester.device.authorizedPasids.size).toBe(0);
  });

  test('a device at a child stays at the parent, whichever way it is there', () => {
    const { first, gpa, gva } = guest();
    first.allow(gpa, PASID);
    first.attach(gva, 5);
    first.detach(gpa);
    expect([errno(() => first.disallow(gpa, PASID)), first.read(0x3000n, PASID)]).toEqual(['EBUSY', 4]);
    first.attach(gpa);
    first.disallow(gpa, PASID);
    expect([errno(() => first.detach(gpa)), first.read(0x3000n, PASID), first.read(0x3000n)]).toEqual([
      'EBUSY',
      null,
      4,
    ]);
    first.detach(gva, 5);
    first.detach(gpa);
  });

  test('freeing an IOASID, or giving the device up, takes the authority back', () => {
    const { client, first, second, gva } = guest();
    for (const device of [first, second]) device.allow(gva, PASID);
    client.bindPageTable({ ioasid: gva, address: ROOT });
    first.unbind();
    expect([first.read(GVA, PASID), second.read(GVA, PASID), first.tester.device.authorizedPasids.size]).toEqual([
      null,
      4,
      0,
    ]);
    client.free(gva);
    expect([second.read(GVA, PASID), second.tester.device.authorizedPasids.size]).toEqual([null, 0]);
  });
});
