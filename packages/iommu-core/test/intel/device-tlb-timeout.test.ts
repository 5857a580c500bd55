/** Devices that leave invalidations of their caches unanswered: what they have cached must not outlive its page. */

import { requesterId, TEST_CONTROL_WITHHOLD, TEST_REGISTER, vtdFault } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  attachGroup,
  type FaultRecord,
  type IommuEvent,
  type PagingDomain,
  replaceDevicePasid,
  resetDevice,
} from '../../src/index.ts';
import { GuestTable, mapPage, nestedDomain, pagingDomain, unmapPage } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine, VTD_BASE } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

const IOVA = 0x40_0000n;
const GLOBAL_COMMAND = 0x18n;
const GLOBAL_STATUS = 0x1cn;
const QUEUED_INVALIDATION = 1n << 26n;

function twoDevices(): { machine: Machine; silent: TestDevice; healthy: TestDevice } {
  const machine = new Machine({
    plug: (self) => {
      for (const bus of [1, 2]) {
        self.plugPort(requesterId(0, bus, 0), bus);
        self.plug(self.testFunction(), requesterId(bus, 0, 0));
      }
    },
  });
  return { machine, silent: machine.add(requesterId(1, 0, 0)), healthy: machine.add(requesterId(2, 0, 0)) };
}

function withhold(device: TestDevice): void {
  device.store(TEST_REGISTER.control, TEST_CONTROL_WITHHOLD);
}

function setUp() {
  const machine = new Machine();
  const device = machine.add();
  const domain = pagingDomain(device);
  const frame = machine.frame(1);
  mapPage(domain, IOVA, frame);
  mapPage(domain, IOVA + 0x1000n, machine.frame(2));
  attachGroup(device.device.group, { domain });
  return { machine, device, domain, frame };
}

/** Gives the page's frame to somebody else. */
function reuse(machine: Machine, frame: number): void {
  machine.memory.bytes.fill(0xee, frame << 12, (frame + 1) << 12);
}

describe('a device that does not answer invalidations', () => {
  test('X3 cannot use what it has cached once the page is unmapped; untranslated requests go on', () => {
    const { machine, device, domain, frame } = setUp();
    const faults: FaultRecord[] = [];
    machine.driver.unit.faultLog.onFault = (fault) => faults.push(fault);
    const events: IommuEvent['name'][] = [];
    machine.trace.listen((event) => events.push(event.name));
    expect(device.read(IOVA, { addressing: 'cached' })).toBe(1);
    withhold(device);
    expect(unmapPage(domain, IOVA)).toBe(4096);
    reuse(machine, frame);
    expect(device.read(IOVA, { addressing: 'cached' })).toBeNull();
    expect(device.read(BigInt(frame) << 12n, { addressing: 'translated' })).toBeNull();
    machine.settle();
    expect(faults.map(({ reason }) => reason)).toEqual([vtdFault.SCT_5, vtdFault.SCT_5]);
    expect(events.filter((name) => name === 'device_tlb_timeout')).toHaveLength(1);
    expect(device.read(IOVA + 0x1000n)).toBe(2);
    expect(device.device.capable('pci-ats')).toBe(false);
  });

  test('is waited for once, and flushed from the unit as any other', () => {
    const { machine, device, domain } = setUp();
    withhold(device);
    unmapPage(domain, IOVA);
    const start = machine.scheduler.now;
    expect(device.read(IOVA + 0x1000n)).toBe(2);
    unmapPage(domain, IOVA + 0x1000n);
    expect(device.read(IOVA + 0x1000n)).toBeNull();
    expect(machine.scheduler.now - start).toBeLessThan(10_000_000);
  });

  test('has its cache again after a reset', () => {
    const { machine, device, domain, frame } = setUp();
    expect(device.read(IOVA, { addressing: 'cached' })).toBe(1);
    withhold(device);
    unmapPage(domain, IOVA);
    reuse(machine, frame);
    resetDevice(device.device);
    expect(device.device.capable('pci-ats')).toBe(true);
    expect(device.read(IOVA, { addressing: 'cached' })).toBeNull();
    expect(device.read(IOVA + 0x1000n, { addressing: 'cached' })).toBe(2);
    unmapPage(domain, IOVA + 0x1000n);
    expect(device.read(IOVA + 0x1000n, { addressing: 'cached' })).toBeNull();
  });

  test('holds up a flush, however often it times out, without keeping it from another device', () => {
    const { machine, silent, healthy } = twoDevices();
    const parent = pagingDomain(healthy, ALLOC_NEST_PARENT);
    const base = machine.frames.allocateRun(16)!;
    for (let gfn = 0; gfn < 16; gfn++) mapPage(parent, BigInt(gfn) << 12n, base + gfn);
    const table = new GuestTable(machine.memory, base, 1);
    table.set(IOVA, 10);
    // One time-out of 100 ms for each, in turn: more than a lost answer would be waited for.
    for (let pasid = 1; pasid <= 12; pasid++) {
      attachDevicePasid(silent.device, pasid, { domain: nestedDomain(silent, parent, table.root) });
    }
    attachDevicePasid(healthy.device, 1, { domain: nestedDomain(healthy, parent, table.root) });
    const options = { pasid: 1, addressing: 'cached' } as const;
    for (const device of [silent, healthy]) expect(device.read(IOVA, options)).not.toBeNull();
    withhold(silent);
    const start = machine.scheduler.now;
    unmapPage(parent, 10n << 12n);
    expect(machine.scheduler.now - start).toBeGreaterThan(1_000_000_000);
    for (const device of [silent, healthy]) expect(device.read(IOVA, options)).toBeNull();
  });
});

test('a unit that does not answer stops the kernel: a page it may still have cached is not given up', () => {
  const { machine, device, domain } = setUp();
  expect(device.read(IOVA)).toBe(1);
  const status = machine.memory.load(VTD_BASE + GLOBAL_STATUS, 4);
  machine.memory.store(VTD_BASE + GLOBAL_COMMAND, 4, status & ~QUEUED_INVALIDATION);
  machine.settle();
  expect(() => unmapPage(domain, IOVA)).toThrow('the remapping unit does not answer');
  expect(refusal(() => machine.driver.unit.queue.add([5, 0, 0, 0]).submitChecked('test'))).toBe('ETIMEDOUT');
});

test('X3 a page that is unmapped while its domain is being attached is flushed from the device that gets it', () => {
  let caught = 0;
  for (let delay = 0; delay < 2000; delay += 50) {
    const machine = new Machine();
    const device = machine.add();
    const domains: [PagingDomain, PagingDomain] = [pagingDomain(device), pagingDomain(device)];
    domains.forEach((domain, index) => {
      mapPage(domain, IOVA, machine.frame(index + 1));
    });
    attachGroup(device.device.group, { domain: domains[0] });
    attachDevicePasid(device.device, 5, { domain: domains[0] });
    machine.scheduler.schedule(delay, () =>
      machine.kernel.queueWork(() => {
        if (device.probe(IOVA, 5) === 2) caught++;
        unmapPage(domains[1], IOVA);
      }),
    );
    replaceDevicePasid(device.device, 5, { domain: domains[1] });
    machine.settle();
    expect(device.read(IOVA, { pasid: 5 })).toBeNull();
  }
  expect(caught).toBeGreaterThan(2);
});
