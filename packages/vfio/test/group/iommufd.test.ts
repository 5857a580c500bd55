/** Groups that are set into a /dev/iommu in place of a container. */

import { useDefaultDomain } from '@iommukit/iommu-core';
import { IommufdClient, Type1Client } from '@iommukit/iommufd';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { VfioContainerClient, VfioDeviceClient, type VfioGroupClient } from '../../src/index.ts';
import * as uapi from '../../src/uapi/container.ts';
import * as device from '../../src/uapi/vfio.ts';
import { ContainerHost, dmaWrite, NOTHING, PAGE, type Program } from '../support/container-host.ts';
import { refusal } from '../support/machine.ts';

const EPERM = -1;
const ENODEV = -19;
const EINVAL = -22;
const ENOTTY = -25;
const EADDRINUSE = -98;
const PAGES = 16;

/** A program with a /dev/iommu, and what it says as a container. */
function start(host: ContainerHost = new ContainerHost()) {
  const program = host.program();
  const fd = program.system.open('/dev/iommu');
  return {
    host,
    program,
    fd,
    iommufd: new IommufdClient(program.system, fd),
    type1: new Type1Client(program.system, fd),
  };
}

type Opened = ReturnType<typeof start> & { group: VfioGroupClient; opened: VfioDeviceClient; memory: bigint };

/** With a group in it, its device open, and PAGES pages of memory mapped at 0. */
function open(type: number = uapi.VFIO_TYPE1v2_IOMMU, host?: ContainerHost): Opened {
  const started = start(host);
  const { program, fd, type1 } = started;
  const group = program.group();
  group.setContainer(fd);
  type1.setIommu(type);
  const opened = openDevice(started.host, group);
  const memory = program.system.mmap({ length: PAGES * PAGE });
  type1.map({ userVa: memory, length: PAGES * PAGE, iova: 0 });
  return { ...started, group, opened, memory };
}

function openDevice(host: ContainerHost, group: VfioGroupClient, index = 0): VfioDeviceClient {
  const opened = group.openDevice(host.entries[index]!.name);
  opened.writeConfig(4, 2, 6);
  return opened;
}

function getDevice(program: Program, group: VfioGroupClient, text: string): number {
  return program.system.ioctl(group.fd, uapi.VFIO_GROUP_GET_DEVICE_FD, program.string(text));
}

describe('SET_CONTAINER', () => {
  test('makes an IOAS for type1 of a /dev/iommu that has none, and a device that is then got reaches what is mapped', () => {
    const { host, program, fd, type1, iommufd } = start();
    const { system } = program;
    expect(system.ioctl(fd, uapi.VFIO_GET_API_VERSION, 0)).toBe(0);
    expect(system.ioctl(fd, uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_TYPE1_IOMMU)).toBe(1);
    expect(system.ioctl(fd, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1v2_IOMMU)).toBe(ENODEV);
    expect(refusal(() => type1.ioas())).toBe('ENODEV');
    const group = program.group();
    group.setContainer(fd);
    expect(type1.ioas()).toBe(1);
    expect(group.status()).toEqual({ viable: true, containerSet: true });
    expect(system.ioctl(fd, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1_NESTING_IOMMU)).toBe(EINVAL);
    type1.setIommu();
    const opened = openDevice(host, group);
    expect(opened.info()).toEqual({ flags: 3, regions: 9, irqs: 5 });
    const memory = system.mmap({ length: PAGE });
    type1.map({ userVa: memory, length: PAGE, iova: 0x5000 });
    expect(dmaWrite(host, opened, 0x5007n, 9)).toBe(true);
    expect(program.byteAt(memory + 7n)).toBe(9);
    expect(dmaWrite(host, opened, 0x6000n, 9)).toBe(false);
    // What the device is attached to is an object like any other.
    expect(refusal(() => iommufd.destroy(1))).toBe('EBUSY');
    expect(iommufd.ioasUnmap(1, 0x5000, PAGE)).toBe(4096n);
    expect(dmaWrite(host, opened, 0x5007n, 9)).toBe(false);
  });

  test('leaves the IOAS that is set, and makes one in place of one that is gone', () => {
    const { program, fd, type1, iommufd, host } = start();
    const [first, second] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()];
    type1.setIoas(second);
    const group = program.group(0);
    group.setContainer(fd);
    expect([type1.ioas(), host.held.objects]).toEqual([second, 2]);
    iommufd.destroy(second);
    const other = program.group(1);
    other.setContainer(fd);
    expect([type1.ioas() === first, host.held.objects]).toEqual([false, 2]);
    type1.setIoas(first);
    group.unsetContainer();
    group.setContainer(fd);
    expect([type1.ioas(), host.held.objects]).toEqual([first, 2]);
  });

  test('two groups share what is mapped; a container and a /dev/iommu do not', () => {
    const { host, program, fd, type1, opened, memory } = open();
    const second = program.group(1);
    second.setContainer(fd);
    const other = openDevice(host, second, 1);
    expect([dmaWrite(host, opened, 0x1000n, 1), dmaWrite(host, other, 0x2000n, 2)]).toEqual([true, true]);
    expect([program.byteAt(memory + 0x1000n), program.byteAt(memory + 0x2000n)]).toEqual([1, 2]);
    program.system.close(other.fd);
    second.unsetContainer();
    const container = program.container();
    second.setContainer(container.fd);
    container.setIommu(uapi.VFIO_TYPE1v2_IOMMU);
    const apart = openDevice(host, second, 1);
    expect(dmaWrite(host, apart, 0x2000n, 3)).toBe(false);
    expect(type1.unmapAll()).toBe(BigInt(PAGES * PAGE));
    expect(refusal(() => new VfioContainerClient(program.system, fd))).toBe('EBADFD');
  });
});

describe('GET_DEVICE_FD', () => {
  test('refuses without an IOAS, with areas in the way and for a group in other hands, and leaves the device alone', () => {
    const { host, program, fd, type1 } = start(new ContainerHost({ multifunction: true }));
    const { name } = host.entries[0]!;
    const group = program.group();
    expect(getDevice(program, group, name)).toBe(EINVAL);
    group.setContainer(fd);
    const ioas = type1.ioas();
    type1.setIoas(null);
    const before = host.held;
    expect(getDevice(program, group, name)).toBe(ENODEV);
    expect(host.held).toEqual(before);
    type1.setIoas(ioas);
    const memory = program.system.mmap({ length: PAGE });
    type1.map({ userVa: memory, length: PAGE, iova: 0xfee0_0000 });
    expect(getDevice(program, group, name)).toBe(EADDRINUSE);
    expect(host.held).toEqual(before);
    type1.unmapAll();
    useDefaultDomain(host.devices[1]!);
    // Whether the group's DMA can be had shows only now.
    expect(group.status()).toEqual({ viable: true, containerSet: true });
    expect(getDevice(program, group, name)).toBe(EPERM);
  });

  test('gives a device that is not to be bound, attached or detached by its user', () => {
    const { program, opened } = open();
    const iommufd = program.system.open('/dev/iommu');
    const { result } = program.ioctl(opened.fd, device.VFIO_DEVICE_BIND_IOMMUFD, device.vfioDeviceBind, { iommufd });
    expect(result).toBe(EINVAL);
    for (const request of [device.VFIO_DEVICE_ATTACH_IOMMUFD_PT, device.VFIO_DEVICE_DETACH_IOMMUFD_PT]) {
      expect(program.system.ioctl(opened.fd, request, 0)).toBe(ENOTTY);
    }
  });
});

describe('a device holds the /dev/iommu, not the group', () => {
  test('the group can be unset and set again while the device is open', () => {
    const { host, program, group, opened, fd } = open();
    group.unsetContainer();
    expect(group.status()).toEqual({ viable: false, containerSet: false });
    expect(refusal(() => group.unsetContainer())).toBe('EINVAL');
    expect(getDevice(program, group, host.entries[0]!.name)).toBe(EINVAL);
    expect(dmaWrite(host, opened, 0x3000n, 1)).toBe(true);
    expect(refusal(() => group.setContainer(program.container().fd))).toBe('EPERM');
    group.setContainer(program.system.open('/dev/iommu'));
    // The device stays where it was bound.
    const again = group.openDevice(host.entries[0]!.name);
    expect(dmaWrite(host, again, 0x4000n, 1)).toBe(true);
    program.system.close(opened.fd);
    program.system.close(fd);
    expect(dmaWrite(host, again, 0x4000n, 2)).toBe(true);
    program.system.close(again.fd);
    expect(host.held.pins).toBe(0);
  });

  test('the group can be closed and opened by another while the device is open, which nobody else can bind', () => {
    const { host, program, group, opened } = open();
    program.system.close(group.fd);
    const stranger = host.program();
    const reopened = stranger.group();
    expect(reopened.status()).toEqual({ viable: false, containerSet: false });
    const own = new VfioDeviceClient(stranger.system, stranger.system.open(host.entries[0]!.path));
    const iommufd = stranger.system.open('/dev/iommu');
    expect(refusal(() => own.bind(iommufd))).toBe('EBUSY');
    stranger.system.close(reopened.fd);
    expect(refusal(() => own.bind(iommufd))).toBe('EINVAL');
    expect(refusal(() => host.vfio.unregister(host.entries[0]!))).toBe('EBUSY');
    expect(dmaWrite(host, opened, 0x3000n, 1)).toBe(true);
    program.system.close(opened.fd);
    own.bind(iommufd);
    expect(refusal(() => stranger.group())).toBe('EBUSY');
    stranger.system.close(own.fd);
    stranger.group();
  });
});

test('X6 descriptors of two groups in a /dev/iommu close in any order', () => {
  const host = new ContainerHost();
  const check = fc.property(fc.boolean(), fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 6 }), (unset, order) => {
    const { program, fd, group, opened } = open(uapi.VFIO_TYPE1_IOMMU, host);
    const second = program.group(1);
    second.setContainer(fd);
    const devices = [openDevice(host, second, 1), group.openDevice(host.entries[0]!.name)];
    if (unset) group.unsetContainer();
    const fds = [fd, ...[group, opened, second, ...devices].map((client) => client.fd)];
    for (const index of order) program.system.close(fds[index]!);
    expect(host.held).toEqual(NOTHING);
    program.system.exit();
  });
  fc.assert(check, { numRuns: 60 });
  expect(host.leftFrames()).toBe(0);
});

test('X5 when an allocation fails, setting the group and opening its device are undone', () => {
  const { host, program, fd } = start();
  const group = program.group();
  const { failpoints } = host.host.kernel;
  const sweep = (step: () => void): number => {
    for (let nth = 1; ; nth++) {
      const before = [host.held, host.machine.frames.allocated, program.system.openDescriptors];
      failpoints.arm(nth);
      const code = refusal(step);
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) {
        expect(code).toBe(null);
        return nth - 1;
      }
      expect([hit, code]).toEqual([hit, 'ENOMEM']);
      expect([hit, [host.held, host.machine.frames.allocated, program.system.openDescriptors]]).toEqual([hit, before]);
    }
  };
  expect(sweep(() => group.setContainer(fd))).toBeGreaterThan(0);
  expect(sweep(() => openDevice(host, group))).toBeGreaterThan(1);
});

describe('version 1 against a map of pages', () => {
  const range = { first: fc.nat(23), pages: fc.integer({ min: 1, max: 12 }) };
  const step = fc.oneof(
    fc.record({ name: fc.constant('map' as const), ...range, source: fc.nat(PAGES - 1) }),
    fc.record({ name: fc.constant('unmap' as const), ...range }),
  );

  test('a device reaches what cuts have left of mappings, and nothing else', () => {
    const { host, program, type1, opened, memory } = open(uapi.VFIO_TYPE1_IOMMU);
    const check = fc.property(
      fc.array(step, { minLength: 4, maxLength: 16, size: 'max' }),
      fc.nat(34),
      (steps, probe) => {
        type1.unmapAll();
        const model = new Map<number, number>();
        for (const action of steps) {
          const { first } = action;
          const pages = action.name === 'map' ? Math.min(action.pages, PAGES - action.source) : action.pages;
          const asked = Array.from({ length: pages }, (_, index) => first + index);
          if (action.name === 'map') {
            const { source } = action;
            const userVa = memory + BigInt(source * PAGE);
            const code = refusal(() => type1.map({ userVa, length: pages * PAGE, iova: first * PAGE }));
            const taken = asked.some((page) => model.has(page));
            expect(code).toBe(taken ? 'EEXIST' : null);
            if (!taken) asked.forEach((page, index) => model.set(page, source + index));
          } else {
            const gone = asked.filter((page) => model.delete(page)).length;
            expect(type1.unmap(first * PAGE, pages * PAGE)).toBe(BigInt(gone * PAGE));
          }
          expect(host.held.pins).toBe(model.size);
          for (const page of [probe, first, first + pages]) {
            const at = model.get(page);
            const offset = BigInt((at ?? 0) * PAGE);
            program.memory.store(memory + offset, 1, 0n);
            expect([page, dmaWrite(host, opened, BigInt(page * PAGE), 0x5a)]).toEqual([page, at !== undefined]);
            expect([page, program.byteAt(memory + offset)]).toEqual([page, at === undefined ? 0 : 0x5a]);
          }
        }
      },
    );
    fc.assert(check, { numRuns: 50 });
    type1.unmapAll();
    expect(host.held.pins).toBe(0);
  });
});
