import { ACCESS_READ, ACCESS_WRITE, requesterId, TEST_COMMAND, vtdFault } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  attachDevicePasid,
  authorizePasid,
  type Process,
  Processes,
  routePasid,
  type SvaHandle,
} from '../src/index.ts';
import { pagingDomain } from './support/domains.ts';
import { refusal } from './support/fake-driver.ts';
import { Machine } from './support/machine.ts';
import type { TestDevice } from './support/test-device.ts';

const READ_WRITE = ACCESS_READ | ACCESS_WRITE;

function setUp() {
  const machine = new Machine();
  const processes = new Processes(machine.kernel);
  const device = machine.add();
  return { machine, processes, device, process: processes.spawn() };
}

/** Two devices, each in a group of its own, and a process with two pages that nobody has touched. */
function twoDevices() {
  const machine = new Machine({
    plug: (host) => {
      for (const bus of [1, 2]) {
        host.plugPort(requesterId(0, bus, 0), bus);
        host.plug(host.testFunction(), requesterId(bus, 0, 0));
      }
    },
  });
  const processes = new Processes(machine.kernel);
  const process = processes.spawn();
  const va = process.memory!.map({ length: 0x2000, protection: READ_WRITE });
  const [first, second] = [1, 2].map((bus) => machine.add(requesterId(bus, 0, 0))) as [TestDevice, TestDevice];
  return { machine, processes, first, second, process, va };
}

function dma(pasid: number) {
  return { pasid, addressing: 'cached', requestPages: true } as const;
}

function byteAt(process: Process, va: bigint): number {
  const byte = new Uint8Array(1);
  process.memory!.read(va, byte);
  return byte[0]!;
}

describe('shared virtual addressing', () => {
  test('a device reads and writes memory that the process has never touched', () => {
    const { machine, device, process } = setUp();
    const { sva } = machine.core;
    const handle = sva.bind(device.device, process.addressSpace);
    const va = process.memory!.map({ length: 0x4000, protection: READ_WRITE });
    expect(device.read(va, dma(handle.pasid))).toBe(0);
    expect(device.write(va + 0x1000n, 0x7e, dma(handle.pasid))).toBe(true);
    expect(byteAt(process, va + 0x1000n)).toBe(0x7e);
    process.memory!.write(va + 0x2000n, Uint8Array.of(0x55));
    expect(device.read(va + 0x2000n, { pasid: handle.pasid })).toBe(0x55);
    sva.unbind(handle);
    expect(device.read(va + 0x2000n, { pasid: handle.pasid })).toBeNull();
    expect(machine.core.pasids.size).toBe(0);
  });

  test('what the process may not do the device may not do', () => {
    const { machine, device, process } = setUp();
    const handle = machine.core.sva.bind(device.device, process.addressSpace);
    const va = process.memory!.map({ length: 0x1000, protection: ACCESS_READ });
    expect(device.read(va, dma(handle.pasid))).toBe(0);
    expect(device.write(va, 1, dma(handle.pasid))).toBe(false);
    expect(device.read(va + 0x10_0000n, dma(handle.pasid))).toBeNull();
  });

  test('munmap and mprotect reach the caches of the unit and of the device', () => {
    const { machine, device, process } = setUp();
    const handle = machine.core.sva.bind(device.device, process.addressSpace);
    const va = process.memory!.map({ length: 0x2000, protection: READ_WRITE });
    expect(device.write(va, 9, dma(handle.pasid))).toBe(true);
    expect(device.write(va + 0x1000n, 9, dma(handle.pasid))).toBe(true);
    process.memory!.protect(va, 0x1000n, ACCESS_READ);
    expect(device.write(va, 8, { pasid: handle.pasid, addressing: 'cached' })).toBe(false);
    expect(device.read(va, { pasid: handle.pasid, addressing: 'cached' })).toBe(9);
    process.memory!.unmap(va, 0x2000n);
    for (const addressing of [undefined, 'cached'] as const) {
      const options = addressing === undefined ? { pasid: handle.pasid } : { pasid: handle.pasid, addressing };
      expect(device.read(va, options)).toBeNull();
      expect(device.read(va + 0x1000n, options)).toBeNull();
    }
  });

  test('the process exits with work in flight: DMA is blocked and nothing of it stays', () => {
    const { machine, device, process } = setUp();
    const { sva } = machine.core;
    const before = machine.frames.allocated;
    const handle = sva.bind(device.device, process.addressSpace);
    const va = process.memory!.map({ length: 0x2000, protection: READ_WRITE });
    device.start(TEST_COMMAND.read, va, 1, dma(handle.pasid));
    process.exit();
    expect(device.wait()).toBe(true);
    expect(device.result).not.toBe(0);
    expect(device.device.faults.pendingGroups).toBe(0);
    const reasons: number[] = [];
    machine.driver.unit.faultLog.onFault = (fault) => reasons.push(fault.reason);
    expect(device.read(va, { pasid: handle.pasid })).toBeNull();
    machine.settle();
    expect(reasons).toEqual([vtdFault.SPT_2]);
    expect(refusal(() => sva.bind(device.device, process.addressSpace))).toBe('ENODEV');
    sva.unbind(handle);
    expect(machine.core.pasids.size).toBe(0);
    expect(machine.frames.allocated).toBeLessThanOrEqual(before);
  });

  test('one PASID per process on every device, counted per device', () => {
    const { machine, processes, device, process } = setUp();
    const { sva, pasids } = machine.core;
    const other = processes.spawn();
    const [vf] = machine.addVirtual(device, 1) as [TestDevice];
    const first = sva.bind(device.device, process.addressSpace);
    expect(sva.bind(device.device, process.addressSpace)).toBe(first);
    const second = sva.bind(vf.device, process.addressSpace);
    const third = sva.bind(device.device, other.addressSpace);
    expect(second.pasid).toBe(first.pasid);
    expect(second.domain).toBe(first.domain);
    expect(third.pasid).not.toBe(first.pasid);
    sva.unbind(first);
    expect(sva.pasidOf(process.addressSpace)).toBe(first.pasid);
    sva.unbind(first);
    sva.unbind(second);
    expect(sva.pasidOf(process.addressSpace)).toBeNull();
    expect(pasids.size).toBe(1);
    sva.unbind(third);
    expect(pasids.size).toBe(0);
  });

  test('one process on two devices is one map and two authorisations', () => {
    const { machine, first, second, process, va } = twoDevices();
    const { sva } = machine.core;
    const handles = [first, second].map((one) => sva.bind(one.device, process.addressSpace));
    const [{ pasid, domain }, other] = handles as [SvaHandle, SvaHandle];
    expect([other.pasid, other.domain, machine.driver.unit.domainIds.used]).toEqual([pasid, domain, 1]);
    expect([first, second].map(({ device }) => [...device.authorizedPasids])).toEqual([[pasid], [pasid]]);
    // What one has faulted in is there for the other, and one change of the map reaches both.
    expect(first.write(va, 0x31, dma(pasid))).toBe(true);
    expect(second.read(va, { pasid })).toBe(0x31);
    expect(second.read(va, { pasid, addressing: 'cached' })).toBe(0x31);
    process.memory!.unmap(va, 0x1000n);
    for (const one of [first, second]) expect(one.read(va, { pasid, addressing: 'cached' })).toBeNull();
    // Taking one authorisation away leaves the map.
    sva.unbind(handles[0]!);
    expect(first.read(va + 0x1000n, dma(pasid))).toBeNull();
    expect(second.read(va + 0x1000n, dma(pasid))).toBe(0);
    expect([...first.device.authorizedPasids]).toEqual([]);
    sva.unbind(other);
    expect([machine.core.pasids.size, machine.driver.unit.domainIds.used]).toEqual([0, 0]);
  });

  test('the process exits with DMA and page requests in flight on two devices', () => {
    for (let delay = 0; delay <= 4000; delay += 400) {
      const { machine, first, second, process, va } = twoDevices();
      const { sva } = machine.core;
      const handles = [first, second].map((one) => sva.bind(one.device, process.addressSpace));
      const { pasid } = handles[0]!;
      const responses = new Map<number, number>();
      machine.trace.listen((event) => {
        if (event.name === 'page_response') responses.set(event.rid, (responses.get(event.rid) ?? 0) + 1);
      });
      first.start(TEST_COMMAND.write, va, 1, dma(pasid));
      second.start(TEST_COMMAND.read, va + 0x1000n, 1, dma(pasid));
      machine.scheduler.advance(delay);
      process.exit();
      for (const one of [first, second]) {
        expect(one.wait()).toBe(true);
        expect([one.device.faults.pendingGroups, one.device.faults.partialFaults]).toEqual([0, 0]);
        expect(responses.get(one.device.rid) ?? 0).toBe(one.requests);
        for (const page of [va, va + 0x1000n]) {
          expect([one.read(page, { pasid }), one.read(page, { pasid, addressing: 'cached' })]).toEqual([null, null]);
        }
      }
      for (const handle of handles) sva.unbind(handle);
      expect([machine.core.pasids.size, machine.core.pasids.parked]).toEqual([0, []]);
      expect(machine.driver.unit.domainIds.used).toBe(0);
    }
  });

  test('tables of the kernel’s half that are freed are forgotten by every device, through every process', () => {
    const { machine, processes, first, second, process } = twoDevices();
    const { memory } = machine;
    const { sva } = machine.core;
    const other = processes.spawn();
    const kva = 0xffff_8880_0000_0000n;
    // A part of the kernel's half with two pages, which the tables of both processes share.
    const [middle, lower, lowest] = [0, 0, 0].map(() => machine.frame(0)) as [number, number, number];
    const pages = [machine.frame(0x61), machine.frame(0x62)];
    const link = (table: number, index: bigint, pfn: number): void =>
      memory.store((BigInt(table) << 12n) + (index & 511n) * 8n, 8, (BigInt(pfn) << 12n) | 7n);
    for (const { addressSpace } of [process, other]) link(addressSpace.rootPfn!, kva >> 39n, middle);
    link(middle, kva >> 30n, lower);
    link(lower, kva >> 21n, lowest);
    pages.forEach((pfn, page) => link(lowest, (kva >> 12n) + BigInt(page), pfn));
    const users = [
      { device: first, pasid: sva.bind(first.device, process.addressSpace).pasid },
      { device: second, pasid: sva.bind(second.device, process.addressSpace).pasid },
      { device: second, pasid: sva.bind(second.device, other.addressSpace).pasid },
    ];
    for (const { device, pasid } of users) {
      expect(device.read(kva, { pasid })).toBe(0x61);
      expect(device.read(kva, { pasid, addressing: 'cached' })).toBe(0x61);
    }
    memory.store((BigInt(lower) << 12n) + ((kva >> 21n) & 511n) * 8n, 8, 0n);
    // The unit still goes through the table, even to a page that nobody has read.
    for (const { device, pasid } of users) {
      expect([device.read(kva, { pasid }), device.read(kva + 0x1000n, { pasid })]).toEqual([0x61, 0x62]);
      expect(device.read(kva, { pasid, addressing: 'cached' })).toBe(0x61);
    }
    sva.invalidateKernelRange(kva, kva + 0x1fffn);
    for (const { device, pasid } of users) {
      for (const page of [kva, kva + 0x1000n]) {
        expect([device.read(page, { pasid }), device.read(page, { pasid, addressing: 'cached' })]).toEqual([
          null,
          null,
        ]);
      }
    }
  });

  test('a PASID that a user has attached is not given to a process, nor the other way round', () => {
    const { machine, device, process } = setUp();
    attachDevicePasid(device.device, 1, { domain: pagingDomain(device) });
    routePasid(device.device.group, 2, { domain: pagingDomain(device) });
    authorizePasid(device.device, 3);
    const handle = machine.core.sva.bind(device.device, process.addressSpace);
    expect(handle.pasid).toBe(4);
    expect(refusal(() => attachDevicePasid(device.device, 4, { domain: pagingDomain(device) }))).toBe('EBUSY');
    expect(refusal(() => authorizePasid(device.device, 4))).toBe('EBUSY');
    expect(refusal(() => routePasid(device.device.group, 4, { domain: pagingDomain(device) }))).toBe('EBUSY');
  });

  test('every failure of a bind leaves nothing behind', () => {
    const { machine, device, process } = setUp();
    const { sva, pasids } = machine.core;
    sva.unbind(sva.bind(device.device, process.addressSpace));
    const before = machine.frames.allocated;
    const { failpoints } = machine.kernel;
    for (let nth = 1; ; nth++) {
      failpoints.arm(nth);
      const outcome = refusal(() => sva.bind(device.device, process.addressSpace));
      const hit = failpoints.hit;
      failpoints.arm(0);
      if (hit === null) break;
      expect([hit, outcome]).toEqual([hit, 'ENOMEM']);
      expect([pasids.size, machine.frames.allocated, machine.driver.unit.domainIds.used]).toEqual([0, before, 0]);
      expect(device.device.group.pasidHandles.size).toBe(0);
    }
    expect(pasids.size).toBe(1);
  });
});
