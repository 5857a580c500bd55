/**
 * Lists the behaviours with the tests that cover them and what history had, as of the last full test run; makes that run when there is none.
 * `--json` prints `{ covered: [{ id, tests }], missing: [ids] }` and nothing else.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { catalogue } from './catalogue.ts';
import { type Coverage, coverage, type Report } from './coverage.ts';
import { history } from './history.ts';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const reportFile = `${root}.reports/vitest.json`;

function readReport(): Report {
  if (!existsSync(reportFile)) {
    spawnSync('npm', ['run', '--silent', 'suite'], { cwd: root, stdio: ['ignore', 2, 2] });
  }
  return JSON.parse(readFileSync(reportFile, 'utf8'));
}

function print({ covered, missing }: Coverage): void {
  const tests = new Map(covered.map((entry) => [entry.id, entry.tests]));
  for (const [id, title] of Object.entries(catalogue)) {
    console.log(`${tests.has(id) ? 'ok     ' : 'missing'} ${id.padEnd(4)} ${title}`);
    for (const test of tests.get(id) ?? []) console.log(`             ${test}`);
    if (history[id] !== undefined) console.log(`             history: ${history[id]}`);
  }
  console.log(`\n${covered.length} covered, ${missing.length} missing: ${missing.join(' ')}`);
}

const { values } = parseArgs({ options: { json: { type: 'boolean', default: false } } });
const result = coverage(readReport(), catalogue);
const { covered, missing, unknown } = result;
if (values.json) console.log(JSON.stringify({ covered, missing }, null, 2));
else print(result);

for (const { id, title } of unknown) console.error(`no behaviour ${id}: ${title}`);
process.exitCode = unknown.length > 0 ? 1 : 0;
