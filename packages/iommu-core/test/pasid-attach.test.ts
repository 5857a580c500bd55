import { describe, expect, test } from 'vitest';
import {
  attachDevicePasid,
  authorizePasid,
  type Device,
  deauthorizePasid,
  detachDevicePasid,
  type IommuDriver,
  replaceDevicePasid,
  routePasid,
  SysError,
  unroutePasid,
} from '../src/index.ts';
import { FakeDriver, fakeGroup, refusal } from './support/fake-driver.ts';

describe('attachment with PASID', () => {
  test('A19 an attached PASID is not attached again, and the first attachment remains', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16]);
    const handle = { domain: driver.domain() };
    attachDevicePasid(group.devices[0]!, 7, handle);
    expect(refusal(() => attachDevicePasid(group.devices[0]!, 7, { domain: driver.domain() }))).toBe('EBUSY');
    expect(group.handle(7)).toBe(handle);
    expect(driver.attached.get('8/7')).toBe(handle.domain);
  });

  test('A20 PASID 0 and PASIDs that a device of the group cannot issue are refused', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16, 0, 8]);
    const attach = (pasid: number): string | null =>
      refusal(() => attachDevicePasid(group.devices[0]!, pasid, { domain: driver.domain() }));
    expect([0, -1, 1.5, 8, 16, 2 ** 40].map(attach)).toEqual(new Array(6).fill('EINVAL'));
    expect(attach(7)).toBeNull();
    expect(driver.attached.has('9/7')).toBe(false);
  });

  test('A21 when the driver fails on the third device, the first two are blocked again and the PASID is free', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16, 16, 16]);
    driver.failing = { rid: 10, code: 'ENOMEM' };
    const domain = driver.domain();
    expect(refusal(() => attachDevicePasid(group.devices[1]!, 4, { domain }))).toBe('ENOMEM');
    expect(driver.attached.size).toBe(0);
    expect(group.pasidHandles.size).toBe(0);
    expect(group.devices.every((device) => device.authorizedPasids.size === 0)).toBe(true);
    attachDevicePasid(group.devices[1]!, 4, { domain });
    expect(driver.attached.size).toBe(3);
  });

  test('a device that cannot go back when another refuses is blocked, and the others go back', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16, 16, 16]);
    const [device] = group.devices as [Device];
    const old = { domain: driver.domain() };
    attachDevicePasid(device, 4, old);
    const { attachPasid } = driver;
    const moves: string[] = [];
    driver.attachPasid = (domain, member, pasid, from): void => {
      moves.push(`${member.rid} ${domain.id}`);
      if (member.rid === 10 && domain !== old.domain) throw new SysError('ENOMEM', 'test', 'the third refuses');
      if (member.rid === 9 && domain === old.domain) throw new SysError('ETIMEDOUT', 'test', 'no way back');
      attachPasid(domain, member, pasid, from);
    };
    expect(refusal(() => replaceDevicePasid(device, 4, { domain: driver.domain() }))).toBe('ENOMEM');
    expect(group.handle(4)).toBe(old);
    expect(driver.attached).toEqual(
      new Map([
        ['8/4', old.domain],
        ['10/4', old.domain],
      ]),
    );
    expect(moves.at(-1)).toBe(`8 ${old.domain.id}`);
  });

  test('checks come in the order of the kernel', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16]);
    const device = group.devices[0]!;
    const foreignRid = new FakeDriver().domain(['rid']);
    expect(refusal(() => attachDevicePasid(device, 0, { domain: foreignRid }))).toBe('EOPNOTSUPP');
    const foreign = new FakeDriver().domain();
    device.inReset = true;
    expect(refusal(() => attachDevicePasid(device, 99, { domain: foreign }))).toBe('EINVAL');
    expect(refusal(() => attachDevicePasid(device, 0, { domain: driver.domain() }))).toBe('EINVAL');
    expect(refusal(() => attachDevicePasid(device, 99, { domain: driver.domain() }))).toBe('EBUSY');
    device.inReset = false;
    expect(refusal(() => attachDevicePasid(device, 99, { domain: driver.domain() }))).toBe('EINVAL');
    (group.driver as { attachPasid: IommuDriver['attachPasid'] }).attachPasid = null;
    expect(refusal(() => attachDevicePasid(device, 0, { domain: foreign }))).toBe('EOPNOTSUPP');
  });

  test('a group without PASIDs accepts the attachment and calls nobody', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [0, 0]);
    attachDevicePasid(group.devices[0]!, 900, { domain: driver.domain() });
    expect(driver.attached.size).toBe(0);
    expect(group.pasidHandles.has(900)).toBe(true);
    detachDevicePasid(group.devices[0]!, 900);
    expect(group.pasidHandles.size).toBe(0);
  });

  test('replace needs something attached and a new handle, swaps handles of one domain, and fails whole', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16, 16]);
    const device = group.devices[0]!;
    const domain = driver.domain();
    const handle = { domain };
    expect(refusal(() => replaceDevicePasid(device, 3, handle))).toBe('EINVAL');
    attachDevicePasid(device, 3, handle);
    expect(refusal(() => replaceDevicePasid(device, 3, handle))).toBe('EINVAL');
    const again = { domain };
    driver.failing = { rid: 8, code: 'EINVAL' };
    replaceDevicePasid(device, 3, again);
    expect(group.handle(3)).toBe(again);
    driver.failing = { rid: 9, code: 'EINVAL' };
    expect(refusal(() => replaceDevicePasid(device, 3, { domain: driver.domain() }))).toBe('EINVAL');
    expect(group.handle(3)).toBe(again);
    expect([...driver.attached.values()]).toEqual([domain, domain]);
    detachDevicePasid(device, 3);
    detachDevicePasid(device, 3);
    expect(driver.attached.size).toBe(0);
  });
});

describe('authorisation and route', () => {
  test('only both make an entry, in either order, and either takes it away', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16, 16]);
    const [first, second] = group.devices as [(typeof group.devices)[0], (typeof group.devices)[0]];
    const handle = { domain: driver.domain() };
    authorizePasid(first, 5);
    expect(driver.attached.size).toBe(0);
    routePasid(group, 5, handle);
    expect([...driver.attached.keys()]).toEqual(['8/5']);
    authorizePasid(second, 5);
    expect([...driver.attached.keys()]).toEqual(['8/5', '9/5']);
    deauthorizePasid(first, 5);
    expect([...driver.attached.keys()]).toEqual(['9/5']);
    unroutePasid(group, 5);
    expect(driver.attached.size).toBe(0);
    expect(second.authorizedPasids.has(5)).toBe(true);
  });

  test('refuses what is there already, and an ordinary attachment refuses either half', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16]);
    const device = group.devices[0]!;
    const handle = { domain: driver.domain() };
    authorizePasid(device, 5);
    expect(refusal(() => authorizePasid(device, 5))).toBe('EBUSY');
    expect(refusal(() => attachDevicePasid(device, 5, handle))).toBe('EBUSY');
    deauthorizePasid(device, 5);
    routePasid(group, 5, handle);
    expect(refusal(() => routePasid(group, 5, { domain: driver.domain() }))).toBe('EBUSY');
    expect(refusal(() => attachDevicePasid(device, 5, handle))).toBe('EBUSY');
    expect(refusal(() => authorizePasid(device, 16))).toBe('EINVAL');
  });

  test('a driver that fails leaves neither half behind', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16]);
    const device = group.devices[0]!;
    routePasid(group, 5, { domain: driver.domain() });
    driver.failing = { rid: 8, code: 'ENOMEM' };
    expect(refusal(() => authorizePasid(device, 5))).toBe('ENOMEM');
    expect(device.authorizedPasids.size).toBe(0);
    unroutePasid(group, 5);
    authorizePasid(device, 5);
    driver.failing = { rid: 8, code: 'ENOMEM' };
    expect(refusal(() => routePasid(group, 5, { domain: driver.domain() }))).toBe('ENOMEM');
    expect(group.pasidHandles.size).toBe(0);
  });
});
