#!/usr/bin/env node
/** iommukit-iommufd: looks at /dev/iommu as a program that iommukit-run has started uses it. */

import { readdirSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { formatDumps } from './dump.ts';
import { askMonitor } from './server/monitor.ts';
import { UsageError } from './usage-error.ts';

const USAGE = `Usage: iommukit-iommufd dump [--pid PID] [--json]

Shows the objects of every open /dev/iommu with who uses whom, the areas of its address spaces, and what is pinned.

  --pid PID   the program, or its iommukit-run; by default the one that this command is started by
  --json      as JSON, an array of contexts
  --help      this text
`;

async function main(args: string[]): Promise<string> {
  const { values, positionals } = parse(args);
  if (values.help === true) return USAGE;
  if (positionals.length !== 1 || positionals[0] !== 'dump') throw new UsageError('the command is dump; see --help');
  const path = values.pid === undefined ? process.env['IOMMUKIT_SOCKET'] : findServer(values.pid);
  if (path === undefined) throw new UsageError('not started by a program under iommukit-run: name one with --pid');
  try {
    return formatDumps(await askMonitor(path), values.json === true);
  } catch (error) {
    throw new UsageError(`the server at ${path} does not answer: ${(error as Error).message}`);
  }
}

function parse(args: string[]) {
  const options = {
    pid: { type: 'string' },
    json: { type: 'boolean' },
    help: { type: 'boolean', short: 'h' },
  } as const;
  try {
    return parseArgs({ args, options, strict: true, allowPositionals: true });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** The server of process `pid`, or of what that has started. @throws {UsageError} there is none */
function findServer(pid: string): string {
  const parents = new Map<string, string>();
  for (const entry of readdirSync('/proc')) if (/^\d+$/.test(entry)) parents.set(entry, parentOf(entry));
  if (!parents.has(pid)) throw new UsageError(`there is no process ${pid}`);
  const family = [pid];
  for (const member of family) {
    const path = serverIn(member);
    if (path !== null) return path;
    for (const [child, parent] of parents) if (parent === member) family.push(child);
  }
  throw new UsageError(`process ${pid} is not under iommukit-run, or its environment may not be read`);
}

/** The server that a process was started with, from its environment; null when there is none. */
function serverIn(pid: string): string | null {
  return /(?:^|\0)IOMMUKIT_SOCKET=([^\0]*)/.exec(textOf(pid, 'environ'))?.[1] ?? null;
}

/** From proc_pid_stat(5), where the name of the program is in parentheses and may hold anything. */
function parentOf(pid: string): string {
  return /.*\) \S (\d+)/s.exec(textOf(pid, 'stat'))?.[1] ?? '';
}

/** A file of a process's folder; empty when it may not be read, or is no more. */
function textOf(pid: string, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}

// Whoever reads has seen enough.
process.stdout.on('error', () => process.exit(1));
try {
  process.stdout.write(await main(process.argv.slice(2)));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`iommukit-iommufd: ${error.message}\n`);
  process.exitCode = 1;
}
