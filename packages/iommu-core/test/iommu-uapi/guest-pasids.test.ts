import { TEST_COMMAND, vtdFault } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  ALLOC_PASID,
  attachDevicePasid,
  cacheInvalidate,
  detachDevicePasid,
  detachGroup,
  type GpasidBindData,
  IOASID_SET_TYPE_NULL,
  Processes,
} from '../../src/index.ts';
import { iommuGpasidBindData } from '../../src/iommu-uapi/layout.ts';
import { LEAF_READ_ONLY, pagingDomain, unmapPage } from '../support/domains.ts';
import { FakeDriver, fakeGroup, refusal } from '../support/fake-driver.ts';
import type { TestDevice } from '../support/test-device.ts';
import {
  bindable,
  bindData,
  encode,
  eventsOf,
  GPASID,
  GVA,
  invalidateInfo,
  machineWith,
  Vm,
  withSpid,
} from './support.ts';

describe('a bound guest PASID', () => {
  test('V2 the bound table over the nest parent of the device reaches the right frames', () => {
    const { machine, vm, device, table, pasid, bind } = bindable();
    table.set(GVA + 4096n, 41, LEAF_READ_ONLY);
    expect(device.read(GVA, { pasid })).toBeNull();
    bind();
    expect(device.read(GVA, { pasid })).toBe(40);
    expect(device.write(GVA, 0xaa, { pasid })).toBe(true);
    expect(machine.memory.bytes[(vm.base + 40) << 12]).toBe(0xaa);
    expect(device.read(GVA + 4096n, { pasid })).toBe(41);
    expect(device.write(GVA + 4096n, 1, { pasid })).toBe(false);
    expect(device.read(GVA + 8192n, { pasid })).toBeNull();
    expect(device.read(40n << 12n)).toBe(0xaa);
    expect(device.read(GVA)).toBeNull();
  });

  test('V3 a table page outside the nest parent is a fault, and nothing outside the guest is read', () => {
    const { machine, device, parent, table, pasid, bind } = bindable();
    bind();
    expect(device.read(GVA, { pasid })).toBe(40);
    const faults: number[] = [];
    machine.driver.unit.faultLog.onFault = (fault) => faults.push(fault.reason);
    // The table of the lowest level: the root is guest frame 1, then 2, 3 and 4.
    unmapPage(parent, 4n << 12n);
    expect(device.read(GVA, { pasid })).toBeNull();
    machine.settle();
    expect(faults).toEqual([vtdFault.SSS_2]);
    table.set(GVA, 0x7777777);
    expect(device.read(GVA, { pasid })).toBeNull();
  });

  test('V4 a changed leaf is not used after the guest has invalidated it, in the unit and in the device', () => {
    const { device, guestPasids, table, pasid, bind } = bindable();
    bind();
    for (const dma of [{ pasid }, { pasid, addressing: 'cached' as const }]) {
      table.set(GVA, 40);
      cacheInvalidate(guestPasids, device.device, invalidateInfo(pasid));
      expect(device.read(GVA, dma)).toBe(40);
      table.set(GVA, 41);
      expect([40, 41]).toContain(device.read(GVA, dma));
      const page = { granularity: 2, flags: 5, addr: GVA, granuleSize: 4096n, nbGranules: 1n };
      cacheInvalidate(guestPasids, device.device, invalidateInfo(pasid, page));
      expect(device.read(GVA, dma)).toBe(41);
    }
  });

  test('V5 without the bind DMA is blocked, and page requests in flight are answered', () => {
    for (let delay = 0; delay <= 2000; delay += 200) {
      const { machine, vm, device, guestPasids, pasid, bind } = bindable();
      machine.core.deviceFaults.register(device.device, () => {});
      bind();
      device.start(TEST_COMMAND.write, GVA + 4096n, 1, { pasid, addressing: 'cached', requestPages: true });
      machine.scheduler.advance(delay);
      guestPasids.unbind(device.device, vm.mm, pasid);
      expect(device.device.faults.pendingGroups).toBe(0);
      expect(machine.core.deviceFaults.pending(device.device)).toBe(0);
      expect(device.wait()).toBe(true);
      expect(device.result).not.toBe(0);
      expect(device.read(GVA, { pasid })).toBeNull();
      expect(device.read(GVA, { pasid, addressing: 'cached' })).toBeNull();
      expect(device.read(40n << 12n)).toBe(40);
    }
  });

  test('one PASID bound on two devices: each bind is its own, and unmapping from one parent leaves the other', () => {
    const { vm, device, second, parent, guestPasids, ioasids, pasid, bind } = bindable();
    vm.take(second);
    const owner = ioasids.referencesTo(pasid);
    bind();
    bind({}, second);
    expect(guestPasids.size).toBe(2);
    expect(ioasids.referencesTo(pasid)).toBe(owner + 2);
    unmapPage(parent, 40n << 12n);
    expect([device.read(GVA, { pasid }), second.read(GVA, { pasid })]).toEqual([null, 40]);
    guestPasids.unbind(device.device, vm.mm, pasid);
    expect([device.read(GVA, { pasid }), second.read(GVA, { pasid })]).toEqual([null, 40]);
    expect(ioasids.referencesTo(pasid)).toBe(owner + 1);
    guestPasids.unbind(second.device, vm.mm, pasid);
    expect(second.read(GVA, { pasid })).toBeNull();
    expect([guestPasids.size, ioasids.referencesTo(pasid)]).toEqual([0, owner]);
  });

  test('flags of the guest’s entry reach the host’s', () => {
    const { vm, device, guestPasids, table, pasid, bind } = bindable();
    const dma = { pasid, privileged: true } as const;
    bind();
    expect(device.read(GVA, dma)).toBeNull();
    guestPasids.unbind(device.device, vm.mm, pasid);
    table.set(GVA, 40, LEAF_READ_ONLY);
    bind({ vtdFlags: 1n });
    expect(device.read(GVA, dma)).toBe(40);
    expect(device.write(GVA, 1, dma)).toBe(true);
    guestPasids.unbind(device.device, vm.mm, pasid);
    bind({ vtdFlags: 65n });
    expect([device.read(GVA, dma), device.write(GVA, 2, dma)]).toEqual([1, false]);
    guestPasids.unbind(device.device, vm.mm, pasid);
    bind({ vtdFlags: 64n });
    expect([device.read(GVA, dma), device.read(GVA, { pasid })]).toEqual([null, 1]);
  });

  test('a table of five levels is one more step', () => {
    const { vm, device, pasid, bind, table, machine } = bindable();
    // Entry 0 of a root of five levels points to what is the root of four.
    const gfn = 30;
    machine.memory.store(BigInt(vm.base + gfn) << 12n, 8, table.root | 7n);
    bind({ addrWidth: 57, gpgd: BigInt(gfn) << 12n });
    expect(device.read(GVA, { pasid })).toBe(40);
  });
});

describe('what a bind refuses, in order', () => {
  test('what the user filled in', () => {
    const { bind, guestPasids } = bindable();
    for (const changes of [
      { version: 0 },
      { version: 2 },
      { format: 0 },
      { format: 2 },
      { flags: 2n },
      { flags: 1n << 40n },
      { padding: 1n << 63n },
      { argsz: iommuGpasidBindData.size - 1 },
      { vtdFlags: 128n },
      { vtdFlags: 1n << 63n },
    ]) {
      expect([changes, refusal(() => bind(changes))]).toEqual([changes, 'EINVAL']);
      // Before anything about the PASID.
      expect([changes, refusal(() => bind({ ...changes, hpasid: 99n }))]).toEqual([changes, 'EINVAL']);
    }
    expect(refusal(() => bind({ argsz: 4096 }))).toBeNull();
    expect(guestPasids.size).toBe(1);
  });

  test('a driver without PASIDs, a device without twenty bits, and one that shares its group', () => {
    const { guestPasids, vm, bind } = bindable({ features: { pasidBits: 16 } });
    expect(refusal(() => bind())).toBe('EINVAL');
    expect(refusal(() => bind({ hpasid: 99n }))).toBe('EINVAL');
    const driver = new FakeDriver();
    const data = bindData(1, 0x1000n);
    const [one] = fakeGroup(driver, [2 ** 20, 0]).devices;
    expect(refusal(() => guestPasids.bind(one!, vm.mm, data))).toBe('EINVAL');
    (driver as { attachPasid: unknown }).attachPasid = null;
    expect(refusal(() => guestPasids.bind(one!, vm.mm, { ...data, version: 9 }))).toBe('ENODEV');
    expect(refusal(() => guestPasids.bindUser(one!, vm.mm, 0n))).toBe('ENODEV');
    expect(refusal(() => guestPasids.unbind(one!, vm.mm, 1))).toBe('ENODEV');
    expect(refusal(() => guestPasids.unbindUser(one!, vm.mm, 0n))).toBe('ENODEV');
  });

  test('a PASID out of range, unknown, the kernel’s, another process’s or freed', () => {
    const { machine, vm, device, ioasids, guestPasids, table, pasid, bind } = bindable();
    const other = new Vm(machine, new Processes(machine.kernel));
    const kernel = ioasids.allocSet({ token: null, quota: 1, type: IOASID_SET_TYPE_NULL });
    const owned = ioasids.alloc(kernel, 50, 50);
    for (const [hpasid, code] of [
      [0n, 'EINVAL'],
      [1n << 20n, 'EINVAL'],
      [(1n << 32n) + BigInt(pasid), 'EINVAL'],
      [99n, 'ENOENT'],
      [BigInt(owned), 'EINVAL'],
    ] as const) {
      // Ahead of an address width that there is not.
      expect([hpasid, refusal(() => bind({ hpasid, addrWidth: 39 }))]).toEqual([hpasid, code]);
    }
    const foreign = bindData(pasid, table.root, { addrWidth: 39 });
    expect(refusal(() => guestPasids.bind(device.device, other.mm, foreign))).toBe('EPERM');
    ioasids.get(vm.set, pasid);
    ioasids.free(vm.set, pasid);
    expect(refusal(() => bind())).toBe('EBUSY');
    expect(ioasids.referencesTo(pasid)).toBe(1);
    ioasids.put(vm.set, pasid);
    expect(refusal(() => bind())).toBe('ENOENT');
  });

  test('a PASID that is bound on the device, ahead of all that follows', () => {
    const { device, ioasids, pasid, bind } = bindable();
    bind();
    const references = ioasids.referencesTo(pasid);
    expect(refusal(() => bind({ addrWidth: 39 }))).toBe('EBUSY');
    detachGroup(device.device.group);
    expect(refusal(() => bind())).toBe('EBUSY');
    expect(ioasids.referencesTo(pasid)).toBe(references);
    expect(device.read(GVA, { pasid })).toBe(40);
  });

  test('a device that is not attached to a nest parent, ahead of an entry that is present', () => {
    for (const features of [{ nested: true }, { nested: false }]) {
      const { machine, devices } = machineWith(1, { features });
      const vm = new Vm(machine);
      const [device] = devices as [TestDevice];
      const pasid = vm.pasid();
      const bind = (): string | null =>
        refusal(() => machine.core.guestPasids.bind(device.device, vm.mm, bindData(pasid, 0x1000n)));
      attachDevicePasid(device.device, pasid, { domain: pagingDomain(device) });
      expect(bind()).toBe('EINVAL');
      vm.take(device, ALLOC_PASID);
      expect(bind()).toBe('EINVAL');
      expect(machine.core.ioasids.referencesTo(pasid)).toBe(1);
    }
  });

  test('an entry that is present, ahead of what is wrong with the table', () => {
    const { device, pasid, bind } = bindable();
    attachDevicePasid(device.device, pasid, { domain: pagingDomain(device) });
    expect(refusal(() => bind({ addrWidth: 39 }))).toBe('EBUSY');
    detachDevicePasid(device.device, pasid);
    expect(refusal(() => bind({ addrWidth: 39 }))).toBe('EINVAL');
    expect(refusal(() => bind())).toBeNull();
  });

  test('an address width, a table or a flag that the unit does not have', () => {
    const features = { firstStage5Level: false, supervisorRequests: false, extendedAccessed: false };
    const { parent, bind, guestPasids, machine } = bindable({ features });
    const { used } = machine.driver.unit.domainIds;
    const beyond = parent.aperture.last + 1n;
    for (const changes of [
      { addrWidth: 39 },
      { addrWidth: 57 },
      { gpgd: beyond },
      { vtdFlags: 1n },
      { vtdFlags: 2n },
      { vtdFlags: 4n },
      { vtdFlags: 8n },
      { vtdFlags: 16n },
      { vtdFlags: 32n },
    ]) {
      expect([changes, refusal(() => bind(changes))]).toEqual([changes, 'EINVAL']);
    }
    expect([guestPasids.size, machine.driver.unit.domainIds.used]).toEqual([0, used]);
    expect(refusal(() => bind({ gpgd: beyond - 4096n }))).toBeNull();
  });

  test('a bind may not undo what nobody bound', () => {
    const { machine, vm, device, second, guestPasids, ioasids, pasid, bind } = bindable();
    const other = new Vm(machine, new Processes(machine.kernel));
    const unbind = (hostPasid = pasid, on = device, mm = vm.mm): string | null =>
      refusal(() => guestPasids.unbind(on.device, mm, hostPasid));
    expect([unbind(0), unbind(2 ** 20)]).toEqual(['EINVAL', 'EINVAL']);
    expect([unbind(), unbind(99), unbind(pasid, device, other.mm)]).toEqual(['ENOENT', 'ENOENT', 'EPERM']);
    bind();
    expect([unbind(pasid, second), unbind(pasid, device, other.mm)]).toEqual(['ENOENT', 'EPERM']);
    expect(device.read(GVA, { pasid })).toBe(40);
    expect([unbind(), unbind()]).toEqual([null, 'ENOENT']);
    expect(ioasids.referencesTo(pasid)).toBe(1);
  });
});

describe('a bind in the user’s memory', () => {
  test('is copied as far as its size says', () => {
    const { vm, device, guestPasids, table, pasid } = bindable();
    const { mm } = vm;
    const bytes = encode(iommuGpasidBindData, bindData(pasid, table.root));
    const page = vm.store(new Uint8Array(0));
    const at = (address: bigint, size: number, length = bytes.length): string | null => {
      new DataView(bytes.buffer).setUint32(0, size, true);
      vm.process.memory!.write(address, bytes.subarray(0, length));
      return refusal(() => guestPasids.bindUser(device.device, mm, address));
    };
    const end = page + 4096n;
    expect(refusal(() => guestPasids.bindUser(device.device, mm, 0x1000n))).toBe('EFAULT');
    // Nothing behind the mandatory part is touched of a structure that has not more.
    expect(at(end - 56n, 55, 56)).toBe('EINVAL');
    expect(at(end - 56n, 56, 56)).toBe('EINVAL');
    expect(at(end - 56n, 57, 56)).toBe('EFAULT');
    expect(at(end - 55n, 72, 55)).toBe('EFAULT');
    expect(at(end - 72n, 71)).toBe('EINVAL');
    // What a newer user has behind it is not looked at.
    expect(at(end - 72n, 5000)).toBeNull();
    expect(device.read(GVA, { pasid })).toBe(40);
  });

  test('names what is undone', () => {
    const { vm, device, guestPasids, pasid, bind } = bindable();
    const store = (changes: Partial<GpasidBindData>): bigint =>
      vm.store(encode(iommuGpasidBindData, bindData(pasid, 0n, changes)));
    const unbind = (pointer: bigint): string | null =>
      refusal(() => guestPasids.unbindUser(device.device, vm.mm, pointer));
    bind();
    expect(unbind(0x1000n)).toBe('EFAULT');
    for (const changes of [
      { version: 0 },
      { format: 2 },
      { flags: 2n },
      { padding: 1n },
      { argsz: 55 },
      { hpasid: 0n },
    ]) {
      expect([changes, unbind(store(changes))]).toEqual([changes, 'EINVAL']);
    }
    expect(device.read(GVA, { pasid })).toBe(40);
    // The vendor's part is the driver's, which is only asked for the PASID.
    expect(unbind(store({ argsz: 56 }))).toBeNull();
    expect(device.read(GVA, { pasid })).toBeNull();
  });
});

describe('the guest’s PASID', () => {
  test('is published once a bind cycle, by the first device and by the last', () => {
    const { vm, device, second, guestPasids, ioasids, pasid, bind } = bindable();
    vm.take(second);
    const events = eventsOf(vm);
    for (let cycle = 0; cycle < 2; cycle++) {
      bind(withSpid());
      bind(withSpid(), second);
      expect(ioasids.findBySpid(vm.set, Number(GPASID), false)).toBe(pasid);
      guestPasids.unbind(device.device, vm.mm, pasid);
      expect(ioasids.spidOf(pasid)).toBe(Number(GPASID));
      guestPasids.unbind(second.device, vm.mm, pasid);
      expect(events.splice(0)).toEqual(['bind 7', 'unbind 7']);
    }
    expect(ioasids.referencesTo(pasid)).toBe(1);
  });

  test('may be another’s in the set, too large, or not the one that the PASID has: nothing is bound then', () => {
    const { machine, vm, device, second, guestPasids, table, pasid, bind } = bindable();
    vm.take(second);
    const other = vm.pasid();
    guestPasids.bind(device.device, vm.mm, bindData(other, table.root, withSpid()));
    const events = eventsOf(vm);
    const before = machine.driver.unit.domainIds.used;
    const written: string[] = [];
    const stop = machine.trace.listen(({ name }) => written.push(name));
    for (const gpasid of [GPASID, 0xffff_ffffn, 1n << 32n]) {
      expect(refusal(() => bind(withSpid(gpasid)))).toBe('EINVAL');
      // Refused before the hardware has heard of it.
      expect(written).toEqual([]);
    }
    stop();
    expect(device.read(GVA, { pasid })).toBeNull();
    expect([machine.driver.unit.domainIds.used, events]).toEqual([before, []]);
    bind(withSpid(8n));
    expect(refusal(() => bind(withSpid(9n), second))).toBe('EINVAL');
    bind({}, second);
    expect(guestPasids.size).toBe(3);
  });

  test('that the owner has attached himself stays his', () => {
    const { vm, device, guestPasids, ioasids, pasid, bind } = bindable();
    ioasids.attachSpid(pasid, Number(GPASID));
    const events = eventsOf(vm);
    bind(withSpid());
    guestPasids.unbind(device.device, vm.mm, pasid);
    expect([events, ioasids.spidOf(pasid)]).toEqual([[], Number(GPASID)]);
    bind(withSpid());
    ioasids.free(vm.set, pasid);
    vm.machine.kernel.runWork();
    expect([events, ioasids.stateOf(pasid)]).toEqual([['free 7', 'unbind 7'], null]);
  });

  test('is the same in two VMs, and each one’s DMA is its own', () => {
    const { machine, device, second, pasid, bind } = bindable();
    const other = new Vm(machine, new Processes(machine.kernel));
    other.fill(45, 0xe5);
    other.take(second);
    const theirs = other.pasid();
    bind(withSpid());
    machine.core.guestPasids.bind(second.device, other.mm, bindData(theirs, other.table(45).root, withSpid()));
    expect(theirs).not.toBe(pasid);
    expect([device.read(GVA, { pasid }), device.read(GVA, { pasid: theirs })]).toEqual([40, null]);
    expect([second.read(GVA, { pasid }), second.read(GVA, { pasid: theirs })]).toEqual([null, 0xe5]);
  });
});
