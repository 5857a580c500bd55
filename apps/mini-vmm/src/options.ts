/** The command line. */

import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { SUBMIT_MODES, type SubmitMode } from './vmm/boot-info.ts';
import { INTERFACES, type InterfaceKind } from './vmm/interfaces/open.ts';

export type Options = {
  /** Guest processes, 1..16. */
  processes: number;
  /** Bytes that each guest process moves: whole pages, 64 KiB to 64 MiB. */
  bytes: number;
  /** Seed of the guest's data and of its order of work, 32 bits. */
  seed: number;
  /** The kernel's interface for DMA that the VMM uses. */
  interface: InterfaceKind;
  /** How the guest's processes submit descriptors. */
  submit: SubmitMode;
  /** Print every trace event. */
  trace: boolean;
  /** Print one machine-readable report; the console and the trace go to the standard error. */
  json: boolean;
};

/** A command line that cannot be run; the message is one line for the user. */
export class UsageError extends Error {}

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };
const PAGE = 4096;
const MIN_BYTES = 64 * 2 ** 10;
const MAX_BYTES = 64 * 2 ** 20;

/**
 * Reads the arguments after the program's name. Null when they asked for help, which has been printed.
 * @throws {UsageError}
 */
export function parseOptions(args: readonly string[], print: (text: string) => void): Options | null {
  const program = new Command('vmm')
    .description('Boots a guest whose processes hand raw user pointers to an accelerator, through nested translation.')
    .option('--processes <n>', 'guest processes, 1 to 16', integer(1, 16), 2)
    .option('--bytes <size>', 'bytes per process, 64K to 64M; K, M and G are powers of two', size, 2 ** 20)
    .option('--seed <n>', 'seed of the run, 0 to 4294967295', integer(0, 0xffffffff), 1)
    .addOption(
      new Option('--interface <name>', "the kernel's interface for DMA")
        .choices(INTERFACES)
        .default('iommufd' satisfies InterfaceKind),
    )
    .addOption(
      new Option('--submit <how>', "the guest's instruction for descriptors; both is in turn")
        .choices(SUBMIT_MODES)
        .default('both' satisfies SubmitMode),
    )
    .option('--trace', 'print the trace events of all layers', false)
    .option('--json', 'print one machine-readable report; console and trace go to stderr', false)
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeOut: print, writeErr() {} });
  try {
    program.parse(args[0] === '--' ? args.slice(1) : [...args], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return null;
    throw new UsageError(error.message.replace(/^error: /, '').replaceAll('\n', ' '));
  }
  return program.opts<Options>();
}

function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`It is not a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

function size(text: string): number {
  const match = /^(\d+)([KMG]?)$/.exec(text);
  const bytes = match === null ? Number.NaN : Number(match[1]) * UNITS[match[2] ?? '']!;
  if (!(bytes >= MIN_BYTES && bytes <= MAX_BYTES) || bytes % PAGE !== 0) {
    throw new InvalidArgumentError('It is not a size from 64K to 64M in whole pages of 4K.');
  }
  return bytes;
}
