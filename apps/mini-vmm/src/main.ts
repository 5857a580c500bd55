/** The command: boots the guest, shows its console, the eight steps and the counters, or one JSON report. */

import { readFileSync } from 'node:fs';
import { type Options, parseOptions, UsageError } from './options.ts';
import { formatEntry } from './report/recorder.ts';
import { formatReport } from './report/report.ts';
import { run } from './run.ts';
import { guestMemoryBytes } from './vmm/boot-info.ts';

const IMAGE = new URL('../guest/image/guest.elf', import.meta.url);

/** The exit code: 0 all is well, 1 a check failed, 2 the arguments make no sense. */
function main(args: readonly string[]): number {
  let options: Options | null;
  try {
    options = parseOptions(args, (text) => process.stdout.write(text));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`vmm: ${error.message}\n`);
    return 2;
  }
  if (options === null) return 0;
  const { processes, bytes, seed, submit, trace, json } = options;
  // With --json the standard output is the report's alone; what shows that a long run is alive goes beside it.
  const live = json ? process.stderr : process.stdout;
  const report = run({
    image: readFileSync(IMAGE),
    interface: options.interface,
    boot: { ramBytes: guestMemoryBytes(processes), processes, bytesPerProcess: bytes, seed, submit },
    console: (byte) => live.write(String.fromCharCode(byte)),
    hear: (entry) => trace && live.write(`${formatEntry(entry)}\n`),
  });
  process.stdout.write(json ? `${JSON.stringify(report)}\n` : formatReport(report));
  return report.ok ? 0 : 1;
}

// Whoever reads has seen enough.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => process.exit(1));
process.exitCode = main(process.argv.slice(2));
