/**
 * `npm run kselftest -- --source DIR`: compiles the kernel's own tests of /dev/iommu, runs them by iommukit-run, and
 * compares what they say with what is expected. Exits with 1 when anything differs.
 */

import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { UsageError } from '../usage-error.ts';
import { count, differences, type Expectation } from './expectations.ts';
import { formatPage, formatTable, type Run } from './report.ts';
import { buildPrograms, kernelVersion, PROGRAMS, type ProgramName } from './selftests.ts';
import { TapReader } from './tap.ts';

const HELP = `Usage: npm run kselftest -- --source DIR [options]

  --source DIR   a Linux source tree, outside the repository; its headers are made when they are not there
  --sysroot DIR  where libcap's headers and library are, when the system has none
  --output DIR   where the programs are compiled to; a folder in ~/.cache/iommukit by default
  --program P    one of ${PROGRAMS.join(', ')}; both by default
  -f, -v, -t, -r handed to the programs: only these fixtures, variants, tests, or full names
  --write-docs   write docs/conformance.md
  --json         print the totals as JSON and nothing else
  --help         this text
`;

const FOLDER = fileURLToPath(new URL('../..', import.meta.url));
const RUNNER = fileURLToPath(new URL('../main.ts', import.meta.url));
const PAGE = fileURLToPath(new URL('../../../../docs/conformance.md', import.meta.url));
/** What the tests need of iommukit-run. */
const NEEDS = ['--selftest', '--failpoints', '--grant', 'CAP_SYS_RESOURCE'];
const SELECTORS = ['f', 'v', 't', 'r'] as const;

const config = {
  source: { type: 'string' },
  sysroot: { type: 'string' },
  output: { type: 'string' },
  program: { type: 'string' },
  f: { type: 'string', short: 'f', multiple: true },
  v: { type: 'string', short: 'v', multiple: true },
  t: { type: 'string', short: 't', multiple: true },
  r: { type: 'string', short: 'r', multiple: true },
  'write-docs': { type: 'boolean', default: false },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const;

type Values = ReturnType<typeof parse>;

function parse(args: string[]) {
  return parseArgs({ args, options: config, strict: true }).values;
}

async function main(values: Values): Promise<number> {
  if (values.help || values.source === undefined) {
    process.stdout.write(HELP);
    return values.help ? 0 : 2;
  }
  const source = resolve(values.source);
  const version = kernelVersion(source);
  const programs = PROGRAMS.filter((name) => values.program === undefined || values.program === name);
  if (programs.length === 0) throw new UsageError(`there is no program ${values.program}`);
  const output = values.output === undefined ? cacheFolder(version) : resolve(values.output);
  tell(`compiling the tests of Linux ${version}`);
  buildPrograms({ source, sysroot: values.sysroot === undefined ? null : resolve(values.sysroot), output });
  const selectors = SELECTORS.flatMap((name) => (values[name] ?? []).flatMap((value) => [`-${name}`, value]));
  const runs: Run[] = [];
  for (const program of programs) runs.push(await runProgram(program, output, selectors));
  if (values.json) {
    console.log(JSON.stringify(Object.fromEntries(runs.map(({ program, cases }) => [program, count(cases)]))));
  } else console.log(`Linux ${version}\n\n${formatTable(runs)}`);
  const whole = selectors.length === 0;
  const found = runs.flatMap(({ program, cases }) => differences(cases, expectationOf(program), whole));
  for (const difference of found) tell(`  ${difference}`);
  if (values['write-docs']) {
    if (!whole || programs.length < PROGRAMS.length) throw new UsageError('the page is written of whole runs only');
    writeFileSync(PAGE, formatPage(runs, version));
  }
  tell(found.length === 0 ? 'everything as expected' : `${found.length} differences from what is expected`);
  return found.length === 0 ? 0 : 1;
}

/** Runs one program to its end, telling of its progress. */
async function runProgram(program: ProgramName, output: string, selectors: readonly string[]): Promise<Run> {
  const tap = new TapReader(({ name, outcome }) => {
    const { length } = tap.cases;
    if (outcome === 'fail') tell(`  ${name} FAILS`);
    else if (length % 20 === 0) tell(`  ${program}: ${length} of ${tap.planned ?? '?'}`);
  });
  tell(`running ${program}`);
  const args = [...process.execArgv, RUNNER, ...NEEDS, '--', join(output, program), ...selectors];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise<number | null>((end, reject) => {
    child.once('error', reject);
    child.once('exit', end);
  });
  for await (const line of createInterface(child.stdout)) tap.line(line);
  const code = await ended;
  const { planned, cases } = tap;
  if (planned === null || cases.length !== planned) {
    throw new UsageError(`${program} ended with ${code} after ${cases.length} of ${planned ?? 'no'} cases`);
  }
  return { program, cases };
}

function expectationOf(program: ProgramName): Expectation {
  const all = JSON.parse(readFileSync(join(FOLDER, 'expectations.json'), 'utf8')) as {
    [P in ProgramName]: Expectation;
  };
  return all[program];
}

function cacheFolder(version: string): string {
  const { XDG_CACHE_HOME } = process.env;
  return join(XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'iommukit', `kselftest-${version}`);
}

function tell(text: string): void {
  process.stderr.write(`${text}\n`);
}

try {
  process.exitCode = await main(parse(process.argv.slice(2)));
} catch (error) {
  if (!(error instanceof UsageError || error instanceof TypeError)) throw error;
  tell(`kselftest: ${error.message}`);
  process.exitCode = 2;
}
