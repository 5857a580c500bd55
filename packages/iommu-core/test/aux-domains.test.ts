import { ACCESS_READ, high32, low32, pageHigh, pageLow, vtdFault } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  ALLOC_NEST_PARENT,
  AuxDomains,
  attachDevicePasid,
  attachGroup,
  authorizePasid,
  claimDmaOwner,
  type Device,
  deauthorizePasid,
  detachGroup,
  disableFeature,
  enableFeature,
  featureEnabled,
  GlobalPasids,
  type IommuEvent,
  type PagingDomain,
  releaseDmaOwner,
  replaceGroup,
  unuseDefaultDomain,
  useDefaultDomain,
} from '../src/index.ts';
import { ALL_FEATURES, AuxMachine, IOVA } from './support/aux-machine.ts';
import { mapPage, unmapPage } from './support/domains.ts';
import { FakeDriver, fakeGroup, refusal } from './support/fake-driver.ts';
import type { TestDevice } from './support/test-device.ts';

function isCached({ fabric }: AuxMachine, { device }: TestDevice, pasid: number, iova: bigint): boolean {
  const [lo, hi] = [low32(iova), high32(iova)];
  return fabric.functionAt(device.rid)!.ats!.cache.lookup(pasid, ACCESS_READ, pageHigh(hi), pageLow(lo, hi));
}

/** Everything that a failed attach could have left changed, and what all devices reach. */
function snapshot(machine: AuxMachine, domains: readonly PagingDomain[]): unknown {
  const { aux, devices } = machine;
  return {
    ...machine.state(),
    attachments: domains.map((domain) => machine.attachments(domain)),
    pasidOf: domains.map((domain) =>
      devices.map(({ device }) => refusal(() => aux.pasid(domain, device)) ?? aux.pasid(domain, device)),
    ),
    dma: devices.map((device) => [1, 2, 3, 4, 64].map((pasid) => device.probe(IOVA, pasid))),
  };
}

describe('attaching', () => {
  test('A2 a domain whose driver has no aux operations: ENODEV to attach and get_pasid, and detach is silent', () => {
    const driver = new FakeDriver();
    const group = fakeGroup(driver, [16]);
    const [device] = group.devices as [Device];
    const other = new AuxDomains(new GlobalPasids(group.kernel));
    const domain = driver.domain();
    expect(refusal(() => other.attach(domain, device))).toBe('ENODEV');
    expect(refusal(() => other.pasid(domain, device))).toBe('ENODEV');
    other.detach(domain, device);
    driver.features = ALL_FEATURES;
    expect(refusal(() => other.pasid(domain, device))).toBe('EINVAL');
    const wholeOnly = driver.domain(['rid']);
    expect(refusal(() => other.attach(wholeOnly, device))).toBe('ENODEV');
    expect(refusal(() => other.pasid(wholeOnly, device))).toBe('ENODEV');
    other.detach(wholeOnly, device);
    expect(driver.attached.size).toBe(0);
  });

  test('A3 enabling and attaching ask nobody beforehand', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    disableFeature(x.device, 'aux');
    machine.driver.features.has = () => {
      throw new Error('asked');
    };
    const domain = machine.domainOf(0x31);
    enableFeature(x.device, 'aux');
    aux.attach(domain, x.device);
    expect(machine.reads(x, aux.pasid(domain, x.device))).toEqual([0x31, 0x31]);
  });

  test('A4 a feature that is not enabled: EPERM, no PASID entry, no PASID', () => {
    const machine = new AuxMachine();
    const { aux, x, y } = machine;
    const domain = machine.domainOf(0x41);
    disableFeature(x.device, 'aux');
    const before = machine.state();
    const events: IommuEvent[] = [];
    machine.trace.listen((event) => events.push(event));
    expect(refusal(() => aux.attach(domain, x.device))).toBe('EPERM');
    expect(machine.state()).toEqual(before);
    expect(events).toEqual([]);
    expect(machine.reads(x, 1)).toEqual([null, null]);
    aux.attach(domain, y.device);
    expect(aux.pasid(domain, y.device)).toBe(1);
  });

  test('A4 other domains than unmanaged ones: EPERM', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const { driver } = machine;
    const before = machine.state();
    for (const domain of [driver.blockedDomain, driver.identityDomain!, driver.allocPaging(x.device, 'dma', 0)]) {
      expect(refusal(() => aux.attach(domain, x.device))).toBe('EPERM');
      if (domain.kind === 'dma') domain.free();
    }
    expect(machine.state()).toEqual(before);
  });

  test('A5 two aux domains on one device reach each its own page at the same IOVA', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const [first, second] = [machine.domainOf(0x51), machine.domainOf(0x52, ALLOC_NEST_PARENT)];
    aux.attach(first, x.device);
    aux.attach(second, x.device);
    const [one, two] = [aux.pasid(first, x.device), aux.pasid(second, x.device)];
    expect(one).not.toBe(two);
    expect(machine.reads(x, one)).toEqual([0x51, 0x51]);
    expect(machine.reads(x, two)).toEqual([0x52, 0x52]);
    expect(x.write(IOVA, 0x5a, { pasid: one })).toBe(true);
    expect(machine.reads(x, two)).toEqual([0x52, 0x52]);
    expect(x.read(IOVA)).toBeNull();
    // What only one of them maps, the other does not reach.
    mapPage(second, IOVA + 0x1000n, machine.frame(0x53));
    expect(x.read(IOVA + 0x1000n, { pasid: one })).toBeNull();
    expect(x.read(IOVA + 0x1000n, { pasid: two })).toBe(0x53);
  });

  test('A6 a domain has one PASID, at least 1, on all its devices', () => {
    const machine = new AuxMachine();
    const { aux, devices } = machine;
    const domain = machine.domainOf(0x61);
    for (const { device } of devices) aux.attach(domain, device);
    const pasids = devices.map(({ device }) => aux.pasid(domain, device));
    expect(new Set(pasids).size).toBe(1);
    expect(pasids[0]).toBeGreaterThanOrEqual(1);
    expect(machine.core.pasids.size).toBe(1);
    for (const device of devices) expect(machine.reads(device, pasids[0]!)).toEqual([0x61, 0x61]);
  });

  test('A7 a domain attached twice translates until its second detach; then its entry is gone and DMA faults', () => {
    const machine = new AuxMachine();
    const { aux, x, y } = machine;
    const events: IommuEvent[] = [];
    machine.trace.listen((event) => events.push(event));
    const domain = machine.domainOf(0x71);
    aux.attach(domain, x.device);
    aux.attach(domain, x.device);
    aux.attach(domain, y.device);
    const pasid = aux.pasid(domain, x.device);
    aux.detach(domain, x.device);
    expect(machine.reads(x, pasid)).toEqual([0x71, 0x71]);
    aux.detach(domain, x.device);
    const { pasidTable } = machine.driver.unit.devices.get(x.device.rid)!;
    expect(pasidTable.tag(pasid)).toBeNull();
    expect(machine.reads(x, pasid)).toEqual([null, null]);
    machine.settle();
    const faults = events.filter((event) => event.name === 'io_page_fault');
    expect(faults).toContainEqual(expect.objectContaining({ rid: x.device.rid, pasid, reason: vtdFault.SPT_2 }));
    expect(machine.reads(y, pasid)).toEqual([0x71, 0x71]);
    aux.detach(domain, x.device);
    expect(aux.pasid(domain, y.device)).toBe(pasid);
  });

  test('A8 get_pasid answers EINVAL before the first attach and after the last detach', () => {
    const machine = new AuxMachine();
    const { aux, x, y } = machine;
    const [first, second] = [machine.domainOf(0x81), machine.domainOf(0x82)];
    expect(refusal(() => aux.pasid(first, x.device))).toBe('EINVAL');
    aux.attach(first, x.device);
    const pasid = aux.pasid(first, x.device);
    expect(refusal(() => aux.pasid(first, y.device))).toBe('EINVAL');
    aux.detach(first, x.device);
    expect(refusal(() => aux.pasid(first, x.device))).toBe('EINVAL');
    expect(machine.core.pasids.size).toBe(0);
    // Another domain can have the number, and the first takes a fresh one.
    aux.attach(second, x.device);
    expect(aux.pasid(second, x.device)).toBe(pasid);
    aux.attach(first, x.device);
    expect(aux.pasid(first, x.device)).not.toBe(pasid);
    expect(machine.reads(x, pasid)).toEqual([0x82, 0x82]);
  });

  test('A8 a failed first attach leaves no PASID to be had', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const domain = machine.domainOf(0x83);
    machine.kernel.failpoints.arm(2);
    expect(refusal(() => aux.attach(domain, x.device))).toBe('ENOMEM');
    machine.kernel.failpoints.arm(0);
    expect(refusal(() => aux.pasid(domain, x.device))).toBe('EINVAL');
  });
});

describe('the whole device and its parts', () => {
  test('A9 while aux domains are attached no primary domain can be, and aux DMA goes on', () => {
    const machine = new AuxMachine();
    const { aux, x, y } = machine;
    const [part, whole] = [machine.domainOf(0x91), machine.domainOf(0x92)];
    aux.attach(part, x.device);
    const pasid = aux.pasid(part, x.device);
    const { group } = x.device;
    const before = machine.state();
    // An engine of the device that never pauses.
    const seen = new Set<number | null>();
    const engine = { left: 200 };
    const probe = (): void => {
      seen.add(x.probe(IOVA, pasid));
      if (--engine.left > 0) machine.scheduler.schedule(20, probe);
    };
    probe();
    expect(refusal(() => attachGroup(group, { domain: whole }))).toBe('EBUSY');
    expect(refusal(() => replaceGroup(group, { domain: whole }))).toBe('EBUSY');
    expect(refusal(() => attachGroup(group, { domain: machine.driver.identityDomain! }))).toBe('EBUSY');
    expect(refusal(() => claimDmaOwner(x.device, machine))).toBe('EBUSY');
    machine.settle();
    expect(engine.left).toBe(0);
    expect(seen).toEqual(new Set([0x91]));
    expect(machine.state()).toEqual(before);
    expect(x.read(IOVA)).toBeNull();
    // Other groups are not concerned.
    attachGroup(y.device.group, { domain: whole });
    expect(y.read(IOVA)).toBe(0x92);
    aux.detach(part, x.device);
    attachGroup(group, { domain: whole });
    expect(x.read(IOVA)).toBe(0x92);
  });

  test('A9 a device of the group is enough', () => {
    const machine = new AuxMachine();
    const { aux, left, right } = machine;
    const [part, whole] = [machine.domainOf(0x93), machine.domainOf(0x94)];
    aux.attach(part, left.device);
    expect(refusal(() => attachGroup(right.device.group, { domain: whole }))).toBe('EBUSY');
  });

  test('A9 as VT-d had it, on request: no unmanaged primary domain once the feature is enabled', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const [part, whole] = [machine.domainOf(0x95), machine.domainOf(0x96)];
    const { group } = x.device;
    enableFeature(x.device, 'aux', { refusePrimary: true });
    expect(refusal(() => attachGroup(group, { domain: whole }))).toBe('EPERM');
    expect(refusal(() => replaceGroup(group, { domain: whole }))).toBe('EPERM');
    attachGroup(group, { domain: machine.driver.identityDomain! });
    detachGroup(group);
    aux.attach(part, x.device);
    expect(refusal(() => attachGroup(group, { domain: whole }))).toBe('EPERM');
    expect(refusal(() => attachGroup(group, { domain: machine.driver.identityDomain! }))).toBe('EBUSY');
    aux.detach(part, x.device);
    enableFeature(x.device, 'aux');
    attachGroup(group, { domain: whole });
    detachGroup(group);
    enableFeature(x.device, 'aux', { refusePrimary: true });
    disableFeature(x.device, 'aux');
    attachGroup(group, { domain: whole });
    expect(x.read(IOVA)).toBe(0x96);
  });

  test('A10 a primary domain from before can be detached, and attached again only without aux domains', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const [part, whole] = [machine.domainOf(0xa1), machine.domainOf(0xa2)];
    const { group } = x.device;
    attachGroup(group, { domain: whole });
    aux.attach(part, x.device);
    const pasid = aux.pasid(part, x.device);
    expect([x.read(IOVA), ...machine.reads(x, pasid)]).toEqual([0xa2, 0xa1, 0xa1]);
    detachGroup(group);
    expect([x.read(IOVA), ...machine.reads(x, pasid)]).toEqual([null, 0xa1, 0xa1]);
    expect(refusal(() => attachGroup(group, { domain: whole }))).toBe('EBUSY');
    aux.detach(part, x.device);
    attachGroup(group, { domain: whole });
    expect(x.read(IOVA)).toBe(0xa2);
  });

  test('A12 the feature cannot be disabled while aux domains are attached', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const domain = machine.domainOf(0xb1);
    aux.attach(domain, x.device);
    aux.attach(domain, x.device);
    const pasid = aux.pasid(domain, x.device);
    const before = machine.state();
    expect(refusal(() => disableFeature(x.device, 'aux'))).toBe('EBUSY');
    expect(machine.state()).toEqual(before);
    expect(featureEnabled(x.device, 'aux')).toBe(true);
    expect(machine.reads(x, pasid)).toEqual([0xb1, 0xb1]);
    aux.detach(domain, x.device);
    expect(refusal(() => disableFeature(x.device, 'aux'))).toBe('EBUSY');
    aux.detach(domain, x.device);
    disableFeature(x.device, 'aux');
  });

  test('A12 each device of a group for itself, and a user’s own PASIDs are no aux domains', () => {
    const machine = new AuxMachine();
    const { aux, left, right, x } = machine;
    const domain = machine.domainOf(0xb2);
    aux.attach(domain, left.device);
    disableFeature(right.device, 'aux');
    expect(refusal(() => disableFeature(left.device, 'aux'))).toBe('EBUSY');
    attachDevicePasid(x.device, 7, { domain });
    disableFeature(x.device, 'aux');
  });

  test('A13 a disabled feature reads as disabled and refuses aux attach', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const domain = machine.domainOf(0xc1);
    aux.attach(domain, x.device);
    aux.detach(domain, x.device);
    disableFeature(x.device, 'aux');
    expect(featureEnabled(x.device, 'aux')).toBe(false);
    expect(refusal(() => aux.attach(domain, x.device))).toBe('EPERM');
  });

  test('a user that owns the DMA keeps the kernel from sharing the device out', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const domain = machine.domainOf(0xc2);
    claimDmaOwner(x.device, machine);
    expect(refusal(() => aux.attach(domain, x.device))).toBe('EPERM');
    disableFeature(x.device, 'aux');
    expect(refusal(() => enableFeature(x.device, 'aux'))).toBe('EPERM');
    releaseDmaOwner(x.device);
    useDefaultDomain(x.device);
    enableFeature(x.device, 'aux');
    aux.attach(domain, x.device);
    expect(machine.reads(x, aux.pasid(domain, x.device))).toEqual([0xc2, 0xc2]);
    aux.detach(domain, x.device);
    unuseDefaultDomain(x.device);
    claimDmaOwner(x.device, machine);
  });
});

describe('failing', () => {
  test('A14 an attach that fails at its PASID entry rolls back users, PASID and the domain’s attachment', () => {
    const machine = new AuxMachine();
    const { aux, x } = machine;
    const domain = machine.domainOf(0xd1);
    const before = machine.state();
    const events: IommuEvent[] = [];
    machine.trace.listen((event) => events.push(event));
    const { failpoints } = machine.kernel;
    failpoints.arm(3);
    expect(refusal(() => aux.attach(domain, x.device))).toBe('ENOMEM');
    expect(failpoints.hit).toBe('pasid_entry');
    failpoints.arm(0);
    expect(machine.state()).toEqual(before);
    expect(machine.attachments(domain)).toEqual([]);
    expect(events).toEqual([]);
    disableFeature(x.device, 'aux');
    enableFeature(x.device, 'aux');
    aux.attach(domain, x.device);
    expect(events.map(({ name }) => name).filter((name) => !name.startsWith('qi_'))).toEqual([
      'pasid_entry_set',
      'attach_device_to_domain',
      'authorize_pasid',
    ]);
  });

  test('A14 with the domain attached elsewhere, only the new attachment is rolled back', () => {
    const machine = new AuxMachine();
    const { aux, left, right, x } = machine;
    const domain = machine.domainOf(0xd2);
    aux.attach(domain, left.device);
    const pasid = aux.pasid(domain, left.device);
    for (const device of [right, x]) {
      const before = machine.state();
      machine.kernel.failpoints.arm(2);
      expect(refusal(() => aux.attach(domain, device.device))).toBe('ENOMEM');
      expect(machine.kernel.failpoints.hit).toBe('pasid_entry');
      machine.kernel.failpoints.arm(0);
      expect(machine.state()).toEqual(before);
      expect(refusal(() => aux.pasid(domain, device.device))).toBe('EINVAL');
      expect(machine.reads(device, pasid)).toEqual([null, null]);
      expect(machine.reads(left, pasid)).toEqual([0xd2, 0xd2]);
    }
    aux.detach(domain, left.device);
    expect(machine.core.pasids.size).toBe(0);
  });

  test('X5 failing at every step of an attach, among others, leaves everything as it was', () => {
    const machine = new AuxMachine();
    const { aux, devices, left, right, x, y } = machine;
    const [here, there, fresh, far] = [0xd3, 0xd4, 0xd5, 0xd6].map((byte) => machine.domainOf(byte)) as [
      PagingDomain,
      PagingDomain,
      PagingDomain,
      PagingDomain,
    ];
    for (const { device } of [x, x, left]) aux.attach(here, device);
    aux.attach(there, y.device);
    const sweep = (domain: PagingDomain, test: TestDevice): string[] => {
      const names: string[] = [];
      for (let nth = 1; ; nth++) {
        const before = snapshot(machine, [here, there, fresh, far]);
        machine.kernel.failpoints.arm(nth);
        const outcome = refusal(() => aux.attach(domain, test.device));
        const { hit } = machine.kernel.failpoints;
        machine.kernel.failpoints.arm(0);
        if (hit === null) {
          expect(outcome).toBeNull();
          return names;
        }
        names.push(hit);
        expect([hit, outcome]).toEqual([hit, 'ENOMEM']);
        expect([hit, snapshot(machine, [here, there, fresh, far])]).toEqual([hit, before]);
      }
    };
    expect(sweep(fresh, x)).toEqual(['global_pasid', 'aux_attach', 'pasid_entry']);
    // A group and a device that are new to the domain, and one that has it.
    expect(sweep(there, x)).toEqual(['aux_attach', 'pasid_entry']);
    expect(sweep(here, right)).toEqual(['aux_attach', 'pasid_entry']);
    expect(sweep(here, right)).toEqual([]);
    // The domain's PASID is the first of a table that the device does not have yet.
    for (let pasid = 1; pasid < 64; pasid++) if (!y.device.authorizedPasids.has(pasid)) authorizePasid(y.device, pasid);
    expect(sweep(far, y)).toEqual(['global_pasid', 'aux_attach', 'pasid_entry', 'pasid_table']);
    expect(devices.map((device) => device.probe(IOVA, 64))).toEqual([null, 0xd6, null, null]);
    // Taking it all away passes no failpoint.
    machine.kernel.failpoints.arm(1);
    for (const domain of [here, there, fresh, far]) {
      for (const { device } of [...devices, ...devices]) aux.detach(domain, device);
    }
    expect(machine.kernel.failpoints.count).toBe(0);
    machine.kernel.failpoints.arm(0);
    expect(machine.core.pasids.size).toBe(0);
    for (const pasid of [...y.device.authorizedPasids]) deauthorizePasid(y.device, pasid);
    expect(machine.core.pasids.parked).toEqual([]);
  });
});

describe('flushing', () => {
  test.each([
    ['first stage', 0],
    ['second stage', ALLOC_NEST_PARENT],
  ])('A17 after an unmap neither unit nor devices hold anything of the range under its PASID (%s)', (_name, flags) => {
    const machine = new AuxMachine();
    const { aux, left, right, x, y } = machine;
    const domain = machine.domainOf(0xe1, flags);
    mapPage(domain, IOVA + 0x1000n, machine.frame(0xe2));
    attachGroup(y.device.group, { domain });
    for (const { device } of [x, left, right]) aux.attach(domain, device);
    const pasid = aux.pasid(domain, x.device);
    const users = [x, left, right];
    for (const device of users) {
      expect(machine.reads(device, pasid)).toEqual([0xe1, 0xe1]);
      expect(device.read(IOVA + 0x1000n, { pasid, addressing: 'cached' })).toBe(0xe2);
      expect(isCached(machine, device, pasid, IOVA)).toBe(true);
    }
    expect(y.read(IOVA, { addressing: 'cached' })).toBe(0xe1);
    unmapPage(domain, IOVA);
    for (const device of users) {
      expect(isCached(machine, device, pasid, IOVA)).toBe(false);
      expect(device.probe(IOVA, pasid)).toBeNull();
      expect(machine.reads(device, pasid)).toEqual([null, null]);
      expect(isCached(machine, device, pasid, IOVA + 0x1000n)).toBe(true);
    }
    expect(y.read(IOVA, { addressing: 'cached' })).toBeNull();
  });
});
