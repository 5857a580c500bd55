import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import { hasCompiler, outcome, World, why, withTestFunction } from './support/harness.ts';

const DONE = { code: 0, signal: null, output: 'done\n' };

describe.skipIf(!hasCompiler)(`processes of a program${why}`, () => {
  let world: World;
  afterEach(() => world.close());

  test('fork, clone, exec, threads and passed descriptors share files and keep their own memory', async () => {
    world = await new World().start();
    expect(await world.run('fork')).toEqual(DONE);
    expect(world.defects).toEqual([]);
    expect(world.server.openFiles).toBe(0);
  });

  test('memory of a process that is gone cannot be pinned, that of a live child can', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('gone')).toEqual(DONE);
    expect(world.defects).toEqual([]);
    expect(world.server.pinned).toBe(0);
  });

  test('a program that is killed leaves no file, no pin and no attachment', async () => {
    world = await new World({}, withTestFunction()).start();
    const child = world.spawn('memory', { WAIT: '1' });
    const end = outcome(child);
    await once(child.stdout!, 'data');
    expect(world.server.pinned).toBeGreaterThan(0);
    expect(world.server.openFiles).toBe(2);
    child.kill('SIGKILL');
    expect((await end).signal).toBe('SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(world.server.openFiles).toBe(0);
    expect(world.server.pinned).toBe(0);
    expect(world.model.iommufd.contexts.size).toBe(0);
    expect(await world.run('memory')).toEqual(DONE);
  });

  test('when the server is gone every call fails with EIO', async () => {
    world = await new World().start();
    const child = world.spawn('orphan');
    const end = outcome(child);
    await once(child.stdout!, 'data');
    world.crash();
    child.stdin!.write('\n');
    expect(await end).toEqual({ code: 0, signal: null, output: 'ready\ndone\n' });
  });
});
