/** Whether a program can be reached by LD_PRELOAD, from its ELF headers (elf(5)). */

import { accessSync, closeSync, constants, openSync, readFileSync, readSync, realpathSync, statSync } from 'node:fs';
import { basename, delimiter, join, resolve } from 'node:path';
import { UsageError } from './usage-error.ts';

const PT_INTERP = 3;
const ELFCLASS64 = 2;
const EM_X86_64 = 62;
const EM_AARCH64 = 183;

/** The file that a command name stands for. @throws {UsageError} there is none that can be executed */
export function findProgram(name: string): string {
  let refusal = 'no such program';
  const folders = name.includes('/') ? [''] : (process.env['PATH'] ?? '/usr/bin:/bin').split(delimiter);
  for (const folder of folders) {
    const path = resolve(join(folder, name));
    try {
      const file = statSync(path).isFile();
      if (file) accessSync(path, constants.X_OK);
      if (file) return path;
      refusal = 'a folder or a device, not a program';
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EACCES') refusal = 'may not be executed';
    }
  }
  throw new UsageError(`${name}: ${refusal}`);
}

/** Interpreters of interpreters that Linux follows (BINPRM_MAX_RECURSION is of this order). */
const SCRIPTS_MAX = 5;

/** @throws {UsageError} a library cannot be preloaded into the program, or would not see what it does */
export function checkProgram(path: string, scripts = 0): void {
  const head = readHead(path);
  if (head.toString('latin1', 0, 2) === '#!') {
    const line = head.toString('latin1', 2, 256).split('\n', 1)[0]!;
    const interpreter = line.trim().split(/\s+/)[0]!;
    if (interpreter === '' || scripts === SCRIPTS_MAX || !statSync(interpreter, { throwIfNoEntry: false })?.isFile()) {
      throw new UsageError(`${path} cannot be run by its interpreter, "${line.trim()}"`);
    }
    checkProgram(interpreter, scripts + 1);
    return;
  }
  if (head.toString('latin1', 0, 4) !== '\x7fELF')
    throw new UsageError(`${path} is neither an ELF program nor a script`);
  const machine = { x64: EM_X86_64, arm64: EM_AARCH64 }[process.arch as 'x64' | 'arm64'];
  if (head[4] !== ELFCLASS64 || head.readUInt16LE(18) !== machine) {
    throw new UsageError(`${path} is a program for another processor than ${process.arch}`);
  }
  if ((statSync(path).mode & 0o6000) !== 0 && process.getuid?.() !== 0) {
    throw new UsageError(`${path} is set-user-ID or set-group-ID: the system preloads nothing into it`);
  }
  if (isLinker(path)) return;
  const interpreter = interpreterOf(path, head);
  if (interpreter === null) throw new UsageError(`${path} is statically linked: ${noWay}`);
  if (interpreter.includes('ld-musl')) {
    throw new UsageError(`${path} is linked with musl, and the library here with the C library of this system`);
  }
  if (isGo(path)) throw new UsageError(`${path} is a Go program: ${noWay}`);
}

const noWay =
  'it makes its system calls itself, and only calls by way of a dynamically linked C library can be taken to the models.';

/** The start of a file. @throws {UsageError} it cannot be read */
function readHead(path: string): Buffer {
  const head = Buffer.alloc(4096);
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    throw new UsageError(`${path} cannot be looked into: ${(error as Error).message}`);
  }
  readSync(fd, head, 0, head.length, 0);
  closeSync(fd);
  return head;
}

/** The C library's dynamic linker, which runs the program that its arguments name with what is preloaded (ld.so(8)). */
function isLinker(path: string): boolean {
  return /^ld(-linux.*|-[\d.]+)\.so/.test(basename(realpathSync(path)));
}

/** The dynamic linker that the program names, or null. */
function interpreterOf(path: string, head: Buffer): string | null {
  const table = Number(head.readBigUInt64LE(32));
  const size = head.readUInt16LE(54);
  const count = head.readUInt16LE(56);
  const entries = Buffer.alloc(size * count);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, entries, 0, entries.length, table);
    for (let at = 0; at + 56 <= entries.length; at += size) {
      if (entries.readUInt32LE(at) !== PT_INTERP) continue;
      const name = Buffer.alloc(Math.min(Number(entries.readBigUInt64LE(at + 32)), 4096));
      readSync(fd, name, 0, name.length, Number(entries.readBigUInt64LE(at + 8)));
      return name.toString('latin1').replace(/\0.*$/, '');
    }
    return null;
  } finally {
    closeSync(fd);
  }
}

/** Go's linker names a section after the build information that it leaves in every program. */
function isGo(path: string): boolean {
  return readFileSync(path).includes('.go.buildinfo\0');
}
