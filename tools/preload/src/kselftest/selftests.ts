/** The kernel's own test programs of /dev/iommu, compiled from a source tree outside the repository and not changed. */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../usage-error.ts';

export const PROGRAMS = ['iommufd', 'iommufd_fail_nth'] as const;
export type ProgramName = (typeof PROGRAMS)[number];

const TESTS = 'tools/testing/selftests/iommu';

export type BuildOptions = {
  /** The tree. */
  readonly source: string;
  /** Where libcap's headers and library are when they are not the system's. */
  readonly sysroot: string | null;
  /** Folder for what is compiled. */
  readonly output: string;
};

/** @throws {UsageError} the folder is no kernel tree */
export function kernelVersion(source: string): string {
  const makefile = join(source, 'Makefile');
  const text = existsSync(makefile) ? readFileSync(makefile, 'utf8') : '';
  const value = (name: string): string | undefined => new RegExp(`^${name} *= *(\\S*)$`, 'm').exec(text)?.[1];
  const [version, patchlevel] = [value('VERSION'), value('PATCHLEVEL')];
  if (version === undefined || patchlevel === undefined || !existsSync(join(source, TESTS))) {
    throw new UsageError(`${source} is not a Linux source tree with ${TESTS}`);
  }
  return `${version}.${patchlevel}.${value('SUBLEVEL') || 0}${value('EXTRAVERSION') ?? ''}`;
}

/** Compiles the programs, with the headers that `make headers` puts into the tree. @throws {UsageError} */
export function buildPrograms(options: BuildOptions): void {
  const { source, sysroot, output } = options;
  if (!existsSync(join(source, 'usr/include/linux/iommufd.h'))) {
    make(['-C', source, 'ARCH=x86', 'headers'], 'the headers for user space cannot be made');
  }
  const include = sysroot === null ? [] : [`-I${join(sysroot, 'usr/include')}`];
  checkLibcap(include);
  const libraries = sysroot === null ? [] : [`-L${join(sysroot, 'usr/lib/x86_64-linux-gnu')}`];
  mkdirSync(output, { recursive: true });
  const flags = [`OUTPUT=${output}`, `USERCFLAGS=${include.join(' ')}`, `USERLDFLAGS=${libraries.join(' ')}`];
  make(['-C', join(source, TESTS), ...flags], `${TESTS} cannot be compiled`);
}

/** @throws {UsageError} */
function checkLibcap(include: readonly string[]): void {
  const args = ['-E', ...include, '-include', 'sys/capability.h', '-x', 'c', '/dev/null'];
  if (spawnSync('cc', args, { stdio: 'ignore' }).status === 0) return;
  throw new UsageError(
    'The programs need the C compiler cc and libcap with its headers: install them (Debian: apt install gcc libc6-dev ' +
      'libcap-dev), or unpack the package libcap-dev into a folder and name that with --sysroot.',
  );
}

/** @throws {UsageError} */
function make(args: readonly string[], failure: string): void {
  try {
    execFileSync('make', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    const { stderr } = error as { stderr?: Buffer };
    throw new UsageError(`${failure}: make ${args.join(' ')}\n${stderr ?? (error as Error).message}`);
  }
}
