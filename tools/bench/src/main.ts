/**
 * `pnpm bench`: builds the C sides, runs both sides in turn in processes of their own, and prints what each job costs
 * against C and against its budget. A missed budget is no failure: the machine may be busy.
 */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { drawCurve } from './curve-picture.ts';
import type { Sample } from './measure.ts';
import { formatReport, makeReport } from './report.ts';
import { type Suite, suites } from './suites.ts';

const HELP = `Usage: pnpm bench [--json] [--rounds N] [--write-curve FILE]

  --json              one JSON object on stdout and nothing else
  --rounds N          how often both sides are run, 5 by default
  --write-curve FILE  what grows with the number of areas, as an SVG file
  --help              this text`;

const COMPILER = 'cc';
/** The server that programs in C are run with. */
const PRELOAD = '../../preload/dist/main.js';
/** A million areas take more memory than a process has by default, and what their making leaves is to be gone. */
const HEAP = ['--max-old-space-size=8192', '--expose-gc'];

type Flags = { json: boolean; rounds: number; curveFile: string | null };

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}

function readFlags(): Flags {
  try {
    const { values } = parseArgs({
      options: {
        json: { type: 'boolean', default: false },
        rounds: { type: 'string', default: '5' },
        'write-curve': { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    });
    if (values.help) {
      console.log(HELP);
      process.exit(0);
    }
    const rounds = Number(values.rounds);
    if (!Number.isInteger(rounds) || rounds < 1) fail(`--rounds ${values.rounds}: a number above 0 is needed`);
    return { json: values.json, rounds, curveFile: values['write-curve'] ?? null };
  } catch (error) {
    return fail((error as Error).message);
  }
}

/** The first line that the compiler says of itself, or null when there is none. */
function findCompiler(): string | null {
  const { status, stdout } = spawnSync(COMPILER, ['--version'], { encoding: 'utf8' });
  return status === 0 ? stdout.split('\n')[0]! : null;
}

/** Lines that the command prints. */
function run(command: string, args: readonly string[]): string[] {
  const { status, stdout, error } = spawnSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (status === 0) return stdout.trim().split('\n');
  console.error(`${command} failed${error ? `: ${error.message}` : ` with exit code ${status}`}`);
  process.exit(1);
}

function build(folder: string, source: string): string {
  const program = join(folder, source.replace('.c', ''));
  run(COMPILER, ['-O2', '-o', program, pathOf(`../c/${source}`)]);
  return program;
}

function pathOf(file: string): string {
  return fileURLToPath(new URL(file, import.meta.url));
}

function runWorker(worker: string): Sample[] {
  return run(process.execPath, [...process.execArgv, ...HEAP, pathOf(worker)]).map((line) => JSON.parse(line));
}

/** What a program in C prints. */
function runProgram(command: string, args: readonly string[] = []): Sample[] {
  return run(command, args).map((line) => {
    const [name, ns, checksum] = line.split(' ');
    return { name: name!, ns: Number(ns), checksum: Number(checksum), bytes: 0 };
  });
}

type Runner = () => Sample[];

/** How the two sides of a suite are run; null for a side that cannot be. */
function prepare({ ts, c }: Suite, folder: string, hasCompiler: boolean): { ts: Runner | null; c: Runner | null } {
  const baseline = hasCompiler ? build(folder, c) : null;
  return { ts: prepareTypeScript(ts, folder, hasCompiler), c: baseline === null ? null : () => runProgram(baseline) };
}

function prepareTypeScript(side: Suite['ts'], folder: string, hasCompiler: boolean): Runner | null {
  if ('worker' in side) return () => runWorker(side.worker);
  if (!hasCompiler || process.platform !== 'linux') return null;
  const program = build(folder, side.preloaded);
  return () => runProgram(process.execPath, [pathOf(PRELOAD), '--', program]);
}

const { json, rounds, curveFile } = readFlags();
const compiler = findCompiler();
if (compiler === null) console.error(`There is no ${COMPILER} on this machine: nothing to compare with.`);
const folder = mkdtempSync(join(tmpdir(), 'iommukit-bench-'));
try {
  const runners = suites.map((suite) => prepare(suite, folder, compiler !== null));
  const sides = suites.map(() => ({ ts: [] as Sample[], c: [] as Sample[] }));
  for (let round = 1; round <= rounds; round++) {
    console.error(`round ${round} of ${rounds}`);
    runners.forEach(({ ts, c }, index) => {
      if (ts === null) return;
      sides[index]!.ts.push(...ts());
      if (c !== null) sides[index]!.c.push(...c());
    });
  }
  const report = makeReport(sides, rounds, compiler);
  if (curveFile !== null) writeFileSync(curveFile, drawCurve(report.curve));
  console.log(json ? JSON.stringify(report, null, 2) : formatReport(report));
} finally {
  rmSync(folder, { recursive: true });
}
