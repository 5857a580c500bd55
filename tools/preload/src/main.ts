#!/usr/bin/env node
/** iommukit-run: starts the models and a server on them, and runs a program whose calls go there. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkProgram, findProgram } from './elf.ts';
import { FileTree } from './file-tree.ts';
import { createModel } from './machine.ts';
import { parseOptions, USAGE } from './options.ts';
import { type End, endAs, runProgram } from './program.ts';
import { Server } from './server/server.ts';
import { UnixTransport } from './server/unix-transport.ts';
import { buildShim } from './shim.ts';
import { UsageError } from './usage-error.ts';

/** What env(1) and its like end with when they cannot run the program. */
const CANNOT_RUN = 125;

async function main(args: readonly string[]): Promise<End> {
  const options = parseOptions(args);
  if (options.help || options.program === null) {
    process.stdout.write(USAGE);
    return { code: 0, signal: null };
  }
  const program = findProgram(options.program);
  checkProgram(program);
  const library = buildShim();
  const model = createModel();
  const { grant: granted, strict, failpoints } = options;
  const folder = mkdtempSync(join(tmpdir(), 'iommukit-'));
  const memoryFolder = join(folder, 'memory');
  const server = new Server({ ...model, memoryFolder, granted, strict, failpoints, onDefect: report });
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  new FileTree(join(folder, 'root'), model, failpoints);
  const transport = await UnixTransport.listen(server, join(folder, 'server'));
  const preload = [library, process.env['LD_PRELOAD']].filter((path) => path).join(':');
  const end = await runProgram(program, options.program, options.args, {
    ...transport.environment,
    LD_PRELOAD: preload,
  });
  transport.close();
  server.closeAll();
  rmSync(folder, { recursive: true, force: true });
  return end;
}

function report(error: unknown): void {
  process.stderr.write(`iommukit-run: ${error instanceof Error ? error.stack : error}\n`);
}

try {
  endAs(await main(process.argv.slice(2)));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`iommukit-run: ${error.message}\n`);
  process.exitCode = CANNOT_RUN;
}
