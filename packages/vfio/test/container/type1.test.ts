import { DeviceNodes, SystemCalls } from '@iommukit/iommufd';
import { describe, expect, test } from 'vitest';
import { Vfio, VfioContainerClient, VfioGroupClient } from '../../src/index.ts';
import * as uapi from '../../src/uapi/container.ts';
import * as nesting from '../../src/uapi/nesting.ts';
import { decodeCapabilities } from '../support/capabilities.ts';
import { ContainerHost, dmaWrite, NOTHING, PAGE, type Program } from '../support/container-host.ts';
import { refusal } from '../support/machine.ts';

const ENOMEM = -12;
const EFAULT = -14;
const EEXIST = -17;
const ENODEV = -19;
const EINVAL = -22;
const ENOTTY = -25;
const ENOSPC = -28;
const EOVERFLOW = -75;
const EOPNOTSUPP = -95;

const MAX = 2n ** 64n;

/** A container with one group, of a type. */
function withType(type: number, host = new ContainerHost()) {
  const program = host.program();
  const container = program.container();
  const group = program.group();
  group.setContainer(container.fd);
  container.setIommu(type);
  return { host, program, container, group };
}

function caller(program: Program, fd: number) {
  return {
    map: (values: Partial<Record<'argsz' | 'flags', number> & Record<'vaddr' | 'iova' | 'size', bigint>>) =>
      program.ioctl(fd, uapi.VFIO_IOMMU_MAP_DMA, uapi.vfioIommuType1DmaMap, { flags: 3, ...values }).result,
    unmap: (values: Partial<Record<'argsz' | 'flags', number> & Record<'iova' | 'size', bigint>>) =>
      program.ioctl(fd, uapi.VFIO_IOMMU_UNMAP_DMA, uapi.vfioIommuType1DmaUnmap, values),
  };
}

describe('a container', () => {
  test('has the version and extensions of type1', () => {
    const program = new ContainerHost().program();
    const { fd } = program.container();
    const { system } = program;
    expect(system.ioctl(fd, uapi.VFIO_GET_API_VERSION, 0)).toBe(0);
    const extensions = [1, 2, 3, 5, 6, 7, 8, 9, 10, 2 ** 32 + 3].map((extension) =>
      system.ioctl(fd, uapi.VFIO_CHECK_EXTENSION, extension),
    );
    expect(extensions).toEqual([1, 0, 1, 0, 1, 0, 0, 1, 0, 0]);
    expect(system.ioctl(fd, uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_DMA_CC_IOMMU)).toBe(0);
    const { container } = withType(uapi.VFIO_TYPE1v2_IOMMU);
    expect(container.hasExtension(uapi.VFIO_DMA_CC_IOMMU)).toBe(true);
    expect(container.hasExtension(uapi.VFIO_TYPE1_IOMMU)).toBe(true);
  });

  test('without an IOMMU answers everything else with EINVAL, whatever the argument', () => {
    const program = new ContainerHost().program();
    const container = program.container();
    const { map, unmap } = caller(program, container.fd);
    expect(map({ size: 4096n })).toBe(EINVAL);
    expect(unmap({ size: 4096n }).result).toBe(EINVAL);
    expect(unmap({ flags: 2 }).result).toBe(EINVAL);
    for (const request of [
      uapi.VFIO_IOMMU_GET_INFO,
      uapi.VFIO_IOMMU_MAP_DMA,
      uapi.VFIO_IOMMU_UNMAP_DMA,
      nesting.VFIO_IOMMU_CACHE_INVALIDATE,
      nesting.VFIO_IOMMU_BIND_GPASID,
      nesting.VFIO_IOMMU_UNBIND_GPASID,
      uapi.VFIO_GROUP_GET_STATUS,
      0,
    ]) {
      expect([request, program.system.ioctl(container.fd, request, 0)]).toEqual([request, EINVAL]);
    }
  });

  test('answers unknown requests with ENOTTY', () => {
    const { program, container } = withType(uapi.VFIO_TYPE1v2_IOMMU);
    for (const request of [0x3b67, 0x3b6a, 0x3b6b, 0x3b75, 0x3b76, 0x3bc2, 0x3b80, 0, -1]) {
      expect([request, program.system.ioctl(container.fd, request, program.argument)]).toEqual([request, ENOTTY]);
    }
  });
});

describe('SET_IOMMU', () => {
  test('takes the types 1, 3 and 6, once, and only with a group', () => {
    const host = new ContainerHost();
    const program = host.program();
    const { fd } = program.container();
    const set = (type: bigint | number) => program.system.ioctl(fd, uapi.VFIO_SET_IOMMU, type);
    for (const type of [0, 1, 3, 6, 9]) expect([type, set(type)]).toEqual([type, EINVAL]);
    const group = program.group();
    group.setContainer(fd);
    for (const type of [0, 2, 4, 5, 7, 8, 10, 2n ** 64n - 1n, 2n ** 32n + 6n]) {
      expect([type, set(type)]).toEqual([type, ENODEV]);
    }
    // VFIO_UNMAP_ALL is something that a container can do, but not a type.
    expect(set(uapi.VFIO_UNMAP_ALL)).toBe(EINVAL);
    for (const type of [6, 3, 1]) {
      expect([type, set(type)]).toEqual([type, 0]);
      expect([set(type), set(3), set(0)]).toEqual([EINVAL, EINVAL, EINVAL]);
      group.unsetContainer();
      group.setContainer(fd);
    }
  });

  test('of the nesting type needs a unit that nests, and takes nothing without', () => {
    const host = new ContainerHost({ features: { nested: false } });
    const program = host.program();
    const { fd } = program.container();
    program.group().setContainer(fd);
    expect(program.system.ioctl(fd, uapi.VFIO_SET_IOMMU, 6)).toBe(EOPNOTSUPP);
    expect(host.held.objects).toBe(0);
    expect(program.system.ioctl(fd, uapi.VFIO_SET_IOMMU, 3)).toBe(0);
  });
});

describe('MAP_DMA and UNMAP_DMA', () => {
  for (const type of [uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU, uapi.VFIO_TYPE1_NESTING_IOMMU]) {
    test(`F3 with the errnos of type1 (type ${type})`, () => {
      const { host, program, container } = withType(type);
      const { map } = caller(program, container.fd);
      const vaddr = program.system.mmap({ length: 4 * PAGE });
      const range = { vaddr, iova: 0x10000n, size: 0x2000n };
      expect(map({ ...range, argsz: 31 })).toBe(EINVAL);
      expect(map({ ...range, flags: 7 })).toBe(EINVAL);
      expect(map({ ...range, flags: 0 })).toBe(EINVAL);
      for (const values of [
        { size: 0n },
        { size: 0x1800n },
        { iova: 0x10800n },
        { vaddr: vaddr + 1n },
        { iova: 1n << 48n },
        { iova: MAX - 0x2000n },
        { size: MAX - 4096n, iova: 0n, vaddr: 0n },
        { iova: 0xfee0_0000n },
      ]) {
        expect([values, map({ ...range, ...values })]).toEqual([values, EINVAL]);
      }
      for (const values of [
        { iova: MAX - 4096n },
        { vaddr: MAX - 4096n },
        { iova: MAX - 1n },
        { size: MAX - 1n },
        { vaddr: MAX - 1n, flags: 0 },
      ]) {
        expect([values, map({ ...range, ...values })]).toEqual([values, EOVERFLOW]);
      }
      // Memory that would end with the address space is memory that nobody has.
      expect(map({ ...range, vaddr: MAX - 0x2000n })).toBe(EFAULT);
      expect(program.system.ioctl(container.fd, uapi.VFIO_IOMMU_MAP_DMA, 0)).toBe(EFAULT);
      expect(map({ ...range, vaddr: 0x1000n })).toBe(EFAULT);
      expect(host.held.pins).toBe(0);
      expect(map(range)).toBe(0);
      expect(host.held.pins).toBe(2);
      for (const iova of [0xf000n, 0x10000n, 0x11000n]) expect([iova, map({ ...range, iova })]).toEqual([iova, EEXIST]);
      expect(map({ ...range, flags: 0 })).toBe(EINVAL);
      expect(map({ ...range, size: 1n << 60n })).toBe(EEXIST);
      expect(map({ ...range, iova: 0x12000n })).toBe(0);
      expect(host.held.pins).toBe(4);
    });
  }

  for (const type of [uapi.VFIO_TYPE1v2_IOMMU, uapi.VFIO_TYPE1_NESTING_IOMMU]) {
    test(`unmap whole mappings, and nothing is no error (type ${type})`, () => {
      const { host, program, container } = withType(type);
      const { map, unmap } = caller(program, container.fd);
      const vaddr = program.system.mmap({ length: 4 * PAGE });
      for (const page of [1n, 3n]) expect(map({ vaddr, iova: page * 0x2000n, size: 0x2000n })).toBe(0);
      expect(unmap({ size: 4096n, argsz: 23 }).result).toBe(EINVAL);
      expect(unmap({ size: 4096n, flags: 1 }).result).toBe(EINVAL);
      expect(unmap({ size: 4096n, flags: 4 }).result).toBe(EINVAL);
      expect(unmap({ size: 4096n, flags: 2 }).result).toBe(EINVAL);
      expect(unmap({ iova: 4096n, flags: 2 }).result).toBe(EINVAL);
      for (const [iova, size] of [
        [0n, 0n],
        [1n, 4096n],
        [0n, 4095n],
        [0x3000n, 0x1000n],
        [0x2000n, 0x1000n],
        [0x2000n, 0x5000n],
        [0x1000n, 0x2000n],
        [0x3000n, 0x5000n],
      ] as const) {
        expect([iova, size, unmap({ iova, size }).result]).toEqual([iova, size, EINVAL]);
      }
      expect(unmap({ iova: MAX - 4096n, size: 0x2000n }).result).toBe(EOVERFLOW);
      expect(unmap({ iova: MAX - 4096n, size: 0x1800n }).result).toBe(EINVAL);
      expect(host.held.pins).toBe(4);
      const nothing = unmap({ iova: 0x4000n, size: 0x2000n });
      expect([nothing.result, nothing.reply.size]).toEqual([0, 0n]);
      const first = unmap({ iova: 0n, size: 0x6000n });
      expect([first.result, first.reply]).toEqual([0, { argsz: 24, flags: 0, iova: 0n, size: 0x2000n }]);
      const rest = unmap({ flags: 2 });
      expect([rest.result, rest.reply.size]).toEqual([0, 0x2000n]);
      expect(host.held.pins).toBe(0);
      expect(unmap({ flags: 2 }).reply.size).toBe(0n);
      expect(unmap({ iova: MAX - 4096n, size: 4096n }).reply.size).toBe(0n);
    });
  }

  test('version 1 unmaps whole what begins in the range, and nothing when something begins before it', () => {
    const { host, program, container } = withType(uapi.VFIO_TYPE1_IOMMU);
    const { map, unmap } = caller(program, container.fd);
    const vaddr = program.system.mmap({ length: 4 * PAGE });
    for (const page of [2n, 6n, 10n]) expect(map({ vaddr, iova: page * 0x1000n, size: 0x3000n })).toBe(0);
    const unmapped = (iova: bigint, size: bigint) => {
      const { result, reply } = unmap({ iova, size });
      return [result, reply.size];
    };
    expect(unmap({ iova: 1n, size: 4096n }).result).toBe(EINVAL);
    expect(unmap({ iova: MAX - 4096n, size: 0x2000n }).result).toBe(EOVERFLOW);
    expect(unmapped(0x3000n, 0x1000n)).toEqual([0, 0n]);
    expect(unmapped(0x4000n, 0x9000n)).toEqual([0, 0n]);
    expect(unmapped(0x5000n, 0x1000n)).toEqual([0, 0n]);
    expect(host.held.pins).toBe(9);
    expect(unmapped(0x1000n, 0x2000n)).toEqual([0, 0x3000n]);
    expect(unmapped(0x5000n, 0x6000n)).toEqual([0, 0x6000n]);
    expect(host.held.pins).toBe(0);
  });

  test('there can be so many mappings and no more', () => {
    const { host, program, container } = withType(uapi.VFIO_TYPE1v2_IOMMU, new ContainerHost({ dmaEntryLimit: 3 }));
    const vaddr = program.system.mmap({ length: PAGE });
    const { map } = caller(program, container.fd);
    for (const iova of [0n, 0x1000n, 0x2000n]) expect(map({ vaddr, iova, size: 4096n })).toBe(0);
    expect(container.info().mappingsLeft).toBe(0);
    expect(map({ vaddr, iova: 0x3000n, size: 4096n })).toBe(ENOSPC);
    expect(map({ vaddr, iova: 0xfee0_0000n, size: 4096n })).toBe(ENOSPC);
    expect(map({ vaddr, iova: 0n, size: 4096n })).toBe(EEXIST);
    expect(container.unmap(0, PAGE)).toBe(4096n);
    expect(container.info().mappingsLeft).toBe(1);
    expect(map({ vaddr, iova: 0x3000n, size: 4096n })).toBe(0);
    expect(host.held.pins).toBe(3);
  });

  test('a group with a region of its own where something is mapped cannot join', () => {
    const host = new ContainerHost();
    const { program, container } = withType(uapi.VFIO_TYPE1v2_IOMMU, host);
    const second = host.devices[1]!;
    second.reservedRegions = () => [{ first: 0x8000n, last: 0x8fffn, kind: 'reserved', prot: 0 }];
    const vaddr = program.system.mmap({ length: PAGE });
    container.map({ userVa: vaddr, length: PAGE, iova: 0x8000 });
    const other = program.group(1);
    expect(refusal(() => other.setContainer(container.fd))).toBe('EINVAL');
    expect(other.status()).toEqual({ viable: true, containerSet: false });
    container.unmapAll();
    other.setContainer(container.fd);
    expect(container.info().ranges[0]).toEqual({ start: 0n, last: 0x7fffn });
    expect(refusal(() => container.map({ userVa: vaddr, length: PAGE, iova: 0x8000 }))).toBe('EINVAL');
    other.unsetContainer();
    container.map({ userVa: vaddr, length: PAGE, iova: 0x8000 });
  });

  test('an unmap that cannot answer has not happened', () => {
    const { host, program, container } = withType(uapi.VFIO_TYPE1v2_IOMMU);
    const vaddr = program.system.mmap({ length: PAGE });
    container.map({ userVa: vaddr, length: PAGE, iova: 0 });
    const bytes = new Uint8Array(24);
    uapi.vfioIommuType1DmaUnmap.write({ argsz: 24, flags: 0, iova: 0n, size: 4096n }, bytes);
    expect(program.system.ioctl(container.fd, uapi.VFIO_IOMMU_UNMAP_DMA, program.readOnly(bytes))).toBe(EFAULT);
    expect(host.held.pins).toBe(1);
  });

  test('pages are charged to the address space, as type1 does, and not above its limit', () => {
    const host = new ContainerHost();
    const program = host.program({ memlock: 2 * PAGE });
    const container = program.container();
    program.group().setContainer(container.fd);
    container.setIommu();
    const vaddr = program.system.mmap({ length: 3 * PAGE });
    const { map } = caller(program, container.fd);
    expect(map({ vaddr, size: 0x3000n })).toBe(ENOMEM);
    expect(map({ vaddr, size: 0x2000n })).toBe(0);
    const { addressSpace, credentials } = program.system.process;
    expect([addressSpace.lockedPages, credentials.user.lockedPages]).toEqual([2, 0]);
    expect(map({ vaddr, iova: 0x10000n, size: 0x1000n })).toBe(ENOMEM);
    container.unmapAll();
    expect(addressSpace.lockedPages).toBe(0);
  });

  test('a device may read what is mapped for reading, and a nest parent has no such pages', () => {
    const host = new ContainerHost();
    const plain = withType(uapi.VFIO_TYPE1v2_IOMMU, host);
    const device = plain.group.openDevice(host.entries[0]!.name);
    device.writeConfig(4, 2, 6);
    const vaddr = plain.program.system.mmap({ length: PAGE });
    plain.container.map({ userVa: vaddr, length: PAGE, iova: 0, writable: false });
    expect(dmaWrite(host, device, 0n, 1)).toBe(false);
    const nest = withType(uapi.VFIO_TYPE1_NESTING_IOMMU);
    const { map } = caller(nest.program, nest.container.fd);
    expect(map({ vaddr: nest.program.system.mmap({ length: PAGE }), size: 4096n, flags: 1 })).toBe(EINVAL);
    expect(nest.host.held.pins).toBe(0);
  });
});

describe('IOMMU_GET_INFO', () => {
  const layout = uapi.vfioIommuType1Info;
  const get = (program: Program, fd: number, argsz: number, room = 400) =>
    program.ioctl(fd, uapi.VFIO_IOMMU_GET_INFO, layout, { argsz, capOffset: 7, pad: 7 }, new Uint8Array(room).fill(9));

  test('gives page sizes, and the capabilities when there is room for all', () => {
    const { program, container, group, host } = withType(uapi.VFIO_TYPE1v2_IOMMU);
    const short = get(program, container.fd, 16);
    expect([short.result, short.reply]).toEqual([
      0,
      { argsz: 88, flags: 3, iovaPgsizes: 0x4020_1000n, capOffset: 7, pad: 7 },
    ]);
    const partial = get(program, container.fd, 87);
    expect([partial.reply.argsz, partial.reply.capOffset, partial.reply.pad]).toEqual([88, 0, 0]);
    expect(partial.bytes.subarray(24).every((byte) => byte === 9)).toBe(true);
    const full = get(program, container.fd, 100);
    expect(full.reply).toEqual({ argsz: 100, flags: 3, iovaPgsizes: 0x4020_1000n, capOffset: 24, pad: 0 });
    expect(full.bytes[88]).toBe(9);
    const capabilities = decodeCapabilities(full.bytes.subarray(0, 88), 24);
    expect(capabilities.map(({ id, version }) => [id, version])).toEqual([
      [3, 1],
      [1, 1],
    ]);
    expect(uapi.vfioDmaAvail.read(capabilities[0]!.data)).toEqual({ avail: 65535 });
    const ranges = capabilities[1]!.data;
    expect(uapi.vfioIovaRangeHead.read(ranges)).toEqual({ nrIovas: 2, reserved: 0 });
    expect(uapi.vfioIovaRange.read(ranges, 8)).toEqual({ start: 0n, end: 0xfedf_ffffn });
    expect(uapi.vfioIovaRange.read(ranges, 24)).toEqual({ start: 0xfef0_0000n, end: 2n ** 47n - 1n });
    group.openDevice(host.entries[0]!.name);
    expect(container.info().ranges).toEqual([
      { start: 0n, last: 0xfedf_ffffn },
      { start: 0xfef0_0000n, last: 2n ** 47n - 1n },
    ]);
    expect(get(program, container.fd, 15).result).toBe(EINVAL);
  });

  test('of the nesting type describes what guests are shown', () => {
    const { program, container } = withType(uapi.VFIO_TYPE1_NESTING_IOMMU);
    const { argsz } = get(program, container.fd, 16).reply;
    const { bytes, reply } = get(program, container.fd, argsz);
    const capabilities = decodeCapabilities(bytes.subarray(0, argsz), reply.capOffset);
    const { id, data } = capabilities[2]!;
    const info = nesting.iommuNestingInfo.read(data);
    const { nesting: decoded } = container.info();
    expect([id, info.argsz, info.format, info.features, info.addrWidth, info.pasidBits]).toEqual([
      nesting.VFIO_IOMMU_TYPE1_INFO_CAP_NESTING,
      56,
      1,
      7,
      48,
      20,
    ]);
    expect([decoded!.addressBits, decoded!.pasidBits]).toEqual([48, 20]);
    expect([info.vtdCapReg, info.vtdEcapReg]).toEqual([decoded!.capability, decoded!.extendedCapability]);
    expect(withType(uapi.VFIO_TYPE1v2_IOMMU).container.info().nesting).toBe(null);
  });
});

test('without the iommu core VFIO offers no containers of the nesting type', () => {
  const host = new ContainerHost();
  host.vfio.unregister(host.entries[0]!);
  const nodes = new DeviceNodes();
  const entry = new Vfio({ nodes }).register(host.devices[0]!);
  const { kernel, processes } = host.host;
  const system = new SystemCalls({ kernel, processes, process: processes.spawn(), nodes });
  const container = new VfioContainerClient(system, system.open('/dev/vfio/vfio'));
  const group = new VfioGroupClient(system, system.open(entry.group.path));
  group.setContainer(container.fd);
  expect(container.hasExtension(uapi.VFIO_TYPE1_NESTING_IOMMU)).toBe(false);
  expect(refusal(() => container.setIommu())).toBe('ENODEV');
  container.setIommu(uapi.VFIO_TYPE1v2_IOMMU);
  group.openDevice(entry.name);
  system.exit();
  expect(host.held).toEqual(NOTHING);
});
