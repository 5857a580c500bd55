/**
 * Builds the guest image with gcc and GNU ld: `node build.mjs [directory]`, by default into image/, with the versions
 * and the checksum in image/guest.txt. The same tools make the same bytes wherever the sources lie.
 */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('.', import.meta.url));

const common = [
  '-std=gnu11',
  '-O2',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-ffreestanding',
  '-fno-builtin',
  '-nostdinc',
  '-fno-pic',
  '-fno-stack-protector',
  '-fcf-protection=none',
  '-fno-asynchronous-unwind-tables',
  '-fno-tree-loop-distribute-patterns',
  '-mgeneral-regs-only',
  '-mno-red-zone',
  '-Iinclude',
  '-Ilib',
];
const parts = {
  user: { flags: ['-mcmodel=small'], script: 'user/user.ld', output: 'user.elf' },
  kernel: { flags: ['-mcmodel=kernel', '-Ikernel'], script: 'kernel/kernel.ld', output: 'guest.elf' },
};

/** First lines of the tools' version texts; null when one is missing. */
export function toolVersions() {
  try {
    return ['gcc', 'ld', 'as'].map((tool) => run(tool, ['--version']).split('\n', 1)[0]);
  } catch {
    return null;
  }
}

/** Builds guest.elf and guest.txt in `directory`. */
export function buildGuest(directory) {
  const work = mkdtempSync(join(tmpdir(), 'guest-'));
  try {
    for (const [name, part] of Object.entries(parts)) buildPart(name, part, work);
    mkdirSync(directory, { recursive: true });
    copyFileSync(join(work, 'guest.elf'), join(directory, 'guest.elf'));
    const sum = createHash('sha256')
      .update(readFileSync(join(work, 'guest.elf')))
      .digest('hex');
    writeFileSync(join(directory, 'guest.txt'), `${[...toolVersions(), `sha256 ${sum}`].join('\n')}\n`);
  } finally {
    rmSync(work, { recursive: true });
  }
}

function buildPart(name, { flags, script, output }, work) {
  const objects = [];
  for (const folder of [name, 'lib']) {
    for (const file of readdirSync(join(root, folder)).sort()) {
      if (!/\.[cS]$/.test(file)) continue;
      const object = join(work, `${name}-${file}.o`);
      const defines = file.endsWith('.S') ? [`-DUSER_IMAGE="${join(work, 'user.elf')}"`] : [];
      run('gcc', [...common, ...flags, ...defines, '-c', `${folder}/${file}`, '-o', object]);
      objects.push(object);
    }
  }
  // Sections of 4 KiB pages, nothing that depends on the machine, no symbols.
  const linking = ['-nostdlib', '-static', '--build-id=none', '-z', 'max-page-size=4096', '-z', 'noexecstack', '-s'];
  run('ld', [...linking, '-T', script, ...objects, '-o', join(work, output)]);
}

function run(tool, args) {
  return execFileSync(tool, args, { cwd: root, encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) buildGuest(resolve(process.argv[2] ?? join(root, 'image')));
