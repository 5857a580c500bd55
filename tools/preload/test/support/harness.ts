/** Programs in C on a server: compiled, run with the library preloaded, and asked for what they print. */

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FileTree } from '../../src/file-tree.ts';
import { createModel, type Model } from '../../src/machine.ts';
import { canOpenMapFiles } from '../../src/privileges.ts';
import { Server, type ServerOptions } from '../../src/server/server.ts';
import { UnixTransport } from '../../src/server/unix-transport.ts';
import { buildShim } from '../../src/shim.ts';

const PROGRAMS = fileURLToPath(new URL('../programs', import.meta.url));

export const hasCompiler: boolean =
  process.platform === 'linux' && spawnSync('cc', ['--version'], { stdio: 'ignore' }).status === 0;

/** Of a suite that needs the compiler. */
export const why: string = hasCompiler ? '' : ' (skipped: no C compiler on Linux here)';

/** A machine with a test function as /dev/vfio/devices/vfio1. */
export function withTestFunction(selftest = false): Model {
  const devices = [
    { type: 'dsa', slot: '00:01.0' },
    { type: 'test', slot: '00:02.0' },
  ] as const;
  return createModel({ iommu: { type: 'vtd' }, devices }, selftest);
}

export type Outcome = { readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly output: string };

type Environment = { readonly [name: string]: string };

export class World {
  readonly folder: string;
  readonly model: Model;
  readonly server: Server;
  /** Errors that were the server's own. */
  readonly defects: unknown[] = [];
  private transport: UnixTransport | null = null;
  private readonly built = new Map<string, string>();

  constructor(options: Partial<ServerOptions> = {}, model: Model = createModel()) {
    this.folder = mkdtempSync(join(tmpdir(), 'iommukit-test-'));
    this.model = model;
    const onDefect = (error: unknown): void => void this.defects.push(error instanceof Error ? error.stack : error);
    this.server = new Server({ ...model, memoryFolder: join(this.folder, 'memory'), onDefect, ...options });
    new FileTree(join(this.folder, 'root'), model, options.failpoints ?? false);
  }

  async start(): Promise<this> {
    this.transport = await UnixTransport.listen(this.server, join(this.folder, 'server'));
    return this;
  }

  /** As when the server crashes: its sockets are gone, and nothing is tidied up. */
  crash(): void {
    this.transport?.close();
  }

  close(): void {
    this.transport?.close();
    this.server.closeAll();
    rmSync(this.folder, { recursive: true });
  }

  spawn(program: string, environment: Environment = {}, ...args: string[]): ChildProcess {
    const privileged = canOpenMapFiles() ? { PRIVILEGED: '1' } : {};
    const env = {
      ...process.env,
      ...privileged,
      ...environment,
      ...this.transport!.environment,
      LD_PRELOAD: buildShim(),
    };
    return spawn(this.build(program), args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
  }

  async run(program: string, environment: Environment = {}, ...args: string[]): Promise<Outcome> {
    return outcome(this.spawn(program, environment, ...args));
  }

  private build(program: string): string {
    let path = this.built.get(program);
    if (path !== undefined) return path;
    path = join(this.folder, `program-${program}`);
    const source = join(PROGRAMS, `${program}.c`);
    execFileSync('cc', ['-O1', '-g', '-Wall', '-Werror', '-o', path, source, '-lpthread']);
    this.built.set(program, path);
    return path;
  }
}

/** What a process ends with, and all that it has printed. */
export function outcome(child: ChildProcess): Promise<Outcome> {
  let output = '';
  child.stdout!.on('data', (text) => (output += text));
  child.stderr!.on('data', (text) => (output += text));
  return new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal, output })));
}
