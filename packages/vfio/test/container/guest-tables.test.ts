import { type GpasidBindData, iommuCacheInvalidateInfo, iommuGpasidBindData } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { VFIO_TYPE1v2_IOMMU, VfioContainerClient } from '../../src/index.ts';
import * as nesting from '../../src/uapi/nesting.ts';
import {
  ContainerHost,
  dmaWrite,
  GuestTable,
  GVA,
  NOTHING,
  type Opened,
  PAGE,
  type Program,
} from '../support/container-host.ts';
import { refusal } from '../support/machine.ts';

const EPERM = -1;
const ENOENT = -2;
const EFAULT = -14;
const EBUSY = -16;
const ENODEV = -19;
const EINVAL = -22;

const { VFIO_IOMMU_BIND_GPASID: BIND, VFIO_IOMMU_UNBIND_GPASID: UNBIND } = nesting;
const { VFIO_IOMMU_CACHE_INVALIDATE: INVALIDATE, vfioIommuNestingHead: head } = nesting;

/** A program with devices open, a guest's page table in its memory, and a PASID for it. */
function setUp(count = 1, host = new ContainerHost()) {
  const program = host.program();
  const opened = program.open({ count });
  const table = new GuestTable(program, opened.memory);
  return { host, program, table, pasid: program.pasid(), ...opened };
}

function bindBytes(pasid: number, values: Partial<GpasidBindData> = {}): Uint8Array {
  const bytes = new Uint8Array(iommuGpasidBindData.size);
  const data = {
    ...iommuGpasidBindData.read(bytes),
    argsz: bytes.length,
    version: 1,
    format: 1,
    addrWidth: 48,
    gpgd: 0x1000n,
    hpasid: BigInt(pasid),
  };
  iommuGpasidBindData.write({ ...data, ...values }, bytes);
  return bytes;
}

function invalidateBytes(pasid: number, values: Partial<ReturnType<typeof iommuCacheInvalidateInfo.read>> = {}) {
  const bytes = new Uint8Array(iommuCacheInvalidateInfo.size);
  const info = { argsz: bytes.length, version: 1, cache: 1, granularity: 1, flags: 1, pasid: BigInt(pasid) };
  iommuCacheInvalidateInfo.write({ ...iommuCacheInvalidateInfo.read(bytes), ...info, ...values }, bytes);
  return bytes;
}

const call = (program: Program, { container }: Pick<Opened, 'container'>, request: number, tail: Uint8Array) =>
  program.ioctl(container.fd, request, head, {}, tail).result;

describe('BIND_GPASID', () => {
  test('V2 by bytes: DMA with the PASID goes through the guest table to the host page', () => {
    const { host, program, devices, memory, table, pasid, ...opened } = setUp();
    const [device] = devices;
    table.set(GVA, 6);
    expect(dmaWrite(host, device!, GVA, 1, { pasid })).toBe(false);
    expect(call(program, opened, BIND, bindBytes(pasid))).toBe(0);
    expect(dmaWrite(host, device!, GVA + 5n, 2, { pasid })).toBe(true);
    expect(program.byteAt(memory + 0x6005n)).toBe(2);
    expect(dmaWrite(host, device!, GVA + 0x1000n, 3, { pasid })).toBe(false);
    expect(dmaWrite(host, device!, 0x7000n, 4)).toBe(true);
    expect(call(program, opened, UNBIND, bindBytes(pasid))).toBe(0);
    expect(dmaWrite(host, device!, GVA, 5, { pasid })).toBe(false);
    expect(program.byteAt(memory + 0x6000n)).toBe(0);
  });

  test('V3 a guest table that leads out of guest memory faults', () => {
    const { host, container, devices, table, pasid } = setUp();
    table.set(GVA, 16);
    container.bindGuestPasid({ hostPasid: pasid, pageTable: table.root, addressWidth: 48 });
    expect(dmaWrite(host, devices[0]!, GVA, 1, { pasid })).toBe(false);
    container.unbindGuestPasid(pasid);
    container.bindGuestPasid({ hostPasid: pasid, pageTable: 16 * PAGE, addressWidth: 48 });
    expect(dmaWrite(host, devices[0]!, GVA, 1, { pasid })).toBe(false);
  });

  test('refuses what the interface or the unit does not have, and binds nothing', () => {
    const { host, program, pasid, ...opened } = setUp();
    const { system } = program;
    const bind = (values: Partial<GpasidBindData> = {}) => call(program, opened, BIND, bindBytes(pasid, values));
    for (const values of [
      { argsz: 55 },
      { argsz: 71 },
      { version: 0 },
      { version: 2 },
      { format: 0 },
      { format: 2 },
      { flags: 2n },
      { padding: 1n },
      { vtdFlags: 4n },
      { vtdFlags: 128n },
      { addrWidth: 39 },
      { hpasid: 0n },
      { hpasid: 1n << 20n },
      { hpasid: 1n << 40n },
      { gpgd: 1n << 48n },
    ]) {
      expect([values, bind(values)]).toEqual([values, EINVAL]);
    }
    expect(bind({ hpasid: 4000n })).toBe(ENOENT);
    const { fd } = opened.container;
    const bytes = bindBytes(pasid);
    expect(program.ioctl(fd, BIND, head, { flags: 1 }, bytes).result).toBe(EINVAL);
    expect(program.ioctl(fd, BIND, head, { argsz: 7 }, bytes).result).toBe(EINVAL);
    expect(program.ioctl(fd, BIND, head, { argsz: 8 }, bytes).result).toBe(EINVAL);
    expect(system.ioctl(fd, BIND, 0)).toBe(EFAULT);
    const end = program.argument + 2n * BigInt(PAGE);
    expect(program.ioctl(fd, BIND, head, { argsz: 80 }, bytes.subarray(0, 56), end - 64n).result).toBe(EFAULT);
    expect(host.held.binds).toBe(0);
    expect(bind({ argsz: 200 })).toBe(0);
    expect(bind()).toBe(EBUSY);
  });

  test('a container of another type, or without an open device, has no guests', () => {
    const host = new ContainerHost();
    const program = host.program();
    const plain = program.open({ type: VFIO_TYPE1v2_IOMMU });
    const pasid = program.pasid();
    expect(call(program, plain, BIND, bindBytes(pasid))).toBe(EINVAL);
    expect(call(program, plain, UNBIND, bindBytes(pasid))).toBe(EINVAL);
    expect(call(program, plain, INVALIDATE, invalidateBytes(pasid))).toBe(EINVAL);
    program.system.exit();
    const other = setUp(1, host);
    other.program.system.close(other.devices[0]!.fd);
    expect(call(other.program, other, BIND, bindBytes(other.pasid))).toBe(ENODEV);
    expect(call(other.program, other, UNBIND, bindBytes(other.pasid))).toBe(ENODEV);
    expect(call(other.program, other, INVALIDATE, invalidateBytes(other.pasid))).toBe(ENODEV);
  });

  test('another process may neither bind nor unbind the PASID', () => {
    const { host, program, container, pasid } = setUp();
    const child = program.system.fork();
    const bytes = bindBytes(pasid);
    const asChild = (request: number, tail: Uint8Array): number => {
      const argument = new Uint8Array(8 + tail.length);
      head.write({ argsz: argument.length, flags: 0 }, argument);
      argument.set(tail, 8);
      child.process.memory!.write(program.argument, argument);
      return child.ioctl(container.fd, request, program.argument);
    };
    expect(asChild(BIND, bytes)).toBe(EPERM);
    expect(call(program, { container }, BIND, bytes)).toBe(0);
    expect(asChild(UNBIND, bytes)).toBe(EPERM);
    expect(asChild(INVALIDATE, invalidateBytes(pasid))).toBe(EPERM);
    const client = new VfioContainerClient(child, container.fd);
    expect(refusal(() => client.invalidate({ hostPasid: pasid }))).toBe('EPERM');
    expect(refusal(() => client.unbindGuestPasid(pasid))).toBe('EPERM');
    expect(host.held.binds).toBe(1);
  });
});

describe('UNBIND_GPASID', () => {
  test('refuses what is not bound', () => {
    const { host, program, pasid, ...opened } = setUp();
    const unbind = (values: Partial<GpasidBindData> = {}) => call(program, opened, UNBIND, bindBytes(pasid, values));
    expect(unbind()).toBe(ENOENT);
    expect(call(program, opened, BIND, bindBytes(pasid))).toBe(0);
    for (const values of [{ version: 0 }, { padding: 1n }, { hpasid: 0n }, { argsz: 10 }]) {
      expect([values, unbind(values)]).toEqual([values, EINVAL]);
    }
    expect(unbind({ hpasid: 4000n })).toBe(ENOENT);
    expect(host.held.binds).toBe(1);
    expect(unbind({ argsz: 56, gpgd: 77n })).toBe(0);
    expect(unbind()).toBe(ENOENT);
  });
});

describe('CACHE_INVALIDATE', () => {
  test('V4 the old translation may be used until then, and not after', () => {
    for (const range of [undefined, { address: GVA, pages: 1 }, { address: GVA, pages: 1, leaf: true }]) {
      const { host, program, container, devices, memory, table, pasid } = setUp();
      table.set(GVA, 6);
      container.bindGuestPasid({ hostPasid: pasid, pageTable: table.root, addressWidth: 48 });
      expect(dmaWrite(host, devices[0]!, GVA, 1, { pasid })).toBe(true);
      table.set(GVA, 7);
      expect(dmaWrite(host, devices[0]!, GVA, 2, { pasid })).toBe(true);
      expect(program.byteAt(memory + 0x6000n)).toBe(2);
      container.invalidate({ hostPasid: pasid, ...(range === undefined ? {} : { range }) });
      expect(dmaWrite(host, devices[0]!, GVA, 3, { pasid })).toBe(true);
      expect([program.byteAt(memory + 0x6000n), program.byteAt(memory + 0x7000n)]).toEqual([2, 3]);
    }
  });

  test('by bytes: every granularity that there is, and none that there is not', () => {
    const { host, program, devices, table, pasid, ...opened } = setUp();
    const invalidate = (values = {}) => call(program, opened, INVALIDATE, invalidateBytes(pasid, values));
    expect(invalidate()).toBe(ENOENT);
    expect(call(program, opened, BIND, bindBytes(pasid))).toBe(0);
    table.set(GVA, 6);
    expect(dmaWrite(host, devices[0]!, GVA, 1, { pasid })).toBe(true);
    table.set(GVA, null);
    for (const values of [
      { version: 0 },
      { cache: 8 },
      { cache: 4 },
      { granularity: 0 },
      { granularity: 3 },
      { flags: 0 },
      { flags: 4 },
      { padding1: 1 },
      { argsz: 31 },
      { argsz: 15 },
    ]) {
      expect([values, invalidate(values)]).toEqual([values, EINVAL]);
    }
    const { fd } = opened.container;
    expect(program.ioctl(fd, INVALIDATE, head, { flags: 1 }, invalidateBytes(pasid)).result).toBe(EINVAL);
    expect(program.ioctl(fd, INVALIDATE, head, { argsz: 8 }, invalidateBytes(pasid)).result).toBe(EINVAL);
    expect(program.system.ioctl(fd, INVALIDATE, 0)).toBe(EFAULT);
    expect(dmaWrite(host, devices[0]!, GVA, 1, { pasid })).toBe(true);
    expect(invalidate({ granularity: 2, cache: 3, addr: GVA, granuleSize: 4096n, nbGranules: 1n })).toBe(0);
    expect(dmaWrite(host, devices[0]!, GVA, 1, { pasid })).toBe(false);
  });
});

describe('two devices in one container', () => {
  test('a bind is on both, and both are invalidated and unbound', () => {
    const { host, program, container, devices, memory, table, pasid } = setUp(2);
    table.set(GVA, 6);
    container.bindGuestPasid({ hostPasid: pasid, guestPasid: 9, pageTable: table.root, addressWidth: 48 });
    expect(host.held.binds).toBe(2);
    devices.forEach((device, index) => {
      expect(dmaWrite(host, device, GVA, 1 + index, { pasid })).toBe(true);
      expect(program.byteAt(memory + 0x6000n)).toBe(1 + index);
    });
    table.set(GVA, null);
    container.invalidate({ hostPasid: pasid });
    for (const device of devices) expect(dmaWrite(host, device, GVA, 3, { pasid })).toBe(false);
    table.set(GVA, 6);
    for (const device of devices) expect(dmaWrite(host, device, GVA, 3, { pasid })).toBe(true);
    container.unbindGuestPasid(pasid);
    for (const device of devices) expect(dmaWrite(host, device, GVA, 4, { pasid })).toBe(false);
    expect(host.held.binds).toBe(0);
  });

  test('X5 a bind that the second device refuses is undone on the first', () => {
    const { host, container, devices, table, pasid } = setUp(2);
    const { guestPasids } = host.host.core;
    container.bindGuestPasid({ hostPasid: pasid, pageTable: table.root, addressWidth: 48 });
    container.unbindGuestPasid(pasid);
    const mm = container.system.process.addressSpace;
    const data = iommuGpasidBindData.read(bindBytes(pasid));
    guestPasids.bind(host.devices[1]!, mm, data);
    expect(refusal(() => container.bindGuestPasid({ hostPasid: pasid, pageTable: 0x1000, addressWidth: 48 }))).toBe(
      'EBUSY',
    );
    expect(host.devices.map((device) => guestPasids.find(device, pasid) !== null)).toEqual([false, true]);
    table.set(GVA, 6);
    expect(dmaWrite(host, devices[0]!, GVA, 1, { pasid })).toBe(false);
    expect(dmaWrite(host, devices[1]!, GVA, 1, { pasid })).toBe(true);
  });

  test('a device that is opened later has no guest PASIDs, and does not stand in the way of the others', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { container, devices, memory } = program.open();
    const table = new GuestTable(program, memory);
    const pasid = program.pasid();
    table.set(GVA, 6);
    container.bindGuestPasid({ hostPasid: pasid, pageTable: table.root, addressWidth: 48 });
    const group = program.group(1);
    group.setContainer(container.fd);
    const late = group.openDevice(host.entries[1]!.name);
    late.writeConfig(4, 2, 6);
    expect(dmaWrite(host, late, GVA, 1, { pasid })).toBe(false);
    expect(dmaWrite(host, late, 0x7000n, 1)).toBe(true);
    expect(dmaWrite(host, devices[0]!, GVA, 1, { pasid })).toBe(true);
    container.invalidate({ hostPasid: pasid });
    container.unbindGuestPasid(pasid);
    expect(refusal(() => container.unbindGuestPasid(pasid))).toBe('ENOENT');
    container.bindGuestPasid({ hostPasid: pasid, pageTable: table.root, addressWidth: 48 });
    expect(dmaWrite(host, late, GVA, 1, { pasid })).toBe(true);
  });

  test('V8 closing one device leaves the bind of the other', () => {
    const { host, program, container, devices, groups, table, pasid } = setUp(2);
    table.set(GVA, 6);
    container.bindGuestPasid({ hostPasid: pasid, pageTable: table.root, addressWidth: 48 });
    program.system.close(devices[0]!.fd);
    expect(host.held.binds).toBe(1);
    expect(dmaWrite(host, devices[1]!, GVA, 1, { pasid })).toBe(true);
    const again = groups[0]!.openDevice(host.entries[0]!.name);
    again.writeConfig(4, 2, 6);
    expect(dmaWrite(host, again, GVA, 2, { pasid })).toBe(false);
    expect(dmaWrite(host, again, 0x7000n, 2)).toBe(true);
    program.system.close(again.fd);
    groups[0]!.unsetContainer();
    expect(dmaWrite(host, devices[1]!, GVA, 3, { pasid })).toBe(true);
    container.unbindGuestPasid(pasid);
    program.system.exit();
    expect(host.held).toEqual(NOTHING);
    expect(host.leftFrames()).toBe(0);
  });
});

test('guests cannot be bound on a device that shares its group', () => {
  const { program, container, table, pasid } = setUp(1, new ContainerHost({ multifunction: true }));
  const request = { hostPasid: pasid, pageTable: table.root, addressWidth: 48 };
  expect(refusal(() => container.bindGuestPasid(request))).toBe('EINVAL');
  program.system.exit();
});

test('X6 the process dies with everything bound, open and mapped', () => {
  const { host, program, container, table, pasid } = setUp(2);
  container.bindGuestPasid({ hostPasid: pasid, guestPasid: 3, pageTable: table.root, addressWidth: 48 });
  program.system.exit();
  expect(host.held).toEqual(NOTHING);
  expect(host.host.core.ioasids.referencesTo(pasid)).toBe(1);
  expect(host.leftFrames()).toBe(0);
});
