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

  test('strict mode refuses to pin private memory', async () => {
    world = await new World({ strict: true }, withTestFunction()).start();
    const { code, output } = await world.run('memory');
    expect(code).toBe(1);
    expect(output).toContain('map(iommufd, ioas, private, 4 << 20, 0x2000000) == 0');
  });
});
