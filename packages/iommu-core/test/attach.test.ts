import { describe, expect, test } from 'vitest';
import {
  attachDevicePasid,
  attachGroup,
  claimDmaOwner,
  detachDevicePasid,
  detachGroup,
  releaseDmaOwner,
  replaceGroup,
  SysError,
  unuseDefaultDomain,
  useDefaultDomain,
} from '../src/index.ts';
import { FakeDriver, fakeGroup, refusal } from './support/fake-driver.ts';

describe('attachment without PASID', () => {
  test('attaches every device, refuses a second attachment and a foreign domain', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [0, 0]);
    const domain = driver.domain();
    attachGroup(group, { domain });
    expect([...driver.attached.values()]).toEqual([domain, domain]);
    expect(refusal(() => attachGroup(group, { domain: driver.domain() }))).toBe('EBUSY');
    expect(refusal(() => replaceGroup(group, { domain: new FakeDriver().domain() }))).toBe('EINVAL');
    detachGroup(group);
    expect(driver.attached.size).toBe(0);
    expect(group.ridHandle).toBeNull();
  });

  test('a device that cannot go back when another refuses is blocked, and the others go back', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [0, 0, 0]);
    const old = { domain: driver.domain() };
    attachGroup(group, old);
    const attach = driver.attach.bind(driver);
    driver.attach = (domain, device, from): void => {
      if (device.rid === 10 && domain !== old.domain) throw new SysError('ENOMEM', 'test', 'the third refuses');
      if (device.rid === 9 && domain === old.domain) throw new SysError('ETIMEDOUT', 'test', 'no way back');
      attach(domain, device, from);
    };
    expect(refusal(() => replaceGroup(group, { domain: driver.domain() }))).toBe('ENOMEM');
    expect([group.domain, group.ridHandle]).toEqual([old.domain, old]);
    expect(driver.attached).toEqual(
      new Map([
        ['8', old.domain],
        ['10', old.domain],
      ]),
    );
  });

  test('a failing replace keeps every device at the old domain', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [0, 0, 0]);
    const handle = { domain: driver.domain() };
    attachGroup(group, handle);
    driver.failing = { rid: 10, code: 'ENOMEM' };
    expect(refusal(() => replaceGroup(group, { domain: driver.domain() }))).toBe('ENOMEM');
    expect([...driver.attached.values()]).toEqual([handle.domain, handle.domain, handle.domain]);
    expect(group.ridHandle).toBe(handle);
    expect(group.domain).toBe(handle.domain);
  });

  test('scope: a domain is attached only with what it declares, and all PASIDs exclude single ones', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16]);
    const device = group.devices[0]!;
    const userTable = driver.domain(['all-pasids'], 'nested');
    expect(refusal(() => attachGroup(group, { domain: userTable }))).toBe('EOPNOTSUPP');
    expect(refusal(() => attachGroup(group, { domain: driver.domain() }, 'all-pasids'))).toBe('EOPNOTSUPP');
    expect(refusal(() => attachDevicePasid(device, 3, { domain: userTable }))).toBe('EOPNOTSUPP');
    attachDevicePasid(device, 3, { domain: driver.domain() });
    expect(refusal(() => attachGroup(group, { domain: userTable }, 'all-pasids'))).toBe('EBUSY');
    detachDevicePasid(device, 3);
    attachGroup(group, { domain: userTable }, 'all-pasids');
    expect(refusal(() => attachDevicePasid(device, 3, { domain: driver.domain() }))).toBe('EINVAL');
    detachGroup(group);
    attachDevicePasid(device, 3, { domain: driver.domain() });
  });
});

describe('DMA ownership', () => {
  test('one owner at a time, which may claim again; kernel drivers and owners exclude each other', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [0, 0]);
    const [first, second] = group.devices as [(typeof group.devices)[0], (typeof group.devices)[0]];
    group.defaultDomain = driver.domain(['rid'], 'dma');
    group.domain = group.defaultDomain;
    const owner = {};
    claimDmaOwner(first, owner);
    expect(group.domain.kind).toBe('blocked');
    claimDmaOwner(second, owner);
    expect(refusal(() => claimDmaOwner(second, {}))).toBe('EPERM');
    expect(refusal(() => useDefaultDomain(first))).toBe('EBUSY');
    releaseDmaOwner(first);
    expect(group.domain.kind).toBe('blocked');
    releaseDmaOwner(second);
    expect(group.domain).toBe(group.defaultDomain);
    useDefaultDomain(first);
    expect(refusal(() => claimDmaOwner(second, owner))).toBe('EPERM');
    unuseDefaultDomain(first);
    claimDmaOwner(second, owner);
  });

  test('A23 while PASIDs are attached, nobody can take the DMA over or bind a driver', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16]);
    const device = group.devices[0]!;
    attachDevicePasid(device, 5, { domain: driver.domain() });
    expect(refusal(() => claimDmaOwner(device, {}))).toBe('EBUSY');
    expect(refusal(() => useDefaultDomain(device))).toBe('EBUSY');
    expect(group.ownerCount).toBe(0);
    detachDevicePasid(device, 5);
    claimDmaOwner(device, {});
  });

  test('a group with memory that must stay mapped one to one has no owner', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [0]);
    group.defaultDomain = driver.domain(['rid'], 'dma');
    group.domain = group.defaultDomain;
    group.requiresDirect = true;
    expect(refusal(() => claimDmaOwner(group.devices[0]!, {}))).toBe('EINVAL');
    expect(group.owner).toBeNull();
  });
});
