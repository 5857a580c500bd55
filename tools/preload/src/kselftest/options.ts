/** The command line of `npm run kselftest`. */

import { parseArgs } from 'node:util';
import { UsageError } from '../usage-error.ts';
import { PROGRAMS, type ProgramName } from './selftests.ts';

export const HELP = `Usage: npm run kselftest -- --source DIR [options]

  --source DIR   a Linux source tree, outside the repository; its headers are made when they are not there
  --sysroot DIR  where libcap's headers and library are, when the system has none
  --output DIR   where the programs are compiled to; a folder in ~/.cache/iommukit by default
  --program P    one of ${PROGRAMS.join(', ')}; both by default
  -f, -v, -t, -r handed to the programs: only these fixtures, variants, tests, or full names
  -F, -V, -T     handed to the programs: not these; the first of all that fits a case decides
  --write-docs   write docs/conformance.md
  --json         print the totals as JSON and nothing else
  --help         this text
`;

export type Options = {
  readonly source: string;
  readonly sysroot: string | null;
  readonly output: string | null;
  readonly programs: readonly ProgramName[];
  /** As the programs take them, in the order given. */
  readonly selectors: readonly string[];
  readonly writeDocs: boolean;
  readonly json: boolean;
};

const SELECTORS = ['f', 'v', 't', 'r', 'F', 'V', 'T'];

const config = {
  source: { type: 'string' },
  sysroot: { type: 'string' },
  output: { type: 'string' },
  program: { type: 'string' },
  'write-docs': { type: 'boolean', default: false },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const;

/** Null when only the help is asked for. @throws {UsageError} */
export function parseOptions(args: readonly string[]): Options | null {
  // pnpm hands on the dashes that npm takes for itself.
  const { values, tokens } = parse(args[0] === '--' ? args.slice(1) : args);
  if (values.help) return null;
  const { source, sysroot = null, output = null, program, json, 'write-docs': writeDocs } = values;
  if (source === undefined) throw new UsageError('--source names no Linux source tree');
  const programs = PROGRAMS.filter((name) => program === undefined || program === name);
  if (programs.length === 0) throw new UsageError(`there is no program ${program}`);
  const selectors = tokens.flatMap((token) =>
    token.kind === 'option' && SELECTORS.includes(token.name) ? [`-${token.name}`, `${token.value}`] : [],
  );
  if (writeDocs && (selectors.length > 0 || programs.length < PROGRAMS.length)) {
    throw new UsageError('the page is written of whole runs only');
  }
  return { source, sysroot, output, programs, selectors, writeDocs, json };
}

function parse(args: readonly string[]) {
  const selectors = SELECTORS.map((name) => [name, { type: 'string', short: name, multiple: true }] as const);
  try {
    return parseArgs({ args: [...args], options: { ...Object.fromEntries(selectors), ...config }, tokens: true });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}
