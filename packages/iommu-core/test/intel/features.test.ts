import {
  ACCESS_READ,
  DsaFunction,
  ExpressCapability,
  PciFunction,
  requesterId,
  SiovCapability,
  type VtdFeatures,
} from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  type DeviceFeature,
  disableFeature,
  enableFeature,
  featureEnabled,
  hasFeature,
  Processes,
} from '../../src/index.ts';
import { refusal } from '../support/fake-driver.ts';
import { DEVICE_RID } from '../support/host.ts';
import { Machine } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

const FEATURES: readonly DeviceFeature[] = ['aux', 'sva', 'iopf'];

function setUp(features: Partial<VtdFeatures> = {}, fn: { pageRequests?: number; siov?: boolean } = { siov: true }) {
  const machine = new Machine({ features, plug: (host) => host.plug(host.testFunction(fn), requesterId(0, 1, 0)) });
  const test = machine.add(requesterId(0, 1, 0));
  const { device } = test;
  return { machine, device, test, has, enable };

  function has(): boolean[] {
    return FEATURES.map((feature) => hasFeature(device, feature));
  }

  /** What enabling each answers; none stays enabled. */
  function enable(): (string | null)[] {
    return FEATURES.map((feature) => {
      const outcome = refusal(() => enableFeature(device, feature));
      expect(featureEnabled(device, feature)).toBe(outcome === null);
      disableFeature(device, feature);
      return outcome;
    });
  }
}

describe('features of VT-d', () => {
  test('a function with everything behind a unit with everything has all, and enabling needs no query', () => {
    const { has, enable } = setUp();
    expect(has()).toEqual([true, true, true]);
    expect(enable()).toEqual([null, null, null]);
  });

  test('auxiliary domains: the SIOV capability is for those who ask; enabling wants PASIDs only', () => {
    const { has, enable } = setUp({}, {});
    expect(has()).toEqual([false, true, true]);
    expect(enable()).toEqual([null, null, null]);
  });

  test('without page requests of the device: no SVA (EINVAL) and none of their own (ENODEV)', () => {
    const { has, enable } = setUp({}, { pageRequests: 0, siov: true });
    expect(has()).toEqual([true, false, false]);
    expect(enable()).toEqual([null, 'EINVAL', 'ENODEV']);
  });

  test('without page requests or device TLBs of the unit: the same', () => {
    for (const features of [{ pageRequests: false }, { deviceTlb: false, pageRequests: false }]) {
      const { has, enable } = setUp(features);
      expect(has()).toEqual([true, false, false]);
      expect(enable()).toEqual([null, 'EINVAL', 'ENODEV']);
    }
  });

  test('without a first stage the unit cannot walk a process’s table', () => {
    const { has, enable } = setUp({ firstStage: false });
    expect(has()).toEqual([true, false, true]);
    expect(enable()).toEqual([null, 'ENODEV', null]);
  });

  test('without PASIDs of the unit: EINVAL for aux, ENODEV for the others', () => {
    const { has, enable } = setUp({ pasid: false });
    expect(has()).toEqual([false, false, false]);
    expect(enable()).toEqual(['EINVAL', 'ENODEV', 'ENODEV']);
  });

  test('a virtual function has its PF’s PASIDs and page requests once these are on, and no SIOV capability', () => {
    const machine = new Machine({
      plug: (host) => {
        host.plugPort(requesterId(0, 1, 0), 1);
        host.plug(host.testFunction({ siov: true }), DEVICE_RID);
      },
    });
    const pci = machine.bus.device(DEVICE_RID)!;
    pci.setPasid(false);
    const orphan = machine.core.addDevice(machine.bus.enableVirtualFunctions(pci, 1)[0]!);
    expect(FEATURES.map((feature) => hasFeature(orphan, feature))).toEqual([false, false, false]);
    expect(FEATURES.map((feature) => refusal(() => enableFeature(orphan, feature)))).toEqual([
      'ENODEV',
      'ENODEV',
      'ENODEV',
    ]);
    const ordinary = new Machine();
    const [vf] = ordinary.addVirtual(ordinary.add(), 1) as [TestDevice];
    expect(FEATURES.map((feature) => hasFeature(vf.device, feature))).toEqual([false, true, true]);
  });

  test('a function that has the SIOV capability and no PASIDs: no aux domains, and enabling is refused (ENODEV)', () => {
    const rid = requesterId(0, 1, 0);
    const fn = new PciFunction({ vendorId: 0x1234, deviceId: 1, classCode: 0xff0000 });
    fn.add(new ExpressCapability());
    fn.add(new SiovCapability());
    const machine = new Machine({ plug: (host) => host.plug(fn, rid) });
    const device = machine.core.addDevice(machine.bus.device(rid)!);
    expect([device.pci.hasSiov, hasFeature(device, 'aux')]).toEqual([true, false]);
    expect(refusal(() => enableFeature(device, 'aux'))).toBe('ENODEV');
  });

  test('a DSA has everything', () => {
    const rid = requesterId(0, 1, 0);
    const machine = new Machine({ plug: (host) => host.plug(new DsaFunction(host), rid) });
    const device = machine.core.addDevice(machine.bus.device(rid)!);
    expect(FEATURES.map((feature) => hasFeature(device, feature))).toEqual([true, true, true]);
  });

  test('a device that is gone has nothing, and nothing stays enabled', () => {
    const { machine, device, has } = setUp();
    for (const feature of FEATURES) enableFeature(device, feature);
    machine.core.removeDevice(device);
    expect(FEATURES.map((feature) => featureEnabled(device, feature))).toEqual([false, false, false]);
    expect(has()).toEqual([false, false, false]);
    expect(refusal(() => enableFeature(device, 'aux'))).toBe('EINVAL');
    const again = machine.core.addDevice(device.pci);
    expect(FEATURES.map((feature) => featureEnabled(again, feature))).toEqual([false, false, false]);
    expect(refusal(() => enableFeature(device, 'aux'))).toBe('EINVAL');
  });
});

describe('features in use', () => {
  test('SVA cannot be disabled while a process is bound to the device, nor page requests while SVA is enabled', () => {
    const { machine, device, test } = setUp();
    const { sva } = machine.core;
    enableFeature(device, 'sva');
    enableFeature(device, 'iopf');
    const process = new Processes(machine.kernel).spawn();
    const va = process.memory!.map({ length: 4096, protection: ACCESS_READ });
    const handle = sva.bind(device, process.addressSpace);
    expect(refusal(() => disableFeature(device, 'sva'))).toBe('EBUSY');
    expect(refusal(() => disableFeature(device, 'iopf'))).toBe('EBUSY');
    expect(FEATURES.map((feature) => featureEnabled(device, feature))).toEqual([false, true, true]);
    expect(test.read(va, { pasid: handle.pasid, addressing: 'cached', requestPages: true })).toBe(0);
    sva.unbind(handle);
    expect(refusal(() => disableFeature(device, 'iopf'))).toBe('EBUSY');
    disableFeature(device, 'sva');
    disableFeature(device, 'iopf');
    expect(device.features.size).toBe(0);
  });

  test('a process bound to another device is no use of this one', () => {
    const machine = new Machine();
    const pf = machine.add();
    const [vf] = machine.addVirtual(pf, 1) as [TestDevice];
    for (const { device } of [pf, vf]) enableFeature(device, 'sva');
    machine.core.sva.bind(vf.device, new Processes(machine.kernel).spawn().addressSpace);
    disableFeature(pf.device, 'sva');
    expect(refusal(() => disableFeature(vf.device, 'sva'))).toBe('EBUSY');
  });
});
