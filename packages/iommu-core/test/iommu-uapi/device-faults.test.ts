import {
  ACCESS_READ,
  NO_PASID,
  PRG_INVALID_REQUEST,
  PRG_RESPONSE_FAILURE,
  PRG_SUCCESS,
  requesterId,
  TEST_COMMAND,
  vtdFault,
} from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  attachDevicePasid,
  type DeviceFault,
  detachDevicePasid,
  encodeDeviceFault,
  type IommuPageResponse,
  SysError,
} from '../../src/index.ts';
import * as uapi from '../../src/iommu-uapi/layout.ts';
import { LEAF_READ_ONLY, pagingDomain, unmapPage } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine, type MachineOptions } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';
import { bindData, GVA, machineWith, pageResponse, Vm } from './support.ts';

const ABSENT = GVA + 4096n;

type Unrecoverable = Extract<DeviceFault, { type: 1 }>;
type PageRequest = Extract<DeviceFault, { type: 2 }>;

/** A VM with a page table bound on a device whose faults are collected. */
function setUp(options: MachineOptions = {}) {
  const { machine, devices } = machineWith(1, options);
  const vm = new Vm(machine);
  const [device] = devices as [TestDevice];
  const parent = vm.take(device);
  const { guestPasids, deviceFaults } = machine.core;
  const table = vm.table(40);
  const pasid = vm.pasid();
  guestPasids.bind(device.device, vm.mm, bindData(pasid, table.root));
  const faults: DeviceFault[] = [];
  deviceFaults.register(device.device, (fault) => faults.push(fault));
  const requests = (): PageRequest[] => faults.filter((fault) => fault.type === uapi.IOMMU_FAULT_PAGE_REQ);
  const request = (operation: number = TEST_COMMAND.read, address: bigint = ABSENT): PageRequest => {
    device.start(operation, address, 1, { pasid, addressing: 'cached', requestPages: true });
    expect(device.wait(1_000_000)).toBe(false);
    return requests().at(-1)!;
  };
  const answer = (grpid: number, changes: Partial<IommuPageResponse> = {}): string | null =>
    refusal(() => deviceFaults.pageResponse(device.device, pageResponse(pasid, grpid, changes)));
  return { machine, vm, device, parent, guestPasids, deviceFaults, table, pasid, faults, requests, request, answer };
}

describe('page requests', () => {
  test('D15 are reported with the guest’s address and the host’s PASID; once answered, the device goes on', () => {
    const { device, deviceFaults, table, pasid, request, answer } = setUp();
    const fault = request(TEST_COMMAND.write);
    expect(fault).toEqual({
      type: uapi.IOMMU_FAULT_PAGE_REQ,
      flags:
        uapi.IOMMU_FAULT_PAGE_REQUEST_PASID_VALID |
        uapi.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE |
        uapi.IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID,
      pasid,
      grpid: fault.grpid,
      perm: uapi.IOMMU_FAULT_PERM_WRITE,
      addr: ABSENT,
    });
    expect(deviceFaults.pending(device.device)).toBe(1);
    table.set(ABSENT, 41);
    expect(answer(fault.grpid)).toBeNull();
    expect(device.wait()).toBe(true);
    expect([device.result, device.response, deviceFaults.pending(device.device)]).toEqual([0, PRG_SUCCESS, 0]);
    expect(answer(fault.grpid)).toBe('EINVAL');
  });

  test('D16 an answer has its code’s effect; one that nobody waits for or nobody understands has none', () => {
    for (const [code, onBus] of [
      [uapi.IOMMU_PAGE_RESP_INVALID, PRG_INVALID_REQUEST],
      [uapi.IOMMU_PAGE_RESP_FAILURE, PRG_RESPONSE_FAILURE],
    ] as const) {
      const { machine, device, deviceFaults, request, answer, pasid } = setUp();
      const sent: number[] = [];
      machine.trace.listen((event) => {
        if (event.name === 'page_response') sent.push(event.code);
      });
      expect(answer(0)).toBe('EINVAL');
      const { grpid } = request();
      for (const changes of [
        { version: 0 },
        { version: 2 },
        { flags: 3 },
        { code: 3 },
        { code: 7 },
        { grpid: grpid + 1 },
        { pasid: pasid + 1 },
        // The request had a PASID, so the answer must have it.
        { flags: 0 },
      ]) {
        expect([changes, answer(grpid, changes)]).toEqual([changes, 'EINVAL']);
      }
      expect(deviceFaults.pending(device.device)).toBe(1);
      expect(answer(grpid, { code })).toBeNull();
      expect(device.wait()).toBe(true);
      expect(device.result).not.toBe(0);
      expect([sent, device.response]).toEqual([[onBus], onBus]);
      expect(answer(grpid, { code })).toBe('EINVAL');
    }
  });

  test('D17 of one group come in order when it is closed, and one answer is for all', () => {
    const { machine, device, deviceFaults, pasid, requests, answer } = setUp();
    const fn = machine.fabric.functionAt(device.device.rid)!;
    const codes: number[] = [];
    const index = fn.pri!.open(fn, pasid, (code) => codes.push(code));
    for (let page = 0; page < 3; page++) {
      expect(requests()).toEqual([]);
      fn.pri!.send(index, ACCESS_READ, Number(GVA >> 39n), Number((GVA >> 12n) & 0x7ff_ffffn) + page, page === 2);
      machine.settle(100_000);
    }
    expect(requests().map(({ addr, grpid }) => [addr, grpid])).toEqual(
      [0n, 1n, 2n].map((page) => [GVA + page * 4096n, index]),
    );
    expect(requests().map(({ flags }) => flags & uapi.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE)).toEqual([0, 0, 2]);
    expect(deviceFaults.pending(device.device)).toBe(1);
    expect(answer(index)).toBeNull();
    machine.settle(100_000);
    expect(codes).toEqual([PRG_SUCCESS]);
  });

  test('D18 that wait when the PASID is unbound are answered INVALID, once', () => {
    const { machine, vm, device, guestPasids, deviceFaults, pasid, request, answer } = setUp();
    const responses: number[] = [];
    machine.trace.listen((event) => {
      if (event.name === 'page_response') responses.push(event.code);
    });
    const { grpid } = request();
    guestPasids.unbind(device.device, vm.mm, pasid);
    expect(deviceFaults.pending(device.device)).toBe(0);
    expect(answer(grpid)).toBe('EINVAL');
    expect(device.wait()).toBe(true);
    expect(responses).toEqual([PRG_INVALID_REQUEST]);
    expect(refusal(() => deviceFaults.unregister(device.device))).toBeNull();
  });

  test('D19 for a PASID without handler are answered INVALID, and the report is refused', () => {
    const { device, deviceFaults, pasid } = setUp();
    attachDevicePasid(device.device, 50, { domain: pagingDomain(device) });
    const { faults } = device.device;
    for (const other of [50, 51]) {
      device.start(TEST_COMMAND.read, ABSENT, 1, { pasid: other, addressing: 'cached', requestPages: true });
      expect(device.wait()).toBe(true);
      const request = { pasid: other, access: ACCESS_READ, group: 3, last: true, address: ABSENT };
      expect(refusal(() => faults.report(request))).toBe('EINVAL');
      expect([faults.pendingGroups, faults.partialFaults]).toEqual([0, 0]);
    }
    detachDevicePasid(device.device, 50);
    device.start(TEST_COMMAND.pageRequest, ABSENT, 1, { pasid: 51 });
    expect(device.wait()).toBe(true);
    expect(device.response).toBe(PRG_INVALID_REQUEST);
    // A bind whose device has no fault handler has nobody to ask either.
    deviceFaults.unregister(device.device);
    device.start(TEST_COMMAND.read, ABSENT, 1, { pasid, addressing: 'cached', requestPages: true });
    expect(device.wait()).toBe(true);
    expect(device.response).toBe(PRG_INVALID_REQUEST);
  });

  test('that the handler refuses are answered INVALID, with what came before them in the group', () => {
    const { machine, device, deviceFaults, pasid } = setUp();
    deviceFaults.unregister(device.device);
    let seen = 0;
    deviceFaults.register(device.device, () => {
      if (++seen === 2) throw new SysError('ENOSPC', 'test', 'the ring is full');
    });
    const fn = machine.fabric.functionAt(device.device.rid)!;
    const codes: number[] = [];
    const index = fn.pri!.open(fn, pasid, (code) => codes.push(code));
    for (let page = 0; page < 3; page++) fn.pri!.send(index, ACCESS_READ, 0, 0x400 + page, page === 2);
    machine.settle(100_000);
    expect([seen, codes, deviceFaults.pending(device.device)]).toEqual([2, [PRG_INVALID_REQUEST], 0]);
  });

  test('two groups wait at a time, and each gets its own answer', () => {
    const { machine, device, deviceFaults, pasid, answer } = setUp();
    const fn = machine.fabric.functionAt(device.device.rid)!;
    const codes: string[] = [];
    const indexes = ['a', 'b'].map((name) => {
      const index = fn.pri!.open(fn, pasid, (code) => codes.push(`${name} ${code}`));
      fn.pri!.send(index, ACCESS_READ, 0, 0x400, true);
      return index;
    });
    machine.settle(100_000);
    expect(deviceFaults.pending(device.device)).toBe(2);
    expect(answer(indexes[1]!, { code: 1 })).toBeNull();
    expect(answer(indexes[0]!)).toBeNull();
    machine.settle(100_000);
    expect(codes).toEqual([`b ${PRG_INVALID_REQUEST}`, `a ${PRG_SUCCESS}`]);
  });
});

describe('a device’s handler', () => {
  test('is the only one, and stays while a page request waits', () => {
    const { device, deviceFaults, request, answer, table } = setUp();
    expect(refusal(() => deviceFaults.register(device.device, () => {}))).toBe('EBUSY');
    const { grpid } = request();
    expect(refusal(() => deviceFaults.unregister(device.device))).toBe('EBUSY');
    table.set(ABSENT, 41);
    expect(answer(grpid)).toBeNull();
    deviceFaults.unregister(device.device);
    deviceFaults.unregister(device.device);
    expect(answer(grpid)).toBe('EINVAL');
    deviceFaults.register(device.device, () => {});
    device.device.kernel.failpoints.arm(1);
    deviceFaults.unregister(device.device);
    expect(refusal(() => deviceFaults.register(device.device, () => {}))).toBe('ENOMEM');
    expect(device.device.onUnrecoverableFault).toBeNull();
  });

  test('is not asked for answers of a device whose page requests nobody takes', () => {
    const machine = new Machine({
      plug: (host) => {
        host.plugPort(8, 1);
        host.plug(host.testFunction({ pageRequests: 0 }), requesterId(1, 0, 0));
      },
    });
    const device = machine.add();
    const vm = new Vm(machine);
    vm.take(device);
    const { deviceFaults, guestPasids } = machine.core;
    const pasid = vm.pasid();
    guestPasids.bind(device.device, vm.mm, bindData(pasid, vm.table(40).root));
    expect(device.read(GVA, { pasid })).toBe(40);
    deviceFaults.register(device.device, () => {});
    const respond = (): void => deviceFaults.pageResponse(device.device, pageResponse(pasid, 0, { version: 0 }));
    expect(refusal(respond)).toBe('ENODEV');
  });

  test('hears of no device that has gone', () => {
    const { machine, device, deviceFaults, faults, request } = setUp();
    request();
    machine.core.removeDevice(device.device);
    expect([deviceFaults.pending(device.device), device.device.onUnrecoverableFault]).toEqual([0, null]);
    faults.length = 0;
    device.read(GVA);
    machine.settle();
    expect(faults).toEqual([]);
  });
});

describe('unrecoverable faults', () => {
  test('say what was accessed, with which PASID, and why not', () => {
    const { machine, vm, device, parent, guestPasids, faults, table, pasid } = setUp();
    table.set(GVA + 8192n, 42, LEAF_READ_ONLY);
    const last = (): Unrecoverable | null => {
      machine.settle();
      const [fault] = faults.splice(0);
      return (fault as Unrecoverable | undefined) ?? null;
    };
    const fault = (reason: number, addr: bigint, perm: number, at = pasid): Unrecoverable => ({
      type: uapi.IOMMU_FAULT_DMA_UNRECOV,
      reason,
      flags: uapi.IOMMU_FAULT_UNRECOV_ADDR_VALID | (at === NO_PASID ? 0 : uapi.IOMMU_FAULT_UNRECOV_PASID_VALID),
      pasid: at === NO_PASID ? 0 : at,
      perm,
      addr,
    });
    expect(device.read(GVA, { pasid })).toBe(40);
    expect(last()).toBeNull();
    device.read(ABSENT + 0x123n, { pasid });
    expect(last()).toEqual(fault(uapi.IOMMU_FAULT_REASON_PTE_FETCH, ABSENT, uapi.IOMMU_FAULT_PERM_READ));
    device.write(GVA + 8192n, 1, { pasid });
    expect(last()).toEqual(fault(uapi.IOMMU_FAULT_REASON_PERMISSION, GVA + 8192n, uapi.IOMMU_FAULT_PERM_WRITE));
    device.read(GVA, { pasid, privileged: true });
    const privileged = uapi.IOMMU_FAULT_PERM_READ | uapi.IOMMU_FAULT_PERM_PRIV;
    expect(last()).toEqual(fault(uapi.IOMMU_FAULT_REASON_PERMISSION, GVA, privileged));
    device.read(1n << 50n, { pasid });
    expect(last()).toEqual(fault(uapi.IOMMU_FAULT_REASON_OOR_ADDRESS, 1n << 50n, uapi.IOMMU_FAULT_PERM_READ));
    device.read(GVA, { pasid: 50 });
    expect(last()).toEqual(fault(uapi.IOMMU_FAULT_REASON_BAD_PASID_ENTRY, GVA, uapi.IOMMU_FAULT_PERM_READ, 50));
    device.read(GVA);
    expect(last()).toMatchObject({ pasid: 0, flags: uapi.IOMMU_FAULT_UNRECOV_ADDR_VALID });
    unmapPage(parent, 4n << 12n);
    device.read(GVA, { pasid });
    expect(last()).toEqual(fault(uapi.IOMMU_FAULT_REASON_PTE_FETCH, GVA, uapi.IOMMU_FAULT_PERM_READ));
    guestPasids.unbind(device.device, vm.mm, pasid);
    device.read(GVA, { pasid });
    expect(last()).toEqual(fault(uapi.IOMMU_FAULT_REASON_BAD_PASID_ENTRY, GVA, uapi.IOMMU_FAULT_PERM_READ));
  });

  test('of interrupts are not DMA’s, and those that the handler refuses are lost', () => {
    const { machine, device, deviceFaults, faults, pasid } = setUp();
    const seen: number[] = [];
    machine.driver.unit.faultLog.onFault = (fault) => seen.push(fault.reason);
    // An interrupt that names an entry nobody has made.
    device.start(TEST_COMMAND.write, 0xfee0_0110n, 4);
    machine.settle();
    expect([seen, faults]).toEqual([[vtdFault.IR_ENTRY_NOT_PRESENT], []]);
    deviceFaults.unregister(device.device);
    deviceFaults.register(device.device, () => {
      throw new SysError('ENOSPC', 'test', 'the ring is full');
    });
    device.read(ABSENT, { pasid });
    machine.settle();
    expect(seen).toHaveLength(2);
  });
});

test('a fault is 64 bytes, laid out by its type', () => {
  const event = encodeDeviceFault({ type: 1, reason: 5, flags: 3, pasid: 9, perm: 2, addr: 0x1000n });
  expect([event.length, uapi.iommuFaultEvent.read(event)]).toEqual([
    64,
    { type: 1, padding: 0, reason: 5, flags: 3, pasid: 9, perm: 2, addr: 0x1000n, fetchAddr: 0n },
  ]);
  const request = encodeDeviceFault({ type: 2, flags: 11, pasid: 9, grpid: 4, perm: 1, addr: 0x2000n });
  expect([request.length, uapi.iommuFaultPrm.read(request)]).toEqual([
    64,
    { type: 2, padding: 0, flags: 11, pasid: 9, grpid: 4, perm: 1, addr: 0x2000n, privateData0: 0n, privateData1: 0n },
  ]);
});
