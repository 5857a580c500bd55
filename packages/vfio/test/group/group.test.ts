import { requesterId } from '@iommukit/hw';
import {
  attachDevicePasid,
  claimDmaOwner,
  detachDevicePasid,
  releaseDmaOwner,
  unuseDefaultDomain,
  useDefaultDomain,
} from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { VfioContainerClient, VfioDeviceClient, VfioGroupClient } from '../../src/index.ts';
import * as uapi from '../../src/uapi/container.ts';
import * as device from '../../src/uapi/vfio.ts';
import { ContainerHost, dmaWrite, NOTHING, PAGE, type Program } from '../support/container-host.ts';
import { refusal } from '../support/machine.ts';

const EPERM = -1;
const EBADF = -9;
const EFAULT = -14;
const EBUSY = -16;
const ENODEV = -19;
const EINVAL = -22;
const EMFILE = -24;
const ENOTTY = -25;
const EBADFD = -77;

const { VFIO_GROUP_GET_STATUS: STATUS, VFIO_GROUP_SET_CONTAINER: SET, VFIO_GROUP_UNSET_CONTAINER: UNSET } = uapi;
const { VFIO_GROUP_GET_DEVICE_FD: GET_DEVICE } = uapi;

function setContainer(program: Program, group: number, fd: number): number {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, fd, true);
  program.memory.write(program.argument, bytes);
  return program.system.ioctl(group, SET, program.argument);
}

function getDevice(program: Program, group: number, text: string): number {
  return program.system.ioctl(group, GET_DEVICE, program.string(text));
}

describe('GET_STATUS', () => {
  test('tells a group in a container from one that could be', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { fd } = program.group();
    const status = () => program.ioctl(fd, STATUS, uapi.vfioGroupStatus, {}).reply;
    expect(status()).toEqual({ argsz: 8, flags: 1 });
    expect(setContainer(program, fd, program.container().fd)).toBe(0);
    expect(status().flags).toBe(3);
    expect(program.system.ioctl(fd, UNSET, 0)).toBe(0);
    expect(status().flags).toBe(1);
  });

  test('says that a group is not viable while a kernel driver uses one of its devices', () => {
    const host = new ContainerHost({ multifunction: true });
    const program = host.program();
    const group = program.group();
    expect(group.status()).toEqual({ viable: true, containerSet: false });
    useDefaultDomain(host.devices[1]!);
    expect(group.status()).toEqual({ viable: false, containerSet: false });
    const container = program.container();
    expect(setContainer(program, group.fd, container.fd)).toBe(EPERM);
    expect(host.held.contexts).toBe(0);
    unuseDefaultDomain(host.devices[1]!);
    group.setContainer(container.fd);
    expect(group.status()).toEqual({ viable: true, containerSet: true });
    expect(refusal(() => useDefaultDomain(host.devices[1]!))).toBe('EBUSY');
  });

  test('refuses what is too short or cannot be written', () => {
    const program = new ContainerHost().program();
    const { fd } = program.group();
    expect(program.ioctl(fd, STATUS, uapi.vfioGroupStatus, { argsz: 7 }).result).toBe(EINVAL);
    expect(program.ioctl(fd, STATUS, uapi.vfioGroupStatus, { argsz: 100 }).reply).toEqual({ argsz: 100, flags: 1 });
    expect(program.system.ioctl(fd, STATUS, 0)).toBe(EFAULT);
    expect(program.system.ioctl(fd, STATUS, program.readOnly(new Uint8Array([8, 0, 0, 0])))).toBe(EFAULT);
  });
});

describe('SET_CONTAINER and UNSET_CONTAINER', () => {
  test('refuse, in this order, and leave the group as it was', () => {
    const host = new ContainerHost();
    const program = host.program();
    const group = program.group();
    const container = program.container();
    expect(program.system.ioctl(group.fd, SET, 0)).toBe(EFAULT);
    expect(setContainer(program, group.fd, -1)).toBe(EBADF);
    expect(setContainer(program, group.fd, 99)).toBe(EBADF);
    expect(setContainer(program, group.fd, program.eventfd().fd)).toBe(EBADFD);
    expect(setContainer(program, group.fd, group.fd)).toBe(EBADFD);
    expect(program.system.ioctl(group.fd, UNSET, 0)).toBe(EINVAL);
    expect(setContainer(program, group.fd, container.fd)).toBe(0);
    expect(setContainer(program, group.fd, container.fd)).toBe(EINVAL);
    expect(setContainer(program, group.fd, 99)).toBe(EBADF);
    expect(setContainer(program, group.fd, group.fd)).toBe(EINVAL);
    expect(setContainer(program, group.fd, program.system.open('/dev/iommu'))).toBe(EINVAL);
    container.setIommu();
    const opened = group.openDevice(host.entries[0]!.name);
    expect(program.system.ioctl(group.fd, UNSET, 0)).toBe(EBUSY);
    program.system.close(opened.fd);
    expect(program.system.ioctl(group.fd, UNSET, 0)).toBe(0);
    expect(program.system.ioctl(group.fd, UNSET, 0)).toBe(EINVAL);
    program.system.exit();
    expect(host.held).toEqual(NOTHING);
  });

  test('a group whose DMA has another owner, or whose PASIDs are attached, stays out', () => {
    const host = new ContainerHost();
    const program = host.program();
    const groups = [program.group(0), program.group(1)];
    const container = program.container();
    const owner = {};
    claimDmaOwner(host.devices[0]!, owner);
    expect(groups[0]!.status().viable).toBe(false);
    expect(setContainer(program, groups[0]!.fd, container.fd)).toBe(EPERM);
    releaseDmaOwner(host.devices[0]!);
    const { addressSpace } = program.system.process;
    const domain = host.host.driver.allocSva(host.devices[1]!, addressSpace);
    attachDevicePasid(host.devices[1]!, 5, { domain });
    expect(setContainer(program, groups[1]!.fd, container.fd)).toBe(EBUSY);
    expect(groups.map((group) => group.status().containerSet)).toEqual([false, false]);
    detachDevicePasid(host.devices[1]!, 5);
    domain.free();
    for (const { fd } of groups) expect(setContainer(program, fd, container.fd)).toBe(0);
  });

  test('the last group takes mappings and type with it; the container can be used again', () => {
    const host = new ContainerHost();
    const program = host.program();
    const [first, second] = [program.group(0), program.group(1)];
    const container = program.container();
    first.setContainer(container.fd);
    second.setContainer(container.fd);
    container.setIommu(uapi.VFIO_TYPE1v2_IOMMU);
    const memory = program.system.mmap({ length: PAGE });
    container.map({ userVa: memory, length: PAGE, iova: 0x10000 });
    first.unsetContainer();
    expect(host.held.pins).toBe(1);
    expect(container.unmap(0x10000, PAGE)).toBe(4096n);
    container.map({ userVa: memory, length: PAGE, iova: 0x10000 });
    second.unsetContainer();
    expect({ ...host.held, users: 0 }).toEqual(NOTHING);
    expect(refusal(() => container.unmap(0x10000, PAGE))).toBe('EINVAL');
    first.setContainer(container.fd);
    container.setIommu();
    expect(container.info().nesting).not.toBe(null);
    expect(container.unmapAll()).toBe(0n);
  });
});

describe('GET_DEVICE_FD', () => {
  test('C12 gives a device whose DMA reaches what is mapped, and no other', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { devices, memory, container } = program.open({ type: uapi.VFIO_TYPE1v2_IOMMU });
    const [opened] = devices;
    expect(dmaWrite(host, opened!, 0x5000n, 7)).toBe(true);
    expect(program.byteAt(memory + 0x5000n)).toBe(7);
    expect(dmaWrite(host, opened!, 0x10000n, 7)).toBe(false);
    expect(opened!.info()).toEqual({ flags: 3, regions: 9, irqs: 5 });
    container.unmapAll();
    expect(dmaWrite(host, opened!, 0x5000n, 8)).toBe(false);
    expect(program.byteAt(memory + 0x5000n)).toBe(7);
  });

  test('C13 closing the device blocks it and keeps the mappings for the next time', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { devices, groups } = program.open();
    const bar = host.devices[0]!.pci.resource(0)!.address;
    program.system.close(devices[0]!.fd);
    expect(host.devices[0]!.group.domain).toBe(host.devices[0]!.group.blockingDomain);
    expect(host.held.pins).toBe(16);
    expect(host.machine.memory.load(bar, 4)).toBe(0x54534554n);
    const again = groups[0]!.openDevice(host.entries[0]!.name);
    again.writeConfig(4, 2, 6);
    expect(dmaWrite(host, again, 0x5000n, 1)).toBe(true);
  });

  test('refuses, and leaves the device alone', () => {
    const host = new ContainerHost();
    const program = host.program();
    const group = program.group();
    const container = program.container();
    const { name } = host.entries[0]!;
    const system = program.system;
    expect(system.ioctl(group.fd, GET_DEVICE, 0)).toBe(EFAULT);
    expect(getDevice(program, group.fd, name)).toBe(EINVAL);
    group.setContainer(container.fd);
    expect(getDevice(program, group.fd, name)).toBe(EINVAL);
    container.setIommu();
    for (const text of ['', '0000:00:01', `${name}0`, host.entries[1]!.name, 'x'.repeat(100)]) {
      expect([text, getDevice(program, group.fd, text)]).toEqual([text, ENODEV]);
    }
    expect(getDevice(program, group.fd, 'x'.repeat(PAGE))).toBe(EINVAL);
    expect(getDevice(program, group.fd, `${name} vf_token=1`)).toBe(EINVAL);
    expect(getDevice(program, group.fd, `${name} token`)).toBe(EINVAL);
    expect(host.entries[0]!.user === null).toBe(true);
    const fd = getDevice(program, group.fd, name);
    expect(fd).toBeGreaterThan(group.fd);
    system.close(fd);
    for (;;) if (refusal(() => system.dup(group.fd)) === 'EMFILE') break;
    expect(getDevice(program, group.fd, name)).toBe(EMFILE);
    expect(host.entries[0]!.user === null).toBe(true);
    group.unsetContainer();
  });

  test('BIND_IOMMUFD on such a device is EINVAL, and there is no attaching and detaching', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { devices } = program.open();
    const { fd } = devices[0]!;
    const iommufd = program.system.open('/dev/iommu');
    expect(program.ioctl(fd, device.VFIO_DEVICE_BIND_IOMMUFD, device.vfioDeviceBind, { iommufd }).result).toBe(EINVAL);
    for (const request of [device.VFIO_DEVICE_ATTACH_IOMMUFD_PT, device.VFIO_DEVICE_DETACH_IOMMUFD_PT]) {
      expect(program.system.ioctl(fd, request, 0)).toBe(ENOTTY);
    }
    expect([refusal(() => devices[0]!.attach(1)), refusal(() => devices[0]!.detach())]).toEqual(['ENOTTY', 'ENOTTY']);
  });

  test('a device is given again while it is open, and ends with the last descriptor', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { devices, groups, container, memory } = program.open({ type: uapi.VFIO_TYPE1v2_IOMMU });
    const { name } = host.entries[0]!;
    const again = groups[0]!.openDevice(name);
    expect(dmaWrite(host, again, 0x5000n, 7)).toBe(true);
    expect(getDevice(program, groups[0]!.fd, `${name} vf_token=1`)).toBe(EINVAL);
    program.system.close(devices[0]!.fd);
    expect(dmaWrite(host, again, 0x6000n, 8)).toBe(true);
    expect([program.byteAt(memory + 0x5000n), program.byteAt(memory + 0x6000n)]).toEqual([7, 8]);
    expect(program.system.ioctl(groups[0]!.fd, UNSET, 0)).toBe(EBUSY);
    const third = groups[0]!.openDevice(name);
    for (const { fd } of [groups[0]!, container, third]) program.system.close(fd);
    expect(dmaWrite(host, again, 0x7000n, 9)).toBe(true);
    program.system.close(again.fd);
    expect(host.held).toEqual(NOTHING);
  });

  test('a virtual function needs the token that its physical function has been given', () => {
    const host = new ContainerHost();
    const { bus, core } = host.host;
    const [vf] = bus.enableVirtualFunctions(host.devices[0]!.pci, 1);
    const entry = host.vfio.register(core.addDevice(vf!));
    const program = host.program();
    const container = program.container();
    const group = new VfioGroupClient(program.system, program.system.open(entry.group.path));
    group.setContainer(container.fd);
    container.setIommu();
    const uuid = '00112233-4455-6677-8899-aabbccddeeff';
    expect(getDevice(program, group.fd, entry.name)).toBe(-13);
    expect(getDevice(program, group.fd, `${entry.name} vf_token=${uuid}`)).toBe(-13);
    const owner = host.program();
    const physical = owner.group(0);
    const other = owner.container();
    physical.setContainer(other.fd);
    other.setIommu();
    physical.openDevice(`${host.entries[0]!.name} vf_token=${uuid}`);
    expect(getDevice(program, group.fd, `${entry.name} vf_token=${uuid.replace('0', '1')}`)).toBe(-13);
    expect(getDevice(program, group.fd, `${entry.name}  vf_token=${uuid} vf_token=${uuid}`)).toBe(EINVAL);
    expect(getDevice(program, group.fd, `${entry.name}  vf_token=${uuid} `)).toBeGreaterThan(0);
  });
});

describe('one way at a time', () => {
  test('a group can be opened once, and not while a device is bound by its own file', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { path, name } = { path: host.entries[0]!.group.path, name: host.entries[0]!.name };
    const group = program.group();
    expect(refusal(() => program.group())).toBe('EBUSY');
    expect(refusal(() => host.program().group())).toBe('EBUSY');
    const own = new VfioDeviceClient(program.system, program.system.open(host.entries[0]!.path));
    const iommufd = program.system.open('/dev/iommu');
    expect(refusal(() => own.bind(iommufd))).toBe('EBUSY');
    const { result } = program.ioctl(own.fd, device.VFIO_DEVICE_BIND_IOMMUFD, device.vfioDeviceBind, { iommufd });
    expect(result).toBe(EBUSY);
    program.system.close(group.fd);
    own.bind(iommufd);
    expect(refusal(() => program.system.open(path))).toBe('EBUSY');
    program.group(1);
    program.system.close(own.fd);
    const again = program.group();
    const container = program.container();
    again.setContainer(container.fd);
    container.setIommu();
    again.openDevice(name);
  });

  test('a device got through a group keeps it open', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { devices, groups, container } = program.open();
    program.system.close(groups[0]!.fd);
    program.system.close(container.fd);
    expect(refusal(() => program.group())).toBe('EBUSY');
    expect(dmaWrite(host, devices[0]!, 0n, 1)).toBe(true);
    expect(refusal(() => host.vfio.unregister(host.entries[0]!))).toBe('EBUSY');
    program.system.close(devices[0]!.fd);
    expect(host.held).toEqual(NOTHING);
    program.group();
    expect(refusal(() => host.vfio.unregister(host.entries[0]!))).toBe('EBUSY');
  });

  test('the paths go with the last device of the group', () => {
    const host = new ContainerHost({ multifunction: true });
    const { path } = host.entries[0]!.group;
    expect(host.nodes.list()).toEqual([
      '/dev/iommu',
      '/dev/vfio/vfio',
      path,
      '/dev/vfio/devices/vfio0',
      '/dev/vfio/devices/vfio1',
    ]);
    host.vfio.unregister(host.entries[0]!);
    expect(host.nodes.list()).toContain(path);
    host.vfio.unregister(host.entries[1]!);
    expect(host.nodes.list()).toEqual(['/dev/iommu', '/dev/vfio/vfio']);
    expect(host.vfio.register(host.devices[1]!).group.path).toBe(path);
  });
});

describe('groups of several devices', () => {
  test('C15 the devices of a group share one address space, and so do the groups of a container', () => {
    const host = new ContainerHost({ rids: [requesterId(0, 1, 0), requesterId(0, 1, 1), requesterId(0, 2, 0)] });
    expect(host.entries[0]!.group).toBe(host.entries[1]!.group);
    expect(host.entries[2]!.group).not.toBe(host.entries[1]!.group);
    const program = host.program();
    const container = program.container();
    const groups = [program.group(0), program.group(2)];
    for (const group of groups) group.setContainer(container.fd);
    container.setIommu();
    const memory = program.system.mmap({ length: PAGE });
    container.map({ userVa: memory, length: PAGE, iova: 0 });
    const devices = [0, 1, 2].map((index) => groups[index === 2 ? 1 : 0]!.openDevice(host.entries[index]!.name));
    devices.forEach((opened, index) => {
      opened.writeConfig(4, 2, 6);
      expect(dmaWrite(host, opened, 1n, 10 + index)).toBe(true);
      expect(program.byteAt(memory + 1n)).toBe(10 + index);
    });
    program.system.close(devices[0]!.fd);
    expect(dmaWrite(host, devices[1]!, 1n, 20)).toBe(true);
    expect(refusal(() => groups[0]!.unsetContainer())).toBe('EBUSY');
    groups.map(({ fd }) => program.system.close(fd));
    program.system.exit();
    expect(host.held).toEqual(NOTHING);
    expect(host.leftFrames()).toBe(0);
  });

  test('two containers isolate their groups', () => {
    const host = new ContainerHost();
    const programs = [host.program(), host.program()];
    const opened = programs.map((program, index) => {
      const container = program.container();
      const group = program.group(index);
      group.setContainer(container.fd);
      container.setIommu();
      const memory = program.system.mmap({ length: PAGE });
      container.map({ userVa: memory, length: PAGE, iova: 0 });
      const own = group.openDevice(host.entries[index]!.name);
      own.writeConfig(4, 2, 6);
      return { own, memory };
    });
    opened.forEach(({ own }, index) => expect(dmaWrite(host, own, 0n, 1 + index)).toBe(true));
    expect(opened.map(({ memory }, index) => programs[index]!.byteAt(memory))).toEqual([1, 2]);
  });
});

describe('anything at all', () => {
  test('an unknown request is ENOTTY, and a client is only made for its kind of file', () => {
    const program = new ContainerHost().program();
    const group = program.group();
    for (const request of [0x3b64, 0x3b6b, 0x3b70, 0, -1]) {
      expect([request, program.system.ioctl(group.fd, request, program.argument)]).toEqual([request, ENOTTY]);
    }
    const container = program.container();
    expect(refusal(() => new VfioGroupClient(program.system, container.fd))).toBe('EINVAL');
    expect(refusal(() => new VfioContainerClient(program.system, group.fd))).toBe('EBADFD');
    expect(refusal(() => new VfioDeviceClient(program.system, group.fd))).toBe('EINVAL');
  });
});
