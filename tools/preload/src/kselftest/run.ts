/** Runs one of the kernel's test programs by iommukit-run. */

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../usage-error.ts';
import { type Case, TapReader } from './tap.ts';

const FOLDER = fileURLToPath(new URL('../..', import.meta.url));
const RUNNER = ['--conditions=@iommukit/source', '--import', 'tsx', 'src/main.ts'];
/** What the tests need of iommukit-run. */
const NEEDS = ['--selftest', '--failpoints', '--grant', 'CAP_SYS_RESOURCE'];

/**
 * Runs the program at `path` to its end, telling of its progress.
 * @throws {UsageError} it ended before every case of its plan had a result
 */
export async function runProgram(
  path: string,
  selectors: readonly string[],
  tell: (line: string) => void,
): Promise<readonly Case[]> {
  const tap = new TapReader(({ name, outcome, said }) => {
    const { length } = tap.cases;
    if (outcome === 'fail') tell([`${name} FAILS`, ...said].join('\n      '));
    else if (length % 20 === 0) tell(`${length} of ${tap.planned ?? '?'}`);
  });
  const args = [...RUNNER, ...NEEDS, '--', path, ...selectors];
  // One pipe for what cases say, on standard error, and their results, on standard output: the order tells whose it is.
  const shell = ['-c', 'exec "$0" "$@" 2>&1', process.execPath, ...args];
  const child = spawn('sh', shell, { cwd: FOLDER, stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise<string>((end, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => end(signal ?? `${code}`));
  });
  for await (const line of createInterface(child.stdout)) tap.line(line);
  const end = await ended;
  const { planned, cases, rest } = tap;
  if (planned === null || cases.length !== planned) {
    const said = rest.map((line) => `\n  ${line}`).join('');
    throw new UsageError(`${path} ended with ${end} after ${cases.length} of ${planned ?? 'no'} cases${said}`);
  }
  return cases;
}
