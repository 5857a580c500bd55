import { describe, expect, test } from 'vitest';
import type { FakeNestedDomain } from '../support/fakes.ts';
import { MEMORY } from '../support/host.ts';
import { errno, FakeIoasidHost, PAGE } from '../support/ioasid-host.ts';

/** A host whose IOMMU walks PASID tables of users. */
function tableHost(rules: 'v1' | 'v2') {
  const host = new FakeIoasidHost(rules);
  host.driver.capabilities.add('user-pasid-table');
  const device = host.bind();
  const gpa = host.client.alloc();
  host.attach(device, gpa);
  host.client.map({ ioasid: gpa, iova: 0, vaddr: MEMORY, size: 4n * PAGE });
  return { host, client: host.client, device, gpa };
}

describe('a PASID table of the user, by the rules of version 1', () => {
  function bound() {
    const all = tableHost('v1');
    const { host, client, device, gpa } = all;
    const child = client.createNesting(gpa);
    host.attach(device, child);
    client.bindPasidTable({ ioasid: child, address: 0x1000, pasidBits: 8 });
    const [, domain] = host.driver.live as [unknown, FakeNestedDomain];
    return { ...all, child, domain };
  }

  test('is one child for all PASIDs of the device: the kernel sees no table of a PASID', () => {
    const { host, client, device, gpa, child, domain } = bound();
    expect(client.info(gpa).pasidRouting).toBe('user-table');
    expect([domain.scopes, host.route(device)]).toEqual([['all-pasids'], domain.id]);
    const { group } = device.bound.device;
    expect([group.ridScope, group.pasidHandles.size]).toEqual(['all-pasids', 0]);
    // No PASID can be attached, or allowed, beside it.
    expect([
      errno(() => host.attach(device, gpa, 5)),
      errno(() => device.allow(host.context.get(gpa, 'test'), 5)),
    ]).toEqual(['EINVAL', 'EINVAL']);
    client.unbindPasidTable(child);
    expect([group.ridScope, errno(() => host.attach(device, gpa, 5)), domain.freed]).toEqual(['rid', null, true]);
    // And none of it where a PASID is.
    expect(errno(() => client.bindPasidTable({ ioasid: child, address: 0x1000, pasidBits: 8 }))).toBe('EBUSY');
    host.detach(device, gpa, 5);
    expect(errno(() => client.bindPasidTable({ ioasid: child, address: 0x1000, pasidBits: 8 }))).toBeNull();
    host.detach(device, child);
    expect(group.ridScope).toBe('rid');
  });

  test('is invalidated by PASID, and keeps what was bound', () => {
    const { client, child, domain } = bound();
    client.invalidate({ ioasid: child, pasid: 7, range: { address: 0x2000, size: 2n * PAGE }, leaf: true });
    client.invalidate({ ioasid: child });
    expect(domain.invalidated).toEqual([
      '0020000000000000' + '0200000000000000' + '03000000' + '07000000',
      '0000000000000000' + 'ffffffffffffffff' + '00000000' + '00000000',
    ]);
    expect(errno(() => client.bindPageTable({ ioasid: child, address: 0 }))).toBe('EBUSY');
    expect(errno(() => client.unbindPageTable(child))).toBe('EINVAL');
  });

  test('is refused in a format that is none, and at a PASID', () => {
    const { host, client, device, gpa } = tableHost('v1');
    const child = client.createNesting(gpa);
    host.attach(device, child);
    const bind = (format: number): string | null =>
      errno(() => client.bindPasidTable({ ioasid: child, address: 0x1000, pasidBits: 8, format }));
    expect([bind(9), bind(1)]).toEqual(['EOPNOTSUPP', 'EINVAL']);
    host.detach(device, child);
    host.attach(device, child, 3);
    const before = host.snapshot();
    expect(bind(2)).toBe('EOPNOTSUPP');
    expect(host.snapshot()).toEqual(before);
  });
});

describe('a PASID table of the user, by the rules of version 2', () => {
  test('is named when the IOASID is made; the user then names no PASIDs in attaching', () => {
    const { host, client, device, gpa } = tableHost('v2');
    expect(client.deviceInfo(0x100)).toMatchObject({ pasidRouting: 'user-table', pasids: { delegated: true } });
    const allow = (): void => device.allow(host.context.get(gpa, 'test'), 5);
    expect([errno(() => host.attach(device, gpa, 5)), errno(allow)]).toEqual(['EINVAL', 'EINVAL']);
    const table = client.alloc({ parent: gpa, pasidTable: { address: 0x1000, pasidBits: 8 } });
    host.attach(device, table);
    expect(device.bound.device.group.ridScope).toBe('all-pasids');
    client.invalidate({ ioasid: table, pasid: 7, cookie: 0x100 });
    expect((host.driver.live[1] as FakeNestedDomain).invalidated).toHaveLength(1);
    host.detach(device, table);
    expect([device.bound.device.group.ridScope, host.route(device)]).toEqual(['rid', host.driver.live[0]!.id]);
    const other = new FakeIoasidHost('v2');
    const plain = other.bind();
    const root = other.client.alloc();
    const refused = other.client.alloc({ parent: root, pasidTable: { address: 0, pasidBits: 8 } });
    expect(errno(() => other.attach(plain, refused))).toBe('EOPNOTSUPP');
    expect(other.driver.live).toEqual([]);
  });
});
