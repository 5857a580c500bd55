import { afterEach, describe, expect, test } from 'vitest';
import { hasCompiler, World, why } from './support/harness.ts';

describe.skipIf(!hasCompiler)(`system calls of a program${why}`, () => {
  let world: World;
  afterEach(() => world.close());

  test('every way to open and call /dev/iommu gives what the kernel gives', async () => {
    world = await new World().start();
    expect(await world.run('calls')).toEqual({ code: 0, signal: null, output: 'done\n' });
    expect(world.defects).toEqual([]);
    expect(world.server.openFiles).toBe(0);
  });
});
