import { ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import * as uapi from '../src/uapi/vfio.ts';
import { DEVICE_RID, Machine, PAGE, refusal } from './support/machine.ts';

const RW = ACCESS_READ | ACCESS_WRITE;

function fill(user: ReturnType<Machine['user']>, va: bigint, value: number): void {
  user.memory.write(va, new Uint8Array([value]));
}

describe('bind', () => {
  test('C12 before bind every call is refused; after it the device works with its DMA blocked until it is attached', () => {
    const machine = new Machine();
    const user = machine.user();
    const { fd } = user.vfio;
    for (let request = 0x3b64; request <= 0x3b79; request++) {
      if (request === uapi.VFIO_DEVICE_BIND_IOMMUFD) continue;
      expect(user.system.ioctl(fd, request, user.argument)).toBe(-22);
    }
    expect(refusal(() => user.vfio.read(7, 0, new Uint8Array(4)))).toBe('EINVAL');
    expect(refusal(() => user.vfio.write(7, 4, new Uint8Array(2)))).toBe('EINVAL');
    expect(refusal(() => user.vfio.map(0, 0, PAGE))).toBe('EINVAL');

    user.vfio.bind(user.iommufd.fd);
    expect(user.vfio.info()).toEqual({ flags: 3, regions: 9, irqs: 5 });
    const { ioasId, va, iova } = user.mappedIoas();
    user.busMaster(true);
    fill(user, va, 1);
    expect(user.dmaWrite(iova, 7)).toBe(false);
    expect(user.byteAt(va)).toBe(1);
    user.vfio.attach(ioasId);
    expect(user.dmaWrite(iova, 7)).toBe(true);
    expect(user.byteAt(va)).toBe(7);
  });

  test('C13 closing the file without detach blocks, detaches and releases', () => {
    const machine = new Machine();
    const frames = machine.frames.allocated;
    const user = machine.user();
    const { ioasId, va, iova, hwptId } = user.bindAndAttach();
    user.busMaster(true);
    expect(user.dmaWrite(iova, 1)).toBe(true);
    const pfn = user.machine.processes.counts.pinned;
    expect(pfn).toBeGreaterThan(0);
    const config = machine.bus.device(DEVICE_RID)!.config;
    const attached = machine.devices[0]!.group.domain;
    user.system.close(user.vfio.fd);
    expect(machine.devices[0]!.group.domain).not.toBe(attached);
    expect(machine.devices[0]!.group.owner).toBe(null);
    expect(config.read(4, 2) & 4).toBe(0);
    expect(machine.processes.counts.pinned).toBe(0);
    expect(refusal(() => user.iommufd.destroy(hwptId))).toBe('ENOENT');
    user.iommufd.destroy(ioasId);
    user.memory.read(va, new Uint8Array(1));
    user.system.exit();
    expect(machine.frames.allocated).toBe(frames);
  });

  test('the whole of a process goes at exit, with DMA in flight and interrupts set', () => {
    const machine = new Machine();
    const frames = machine.frames.allocated;
    const vectors = machine.interrupts.allocated;
    const user = machine.user();
    const { iova } = user.bindAndAttach(4);
    user.busMaster(true);
    user.vfio.setTriggers({ index: 2 }, [user.eventfd().fd, user.eventfd().fd]);
    user.vfio.map(0, 0, PAGE);
    expect(user.dmaWrite(iova, 1)).toBe(true);
    user.storeRegister(0x08, 2);
    user.system.exit();
    machine.settle();
    expect(machine.frames.allocated).toBe(frames);
    expect(machine.interrupts.allocated).toBe(vectors);
    expect(machine.processes.counts.pinned).toBe(0);
  });

  test('one open file at a time has the device; the next gets it after the close', () => {
    const machine = new Machine();
    const first = machine.user();
    const second = machine.user();
    first.vfio.bind(first.iommufd.fd);
    expect(refusal(() => first.vfio.bind(first.iommufd.fd))).toBe('EINVAL');
    expect(refusal(() => second.vfio.bind(second.iommufd.fd))).toBe('EINVAL');
    first.system.close(first.vfio.fd);
    second.vfio.bind(second.iommufd.fd);
    expect(second.vfio.info().regions).toBe(9);
  });

  test('without interrupt remapping the device cannot be bound', () => {
    const user = new Machine({ features: { interruptRemapping: false } }).user();
    expect(refusal(() => user.vfio.bind(user.iommufd.fd))).toBe('EPERM');
    expect(refusal(() => user.vfio.info())).toBe('EINVAL');
  });

  test('bind resets the function and leaves bus mastering off; so does close', () => {
    const machine = new Machine();
    const user = machine.user();
    const { pci } = machine.devices[0]!;
    pci.setBusMaster(true);
    const bar = pci.resource(0)!.address;
    machine.memory.store(bar + 0x18n, 4, 99);
    user.vfio.bind(user.iommufd.fd);
    expect(pci.config.read(4, 2)).toBe(2);
    expect(user.loadRegister(0x18)).toBe(0);
    user.storeRegister(0x18, 55);
    user.vfio.writeConfig(4, 2, 0x0544);
    user.system.close(user.vfio.fd);
    expect(pci.config.read(4, 2)).toBe(2);
    expect(machine.memory.load(bar + 0x18n, 4)).toBe(0n);
  });

  test('VF tokens: a VF needs the one that its PF has been given', () => {
    const machine = new Machine({ virtualFunctions: 1 });
    const token = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
    const owner = machine.user();
    const guest = machine.user({}, 1);
    expect(refusal(() => guest.vfio.bind(guest.iommufd.fd))).toBe('EACCES');
    expect(refusal(() => guest.vfio.bind(guest.iommufd.fd, token))).toBe('EACCES');
    owner.vfio.bind(owner.iommufd.fd, token);
    expect(refusal(() => guest.vfio.bind(guest.iommufd.fd, token.slice().reverse()))).toBe('EACCES');
    guest.vfio.bind(guest.iommufd.fd, token);
    owner.system.close(owner.vfio.fd);
    const next = machine.user();
    expect(refusal(() => next.vfio.bind(next.iommufd.fd))).toBe('EACCES');
    next.vfio.bind(next.iommufd.fd, token);
    guest.system.exit();
    next.system.exit();
    const last = machine.user();
    last.vfio.bind(last.iommufd.fd);
  });

  test('a VF whose PF is not on offer takes no token and needs none; a device in use stays on offer', () => {
    const machine = new Machine({ virtualFunctions: 1 });
    const [pf, vf] = machine.devices.map((device) => machine.vfio.find(device.pci)!);
    machine.vfio.unregister(pf!);
    expect(refusal(() => machine.user())).toBe('ENOENT');
    const user = machine.user({}, 1);
    expect(refusal(() => user.vfio.bind(user.iommufd.fd, new Uint8Array(16)))).toBe('EINVAL');
    user.vfio.bind(user.iommufd.fd);
    expect(refusal(() => machine.vfio.unregister(vf!))).toBe('EBUSY');
    expect(refusal(() => machine.vfio.register(machine.devices[1]!))).toBe('EEXIST');
  });
});

describe('attach', () => {
  test('F8 a second attach replaces; one that fails keeps the old table working', () => {
    const user = new Machine().user();
    const { va, iova, hwptId } = user.bindAndAttach();
    const other = user.mappedIoas();
    user.busMaster(true);
    expect(user.dmaWrite(iova, 1)).toBe(true);
    expect(refusal(() => user.vfio.attach(9999))).toBe('ENOENT');
    expect(refusal(() => user.vfio.attach(1))).toBe('EINVAL');
    user.machine.kernel.failpoints.arm(1);
    expect(refusal(() => user.vfio.attach(other.ioasId))).toBe('ENOMEM');
    user.machine.kernel.failpoints.arm(0);
    expect(user.dmaWrite(iova, 2)).toBe(true);
    expect([user.byteAt(va), user.byteAt(other.va)]).toEqual([2, 0]);
    expect(user.vfio.attach(other.ioasId)).not.toBe(hwptId);
    expect(user.dmaWrite(iova, 3)).toBe(true);
    expect([user.byteAt(va), user.byteAt(other.va)]).toEqual([2, 3]);
    user.vfio.detach();
    expect(user.dmaWrite(iova, 4)).toBe(false);
    user.vfio.detach();
  });

  test('F8 the same with a PASID, beside what is attached without', () => {
    const user = new Machine().user();
    const deviceId = user.vfio.bind(user.iommufd.fd);
    const plain = user.mappedIoas();
    const first = user.mappedIoas();
    const second = user.mappedIoas();
    const hwpt = (ioasId: number): number => user.iommufd.hwptAllocPaging({ deviceId, ioasId, pasid: true });
    user.vfio.attach(hwpt(plain.ioasId));
    user.busMaster(true);
    const table = hwpt(first.ioasId);
    expect(user.vfio.attach(table, { pasid: 5 })).toBe(table);
    expect(user.dmaWrite(0x10000n, 1, 5)).toBe(true);
    expect(user.dmaWrite(0x10000n, 2)).toBe(true);
    expect(refusal(() => user.vfio.attach(9999, { pasid: 5 }))).toBe('ENOENT');
    expect(user.dmaWrite(0x10000n, 3, 5)).toBe(true);
    user.vfio.attach(hwpt(second.ioasId), { pasid: 5 });
    expect(user.dmaWrite(0x10000n, 4, 5)).toBe(true);
    expect([plain, first, second].map(({ va }) => user.byteAt(va))).toEqual([2, 3, 4]);
    user.vfio.detach({ pasid: 5 });
    user.vfio.detach({ pasid: 5 });
    expect(user.dmaWrite(0x10000n, 5, 5)).toBe(false);
    expect(user.dmaWrite(0x10000n, 6)).toBe(true);
    for (const pasid of [0, 0xffffffff]) {
      expect(refusal(() => user.vfio.attach(table, { pasid }))).toBe('EINVAL');
    }
  });

  test('F9 a table that was not made for PASIDs is refused for one', () => {
    const user = new Machine().user();
    const deviceId = user.vfio.bind(user.iommufd.fd);
    const { ioasId } = user.mappedIoas();
    const plain = user.iommufd.hwptAllocPaging({ deviceId, ioasId });
    expect(refusal(() => user.vfio.attach(plain, { pasid: 5 }))).toBe('EINVAL');
    user.vfio.attach(plain);
    const made = user.iommufd.hwptAllocPaging({ deviceId, ioasId, pasid: true });
    expect(refusal(() => user.vfio.attach(made, { pasid: 5 }))).toBe('EINVAL');
  });

  test('C5 the process changes its addresses, the device keeps its pages', () => {
    const user = new Machine().user();
    const { va, iova, ioasId } = user.bindAndAttach();
    user.busMaster(true);
    user.system.munmap(va, PAGE);
    user.memory.map({ address: va, length: PAGE, protection: RW });
    expect(user.dmaWrite(iova, 9)).toBe(true);
    expect(user.byteAt(va)).toBe(0);
    user.iommufd.ioasUnmap(ioasId, iova, PAGE);
    expect(user.dmaWrite(iova, 9)).toBe(false);
    expect(user.machine.processes.counts.pinned).toBe(0);
  });
});

describe('reset', () => {
  test('clears the function, keeps its configuration, attachments and interrupts, and blocks nothing afterwards', () => {
    const user = new Machine().user();
    const { iova, va } = user.bindAndAttach();
    user.busMaster(true);
    const { fd, event } = user.eventfd();
    user.vfio.setTriggers({ index: 2 }, [fd]);
    user.storeRegister(0x18, 77);
    user.vfio.reset();
    expect(user.loadRegister(0x18)).toBe(0);
    expect(user.vfio.readConfig(4, 2)).toBe(6);
    expect(user.dmaWrite(iova, 3)).toBe(true);
    expect(user.byteAt(va)).toBe(3);
    user.storeRegister(0x20, 0);
    user.storeRegister(0x08, 6);
    user.machine.settle();
    expect(event.take()).toBe(1n);
  });

  test('with memory decode off leaves it off, and interrupts alive', () => {
    const user = new Machine().user();
    user.bindAndAttach();
    const { fd, event } = user.eventfd();
    user.vfio.setTriggers({ index: 2 }, [fd]);
    user.vfio.writeConfig(4, 2, 4);
    user.vfio.reset();
    expect(user.vfio.readConfig(4, 2)).toBe(4);
    user.busMaster(true);
    user.storeRegister(0x08, 6);
    user.machine.settle();
    expect(event.take()).toBe(1n);
  });

  test('takes mapped registers away for a moment only', () => {
    const user = new Machine().user();
    user.vfio.bind(user.iommufd.fd);
    const va = user.vfio.map(0, 0, PAGE);
    user.memory.store(va + 0x18n, 4, 5n);
    user.vfio.reset();
    expect(user.memory.load(va + 0x18n, 4)).toBe(0n);
  });
});
