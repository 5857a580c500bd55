import { afterEach, describe, expect, test } from 'vitest';
import { hasCompiler, World, why, withTestFunction } from './support/harness.ts';

const DONE = { code: 0, signal: null, output: 'done\n' };

describe.skipIf(!hasCompiler)(`what else a program has of the kernel${why}`, () => {
  let world: World;
  afterEach(() => world.close());

  test('a fault queue is readable for poll and epoll exactly while page requests wait', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('faults')).toEqual(DONE);
    expect(world.defects).toEqual([]);
  });

  test('VmPin, RLIMIT_MEMLOCK and capabilities are those of the process at each call', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('figures')).toEqual(DONE);
    expect(world.defects).toEqual([]);
  });

  test('pins are charged to the process on its word, if it may, and show as VmLck', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('locked')).toEqual(DONE);
    world.close();
    world = await new World({ granted: ['CAP_SYS_RESOURCE'] }, withTestFunction()).start();
    expect(await world.run('locked', { GRANTED: '1' })).toEqual(DONE);
    expect(world.defects).toEqual([]);
  });

  test('a granted capability lifts the limit', async () => {
    world = await new World({ granted: ['CAP_IPC_LOCK'] }, withTestFunction()).start();
    const { code, output } = await world.run('figures');
    expect(code).toBe(1);
    expect(output).toContain('map(iommufd, ioas, memory, 128 << 10, 0x1000000)');
  });

  test('fail-nth fails each failure point of a sequence in turn', async () => {
    world = await new World({ failpoints: true }).start();
    expect(await world.run('fail-nth')).toEqual(DONE);
    expect(world.defects).toEqual([]);
    expect(world.model.iommufd.contexts.size).toBe(0);
  });

  test('huge pages that the system does not have are stood in for', async () => {
    world = await new World({}, withTestFunction()).start();
    expect(await world.run('huge')).toEqual(DONE);
    expect(world.defects).toEqual([]);
  });
});
