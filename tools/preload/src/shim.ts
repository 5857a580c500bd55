/** The library that is preloaded into programs: compiled on first use, and kept in a cache. */

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync } from 'node:fs';
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
  const library = cachePlace(`shim-${hash.digest('hex').slice(0, 16)}.so`);
  if (existsSync(library)) return library;
  const [compiler, ...options] = findCompiler();
  const units = sources.filter((file) => file.endsWith('.c')).map((file) => join(SOURCES, file));
  const fresh = `${library}.${process.pid}`;
  try {
    execFileSync(compiler, [...options, ...FLAGS, '-o', fresh, ...units, '-ldl', '-lpthread'], {
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

/** A C compiler and options of it: $CC, cc, gcc or clang. @throws {UsageError} there is none */
function findCompiler(): [string, ...string[]] {
  const named = process.env['CC']?.trim() || null;
  for (const words of named === null ? ['cc', 'gcc', 'clang'] : [named]) {
    const [name, ...options] = words.split(/\s+/) as [string, ...string[]];
    if (spawnSync(name, [...options, '--version'], { stdio: 'ignore' }).status === 0) return [name, ...options];
  }
  throw new UsageError(
    'A C compiler is needed once, for the library that is loaded into the program. Install gcc or clang with the C ' +
      'library headers (Debian: apt install gcc libc6-dev), or name one in CC' +
      (named === null ? '.' : `, which is "${named}" and does not run.`),
  );
}

/** Where a file of this name is kept, or can be made. @throws {UsageError} nowhere */
function cachePlace(name: string): string {
  const { XDG_CACHE_HOME, HOME } = process.env;
  // The XDG base directory specification has relative paths ignored.
  const home = XDG_CACHE_HOME?.startsWith('/') ? XDG_CACHE_HOME : join(HOME ?? homedir(), '.cache');
  const folders = [join(home, 'iommukit'), join(tmpdir(), `iommukit-cache-${process.getuid?.() ?? 0}`)];
  // The list of libraries to preload is separated by colons and blanks.
  const safe = folders.filter((folder) => !/[\s:]/.test(folder));
  const found = safe.find((folder) => isOwn(folder) && existsSync(join(folder, name)));
  if (found === undefined) makeFolder(home);
  const place = found ?? safe.find((folder) => makeFolder(folder) && isOwn(folder));
  if (place !== undefined) return join(place, name);
  throw new UsageError(
    `No place for the compiled library: neither ${folders.join(' nor ')} can be used. XDG_CACHE_HOME can name one.`,
  );
}

/** Whether it is a folder that nobody else can put a library into. */
function isOwn(folder: string): boolean {
  try {
    const { uid, mode } = statSync(folder);
    return uid === process.getuid?.() && (mode & 0o022) === 0;
  } catch {
    return false;
  }
}

/**
 * Makes one folder, if it is not there, and says whether files can be made in it. To make all folders of a path by Node's
 * `recursive` does not end below /proc.
 */
function makeFolder(folder: string): boolean {
  try {
    mkdirSync(folder, 0o700);
    return true;
  } catch {
    return isWritable(folder);
  }
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
