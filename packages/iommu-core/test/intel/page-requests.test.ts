import { NO_PASID, PRG_INVALID_REQUEST, PRG_SUCCESS, TEST_COMMAND } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  attachGroup,
  detachDevicePasid,
  detachGroup,
  type FaultGroup,
  replaceDevicePasid,
  resetDevice,
} from '../../src/index.ts';
import { collectFaults, GuestTable, mapPage, nestedDomain, pagingDomain } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { DEVICE_RID } from '../support/host.ts';
import { Machine } from '../support/machine.ts';

const IOVA = 0x40_0000n;
const DMA = { pasid: 5, addressing: 'cached', requestPages: true } as const;

function setUp() {
  const machine = new Machine();
  const device = machine.add();
  const domain = pagingDomain(device);
  const groups = collectFaults(domain);
  attachDevicePasid(device.device, 5, { domain });
  return { machine, device, domain, groups };
}

describe('page requests', () => {
  test('D15 a page that is made present and answered with success lets the device go on', () => {
    const { machine, device, domain, groups } = setUp();
    device.start(TEST_COMMAND.read, IOVA, 1, DMA);
    expect(device.wait(1_000_000)).toBe(false);
    expect(groups).toHaveLength(1);
    expect(groups[0]!.faults).toMatchObject([{ pasid: 5, address: IOVA, last: true, access: 1 }]);
    mapPage(domain, IOVA, machine.frame(0x5c));
    groups[0]!.respond(PRG_SUCCESS);
    expect(device.wait()).toBe(true);
    expect(device.result).toBe(0);
    expect(device.bufferByte).toBe(0x5c);
    expect(device.response).toBe(PRG_SUCCESS);
  });

  test('D15 the same on a guest table: the request names the guest’s address', () => {
    const machine = new Machine();
    const device = machine.add();
    const parent = pagingDomain(device, ALLOC_NEST_PARENT);
    const base = machine.frames.allocateRun(16)!;
    for (let gfn = 0; gfn < 16; gfn++) mapPage(parent, BigInt(gfn) << 12n, base + gfn);
    const table = new GuestTable(machine.memory, base, 1);
    const domain = nestedDomain(device, parent, table.root);
    const groups = collectFaults(domain);
    attachDevicePasid(device.device, 5, { domain });
    const gva = 0x7000_1234_5000n;
    device.start(TEST_COMMAND.write, gva, 1, DMA);
    device.wait(1_000_000);
    expect(groups[0]!.faults).toMatchObject([{ pasid: 5, address: gva, access: 2 }]);
    table.set(gva, 9);
    groups[0]!.respond(PRG_SUCCESS);
    expect(device.wait()).toBe(true);
    expect(device.result).toBe(0);
  });

  test('D16 an answer INVALID ends the operation', () => {
    const { device, groups } = setUp();
    device.start(TEST_COMMAND.read, IOVA, 1, DMA);
    device.wait(1_000_000);
    groups[0]!.respond(PRG_INVALID_REQUEST);
    expect(device.wait()).toBe(true);
    expect(device.result).not.toBe(0);
    expect(device.response).toBe(PRG_INVALID_REQUEST);
  });

  test('D18 what is pending when its PASID is detached or replaced is answered INVALID, once', () => {
    for (const leave of ['detach', 'replace'] as const) {
      const { machine, device, groups } = setUp();
      const responses: number[] = [];
      machine.trace.listen((event) => {
        if (event.name === 'page_response') responses.push(event.code);
      });
      device.start(TEST_COMMAND.read, IOVA, 1, DMA);
      device.wait(1_000_000);
      if (leave === 'detach') detachDevicePasid(device.device, 5);
      else replaceDevicePasid(device.device, 5, { domain: pagingDomain(device) });
      expect(groups[0]!.isPending).toBe(false);
      expect(groups[0]!.respond(PRG_SUCCESS)).toBe(false);
      expect(device.wait()).toBe(true);
      expect(responses).toEqual([PRG_INVALID_REQUEST]);
    }
  });

  test('a request that is still on its way when its PASID is detached is drained and answered', () => {
    for (let delay = 0; delay <= 2000; delay += 50) {
      const { machine, device, groups } = setUp();
      device.start(TEST_COMMAND.read, IOVA, 1, DMA);
      machine.scheduler.advance(delay);
      detachDevicePasid(device.device, 5);
      expect(device.wait()).toBe(true);
      expect(device.result).not.toBe(0);
      expect(device.device.faults.pendingGroups).toBe(0);
      expect(device.device.faults.partialFaults).toBe(0);
      expect(groups.every((group) => !group.isPending)).toBe(true);
    }
  });

  test('a request that was sent to one attachment never reaches the next one at the same PASID', () => {
    let sent = 0;
    for (let delay = 100; delay <= 3000; delay += 100) {
      const { machine, device, groups } = setUp();
      const next = pagingDomain(device);
      const nextGroups = collectFaults(next);
      device.start(TEST_COMMAND.read, IOVA, 1, DMA);
      machine.scheduler.advance(delay);
      if (device.requests === 0) continue;
      sent++;
      // Inside kernel work no other work runs: what the interrupt has queued cannot help.
      machine.kernel.queueWork(() => {
        detachDevicePasid(device.device, 5);
        attachDevicePasid(device.device, 5, { domain: next });
      });
      machine.settle();
      expect(nextGroups).toHaveLength(0);
      expect(groups).toHaveLength(1);
      expect(device.response).toBe(PRG_INVALID_REQUEST);
    }
    expect(sent).toBeGreaterThan(10);
  });

  test('requests without PASID reach the attachment without PASID', () => {
    const machine = new Machine();
    const device = machine.add();
    const domain = pagingDomain(device);
    const groups = collectFaults(domain);
    attachGroup(device.device.group, { domain });
    device.start(TEST_COMMAND.read, IOVA, 1, { addressing: 'cached', requestPages: true });
    device.wait(1_000_000);
    expect(groups[0]!.faults[0]!.pasid).toBe(NO_PASID);
    detachGroup(device.device.group);
    expect(device.wait()).toBe(true);
    expect(device.response).toBe(PRG_INVALID_REQUEST);
  });

  test('requests that nobody handles are answered INVALID', () => {
    const machine = new Machine();
    const device = machine.add();
    attachDevicePasid(device.device, 5, { domain: pagingDomain(device) });
    device.start(TEST_COMMAND.read, IOVA, 1, DMA);
    expect(device.wait()).toBe(true);
    expect(device.response).toBe(PRG_INVALID_REQUEST);
  });

  test('a domain that handles faults is refused by a device that cannot request pages', () => {
    const machine = new Machine({
      plug: (host) => {
        host.plugPort(8, 1);
        host.plug(host.testFunction({ pageRequests: 0 }), DEVICE_RID);
      },
    });
    const device = machine.add();
    const domain = pagingDomain(device);
    collectFaults(domain);
    expect(device.device.capable('page-requests')).toBe(false);
    expect(refusal(() => attachDevicePasid(device.device, 5, { domain }))).toBe('ENODEV');
  });

  test('groups of several requests arrive whole and in order, and a full queue loses nothing but time', () => {
    const { machine, device, groups } = setUp();
    const pri = machine.fabric.functionAt(DEVICE_RID)!;
    const codes: number[] = [];
    const interface_ = pri.pri!;
    const sizes: number[] = [];
    for (let round = 0; round < 40; round++) {
      const index = interface_.open(pri, 5, (code) => codes.push(code));
      expect(index).toBeGreaterThanOrEqual(0);
      const pages = 1 + (round % 5);
      for (let page = 0; page < pages; page++) {
        expect(interface_.send(index, 1, 0, 0x400 + page, page === pages - 1)).toBe(true);
      }
      sizes.push(pages);
      machine.settle(100_000);
      const group = groups.at(-1) as FaultGroup;
      expect(group.faults.map((fault) => Number(fault.address >> 12n))).toEqual(
        Array.from({ length: pages }, (_, page) => 0x400 + page),
      );
      group.respond(PRG_SUCCESS);
      machine.settle(100_000);
    }
    expect(groups.map((group) => group.faults.length)).toEqual(sizes);
    expect(codes).toEqual(new Array(40).fill(PRG_SUCCESS));
    expect(device.device.faults.pendingGroups).toBe(0);
  });

  test('a queue that overflows answers every group in the end and keeps no part of any', () => {
    const machine = new Machine({
      pageRequestFrames: 1,
      plug: (host) => {
        host.plugPort(8, 1);
        host.plug(host.testFunction({ pageRequests: 400 }), DEVICE_RID);
      },
    });
    const device = machine.add();
    const domain = pagingDomain(device);
    let delivered = 0;
    domain.faultHandler = (group) => {
      delivered++;
      group.respond(PRG_SUCCESS);
    };
    attachDevicePasid(device.device, 5, { domain });
    const overflows: string[] = [];
    machine.trace.listen((event) => {
      if (event.name === 'prq_overflow') overflows.push(event.name);
    });
    const fn = machine.fabric.functionAt(DEVICE_RID)!;
    let answered = 0;
    for (let group = 0; group < 200; group++) {
      const index = fn.pri!.open(fn, 5, () => answered++);
      expect(fn.pri!.send(index, 1, 0, 0x400, false)).toBe(true);
      expect(fn.pri!.send(index, 1, 0, 0x401, true)).toBe(true);
    }
    machine.settle();
    expect(overflows.length).toBeGreaterThan(0);
    expect(delivered).toBeLessThan(200);
    expect(answered).toBe(200);
    expect(device.device.faults.partialFaults).toBe(0);
    expect(device.device.faults.pendingGroups).toBe(0);
    device.start(TEST_COMMAND.read, IOVA, 1, DMA);
    device.wait(1_000_000);
    expect(delivered).toBeGreaterThan(0);
    detachDevicePasid(device.device, 5);
    expect(device.wait()).toBe(true);
  });

  test('a reset with a request pending answers it and leaves the attachment', () => {
    const { machine, device, domain, groups } = setUp();
    device.start(TEST_COMMAND.read, IOVA, 1, DMA);
    device.wait(1_000_000);
    resetDevice(device.device);
    expect(groups[0]!.isPending).toBe(false);
    mapPage(domain, IOVA, machine.frame(0x44));
    expect(device.read(IOVA, DMA)).toBe(0x44);
  });
});
