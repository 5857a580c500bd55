import { DeviceMemory, SysError } from '@iommukit/iommu-core';
import type { File } from '@iommukit/iommufd';
import { afterEach, describe, expect, test } from 'vitest';
import { hasCompiler, World, why, withTestFunction } from './support/harness.ts';

const DONE = { code: 0, signal: null, output: 'done\n' };

describe.skipIf(!hasCompiler)(`devices of a program${why}`, () => {
  let world: World;
  afterEach(() => world.close());

  test('interrupts arrive at eventfds, also after their descriptors are closed', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('interrupts')).toEqual(DONE);
    expect(world.defects).toEqual([]);
  });

  test('the accelerator carries out a descriptor that is written to its portal', async () => {
    world = await new World().start();
    expect(await world.run('dsa')).toEqual(DONE);
    expect(world.defects).toEqual([]);
  });

  test('are found in /sys and /dev', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('sysfs')).toEqual(DONE);
    expect(world.defects).toEqual([]);
  });

  test('are the same by every name and with every call, and have the numbers that /sys tells', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('paths')).toEqual(DONE);
    expect(world.defects).toEqual([]);
    expect(world.server.openFiles).toBe(0);
  });

  test('memory of the kernel is mapped, seen by both sides, and given back with the last mapping', async () => {
    const model = withTestFunction();
    let mappings = 0;
    const { kernel } = model.host;
    const pfn = kernel.allocateFrames('test', 2);
    kernel.memory.bytes[pfn * 4096] = 42;
    const memory = new (class extends DeviceMemory {
      override mapped(mapper: Parameters<DeviceMemory['mapped']>[0]): void {
        mappings++;
        super.mapped(mapper);
      }
      override unmapped(mapper: Parameters<DeviceMemory['unmapped']>[0]): void {
        mappings--;
        super.unmapped(mapper);
      }
    })((index) => (index < 2 ? pfn + index : 0xe0000));
    const file: File = {
      name: 'kernel memory',
      mmap(_caller, length, _protection, _shared, offset) {
        if (offset === 4096n) throw new SysError('ENXIO', 'mmap', `${length} bytes`);
        return { backing: memory, offset };
      },
      ioctl(_caller, request, argument) {
        const at = pfn * 4096 + Number(argument);
        if ((request & 0xff) === 2) return mappings;
        if ((request & 0xff) === 0) return kernel.memory.bytes[at]!;
        kernel.memory.bytes[at] = 99;
        return 0;
      },
      release() {},
    };
    model.nodes.register('/dev/vfio/kernel-memory', () => file);
    world = await new World({}, model).start();
    expect(await world.run('mapping')).toEqual(DONE);
    expect(mappings).toBe(0);
    expect(world.defects).toEqual([]);
  });
});
