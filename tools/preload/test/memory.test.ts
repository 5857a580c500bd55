import { afterEach, describe, expect, test } from 'vitest';
import { createModel } from '../src/machine.ts';
import { hasCompiler, World, why } from './support/harness.ts';

const withTestFunction = () =>
  createModel({
    iommu: { type: 'vtd' },
    devices: [
      { type: 'dsa', slot: '00:01.0' },
      { type: 'test', slot: '00:02.0' },
    ],
  });

describe.skipIf(!hasCompiler)(`a program's memory under DMA${why}`, () => {
  let world: World;
  afterEach(() => world.close());

  test('shared, private and file memory is reached, as long as it is pinned', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('memory')).toEqual({ code: 0, signal: null, output: 'done\n' });
    expect(world.defects).toEqual([]);
    expect(world.server.openFiles).toBe(0);
    expect(world.server.pinned).toBe(0);
  });
});
