/** The library that is preloaded into programs: compiled on first use, and kept in a cache. */

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UsageError } from './usage-error.ts';

export const SOURCES: string = fileURLToPath(new URL('../shim', import.meta.url));
/** What the library is compiled with; what a newer compiler warns of is no reason to refuse. */
export const FLAGS: readonly string[] = [
  '-shared',
  '-fPIC',
  '-O2',
  '-std=gnu11',
  '-fvisibility=hidden',
  '-U_FORTIFY_SOURCE',
];

/** Path of the library. @throws {UsageError} there is no C compiler, or it refuses */
export function buildShim(): string {
  const sources = readdirSync(SOURCES).sort();
  const hash = createHash('sha256').update(`${process.arch} ${FLAGS.join(' ')}`);
  for (const file of sources) hash.update(readFileSync(join(SOURCES, file)));
  const folder = cacheFolder();
  const library = join(folder, `shim-${hash.digest('hex').slice(0, 16)}.so`);
  if (existsSync(library)) return library;
  const compiler = findCompiler();
  const units = sources.filter((file) => file.endsWith('.c')).map((file) => join(SOURCES, file));
  const fresh = `${library}.${process.pid}`;
  try {
    execFileSync(compiler, [...FLAGS, '-o', fresh, ...units, '-ldl', '-lpthread'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  } catch (error) {
    throw new UsageError(
      `${compiler} cannot compile the library of ${SOURCES}:\n${(error as { stderr: Buffer }).stderr}`,
    );
  }
  renameSync(fresh, library);
  return library;
}

/** A C compiler, by name: $CC, cc, gcc or clang. @throws {UsageError} there is none */
function findCompiler(): string {
  const { CC } = process.env;
  for (const name of CC === undefined ? ['cc', 'gcc', 'clang'] : [CC]) {
    if (spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0) return name;
  }
  throw new UsageError(
    'A C compiler is needed once, for the library that is loaded into the program. Install gcc or clang with the C ' +
      'library headers (Debian: apt install gcc libc6-dev), or name one in CC.',
  );
}

function cacheFolder(): string {
  const { XDG_CACHE_HOME, HOME } = process.env;
  const candidates = [
    // The XDG base directory specification has relative paths ignored.
    join(XDG_CACHE_HOME?.startsWith('/') ? XDG_CACHE_HOME : join(HOME ?? homedir(), '.cache'), 'iommukit'),
    join(tmpdir(), `iommukit-cache-${process.getuid?.() ?? 0}`),
  ];
  // The list of libraries to preload is separated by colons and blanks.
  const usable = candidates.find((folder) => !/[\s:]/.test(folder) && isOwnFolder(folder));
  if (usable !== undefined) return usable;
  throw new UsageError(`No place for the compiled library: neither ${candidates.join(' nor ')} can be made`);
}

/** Makes a folder; what somebody else could put a library into is none. */
function isOwnFolder(folder: string): boolean {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const { uid, mode } = statSync(folder);
    return uid === process.getuid?.() && (mode & 0o022) === 0;
  } catch {
    return false;
  }
}
