/** The command line. */

import { parseArgs } from 'node:util';
import type { ProcessCapability } from '@iommukit/iommu-core';
import { CAPABILITIES } from './server/client.ts';
import { UsageError } from './usage-error.ts';

export const USAGE = `Usage: iommukit-run [options] [--] PROGRAM [ARGUMENTS...]

Runs a program that uses /dev/iommu or /dev/vfio on models of the hardware.

  --machine FILE   the machine, in JSON; by default one VT-d unit and one DSA
  --grant CAP      take the program to have this capability: ${CAPABILITIES.join(', ')}
  --strict         refuse to pin private memory, which cannot be kept when the program unmaps it
  --selftest       have the mock IOMMU and IOMMU_TEST_CMD of the kernel's own tests
  --failpoints     serve /proc/PID/task/TID/fail-nth and /sys/kernel/debug/fail*
  --trace          show what happens, on standard error
  --dump FILE      write what /dev/iommu still holds when the program has ended, - for standard output
  --check          say what of this system can be used, and end: with 1 when programs cannot be served
  --help           this text
`;

export type Options = {
  readonly machine: string | null;
  readonly grant: readonly ProcessCapability[];
  readonly strict: boolean;
  readonly selftest: boolean;
  readonly failpoints: boolean;
  readonly trace: boolean;
  /** Where to write the dump; null for nowhere. */
  readonly dump: string | null;
  readonly check: boolean;
  readonly help: boolean;
  readonly program: string | null;
  readonly args: readonly string[];
};

const config = {
  machine: { type: 'string' },
  grant: { type: 'string', multiple: true },
  strict: { type: 'boolean' },
  selftest: { type: 'boolean' },
  failpoints: { type: 'boolean' },
  trace: { type: 'boolean' },
  dump: { type: 'string' },
  check: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
} as const;

/** Options whose value is the next argument. */
const WITH_VALUE = Object.entries(config).flatMap(([name, { type }]) => (type === 'string' ? [`--${name}`] : []));

/** @throws {UsageError} */
export function parseOptions(args: readonly string[]): Options {
  const end = programIndex(args);
  let values: ReturnType<typeof parse>;
  try {
    values = parse(args.slice(0, end));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const [program = null, ...rest] = args.slice(args[end] === '--' ? end + 1 : end);
  const { machine = null, grant = [], strict = false, dump = null } = values;
  const { selftest = false, failpoints = false } = values;
  const { trace = false, check = false, help = false } = values;
  if (program === null && !check && !help) throw new UsageError('no program is named; --help shows how');
  const flags = { strict, selftest, failpoints, trace, check, help };
  return { machine, grant: grant.map(capability), dump, ...flags, program, args: rest };
}

function parse(args: string[]) {
  return parseArgs({ args, options: config, strict: true, allowPositionals: false }).values;
}

/** Where the program's own arguments start: at `--`, or at the first that is neither an option nor an option's value. */
function programIndex(args: readonly string[]): number {
  for (let index = 0; index < args.length; index++) {
    const argument = args[index]!;
    if (argument === '--' || !argument.startsWith('-')) return index;
    if (WITH_VALUE.includes(argument)) index++;
  }
  return args.length;
}

function capability(name: string): ProcessCapability {
  const found = CAPABILITIES.find((known) => known === name);
  if (found === undefined) throw new UsageError(`--grant knows ${CAPABILITIES.join(', ')}, not ${name}`);
  return found;
}
