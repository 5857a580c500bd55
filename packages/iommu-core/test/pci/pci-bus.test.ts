import { formatRid, type MmioHandler, requesterId, TEST_COMMAND, TEST_REGISTER } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { ConfigSpace, Device, type IommuGroup, type PciDevice } from '../../src/index.ts';
import { isolationSet } from '../../src/pci/isolation.ts';
import { FakeDriver, fakeGroup, refusal } from '../support/fake-driver.ts';
import { DEVICE_RID, Host } from '../support/host.ts';
import { TestDevice } from '../support/test-device.ts';

function names(devices: readonly PciDevice[]): string[] {
  return devices.map((device) => formatRid(device.rid)).sort();
}

function testDevice(host: Host, rid: number = DEVICE_RID): TestDevice {
  const group: IommuGroup = fakeGroup(new FakeDriver(), [], host.kernel);
  const device = new TestDevice(host, new Device(group, group.driver, host.bus.device(rid)!));
  device.device.pci.setBusMaster(true);
  return device;
}

describe('enumeration', () => {
  test('finds functions behind bridges and gives their BARs sized, aligned, separate addresses', () => {
    const host = new Host();
    expect(names(host.bus.devices)).toEqual(['00:01.0', '01:00.0']);
    const device = host.bus.device(DEVICE_RID)!;
    const bar = device.resource(0)!;
    expect(bar.size).toBe(0x10000n);
    expect(bar.address % bar.size).toBe(0n);
    expect(bar.is64).toBe(true);
    expect(host.memory.load(bar.address, 4)).toBe(0x54534554n);
    expect(device.pasids).toBe(2 ** 20);
    expect(device.msix!.vectors).toBe(8);
  });

  test('virtual functions take the PF identity, their own requester ids and their own registers', () => {
    const host = new Host();
    const pf = host.bus.device(DEVICE_RID)!;
    expect(refusal(() => host.bus.enableVirtualFunctions(pf, 5))).toBe('EINVAL');
    const functions = host.bus.enableVirtualFunctions(pf, 2);
    expect(refusal(() => host.bus.enableVirtualFunctions(pf, 1))).toBe('EBUSY');
    expect(refusal(() => host.bus.enableVirtualFunctions(functions[0]!, 1))).toBe('EOPNOTSUPP');
    expect(functions.map((vf) => vf.vendorId)).toEqual([pf.vendorId, pf.vendorId]);
    expect(new Set(host.bus.devices.map((one) => one.rid)).size).toBe(4);
    for (const vf of functions) expect(host.memory.load(vf.resource(0)!.address + 4n, 4)).toBe(2n);
    expect(functions[0]!.pasids).toBe(0);
    pf.setPasid(true);
    expect(functions[0]!.pasids).toBe(2 ** 20);
  });
});

describe('interrupts', () => {
  test('a programmed vector reaches its handler, a masked one when it is unmasked', () => {
    const host = new Host();
    const device = testDevice(host);
    const { msix } = device.device.pci;
    let taken = 0;
    const message = host.interrupts.allocate(() => taken++);
    msix!.setEnabled(true);
    msix!.program(3, message);
    device.store(TEST_REGISTER.vector, 3);
    device.store(TEST_REGISTER.command, TEST_COMMAND.interrupt);
    host.settle();
    expect(taken).toBe(1);
    msix!.setMasked(3, true);
    device.store(TEST_REGISTER.command, TEST_COMMAND.interrupt);
    host.settle();
    expect(taken).toBe(1);
    msix!.setMasked(3, false);
    host.settle();
    expect(taken).toBe(2);
    expect(refusal(() => msix!.program(8, message))).toBe('EINVAL');
    host.interrupts.free(message);
    expect(host.interrupts.allocated).toBe(0);
  });
});

describe('function-level reset', () => {
  test('forgets what the device holds and keeps how it is programmed', () => {
    const host = new Host();
    const device = testDevice(host);
    const { pci } = device.device;
    let taken = 0;
    pci.msix!.setEnabled(true);
    pci.msix!.program(
      0,
      host.interrupts.allocate(() => taken++),
    );
    pci.setPasid(true);
    pci.enablePri();
    pci.setAts(true);
    const pfn = host.frame(0x5a);
    expect(device.read(BigInt(pfn) << 12n)).toBe(0x5a);
    pci.reset();
    expect(device.bufferByte).toBe(0);
    expect(device.read(BigInt(pfn) << 12n)).toBe(0x5a);
    device.store(TEST_REGISTER.command, TEST_COMMAND.interrupt);
    host.settle();
    expect(taken).toBe(1);
    const { config } = pci;
    expect(config.read(pci.pasidOffset + 6, 2) & 1).toBe(1);
    expect(config.read(pci.priOffset + 4, 2) & 1).toBe(1);
    expect(config.read(pci.atsOffset + 6, 2) >> 15).toBe(1);
  });
});

describe('isolation', () => {
  test('functions below ports that redirect are alone; a port that does not ties everything below it', () => {
    const host = new Host({
      plug: (self) => {
        self.plugPort(requesterId(0, 1, 0), 1);
        self.plugPort(requesterId(0, 2, 0), 2, false);
        self.plug(self.testFunction(), requesterId(1, 0, 0));
        self.plug(self.testFunction(), requesterId(2, 0, 0));
        self.plug(self.testFunction(), requesterId(2, 1, 0));
      },
    });
    expect(isolationSet(host.bus.device(requesterId(1, 0, 0))!)).toEqual([]);
    expect(names(isolationSet(host.bus.device(requesterId(2, 0, 0))!))).toEqual(['00:02.0', '02:01.0']);
  });

  test('functions of one device without access control are together, virtual functions are alone', () => {
    const host = new Host({
      plug: (self) => {
        self.plugPort(requesterId(0, 1, 0), 1);
        for (let fn = 0; fn < 3; fn++) self.plug(self.testFunction({ totalVfs: 0 }), requesterId(1, 0, fn));
        self.plug(self.testFunction(), requesterId(0, 4, 0));
      },
    });
    expect(names(isolationSet(host.bus.device(requesterId(1, 0, 1))!))).toEqual(['01:00.0', '01:00.2']);
    const functions = host.bus.enableVirtualFunctions(host.bus.device(requesterId(0, 4, 0))!, 2);
    for (const vf of functions) expect(isolationSet(vf)).toEqual([]);
  });
});

describe('hostile configuration space', () => {
  test('capability chains that loop or point anywhere end', () => {
    const host = new Host();
    const bytes = new Uint8Array(4096).fill(0xff);
    const view = new DataView(bytes.buffer);
    const handler: MmioHandler = {
      read: (offset, width) =>
        width === 4
          ? BigInt(view.getUint32(offset, true))
          : BigInt(view.getUint16(offset & ~1, true)) & ((1n << BigInt(8 * width)) - 1n),
      write() {},
    };
    view.setUint16(6, 0x10, true);
    bytes[0x34] = 0x40;
    bytes[0x40] = 1;
    bytes[0x41] = 0x40;
    view.setUint32(0x100, (0x100 << 20) | 1, true);
    host.memory.mapMmio(0xa0000, 1, handler);
    const config = new ConfigSpace(host.memory, 0xa000_0000n, 0);
    expect(config.findCapability(0x11)).toBe(0);
    expect(config.findExtendedCapability(0x1b)).toBe(0);
  });
});
