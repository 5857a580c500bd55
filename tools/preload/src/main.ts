#!/usr/bin/env node
/** iommukit-run: starts the models and a server on them, and runs a program whose calls go there. */

import { mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dumpAll, formatDumps } from './dump.ts';
import { checkProgram, findProgram } from './elf.ts';
import { FileTree } from './file-tree.ts';
import { createModel, DEFAULT_MACHINE, type Model } from './machine.ts';
import { loadMachine } from './machine-file.ts';
import { type Options, parseOptions, USAGE } from './options.ts';
import { examine, examineAll, type Finding } from './privileges.ts';
import { type End, endAs, runProgram } from './program.ts';
import { listenMonitor, settled } from './server/monitor.ts';
import { Server } from './server/server.ts';
import { UnixTransport } from './server/unix-transport.ts';
import { buildShim } from './shim.ts';
import { formatCall, traceModel } from './trace.ts';
import { UsageError } from './usage-error.ts';

/** What env(1) and its like end with when they cannot run the program. */
const CANNOT_RUN = 125;

async function main(args: readonly string[]): Promise<End> {
  const options = parseOptions(args);
  if (options.help) {
    print(1, USAGE);
    return { code: 0, signal: null };
  }
  if (options.check || options.program === null) {
    const findings = examineAll();
    print(1, findings.map(formatFinding).join(''));
    return { code: findings.some(({ lack, needed }) => needed && lack !== null) ? 1 : 0, signal: null };
  }
  const program = findProgram(options.program);
  checkProgram(program);
  const dumpTo = openDump(options.dump);
  const library = buildShim();
  const model = createModelOf(options);
  for (const { lack } of examine()) if (lack !== null) warn(lack);
  const folder = makeFolder();
  const removeFolder = (): void => rmSync(folder, { recursive: true, force: true });
  process.once('exit', removeFolder);
  new FileTree(join(folder, 'root'), model, options.failpoints);
  const server = startServer(options, model, join(folder, 'memory'));
  const socket = join(folder, 'server');
  const transport = await UnixTransport.listen(server, socket);
  const monitor = await listenMonitor(socket, () => dumpAll(model.iommufd));
  const preload = [library, process.env['LD_PRELOAD']].filter((path) => path).join(':');
  const environment = { ...transport.environment, LD_PRELOAD: preload };
  const end = await runProgram(program, options.program, options.args, environment);
  if (dumpTo !== null) {
    await settled();
    print(dumpTo, formatDumps(dumpAll(model.iommufd), false));
  }
  monitor.close();
  transport.close();
  server.closeAll();
  // When a signal has ended the program, one ends this process too, and nothing runs then.
  removeFolder();
  return end;
}

/** Longest path of a socket (unix(7)). */
const SOCKET_PATH_MAX = 107;

/** A folder of this process's own, for its sockets and what programs find in /sys. @throws {UsageError} */
function makeFolder(): string {
  const prefix = join(tmpdir(), 'iommukit-');
  if (prefix.length + 'XXXXXX/monitor'.length > SOCKET_PATH_MAX) {
    throw new UsageError(`${tmpdir()} is too long a path for a socket: set TMPDIR to a shorter one`);
  }
  try {
    return mkdtempSync(prefix);
  } catch (error) {
    throw new UsageError(`No folder can be made in ${tmpdir()}, which TMPDIR can set: ${(error as Error).message}`);
  }
}

function createModelOf({ machine, selftest }: Options): Model {
  return machine === null ? createModel(DEFAULT_MACHINE, selftest) : loadMachine(machine, selftest);
}

function startServer(options: Options, model: Model, memoryFolder: string): Server {
  const { grant: granted, strict, failpoints, trace } = options;
  const onDefect = (error: unknown): void => warn(error instanceof Error ? `${error.stack}` : `${error}`);
  const onRefusal = (pid: number, reason: string): void => warn(`process ${pid} is not served: ${reason}`);
  const common = { ...model, memoryFolder, granted, strict, failpoints, onRefusal, onDefect };
  if (!trace) return new Server(common);
  const write = (line: string): void => print(2, `${line}\n`);
  traceModel(model, write);
  return new Server({ ...common, onCall: (...call) => write(formatCall(...call)) });
}

/** Where the dump goes; opened before the program starts, so that what cannot be written is known in time. */
function openDump(file: string | null): number | null {
  if (file === null) return null;
  if (file === '-') return 1;
  try {
    return openSync(file, 'w');
  } catch (error) {
    throw new UsageError(`--dump: ${(error as Error).message}`);
  }
}

function formatFinding({ text, lack }: Finding): string {
  return lack === null ? `${text}\n` : `${text}\n  ${lack}\n`;
}

/** Standard output and error are the program's too: streams here would change their modes. */
function print(fd: number, text: string): void {
  try {
    writeFileSync(fd, text);
  } catch {}
}

function warn(text: string): void {
  print(2, `iommukit-run: ${text}\n`);
}

try {
  endAs(await main(process.argv.slice(2)));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  warn(error.message);
  process.exitCode = CANNOT_RUN;
}
