import { TEST_COMMAND, TEST_REGISTER } from '@iommukit/hw';
import {
  encodeDeviceFault,
  IOMMU_FAULT_REASON_PTE_FETCH,
  IOMMU_FAULT_SIZE,
  iommuFaultEvent,
  iommuFaultPrm,
  iommuPageResponse,
} from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { FaultRing } from '../../src/container/fault-ring.ts';
import { type DmaFault, VFIO_TYPE1v2_IOMMU } from '../../src/index.ts';
import * as nesting from '../../src/uapi/nesting.ts';
import * as uapi from '../../src/uapi/vfio.ts';
import { decodeCapabilities } from '../support/capabilities.ts';
import {
  ContainerHost,
  dmaWrite,
  GuestTable,
  GVA,
  loadRegister,
  NOTHING,
  PAGE,
  startWrite,
  storeRegister,
  written,
} from '../support/container-host.ts';
import { refusal } from '../support/machine.ts';

const EFAULT = -14;
const EINVAL = -22;
const ENOTTY = -25;
const EBADF = -9;

const REGION = 9;
const IRQ = 5;
const RING = PAGE;
const ENTRIES = 512;
const { VFIO_DEVICE_PAGE_RESPONSE: RESPONSE } = nesting;

/** A device with a guest's page table bound. */
function setUp(count = 1) {
  const host = new ContainerHost();
  const program = host.program();
  const opened = program.open({ count });
  const table = new GuestTable(program, opened.memory);
  const pasid = program.pasid();
  opened.container.bindGuestPasid({ hostPasid: pasid, pageTable: table.root, addressWidth: 48 });
  const device = opened.devices[0]!;
  const header = () => {
    const bytes = new Uint8Array(nesting.vfioRegionDmaFault.size);
    device.read(REGION, 0, bytes);
    return nesting.vfioRegionDmaFault.read(bytes);
  };
  /** Writes the tail. Null, or what it is refused with. */
  const writeTail = (tail: number) => {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, tail, true);
    return refusal(() => device.write(REGION, 0, bytes));
  };
  /** Reports requests of one group as the unit's driver does. */
  const report = (group: number, addresses: readonly bigint[]) => {
    host.host.kernel.call('report', () => {
      addresses.forEach((address, index) => {
        const last = index === addresses.length - 1;
        host.devices[0]!.faults.report({ pasid, access: 2, group, last, address });
      });
    });
  };
  return { host, program, table, pasid, device, header, writeTail, report, ...opened };
}

function pageRequest(pasid: number, address: bigint, group = 0): DmaFault {
  return { kind: 'page-request', pasid, group, last: true, access: 2, address };
}

describe('the region', () => {
  test('follows the regions of the function, and says what it is in its capabilities', () => {
    const { program, device } = setUp();
    expect(device.info()).toEqual({ flags: 3, regions: 10, irqs: 6 });
    const request = uapi.VFIO_DEVICE_GET_REGION_INFO;
    const layout = uapi.vfioRegionInfo;
    const short = program.ioctl(device.fd, request, layout, { index: REGION });
    expect([short.result, short.reply]).toEqual([
      0,
      { argsz: 64, flags: 11, index: 9, capOffset: 0, size: 36864n, offset: 9n << 40n },
    ]);
    const { reply, bytes } = program.ioctl(device.fd, request, layout, { index: REGION }, new Uint8Array(40));
    expect([reply.argsz, reply.capOffset]).toEqual([72, 32]);
    const capabilities = decodeCapabilities(bytes.subarray(0, 64), 32);
    expect(capabilities.map(({ id, version }) => [id, version])).toEqual([
      [uapi.VFIO_REGION_INFO_CAP_TYPE, 1],
      [nesting.VFIO_REGION_INFO_CAP_DMA_FAULT, 1],
    ]);
    expect([...capabilities[0]!.data]).toEqual([4, 0, 0, 0, 1, 0, 0, 0]);
    expect(nesting.vfioRegionFaultVersion.read(capabilities[1]!.data)).toEqual({ version: 1 });
    for (const index of [8, 10]) {
      expect(program.ioctl(device.fd, request, layout, { index }).result).toBe(EINVAL);
    }
    expect(program.ioctl(device.fd, request, layout, { index: 7 }).reply.size).toBe(4096n);
  });

  test('is there only in a container of the nesting type', () => {
    const host = new ContainerHost();
    const [device] = host.program().open({ type: VFIO_TYPE1v2_IOMMU }).devices;
    expect(device!.info()).toEqual({ flags: 3, regions: 9, irqs: 5 });
    expect(refusal(() => device!.regionInfo(REGION))).toBe('EINVAL');
    expect(refusal(() => device!.read(REGION, 0, new Uint8Array(4)))).toBe('EINVAL');
    expect(refusal(() => device!.irqInfo(IRQ))).toBe('EINVAL');
    expect(refusal(() => device!.readDmaFaults())).toBe('ENODEV');
    expect(refusal(() => device!.setDmaFaultTrigger(-1))).toBe('ENODEV');
    expect(refusal(() => device!.respondPage({ pasid: null, group: 0 }, true))).toBe('EINVAL');
  });

  test('has a header that the user may write the tail of, and a ring that he may only read', () => {
    const { device, header, writeTail, program } = setUp();
    expect(header()).toEqual({ tail: 0, entrySize: 64, nbEntries: ENTRIES, offset: RING, head: 0 });
    for (const tail of [ENTRIES, ENTRIES + 1, 0xffffffff]) expect([tail, writeTail(tail)]).toEqual([tail, 'EINVAL']);
    expect(header().tail).toBe(0);
    for (const [offset, length] of [
      [4, 4],
      [16, 4],
      [1, 4],
      [0, 3],
      [0, 8],
      [RING, 4],
      [RING + ENTRIES * 64, 4],
    ] as const) {
      expect([offset, length, refusal(() => device.write(REGION, offset, new Uint8Array(length)))]).toEqual([
        offset,
        length,
        'EINVAL',
      ]);
    }
    expect(writeTail(ENTRIES - 1)).toBe(null);
    expect(header().tail).toBe(ENTRIES - 1);
    const end = RING + ENTRIES * 64;
    expect(device.read(REGION, end - 4, new Uint8Array(16))).toBe(4);
    expect(refusal(() => device.read(REGION, end, new Uint8Array(1)))).toBe('EINVAL');
    expect(refusal(() => device.map(REGION, RING, PAGE))).toBe('EINVAL');
    expect(refusal(() => device.map(REGION, 0, PAGE))).toBe('EINVAL');
    expect(program.system.read(device.fd, new Uint8Array(20), 9n << 40n)).toBe(20);
  });
});

describe('records', () => {
  test('D15 a page request goes to the ring, is answered from there, and the DMA completes', () => {
    const { host, program, device, table, pasid, memory, header } = setUp();
    const { fd, event } = program.eventfd();
    device.setDmaFaultTrigger(fd);
    startWrite(device, GVA + 0x1000n, 9, { pasid, requestPages: true });
    host.settle();
    expect(written(device)).toBe(null);
    expect(event.take()).toBe(1n);
    expect(header()).toMatchObject({ head: 1, tail: 0 });
    const record = new Uint8Array(IOMMU_FAULT_SIZE);
    device.read(REGION, RING, record);
    expect(iommuFaultPrm.read(record)).toEqual({
      type: 2,
      padding: 0,
      flags: 11,
      pasid,
      grpid: 0,
      perm: 2,
      addr: GVA + 0x1000n,
      privateData0: 0n,
      privateData1: 0n,
    });
    const [fault] = device.readDmaFaults();
    expect(fault).toEqual(pageRequest(pasid, GVA + 0x1000n));
    expect(device.readDmaFaults()).toEqual([]);
    expect(header()).toMatchObject({ head: 1, tail: 1 });
    table.set(GVA + 0x1000n, 7);
    const response = { version: 1, flags: 1, pasid, grpid: 0, code: 0 };
    expect(program.ioctl(device.fd, RESPONSE, iommuPageResponse, response).result).toBe(0);
    host.settle();
    expect(written(device)).toBe(true);
    expect(program.byteAt(memory + 0x7000n)).toBe(9);
    expect(program.ioctl(device.fd, RESPONSE, iommuPageResponse, response).result).toBe(EINVAL);
  });

  test('D16 INVALID and FAILURE reach the device; what names nothing is refused', () => {
    const { host, program, device, pasid } = setUp();
    const respond = (values: object) => {
      const response = { version: 1, flags: 1, pasid, grpid: 0, code: 0, ...values };
      return program.ioctl(device.fd, RESPONSE, iommuPageResponse, response).result;
    };
    expect(respond({})).toBe(EINVAL);
    startWrite(device, GVA, 1, { pasid, requestPages: true });
    host.settle();
    for (const values of [
      { argsz: 23 },
      { version: 0 },
      { version: 2 },
      { flags: 2 },
      { flags: 0 },
      { pasid: pasid + 1 },
      { grpid: 1 },
      { code: 3 },
      { code: 7 },
    ]) {
      expect([values, respond(values)]).toEqual([values, EINVAL]);
    }
    expect(program.system.ioctl(device.fd, RESPONSE, 0)).toBe(EFAULT);
    expect(written(device)).toBe(null);
    expect(respond({ code: 1 })).toBe(0);
    host.settle();
    expect([written(device), loadRegister(device, TEST_REGISTER.response)]).toEqual([false, 1]);
    startWrite(device, GVA, 1, { pasid, requestPages: true });
    host.settle();
    const requests = device.readDmaFaults();
    expect(requests.length).toBe(2);
    expect(respond({ grpid: (requests[1] as { group: number }).group, code: 2 })).toBe(0);
    host.settle();
    expect([written(device), loadRegister(device, TEST_REGISTER.response)]).toEqual([false, 15]);
  });

  test('D17 nothing of a group is in the ring before its last request; then all of it, in order', () => {
    const { device, report, pasid, header, host } = setUp();
    const { faults } = host.devices[0]!;
    for (const address of [0x1000n, 0x2000n]) faults.report({ pasid, access: 1, group: 7, last: false, address });
    expect(header().head).toBe(0);
    report(7, [0x3000n]);
    expect(device.readDmaFaults()).toEqual([
      { kind: 'page-request', pasid, group: 7, last: false, access: 1, address: 0x1000n },
      { kind: 'page-request', pasid, group: 7, last: false, access: 1, address: 0x2000n },
      { kind: 'page-request', pasid, group: 7, last: true, access: 2, address: 0x3000n },
    ]);
  });

  test('D18 what is pending when the PASID is unbound is answered INVALID, once', () => {
    const { host, container, device, pasid } = setUp();
    startWrite(device, GVA, 1, { pasid, requestPages: true });
    host.settle();
    const [fault] = device.readDmaFaults();
    container.unbindGuestPasid(pasid);
    host.settle();
    expect([written(device), loadRegister(device, TEST_REGISTER.response)]).toEqual([false, 1]);
    expect(refusal(() => device.respondPage(fault as { pasid: number; group: number }, true))).toBe('EINVAL');
  });

  test('D19 a page request of a PASID that is not bound is answered INVALID, and is not in the ring', () => {
    const { host, device, pasid } = setUp();
    storeRegister(device, TEST_REGISTER.pasid, 4, BigInt(pasid + 1));
    storeRegister(device, TEST_REGISTER.address, 8, GVA);
    storeRegister(device, TEST_REGISTER.command, 4, BigInt(TEST_COMMAND.pageRequest | TEST_COMMAND.withPasid));
    host.settle();
    expect(loadRegister(device, TEST_REGISTER.response)).toBe(1);
    expect(device.readDmaFaults()).toEqual([]);
  });

  test('a translation for a PASID that is not bound is refused for good', () => {
    const { host, device, pasid } = setUp();
    startWrite(device, GVA, 1, { pasid: pasid + 1, requestPages: true });
    host.settle();
    expect(written(device)).toBe(false);
    expect(device.readDmaFaults()).toMatchObject([{ kind: 'unrecoverable', pasid: pasid + 1, address: GVA }]);
  });

  test('an access that the unit refuses for good is an unrecoverable fault', () => {
    const { host, device, pasid } = setUp();
    expect(dmaWrite(host, device, GVA + 0x3000n, 1, { pasid })).toBe(false);
    expect(dmaWrite(host, device, 0x10_0000n, 1)).toBe(false);
    const bytes = new Uint8Array(IOMMU_FAULT_SIZE);
    device.read(REGION, RING, bytes);
    const { type, flags, perm, addr } = iommuFaultEvent.read(bytes);
    expect([type, flags, perm, addr]).toEqual([1, 3, 2, GVA + 0x3000n]);
    const unrecoverable = { kind: 'unrecoverable', access: 2 };
    expect(device.readDmaFaults()).toEqual([
      { ...unrecoverable, pasid, reason: IOMMU_FAULT_REASON_PTE_FETCH, address: GVA + 0x3000n },
      { ...unrecoverable, pasid: null, reason: IOMMU_FAULT_REASON_PTE_FETCH, address: 0x10_0000n },
    ]);
  });

  test('each device has a ring of its own', () => {
    const { host, devices, pasid } = setUp(2);
    startWrite(devices[1]!, GVA, 1, { pasid, requestPages: true });
    host.settle();
    expect(devices[0]!.readDmaFaults()).toEqual([]);
    const [fault] = devices[1]!.readDmaFaults();
    expect(fault).toEqual(pageRequest(pasid, GVA));
    const answer = { pasid, group: 0 };
    expect(refusal(() => devices[0]!.respondPage(answer, true))).toBe('EINVAL');
    devices[1]!.respondPage(answer, false);
    host.settle();
    expect(written(devices[1]!)).toBe(false);
  });
});

describe('a ring', () => {
  test('that is full takes nothing more: the group is answered INVALID, and goes on when there is room', () => {
    const { host, device, report, pasid, header, writeTail, program } = setUp();
    const { fd, event } = program.eventfd();
    device.setDmaFaultTrigger(fd);
    for (let group = 0; group < ENTRIES - 1; group++) report(group, [BigInt(group) << 12n]);
    expect(event.take()).toBe(511n);
    expect(header()).toMatchObject({ head: 511, tail: 0 });
    const { deviceFaults } = host.host.core;
    expect(deviceFaults.pending(host.devices[0]!)).toBe(511);
    startWrite(device, GVA, 1, { pasid, requestPages: true });
    host.settle();
    expect([written(device), loadRegister(device, TEST_REGISTER.response)]).toEqual([false, 1]);
    dmaWrite(host, device, 0x10_0000n, 1);
    expect(event.take()).toBe(0n);
    expect(header()).toMatchObject({ head: 511, tail: 0 });
    expect(writeTail(2)).toBe(null);
    startWrite(device, GVA, 1, { pasid, requestPages: true });
    host.settle();
    expect(written(device)).toBe(null);
    expect(header()).toMatchObject({ head: 0, tail: 2 });
    const faults = device.readDmaFaults();
    expect(faults.length).toBe(510);
    expect(faults[0]).toMatchObject({ group: 2 });
    expect(faults[509]).toMatchObject({ address: GVA });
    expect(header()).toMatchObject({ head: 0, tail: 0 });
  });

  test('wraps, and a group that does not fit is refused as a whole', () => {
    const { device, report, writeTail, host } = setUp();
    for (let group = 0; group < 510; group++) report(group, [0n]);
    expect(writeTail(509)).toBe(null);
    report(510, [0x1000n, 0x2000n, 0x3000n]);
    expect(device.readDmaFaults().map(({ address }) => address)).toEqual([0n, 0x1000n, 0x2000n, 0x3000n]);
    const { deviceFaults } = host.host.core;
    const pending = deviceFaults.pending(host.devices[0]!);
    for (let group = 600; group < 1109; group++) report(group, [0n]);
    report(1200, [0x1000n, 0x2000n, 0x3000n]);
    expect(deviceFaults.pending(host.devices[0]!)).toBe(pending + 509);
    expect(device.readDmaFaults().length).toBe(511);
  });

  test('counts what it drops', () => {
    const ring = new FaultRing(new ContainerHost().host.kernel);
    const fault = { type: 1, reason: 0, flags: 0, pasid: 0, perm: 1, addr: 0n } as const;
    for (let i = 0; i < 511; i++) ring.push(encodeDeviceFault(fault));
    for (let i = 0; i < 3; i++) expect(refusal(() => ring.push(encodeDeviceFault(fault)))).toBe('ENOSPC');
    expect(ring.dropped).toBe(3);
  });
});

describe('the interrupt', () => {
  test('follows those of the function, and says what it is', () => {
    const { program, device } = setUp();
    const request = uapi.VFIO_DEVICE_GET_IRQ_INFO;
    const short = program.ioctl(device.fd, request, uapi.vfioIrqInfo, { index: IRQ });
    expect([short.result, short.reply]).toEqual([0, { argsz: 36, flags: 17, index: 5, count: 1 }]);
    const long = uapi.vfioIrqInfoCaps;
    const partial = program.ioctl(device.fd, request, long, { index: IRQ, capOffset: 9 });
    expect(partial.reply).toEqual({ argsz: 36, flags: 17, index: 5, count: 1, capOffset: 0 });
    const { reply, bytes } = program.ioctl(device.fd, request, long, { index: IRQ }, new Uint8Array(16));
    expect(reply).toEqual({ argsz: 36, flags: 17, index: 5, count: 1, capOffset: 20 });
    const [capability] = decodeCapabilities(bytes, 20);
    expect([capability!.id, [...capability!.data]]).toEqual([3, [1, 0, 0, 0, 1, 0, 0, 0]]);
    const msix = program.ioctl(device.fd, request, long, { index: 2, capOffset: 9 });
    expect(msix.reply).toEqual({ argsz: 20, flags: 1, index: 2, count: 8, capOffset: 9 });
    expect(program.ioctl(device.fd, request, uapi.vfioIrqInfo, { index: 6 }).result).toBe(EINVAL);
  });

  test('takes an eventfd, gives it back, and can be raised', () => {
    const { program, device, report } = setUp();
    const { fd, event } = program.eventfd();
    const set = (flags: number, values: object, data: readonly number[] = []) => {
      const tail = new Uint8Array(Int32Array.from(data).buffer);
      const layout = uapi.vfioIrqSet;
      return program.ioctl(device.fd, uapi.VFIO_DEVICE_SET_IRQS, layout, { flags, index: IRQ, ...values }, tail).result;
    };
    expect(set(0x21, { count: 0 })).toBe(EINVAL);
    expect(set(0x24, { count: 1 }, [77])).toBe(EBADF);
    expect(set(0x24, { count: 1 }, [device.fd])).toBe(EINVAL);
    expect(set(0x24, { start: 1, count: 1 }, [fd])).toBe(EINVAL);
    expect(set(0x24, { count: 2 }, [fd, fd])).toBe(EINVAL);
    expect(set(0x24, { count: 1, index: 6 }, [fd])).toBe(EINVAL);
    expect(set(0x0c, { count: 1 }, [fd])).toBe(ENOTTY);
    report(1, [0n]);
    expect(event.take()).toBe(0n);
    expect(set(0x24, { count: 1 }, [fd])).toBe(0);
    report(2, [0n]);
    expect(event.take()).toBe(1n);
    expect(set(0x21, { count: 1 })).toBe(0);
    expect(set(0x22, { count: 1 }, [1])).toBe(0);
    expect(event.take()).toBe(2n);
    expect(set(0x24, { count: 1 }, [-2])).toBe(0);
    report(3, [0n]);
    expect(event.take()).toBe(1n);
    expect(set(0x24, { count: 1 }, [-1])).toBe(0);
    report(4, [0n]);
    expect(event.take()).toBe(0n);
    device.setTriggers({ index: IRQ }, [fd]);
    expect(refusal(() => device.setTriggers({ index: IRQ, start: 1 }, [fd]))).toBe('EINVAL');
    device.disableIrqs(IRQ);
    report(5, [0n]);
    expect(event.take()).toBe(0n);
    device.setTriggers({ index: 3 }, [fd]);
    device.raise({ index: 3 });
    expect(event.take()).toBe(1n);
  });
});

test('X6 a device closed with its ring full and groups pending answers them all', () => {
  const { host, program, device, report, pasid } = setUp();
  for (let group = 0; group < 600; group++) report(group, [BigInt(group) << 12n]);
  startWrite(device, GVA, 1, { pasid, requestPages: true });
  host.settle();
  program.system.close(device.fd);
  host.settle();
  expect(host.devices[0]!.faults.pendingGroups).toBe(0);
  expect(host.held.handlers).toBe(0);
  program.system.exit();
  expect(host.held).toEqual(NOTHING);
  expect(host.leftFrames()).toBe(0);
});
