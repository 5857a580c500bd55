/**
 * `npm run kselftest -- --source DIR`: compiles the kernel's own tests of /dev/iommu, runs them by iommukit-run, and
 * compares what they say with what is expected, and the tree's headers with the packages' numbers and structures. Exits
 * with 1 when anything differs.
 */

import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compareTree } from '@iommukit/uapi';
import { UsageError } from '../usage-error.ts';
import { count, differences, type Expectation } from './expectations.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { formatPage, formatTable, type Run } from './report.ts';
import { runProgram } from './run.ts';
import { buildPrograms, type ProgramName, versionOf } from './selftests.ts';

const EXPECTATIONS = fileURLToPath(new URL('../../expectations.json', import.meta.url));
/** The kernel whose tests are expected. */
const EXPECTED_LINUX = '7.2';
const PAGE = fileURLToPath(new URL('../../../../docs/conformance.md', import.meta.url));

async function main(options: Options): Promise<number> {
  const source = resolve(options.source);
  const version = versionOf(source);
  const output = options.output === null ? cacheFolder(source, version) : resolve(options.output);
  tell(`compiling the tests of Linux ${version}`);
  buildPrograms({ source, sysroot: options.sysroot === null ? null : resolve(options.sysroot), output });
  if (!`${version}.`.startsWith(`${EXPECTED_LINUX}.`)) {
    tell(`what is expected is that of Linux ${EXPECTED_LINUX}: what is new since then differs`);
  }
  const found = layoutDifferences(source);
  const runs: Run[] = [];
  for (const program of options.programs) {
    tell(`running ${program}`);
    const cases = await runProgram(join(output, program), options.selectors, (line) => tell(`  ${line}`));
    runs.push({ program, cases });
    found.push(...differences(cases, expectationOf(program), options.selectors.length === 0));
  }
  if (runs.every(({ cases }) => cases.length === 0)) found.push('no case was run');
  if (options.json) {
    console.log(JSON.stringify(Object.fromEntries(runs.map(({ program, cases }) => [program, count(cases)]))));
  } else console.log(`Linux ${version}\n\n${formatTable(runs)}`);
  if (options.writeDocs) writeFileSync(PAGE, formatPage(runs, version));
  for (const difference of found) tell(`  ${difference}`);
  tell(found.length === 0 ? 'everything as expected' : `not as expected: ${found.length}`);
  return found.length === 0 ? 0 : 1;
}

/** What the headers of the tree say otherwise than the tables that the packages are tested against. */
function layoutDifferences(source: string): string[] {
  return compareTree(source).flatMap(({ header, structures, numbers, changes }) => {
    tell(`comparing ${structures} structures and ${numbers} numbers of ${header}`);
    return changes.map((change) => `${header}: ${change}`);
  });
}

function expectationOf(program: ProgramName): Expectation {
  const all = JSON.parse(readFileSync(EXPECTATIONS, 'utf8')) as { [P in ProgramName]: Expectation };
  return all[program];
}

/** One for each tree, so that trees of one version do not share programs. */
function cacheFolder(source: string, version: string): string {
  const { XDG_CACHE_HOME } = process.env;
  const tree = createHash('sha256').update(source).digest('hex').slice(0, 8);
  return join(XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'iommukit', `kselftest-${version}-${tree}`);
}

function tell(text: string): void {
  process.stderr.write(`${text}\n`);
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === null) process.stdout.write(HELP);
  else process.exitCode = await main(options);
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  tell(`kselftest: ${error.message}`);
  process.exitCode = 2;
}
