/**
 * Makes a clone ready to run with nothing but Node and npm: installs what the lockfile names, then builds the CPU core.
 * Everything it has to say goes to stderr, so that a command behind it owns stdout. Both steps cost nothing when done.
 */

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const { packageManager, engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

const wanted = Number(/\d+/.exec(engines.node)[0]);
if (Number.parseInt(process.versions.node, 10) < wanted) {
  console.error(`Node ${wanted} or newer is needed, this is ${process.versions.node}`);
  process.exit(1);
}

function run(command, args) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    stdio: ['ignore', 2, 2],
    env: { ...process.env, CI: 'true' },
    shell: process.platform === 'win32',
  });
  if (status === 0) return;
  console.error(`${command} ${args.join(' ')} failed${error ? `: ${error.message}` : ` with exit code ${status}`}`);
  process.exit(1);
}

const stamp = join(root, 'node_modules', '.lockfile-installed');
const lockfile = createHash('sha256')
  .update(readFileSync(join(root, 'pnpm-lock.yaml')))
  .digest('hex');
if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== lockfile) {
  console.error(`Installing with ${packageManager}`);
  run('npx', ['-y', packageManager, 'install', '--frozen-lockfile']);
  writeFileSync(stamp, lockfile);
}
run(process.execPath, ['packages/hw/scripts/build-core.mjs']);
