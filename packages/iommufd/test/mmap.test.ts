import { ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import { Processes } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IommufdClient } from '../src/clients/iommufd-client.ts';
import { ViommuClient } from '../src/clients/viommu-client.ts';
import { bindDevice } from '../src/device.ts';
import { DeviceNodes } from '../src/files/device-nodes.ts';
import { SystemCalls } from '../src/files/system-calls.ts';
import { iommufdFileOf, registerIommufd } from '../src/iommufd-file.ts';
import { type MmapRange, MmapRanges } from '../src/mmap-ranges.ts';
import { IommufdObject } from '../src/object-table.ts';
import { fakeViommuData, VIOMMU_TYPE } from './support/fake-viommu.ts';
import { FakeDriver, fakeDevice, fakeKernel } from './support/fakes.ts';
import { errno } from './support/viommu-host.ts';

const RW = ACCESS_READ | ACCESS_WRITE;
const PAGE = 4096n;

/** A process of this kernel with a vIOMMU that has two pages to map; the first word there is `inData`. */
function setUp(inData = 0xbeef) {
  const kernel = fakeKernel();
  const driver = new FakeDriver(kernel);
  const processes = new Processes(kernel);
  const nodes = new DeviceNodes();
  const node = registerIommufd(nodes, { kernel });
  const process = processes.spawn();
  const system = new SystemCalls({ kernel, processes, process, nodes });
  const fd = system.open('/dev/iommu');
  const client = new IommufdClient(system, fd);
  const viommus = new ViommuClient(system, fd);
  const file = iommufdFileOf(system.file(fd));
  const device = bindDevice(file.context, fakeDevice(driver, 0x100));
  const ioasId = client.ioasAlloc();
  const parentId = client.hwptAllocPaging({ deviceId: device.id, ioasId, nestParent: true });
  const alloc = (value: number): { id: number; offset: bigint; length: bigint } => {
    const data = new Uint8Array(fakeViommuData.size);
    fakeViommuData.write({ inData: value, outData: 0, mmapOffset: 0n, mmapLength: 0n }, data);
    const id = viommus.viommuAlloc({ deviceId: device.id, parentId, type: VIOMMU_TYPE, data });
    const { mmapOffset: offset, mmapLength: length } = fakeViommuData.read(data);
    return { id, offset, length };
  };
  const users = (id: number): number => file.context.objects.all().find((object) => object.id === id)!.users;
  const viommu = alloc(inData);
  const map = (): bigint => system.mmap({ fd, length: viommu.length, offset: viommu.offset });
  return { kernel, driver, processes, process, system, fd, client, file, device, node, viommu, alloc, users, map };
}

describe('mmap of /dev/iommu', () => {
  test('gives the pages of a driver, which processes that share the file share', () => {
    const { process, system, map, driver } = setUp();
    const va = map();
    expect(process.memory!.load(va, 4)).toBe(0xbeefn);
    process.memory!.store(va + PAGE, 8, 42n);
    const child = system.fork();
    expect(child.process.memory!.load(va + PAGE, 8)).toBe(42n);
    child.process.memory!.store(va, 4, 7n);
    expect(process.memory!.load(va, 4)).toBe(7n);
    expect(driver.kernel.memory.load(BigInt(driver.viommu!.made[0]!.frames[0]!) << 12n, 4)).toBe(7n);
  });

  test('EINVAL no whole pages or a private mapping, then EPERM an executable one, then ENXIO', () => {
    const { file, system, viommu } = setUp();
    const { offset, length } = viommu;
    const mmap = (at: bigint, bytes: bigint, protection = RW, shared = true): string | null => {
      return errno(() => file.mmap(system.caller, bytes, protection, shared, at));
    };
    expect(mmap(0n, length + 1n, ACCESS_EXECUTE, false)).toBe('EINVAL');
    expect(mmap(0n, length, ACCESS_EXECUTE, false)).toBe('EINVAL');
    expect(mmap(0n, length, ACCESS_EXECUTE)).toBe('EPERM');
    expect(mmap(offset, length, RW | ACCESS_EXECUTE)).toBe('EPERM');
    for (const at of [0n, offset + PAGE, offset + 2n * PAGE]) expect(mmap(at, length)).toBe('ENXIO');
    for (const bytes of [length / 2n, length * 2n]) expect(mmap(offset, bytes)).toBe('ENXIO');
    expect(mmap(offset + PAGE, PAGE)).toBe('ENXIO');
    expect(mmap(offset, length)).toBeNull();
  });

  test('through the system call a part of a page counts as one, and the rest is as in the file', () => {
    const { system, fd, viommu } = setUp();
    const { offset, length } = viommu;
    expect(errno(() => system.mmap({ fd, length, offset, shared: false }))).toBe('EINVAL');
    expect(errno(() => system.mmap({ fd, length, offset, protection: ACCESS_EXECUTE }))).toBe('EPERM');
    expect(errno(() => system.mmap({ fd, length: length + 1n, offset }))).toBe('ENXIO');
    expect(errno(() => system.mmap({ fd, length: 1, offset }))).toBe('ENXIO');
    expect(errno(() => system.mmap({ fd, length: length - 1n, offset }))).toBeNull();
  });

  test('EBUSY while anything of a mapping is left, in whichever process', () => {
    const { system, client, viommu, users, map } = setUp();
    const { id, length } = viommu;
    const va = map();
    const second = map();
    expect([users(id), errno(() => client.destroy(id))]).toEqual([3, 'EBUSY']);
    system.munmap(second, length);
    expect(users(id)).toBe(2);
    // A part of a mapping is still one.
    system.munmap(va, PAGE);
    expect([users(id), errno(() => client.destroy(id))]).toEqual([2, 'EBUSY']);
    const child = system.fork();
    expect(users(id)).toBe(3);
    system.munmap(va + PAGE, PAGE);
    expect([users(id), errno(() => client.destroy(id))]).toEqual([2, 'EBUSY']);
    child.exit();
    expect(users(id)).toBe(1);
    client.destroy(id);
  });

  test('a mapping that cannot be made holds nothing', () => {
    const { kernel, client, viommu, users, map } = setUp();
    kernel.failpoints.arm(1);
    expect([errno(map), kernel.failpoints.hit]).toEqual(['ENOMEM', 'vm_area_alloc']);
    expect(users(viommu.id)).toBe(1);
    client.destroy(viommu.id);
    expect(errno(map)).toBe('ENXIO');
  });

  test('a mapping keeps the open file: what is closed meanwhile goes with munmap, or with the process', () => {
    for (const end of ['munmap', 'exit', 'unmap a part first'] as const) {
      const { system, process, fd, device, node, viommu, map, driver, kernel } = setUp();
      const va = map();
      device.unbind();
      system.close(fd);
      expect([node.contexts.size, driver.viommu!.live.length]).toEqual([1, 1]);
      expect(process.memory!.load(va, 4)).toBe(0xbeefn);
      const frames = driver.viommu!.made[0]!.frames.slice();
      if (end === 'exit') system.exit();
      else {
        if (end !== 'munmap') system.munmap(va + PAGE, PAGE);
        expect(node.contexts.size).toBe(1);
        system.munmap(va, viommu.length);
      }
      expect([node.contexts.size, driver.viommu!.live.length, driver.live]).toEqual([0, 0, []]);
      expect(frames.map((pfn) => kernel.frames.isAllocated(pfn))).toEqual([false, false]);
    }
  });

  test('pages of the kernel cannot become DMA memory', () => {
    const { client, map, device } = setUp();
    const ioasId = client.ioasAlloc();
    device.attach(ioasId);
    const va = map();
    expect(errno(() => client.ioasMap({ ioasId, userVa: va, length: PAGE }))).toBe('EFAULT');
  });

  test('offsets are the lowest free ones, and each vIOMMU has its own pages', () => {
    const { system, fd, process, client, viommu, alloc } = setUp(1);
    const second = alloc(2);
    expect([viommu.offset, second.offset]).toEqual([0x1000n, 0x3000n]);
    const va = system.mmap({ fd, length: second.length, offset: second.offset });
    expect(process.memory!.load(va, 4)).toBe(2n);
    client.destroy(viommu.id);
    expect(alloc(3).offset).toBe(0x1000n);
  });
});

describe('ranges', () => {
  class Owner extends IommufdObject {
    readonly type = 'viommu';
    readonly uses = [];
    destroy(): void {}
  }
  const owner = new Owner(1);

  test('EINVAL no whole pages; EBUSY no room; ENOMEM', () => {
    const kernel = fakeKernel();
    const ranges = new MmapRanges(kernel);
    for (const [base, length] of [
      [0n, 0n],
      [0n, 1n],
      [1n, PAGE],
      [PAGE, PAGE + 8n],
    ] as const) {
      expect(errno(() => ranges.allocate(owner, base, length))).toBe('EINVAL');
    }
    expect(errno(() => ranges.allocate(owner, 0n, 2n ** 64n))).toBe('EBUSY');
    kernel.failpoints.arm(1);
    expect(errno(() => ranges.allocate(owner, 0n, PAGE))).toBe('ENOMEM');
    expect(ranges.allocate(owner, 0n, PAGE).offset).toBe(PAGE);
  });

  test('never meet, start where a search from below finds room, and are found at their own offsets alone', () => {
    const step = fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 4 }), fc.nat(9));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40, size: 'max' }), (steps) => {
        const ranges = new MmapRanges(fakeKernel());
        const live: MmapRange[] = [];
        const taken = new Set<bigint>();
        for (const [allocates, pages, at] of steps) {
          if (!allocates && live.length > 0) {
            const [range] = live.splice(at % live.length, 1);
            ranges.free(range!);
            for (let page = 0n; page < range!.length / PAGE; page++) taken.delete(range!.offset / PAGE + page);
            continue;
          }
          let first = 1n;
          const free = (page: bigint): boolean => {
            for (let index = 0n; index < BigInt(pages); index++) if (taken.has(page + index)) return false;
            return true;
          };
          while (!free(first)) first++;
          const range = ranges.allocate(owner, 0n, BigInt(pages) * PAGE);
          expect(range.offset).toBe(first * PAGE);
          live.push(range);
          for (let page = 0n; page < BigInt(pages); page++) taken.add(first + page);
        }
        for (let page = 0n; page < 50n; page++) {
          for (let pages = 1n; pages < 5n; pages++) {
            const expected = live.find(({ offset, length }) => offset === page * PAGE && length === pages * PAGE);
            expect(ranges.find(page * PAGE, pages * PAGE)).toBe(expected ?? null);
          }
        }
      }),
    );
  });
});
