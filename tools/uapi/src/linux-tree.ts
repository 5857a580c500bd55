/** A Linux source tree outside the repository. */

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** @throws Error when `root` is no kernel tree. */
export function kernelVersion(root: string): string {
  const makefile = join(root, 'Makefile');
  const lines = existsSync(makefile) ? readFileSync(makefile, 'utf8') : '';
  const [version, patchlevel, sublevel, extra] = ['VERSION', 'PATCHLEVEL', 'SUBLEVEL', 'EXTRAVERSION'].map(
    (name) => new RegExp(`^${name} *= *(.*)$`, 'm').exec(lines)?.[1],
  );
  if (!version || !patchlevel) throw new Error(`${root} is not a Linux source tree: its Makefile names no version`);
  return `${version}.${patchlevel}.${sublevel || 0}${extra ?? ''}`;
}

/** Folder of the headers for user space, which `make headers` makes when it is not there. */
export function installedHeaders(root: string): string {
  const include = join(root, 'usr/include');
  if (!existsSync(join(include, 'linux/version.h'))) {
    console.error(`making the headers of ${root}`);
    execFileSync('make', ['-C', root, 'ARCH=x86', 'headers'], { stdio: ['ignore', 2, 2] });
  }
  return include;
}
