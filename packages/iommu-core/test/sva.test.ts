import { ACCESS_READ, ACCESS_WRITE, TEST_COMMAND, vtdFault } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { attachDevicePasid, authorizePasid, type Process, Processes, routePasid } from '../src/index.ts';
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
