import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { dumpContext } from '@iommukit/iommufd';
import { afterEach, describe, expect, test } from 'vitest';
import * as protocol from '../src/server/protocol.ts';
import { hasCompiler, outcome, World, why, withTestFunction } from './support/harness.ts';

/** Calls that a program makes: four of them 100,000. */
const CALLS = Number(process.env['HOSTILE_CALLS'] ?? 100_000) / 4;
const KILLS = Number(process.env['HOSTILE_KILLS'] ?? 100);
const SEED = Number(process.env['HOSTILE_SEED'] ?? 1);

describe.skipIf(!hasCompiler)(`programs that mean no good${why}`, () => {
  let world: World;
  afterEach(() => world.close());

  /** Children of a program that was killed may take a moment to end. */
  async function expectNothingLeft(): Promise<void> {
    const left = (): unknown => ({
      defects: world.defects,
      files: world.server.openFiles,
      pinned: world.server.pinned,
      contexts: [...world.model.iommufd.contexts].map(dumpContext),
    });
    for (let tries = 0; tries < 100 && world.server.openFiles > 0; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(left()).toEqual({ defects: [], files: 0, pinned: 0, contexts: [] });
  }

  test.each([SEED, SEED + 1, SEED + 2, SEED + 3])(
    `${CALLS} calls of every kind on descriptors of every kind break nothing, seed %i`,
    async (seed) => {
      world = await new World({}, withTestFunction(seed % 2 === 0)).start();
      const { signal, output } = await world.run('hostile', {}, `${seed}`, `${CALLS}`);
      expect(signal).toBeNull();
      // Nothing else, such as the words of an error, and calls that reach something.
      const [, succeeded] = /^started\ndone, (\d+) succeeded\n$/.exec(output) ?? [output];
      expect(Number(succeeded)).toBeGreaterThan(CALLS / 50);
      await expectNothingLeft();
    },
  );

  test(`a program that is killed at any of ${KILLS} moments leaves nothing`, async () => {
    world = await new World({}, withTestFunction()).start();
    for (let moment = 0; moment < KILLS; moment++) {
      const child = world.spawn('hostile', {}, `${SEED + 100 + moment}`, `${CALLS}`);
      const end = outcome(child);
      await once(child.stdout!, 'data');
      await new Promise((resolve) => setTimeout(resolve, (moment * 37) % 80));
      child.kill('SIGKILL');
      expect(await end).toMatchObject({ signal: 'SIGKILL', output: 'started\n' });
    }
    await expectNothingLeft();
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
    await expectNothingLeft();
  });
});
