import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import * as protocol from '../src/server/protocol.ts';
import { hasCompiler, outcome, World, why, withTestFunction } from './support/harness.ts';

describe.skipIf(!hasCompiler)(`programs that mean no good${why}`, () => {
  let world: World;
  afterEach(() => world.close());

  function expectNothingLeft(): void {
    expect(world.defects).toEqual([]);
    expect(world.server.openFiles).toBe(0);
    expect(world.server.pinned).toBe(0);
    expect(world.model.iommufd.contexts.size).toBe(0);
  }

  test.each([1, 2, 3, 4])('calls of every kind on descriptors of every kind break nothing, seed %i', async (seed) => {
    world = await new World({}, withTestFunction(seed % 2 === 0)).start();
    const { signal, output } = await world.run('hostile', {}, `${seed}`);
    expect({ signal, output }).toEqual({ signal: null, output: 'started\ndone\n' });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expectNothingLeft();
  });

  test('a program that is killed at any moment leaves nothing', async () => {
    world = await new World({}, withTestFunction()).start();
    for (let moment = 0; moment < 12; moment++) {
      const child = world.spawn('hostile', {}, `${100 + moment}`);
      const end = outcome(child);
      await once(child.stdout!, 'data');
      await new Promise((resolve) => setTimeout(resolve, 7 * moment));
      child.kill('SIGKILL');
      await end;
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
    expectNothingLeft();
  });

  test('messages that no library would send end their connection, and that alone', async () => {
    world = await new World({}, withTestFunction()).start();
    const hello = (): Socket => connect(join(world.folder, 'server'));
    const message = (values: Partial<protocol.Question>): Uint8Array => {
      const bytes = new Uint8Array(protocol.questionLayout.size);
      const zero = protocol.questionLayout.read(bytes);
      protocol.questionLayout.write({ ...zero, length: bytes.length, ...values }, bytes);
      return bytes;
    };
    const refused = [
      new Uint8Array(200).fill(0xff),
      new Uint8Array(200),
      message({ length: protocol.QUESTION_MAX + 1 }),
      message({ kind: 99 }),
      message({ kind: protocol.ASK_IOCTL, inode: 1n }),
      message({ kind: protocol.ASK_EVENTS, argument0: 1234n }),
    ];
    for (const bytes of refused) {
      const socket = hello();
      socket.on('error', () => {});
      socket.write(bytes);
      await once(socket, 'close');
    }
    const first = hello();
    first.write(message({ kind: protocol.ASK_FILE, inode: 77n }));
    await once(first, 'data');
    const second = hello();
    second.write(message({ kind: protocol.ASK_FILE, inode: 77n }));
    await once(second, 'close');
    const liar = hello();
    liar.write(message({ kind: protocol.ASK_PROCESS, argument0: 1n, fd: 0, inode: 1n }));
    const [answer] = await once(liar, 'data');
    expect(protocol.answerLayout.read(answer).result).toBe(BigInt.asUintN(64, -5n));
    first.destroy();
    liar.destroy();
    expect(await world.run('memory')).toMatchObject({ code: 0, output: 'done\n' });
    expectNothingLeft();
  });
});
