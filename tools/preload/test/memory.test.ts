import { afterEach, describe, expect, test } from 'vitest';
import { hasCompiler, World, why, withTestFunction } from './support/harness.ts';

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
