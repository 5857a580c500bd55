import { high32, low32, requesterId, TEST_CONTROL_WITHHOLD, TEST_REGISTER } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  attachGroup,
  claimDmaOwner,
  detachGroup,
  IOMMU_READ,
  releaseDmaOwner,
  replaceGroup,
  resetDevice,
} from '../../src/index.ts';
import { GuestTable, mapPage, nestedDomain, pagingDomain, readDirty, unmapPage } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';

const IOVA = 0x10_0000n;

describe.each([
  ['first stage', 0],
  ['second stage', ALLOC_NEST_PARENT],
])('paging domain, %s', (_name, flags) => {
  test('nothing passes before attach; then what is mapped does; then nothing again', () => {
    const machine = new Machine();
    const device = machine.add();
    const { group } = device.device;
    const pfn = machine.frame(0x5a);
    const domain = pagingDomain(device, flags);
    mapPage(domain, IOVA, pfn);
    expect(device.read(IOVA)).toBeNull();
    attachGroup(group, { domain });
    expect(device.read(IOVA)).toBe(0x5a);
    expect(device.write(IOVA + 1n, 0x77)).toBe(true);
    expect(machine.memory.bytes[(pfn << 12) + 1]).toBe(0x77);
    expect(device.read(IOVA + 4096n)).toBeNull();
    detachGroup(group);
    expect(device.read(IOVA)).toBeNull();
  });

  test.each([undefined, 'cached'] as const)('unmap and sync leave no translation behind (%s)', (addressing) => {
    const machine = new Machine();
    const device = machine.add();
    const domain = pagingDomain(device, flags);
    attachGroup(device.device.group, { domain });
    const options = addressing === undefined ? {} : { addressing };
    for (let page = 0n; page < 8n; page++) mapPage(domain, IOVA + page * 4096n, machine.frame(Number(page) + 1));
    for (let page = 0n; page < 8n; page++) expect(device.read(IOVA + page * 4096n, options)).toBe(Number(page) + 1);
    expect(domain.unmap(low32(IOVA + 0x1000n), high32(IOVA), 3 * 4096)).toBe(3 * 4096);
    domain.sync();
    const seen = [0n, 1n, 2n, 3n, 4n, 5n, 6n, 7n].map((page) => device.read(IOVA + page * 4096n, options));
    expect(seen).toEqual([1, null, null, null, 5, 6, 7, 8]);
    expect(domain.iovaToPhys(IOVA + 0x1000n)).toBeNull();
  });

  test('a table that is emptied, freed and made anew is found where it is now', () => {
    const machine = new Machine();
    const device = machine.add();
    const domain = pagingDomain(device, flags);
    attachGroup(device.device.group, { domain });
    for (let round = 1; round < 6; round++) {
      mapPage(domain, IOVA, machine.frame(round));
      mapPage(domain, IOVA + 0x1000n, machine.frame(round + 100));
      expect(device.read(IOVA)).toBe(round);
      unmapPage(domain, IOVA);
      unmapPage(domain, IOVA + 0x1000n);
      // Other tables take the frames that were freed.
      mapPage(domain, IOVA + (BigInt(round) << 30n), machine.frame(0xff));
      expect(device.read(IOVA + 0x1000n)).toBeNull();
    }
  });

  test('replace moves DMA from one table to the other and leaves nothing of the first', () => {
    const machine = new Machine();
    const device = machine.add();
    const [first, second] = [pagingDomain(device, flags), pagingDomain(device, 0)];
    mapPage(first, IOVA, machine.frame(1));
    mapPage(second, IOVA, machine.frame(2));
    attachGroup(device.device.group, { domain: first });
    expect(device.read(IOVA, { addressing: 'cached' })).toBe(1);
    replaceGroup(device.device.group, { domain: second });
    expect(device.read(IOVA, { addressing: 'cached' })).toBe(2);
    expect(device.read(IOVA)).toBe(2);
  });

  test('frees every frame', () => {
    const machine = new Machine();
    const before = machine.frames.allocated;
    const device = machine.add();
    const domain = pagingDomain(device, flags);
    for (let page = 0n; page < 64n; page++) mapPage(domain, IOVA + (page << 21n), 9);
    attachGroup(device.device.group, { domain });
    detachGroup(device.device.group);
    domain.free();
    machine.core.removeDevice(device.device);
    expect(machine.frames.allocated).toBe(before);
    expect(machine.driver.unit.domainIds.used).toBe(0);
  });
});

describe('domains', () => {
  test('read-only mappings are read-only, and refused in a nest parent', () => {
    const machine = new Machine();
    const device = machine.add();
    const domain = pagingDomain(device);
    mapPage(domain, IOVA, machine.frame(3), IOMMU_READ);
    attachGroup(device.device.group, { domain });
    expect(device.read(IOVA)).toBe(3);
    expect(device.write(IOVA, 4)).toBe(false);
    expect(refusal(() => mapPage(pagingDomain(device, ALLOC_NEST_PARENT), IOVA, 9, IOMMU_READ))).toBe('EINVAL');
    expect(refusal(() => pagingDomain(device, 0x100))).toBe('EOPNOTSUPP');
    const { last } = domain.aperture;
    expect(refusal(() => mapPage(domain, last + 1n, 9))).toBe('ERANGE');
    mapPage(domain, last - 4095n, machine.frame(8));
    expect(device.read(last)).toBe(8);
  });

  test.each([
    [57, [3, 4, 5], 47, 48],
    [48, [3, 4], 47, 48],
    [39, [3], 38, 39],
  ] as const)(
    'on a unit of %i bits end where the unit does, the first stage where addresses become negative',
    (...row) => {
      const [guestAddressWidth, secondStageLevels, first, second] = row;
      const device = new Machine({ features: { guestAddressWidth, secondStageLevels } }).add();
      expect(pagingDomain(device).aperture).toEqual({ first: 0n, last: (1n << BigInt(first)) - 1n });
      expect(pagingDomain(device, ALLOC_NEST_PARENT).aperture).toEqual({
        first: 0n,
        last: (1n << BigInt(second)) - 1n,
      });
    },
  );

  test('the identity domain passes addresses as they are', () => {
    const machine = new Machine({ defaultDomain: 'identity' });
    const device = machine.add();
    const pfn = machine.frame(0x66);
    expect(device.read(BigInt(pfn) << 12n)).toBe(0x66);
    claimDmaOwner(device.device, machine);
    expect(device.read(BigInt(pfn) << 12n)).toBeNull();
    releaseDmaOwner(device.device);
    expect(device.read(BigInt(pfn) << 12n)).toBe(0x66);
  });

  test('dirty tracking reports what was written since it was last read', () => {
    const machine = new Machine();
    const device = machine.add();
    const domain = pagingDomain(device, ALLOC_DIRTY_TRACKING);
    for (let page = 0n; page < 4n; page++) mapPage(domain, IOVA + page * 4096n, machine.frame(1));
    attachGroup(device.device.group, { domain });
    const dirty = domain.dirty!;
    const read = (keep: boolean): bigint[] => readDirty(domain, IOVA, 0x4000, keep).map(([iova]) => iova);
    device.write(IOVA, 1);
    expect(read(false)).toEqual([]);
    dirty.setEnabled(true);
    device.write(IOVA + 0x1000n, 1);
    device.read(IOVA + 0x2000n);
    device.write(IOVA + 0x3000n, 1);
    expect(read(true)).toEqual([IOVA + 0x1000n, IOVA + 0x3000n]);
    expect(read(false)).toEqual([IOVA + 0x1000n, IOVA + 0x3000n]);
    expect(read(false)).toEqual([]);
    device.write(IOVA + 0x3000n, 2);
    expect(read(false)).toEqual([IOVA + 0x3000n]);
    dirty.setEnabled(false);
    device.write(IOVA, 1);
    expect(read(false)).toEqual([]);
  });
});

describe('a unit that caches absence', () => {
  test.each([0, ALLOC_NEST_PARENT])('what is made present is seen at once, domain flags %i', (flags) => {
    const machine = new Machine({ features: { cachingMode: true } });
    const device = machine.add();
    const domain = pagingDomain(device, flags);
    expect(device.read(IOVA)).toBeNull();
    expect(device.read(IOVA, { pasid: 5 })).toBeNull();
    attachGroup(device.device.group, { domain });
    attachDevicePasid(device.device, 5, { domain });
    expect(device.read(IOVA)).toBeNull();
    expect(device.read(IOVA, { pasid: 5 })).toBeNull();
    mapPage(domain, IOVA, machine.frame(0x7c));
    expect(device.read(IOVA)).toBe(0x7c);
    expect(device.read(IOVA, { pasid: 5 })).toBe(0x7c);
  });

  test('a page that is added to a nest parent is seen through its children', () => {
    const machine = new Machine({ features: { cachingMode: true } });
    const device = machine.add();
    const parent = pagingDomain(device, ALLOC_NEST_PARENT);
    const base = machine.frames.allocateRun(16)!;
    for (let gfn = 0; gfn < 8; gfn++) mapPage(parent, BigInt(gfn) << 12n, base + gfn);
    const table = new GuestTable(machine.memory, base, 1);
    table.set(IOVA, 9);
    attachDevicePasid(device.device, 5, { domain: nestedDomain(device, parent, table.root) });
    expect(device.read(IOVA, { pasid: 5 })).toBeNull();
    mapPage(parent, 9n << 12n, machine.frame(0x7d));
    expect(device.read(IOVA, { pasid: 5 })).toBe(0x7d);
  });
});

describe('reset and errors', () => {
  test('a device is blocked while it is reset and attached as before afterwards', () => {
    const machine = new Machine();
    const device = machine.add();
    const domain = pagingDomain(device);
    mapPage(domain, IOVA, machine.frame(5));
    attachGroup(device.device.group, { domain });
    expect(device.read(IOVA)).toBe(5);
    const events: string[] = [];
    machine.trace.listen((event) => events.push(event.name));
    resetDevice(device.device);
    expect(events.filter((name) => name.startsWith('pasid_entry') || name.startsWith('reset'))).toEqual([
      'pasid_entry_clear',
      'reset_prepare',
      'pasid_entry_set',
      'reset_done',
    ]);
    expect(device.read(IOVA, { addressing: 'cached' })).toBe(5);
  });

  test('a device that does not answer invalidations fails a replace, which changes nothing, and not a detach', () => {
    const machine = new Machine();
    const device = machine.add();
    const [first, second] = [pagingDomain(device), pagingDomain(device)];
    mapPage(first, IOVA, machine.frame(1));
    mapPage(second, IOVA, machine.frame(2));
    attachGroup(device.device.group, { domain: first });
    device.store(TEST_REGISTER.control, TEST_CONTROL_WITHHOLD);
    const start = machine.scheduler.now;
    expect(refusal(() => replaceGroup(device.device.group, { domain: second }))).toBe('ETIMEDOUT');
    // The fabric's time-out, for the attempt and for the way back; not that of a driver that has lost its answer.
    expect(machine.scheduler.now - start).toBeLessThan(500_000_000);
    expect(device.read(IOVA)).toBe(1);
    detachGroup(device.device.group);
    expect(device.read(IOVA)).toBeNull();
    device.store(TEST_REGISTER.control, 0);
    attachGroup(device.device.group, { domain: second });
    expect(device.read(IOVA)).toBe(2);
  });

  test('faults of the hardware are recorded with requester, address and access', () => {
    const machine = new Machine();
    const device = machine.add();
    const faults: { rid: number; iova: bigint; access: number }[] = [];
    machine.trace.listen((event) => {
      if (event.name === 'io_page_fault') faults.push(event);
    });
    const domain = pagingDomain(device);
    attachGroup(device.device.group, { domain });
    device.write(0x7000n, 1);
    machine.settle();
    expect(faults).toMatchObject([{ rid: requesterId(1, 0, 0), iova: 0x7000n, access: 2 }]);
  });

  test.each([{ scalableMode: false }, { queuedInvalidation: false }])('refuses a unit with %o', (features) => {
    expect(refusal(() => new Machine({ features }))).toBe('ENODEV');
  });
});

test('interrupts: a device raises its own messages, not another device’s', () => {
  const machine = new Machine({
    plug: (self) => {
      self.plugPort(requesterId(0, 1, 0), 1);
      self.plugPort(requesterId(0, 2, 0), 2);
      self.plug(self.testFunction(), requesterId(1, 0, 0));
      self.plug(self.testFunction(), requesterId(2, 0, 0));
    },
  });
  const [first, second] = [machine.add(requesterId(1, 0, 0)), machine.add(requesterId(2, 0, 0))];
  expect(first.device.capable('isolated-msi')).toBe(true);
  let taken = 0;
  const message = first.device.allocateMsi(() => taken++);
  for (const device of [first, second]) {
    device.device.pci.msix!.setEnabled(true);
    device.device.pci.msix!.program(0, message);
  }
  first.raise(0);
  expect(taken).toBe(1);
  second.raise(0);
  expect(taken).toBe(1);
  first.device.freeMsi(message);
  first.raise(0);
  expect(taken).toBe(1);
  expect(machine.driver.unit.interrupts!.size).toBe(0);
});

test('hardware information is what the registers say', () => {
  const machine = new Machine();
  const device = machine.add();
  const info = device.device.hwInfo();
  const view = new DataView(info.data.buffer);
  expect(info.type).toBe(1);
  expect(info.data.length).toBe(24);
  expect(view.getUint32(0, true)).toBe(1);
  expect(view.getBigUint64(8, true)).toBe(machine.memory.load(0xfed9_0008n, 8));
  expect(view.getBigUint64(16, true)).toBe(machine.memory.load(0xfed9_0010n, 8));
  expect(refusal(() => device.device.hwInfo(2))).toBe('EOPNOTSUPP');
  machine.kernel.failpoints.arm(1);
  expect(refusal(() => device.device.hwInfo(1))).toBe('ENOMEM');
});
