/** The kernel's own test programs of /dev/iommu, compiled from a source tree outside the repository and not changed. */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { installedHeaders, kernelVersion } from '@iommukit/uapi';
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

/** Of the kernel. @throws {UsageError} the folder is no kernel tree */
export function versionOf(source: string): string {
  if (!existsSync(join(source, TESTS))) throw new UsageError(`${source} is not a Linux source tree with ${TESTS}`);
  return attempt(() => kernelVersion(source));
}

/** Compiles the programs, with the headers that `make headers` puts into the tree. @throws {UsageError} */
export function buildPrograms(options: BuildOptions): void {
  const { source, sysroot, output } = options;
  attempt(() => installedHeaders(source));
  const libcap = sysroot === null ? { include: '', library: '' } : libcapIn(sysroot);
  checkLibcap(libcap);
  mkdirSync(output, { recursive: true });
  const flags = [`OUTPUT=${output}`, `USERCFLAGS=${libcap.include}`, `USERLDFLAGS=${libcap.library}`];
  make(['-C', join(source, TESTS), ...flags], `${TESTS} cannot be compiled`);
}

type Flags = { readonly include: string; readonly library: string };

/** @throws {UsageError} */
function libcapIn(sysroot: string): Flags {
  const triplet = spawnSync('cc', ['-dumpmachine'], { encoding: 'utf8' }).stdout?.trim() ?? '';
  const folders = [`usr/lib/${triplet}`, 'usr/lib64', 'usr/lib'].map((path) => join(sysroot, path));
  const folder = folders.find((each) => ['libcap.so', 'libcap.a'].some((file) => existsSync(join(each, file))));
  if (folder === undefined) throw new UsageError(`there is no libcap in ${folders.join(', ')}`);
  return { include: `-I${join(sysroot, 'usr/include')}`, library: `-L${folder}` };
}

/** @throws {UsageError} */
function checkLibcap({ include, library }: Flags): void {
  const input = '#include <sys/capability.h>\nint main(void) { return cap_get_proc() == 0; }\n';
  const flags = [include, library].filter((flag) => flag !== '');
  if (spawnSync('cc', ['-x', 'c', '-', ...flags, '-o', '/dev/null', '-lcap'], { input }).status === 0) return;
  throw new UsageError(
    'The programs need the C compiler cc and libcap with its headers: install them (Debian: apt install gcc libc6-dev ' +
      'libcap-dev), or unpack the package libcap-dev into a folder and name that with --sysroot.',
  );
}

/** @throws {UsageError} for any error */
function attempt<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
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
