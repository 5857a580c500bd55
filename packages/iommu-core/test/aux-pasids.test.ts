import { describe, expect, test } from 'vitest';
import {
  AuxDomains,
  attachDevicePasid,
  authorizePasid,
  type Device,
  deauthorizePasid,
  detachDevicePasid,
  disableFeature,
  enableFeature,
  featureEnabled,
  GlobalPasids,
  resetDevice,
  SysError,
} from '../src/index.ts';
import { ALL_FEATURES, AUX_RIDS, AuxMachine, IOVA } from './support/aux-machine.ts';
import { FakeDriver, fakeGroup, refusal } from './support/fake-driver.ts';

describe('PASIDs', () => {
  test('a user’s PASID is passed over when a domain gets one, and in the way of its later devices', () => {
    const machine = new AuxMachine();
    const { aux, left, right, x, y } = machine;
    const [part, foreign] = [machine.domainOf(0x11), machine.domainOf(0x12)];
    attachDevicePasid(x.device, 1, { domain: foreign });
    authorizePasid(left.device, 2);
    aux.attach(part, x.device);
    expect(aux.pasid(part, x.device)).toBe(3);
    attachDevicePasid(y.device, 3, { domain: foreign });
    const before = machine.state();
    expect(refusal(() => aux.attach(part, y.device))).toBe('EBUSY');
    expect(machine.state()).toEqual(before);
    expect([x, y].map((device) => device.read(IOVA, { pasid: 3 }))).toEqual([0x11, 0x12]);
    expect(refusal(() => attachDevicePasid(x.device, 3, { domain: foreign }))).toBe('EBUSY');
    detachDevicePasid(y.device, 3);
    // Nobody is let into the domain by having been authorised for its PASID before.
    authorizePasid(right.device, 3);
    expect(refusal(() => aux.attach(part, left.device))).toBe('EBUSY');
    expect(right.read(IOVA, { pasid: 3 })).toBeNull();
    deauthorizePasid(right.device, 3);
    aux.attach(part, left.device);
    expect([left, right].map((device) => device.read(IOVA, { pasid: 3 }))).toEqual([0x11, null]);
  });

  test('a PASID that is still named when its domain gives it up is parked', () => {
    const machine = new AuxMachine();
    const { aux, left, right, x } = machine;
    const [part, other] = [machine.domainOf(0x13), machine.domainOf(0x14)];
    aux.attach(part, left.device);
    const pasid = aux.pasid(part, left.device);
    authorizePasid(right.device, pasid);
    expect(right.read(IOVA, { pasid })).toBe(0x13);
    aux.detach(part, left.device);
    expect(right.read(IOVA, { pasid })).toBeNull();
    expect(machine.core.pasids.parked).toEqual([pasid]);
    aux.attach(other, x.device);
    expect(aux.pasid(other, x.device)).not.toBe(pasid);
    deauthorizePasid(right.device, pasid);
    expect(machine.core.pasids.parked).toEqual([]);
  });

  test('a device or group that cannot issue the domain’s PASID: EINVAL; none left: ENODEV', () => {
    const driver = new FakeDriver();
    driver.features = ALL_FEATURES;
    const group = fakeGroup(driver, [16]);
    const [wide] = group.devices as [Device];
    const [narrow] = fakeGroup(driver, [4], group.kernel).devices as [Device];
    const [wideBeside] = fakeGroup(driver, [16, 3], group.kernel).devices as [Device];
    const [without] = fakeGroup(driver, [0], group.kernel).devices as [Device];
    const pasids = new GlobalPasids(group.kernel);
    const other = new AuxDomains(pasids);
    const attach = (device: Device) => {
      const domain = driver.domain();
      return { domain, outcome: refusal(() => other.attach(domain, device)) };
    };
    for (const device of [wide, narrow, wideBeside, without]) enableFeature(device, 'aux');
    const early = attach(wide).domain;
    for (let count = 2; count < 5; count++) expect(attach(wide).outcome).toBeNull();
    const late = attach(wide).domain;
    expect([other.pasid(early, wide), other.pasid(late, wide)]).toEqual([1, 5]);
    const before = new Map(driver.attached);
    expect(refusal(() => other.attach(late, narrow))).toBe('EINVAL');
    expect(refusal(() => other.attach(late, wideBeside))).toBe('EINVAL');
    expect(refusal(() => other.attach(early, without))).toBe('EINVAL');
    expect(driver.attached).toEqual(before);
    other.attach(early, narrow);
    expect(other.pasid(early, narrow)).toBe(1);
    expect([attach(narrow).outcome, attach(wideBeside).outcome, attach(without).outcome]).toEqual([
      'ENODEV',
      'ENODEV',
      'ENODEV',
    ]);
    // A domain that fits no device of this driver is told so whether there are PASIDs or not.
    const foreign = new FakeDriver();
    foreign.features = ALL_FEATURES;
    expect(refusal(() => other.attach(foreign.domain(), narrow))).toBe('EINVAL');
    expect(pasids.size).toBe(5);
  });

  test('a domain of another driver is refused before it has a PASID', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const driver = new FakeDriver();
    driver.features = ALL_FEATURES;
    const before = machine.state();
    expect(refusal(() => aux.attach(driver.domain(), x.device))).toBe('EINVAL');
    expect(machine.state()).toEqual(before);
  });

  test('the hardware’s refusal is passed on, and nothing stays', () => {
    const driver = new FakeDriver();
    driver.features = ALL_FEATURES;
    const group = fakeGroup(driver, [16, 16]);
    const [first, second] = group.devices as [Device, Device];
    const pasids = new GlobalPasids(group.kernel);
    const other = new AuxDomains(pasids);
    for (const device of group.devices) enableFeature(device, 'aux');
    const domain = driver.domain();
    driver.failing = { rid: first.rid, code: 'EINVAL' };
    expect(refusal(() => other.attach(domain, first))).toBe('EINVAL');
    expect([group.pasidHandles.size, pasids.size, driver.attached.size]).toEqual([0, 0, 0]);
    other.attach(domain, first);
    driver.failing = { rid: second.rid, code: 'EINVAL' };
    expect(refusal(() => other.attach(domain, second))).toBe('EINVAL');
    expect([...driver.attached.keys()]).toEqual([`${first.rid}/1`]);
    expect([...second.authorizedPasids]).toEqual([]);
  });
});

describe('groups, removal and reset', () => {
  test('in a group the PASID is for the devices that have the domain, and goes with the last of them', () => {
    const machine = new AuxMachine();
    const { aux, left, right } = machine;
    const domain = machine.domainOf(0x21);
    aux.attach(domain, left.device);
    const pasid = aux.pasid(domain, left.device);
    expect([left, right].map((device) => device.read(IOVA, { pasid }))).toEqual([0x21, null]);
    expect(refusal(() => aux.pasid(domain, right.device))).toBe('EINVAL');
    aux.detach(domain, right.device);
    aux.attach(domain, right.device);
    aux.detach(domain, left.device);
    expect([left, right].map((device) => device.read(IOVA, { pasid }))).toEqual([null, 0x21]);
    aux.detach(domain, left.device);
    expect(right.read(IOVA, { pasid })).toBe(0x21);
    aux.detach(domain, right.device);
    expect(right.device.group.pasidHandles.size).toBe(0);
    expect(machine.core.pasids.size).toBe(0);
  });

  test('a device that is removed takes its attachments along, however often counted, and no others', () => {
    const machine = new AuxMachine();
    const { aux, left, right } = machine;
    const [first, second] = [machine.domainOf(0x22), machine.domainOf(0x23)];
    for (const { device } of [left, left, right]) aux.attach(first, device);
    aux.attach(second, left.device);
    const [one, two] = [aux.pasid(first, left.device), aux.pasid(second, left.device)];
    machine.core.removeDevice(left.device);
    expect(machine.reads(right, one)).toEqual([0x22, 0x22]);
    for (const domain of [first, second]) expect(refusal(() => aux.pasid(domain, left.device))).toBe('EINVAL');
    expect(left.device.authorizedPasids.size).toBe(0);
    expect(featureEnabled(left.device, 'aux')).toBe(false);
    expect([...right.device.group.pasidHandles.keys()]).toEqual([one]);
    expect([machine.core.pasids.size, machine.core.pasids.has(two)]).toEqual([1, false]);
    expect(machine.attachments(second)).toEqual([]);
    aux.detach(first, left.device);
    expect(machine.reads(right, one)).toEqual([0x22, 0x22]);
    // It comes back with nothing.
    const again = machine.add(AUX_RIDS[2]!);
    expect(machine.reads(again, one)).toEqual([null, null]);
    expect(refusal(() => aux.attach(first, again.device))).toBe('EPERM');
    machine.core.removeDevice(right.device);
    expect(machine.core.pasids.size).toBe(0);
  });

  test('a reset blocks aux DMA and gives it back; what is detached meanwhile does not come back', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const [stays, goes] = [machine.domainOf(0x24), machine.domainOf(0x25)];
    for (const domain of [stays, goes]) aux.attach(domain, x.device);
    const [one, two] = [aux.pasid(stays, x.device), aux.pasid(goes, x.device)];
    const late = machine.domainOf(0x26);
    const { pci } = x.device;
    const reset = pci.reset.bind(pci);
    pci.reset = () => {
      reset();
      expect([x.probe(IOVA, one), x.probe(IOVA, two)]).toEqual([null, null]);
      expect(refusal(() => aux.attach(late, x.device))).toBe('EBUSY');
      expect(refusal(() => disableFeature(x.device, 'aux'))).toBe('EBUSY');
      aux.detach(goes, x.device);
    };
    resetDevice(x.device);
    expect(machine.core.pasids.size).toBe(1);
    expect([x.read(IOVA, { pasid: one }), x.read(IOVA, { pasid: two })]).toEqual([0x24, null]);
    expect(refusal(() => aux.pasid(goes, x.device))).toBe('EINVAL');
    aux.detach(stays, x.device);
    expect(x.read(IOVA, { pasid: one })).toBeNull();
    expect(x.device.group.pasidHandles.size).toBe(0);
    expect(machine.core.pasids.size).toBe(0);
  });

  test('a reset that the function refuses, and one that cannot give DMA back, leave attachments that can be undone', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const domain = machine.domainOf(0x27);
    aux.attach(domain, x.device);
    const pasid = aux.pasid(domain, x.device);
    const { pci } = x.device;
    pci.reset = () => {
      throw new SysError('EINVAL', 'test', 'no reset');
    };
    expect(refusal(() => resetDevice(x.device))).toBe('EINVAL');
    expect(x.read(IOVA, { pasid })).toBe(0x27);
    pci.reset = () => machine.kernel.failpoints.arm(1);
    resetDevice(x.device);
    machine.kernel.failpoints.arm(0);
    expect(x.read(IOVA, { pasid })).toBeNull();
    expect(aux.pasid(domain, x.device)).toBe(pasid);
    aux.detach(domain, x.device);
    expect(machine.core.pasids.size).toBe(0);
    aux.attach(domain, x.device);
    expect(x.read(IOVA, { pasid: aux.pasid(domain, x.device) })).toBe(0x27);
  });
});
