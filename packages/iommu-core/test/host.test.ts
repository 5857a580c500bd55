import { Machine, requesterId, TEST_COMMAND, TEST_REGISTER, TestFunction } from '@iommukit/hw';
import { expect, test } from 'vitest';
import { attachGroup, Host, IOMMU_READ, IOMMU_WRITE } from '../src/index.ts';
import { refusal } from './support/fake-driver.ts';

const RID = requesterId(0, 3, 0);

test('a machine and its operating system need one line each, and DMA goes through the unit', () => {
  const machine = new Machine();
  machine.plug(new TestFunction(machine), RID);
  const host = new Host(machine, { defaultDomain: 'blocked' });
  const device = host.device(RID);
  expect(host.device(RID)).toBe(device);
  expect(refusal(() => host.device(requesterId(0, 4, 0)))).toBe('ENODEV');

  device.pci.setBusMaster(true);
  const { memory } = machine;
  const bar = device.pci.resource(0)!.address;
  const write = (): bigint => {
    memory.store(bar + BigInt(TEST_REGISTER.buffer), 4, 0x5an);
    memory.store(bar + BigInt(TEST_REGISTER.address), 8, 0x10_0000n);
    memory.store(bar + BigInt(TEST_REGISTER.length), 4, 4n);
    memory.store(bar + BigInt(TEST_REGISTER.command), 4, BigInt(TEST_COMMAND.write));
    const before = machine.scheduler.now;
    host.run(1_000_000);
    expect(machine.scheduler.now).toBe(before + 1_000_000);
    return memory.load(bar + BigInt(TEST_REGISTER.result), 4);
  };
  expect(write()).not.toBe(0n);

  const pfn = machine.frames.allocate()!;
  const domain = host.driver.allocPaging(device, 'unmanaged', 0);
  domain.map(0x10_0000, 0, pfn << 12, 0, 4096, IOMMU_READ | IOMMU_WRITE);
  attachGroup(device.group, { domain });
  expect(write()).toBe(0n);
  expect(memory.load(BigInt(pfn) << 12n, 4)).toBe(0x5an);
});

test('a device of another bus is none for a driver of PCI functions', () => {
  const host = new Host(new Machine());
  const master = { name: 'other0', rid: 0, pasidFeatures: 0, sharesPageRequests: false, reset() {} };
  expect(refusal(() => host.core.addDevice(master))).toBe('ENODEV');
  expect([host.core.deviceOf(master), host.core.groups]).toEqual([null, []]);
});
