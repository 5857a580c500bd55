/**
 * `pnpm bench`: builds the C side, runs both sides in turn in processes of their own, and prints what each job costs
 * against C and against its budget. A missed budget is no failure: the machine may be busy.
 */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Sample } from './measure.ts';
import { formatReport, makeReport } from './report.ts';

const HELP = `Usage: pnpm bench [--json] [--rounds N]

  --json      one JSON object on stdout and nothing else
  --rounds N  how often both sides are run, 5 by default
  --help      this text`;

const workerFile = fileURLToPath(new URL('./worker.ts', import.meta.url));
const baselineFile = fileURLToPath(new URL('../c/baseline.c', import.meta.url));
const COMPILER = 'cc';

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}

function readFlags(): { json: boolean; rounds: number } {
  try {
    const { values } = parseArgs({
      options: {
        json: { type: 'boolean', default: false },
        rounds: { type: 'string', default: '5' },
        help: { type: 'boolean', default: false },
      },
    });
    if (values.help) {
      console.log(HELP);
      process.exit(0);
    }
    const rounds = Number(values.rounds);
    if (!Number.isInteger(rounds) || rounds < 1) fail(`--rounds ${values.rounds}: a number above 0 is needed`);
    return { json: values.json, rounds };
  } catch (error) {
    return fail((error as Error).message);
  }
}

/** The first line that the compiler says of itself, or null when there is none. */
function findCompiler(): string | null {
  const { status, stdout } = spawnSync(COMPILER, ['--version'], { encoding: 'utf8' });
  return status === 0 ? stdout.split('\n')[0]! : null;
}

function run(command: string, args: readonly string[]): string {
  const { status, stdout, error } = spawnSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (status === 0) return stdout;
  console.error(`${command} failed${error ? `: ${error.message}` : ` with exit code ${status}`}`);
  process.exit(1);
}

function runTypeScript(): Sample[] {
  const lines = run(process.execPath, [...process.execArgv, workerFile])
    .trim()
    .split('\n');
  return lines.map((line) => JSON.parse(line));
}

function runC(program: string): Sample[] {
  const lines = run(program, []).trim().split('\n');
  return lines.map((line) => {
    const [name, ns, checksum] = line.split(' ');
    return { name: name!, ns: Number(ns), checksum: Number(checksum), bytes: 0 };
  });
}

const { json, rounds } = readFlags();
const compiler = findCompiler();
if (compiler === null) console.error(`There is no ${COMPILER} on this machine: nothing to compare with.`);
const folder = mkdtempSync(join(tmpdir(), 'iommukit-bench-'));
try {
  const program = join(folder, 'baseline');
  if (compiler !== null) run(COMPILER, ['-O2', '-o', program, baselineFile]);
  const ts: Sample[] = [];
  const c: Sample[] = [];
  for (let round = 1; round <= rounds; round++) {
    console.error(`round ${round} of ${rounds}`);
    ts.push(...runTypeScript());
    if (compiler !== null) c.push(...runC(program));
  }
  const report = makeReport(ts, c, rounds, compiler);
  console.log(json ? JSON.stringify(report, null, 2) : formatReport(report));
} finally {
  rmSync(folder, { recursive: true });
}
