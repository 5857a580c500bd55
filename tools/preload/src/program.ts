/** The program as a child process: it has this one's terminal, signals sent here go to it, and its end is this one's. */

import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import { isatty } from 'node:tty';

/** What a terminal sends to every process of the job anyway. */
const FROM_TERMINAL: readonly NodeJS.Signals[] = ['SIGINT', 'SIGQUIT'];
const FORWARDED: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGCONT', 'SIGWINCH'];

/** How a program ended: with an exit code, or by a signal. */
export type End = { readonly code: number | null; readonly signal: NodeJS.Signals | null };

/** Runs the program to its end. @throws {Error} it cannot be started */
export async function runProgram(
  path: string,
  name: string,
  args: readonly string[],
  environment: { readonly [name: string]: string },
): Promise<End> {
  let child: ChildProcess | null = null;
  // Before the program is there, as it may be the one that has a signal sent.
  forwardSignals((signal) => child?.kill(signal));
  const started = spawn(path, args, { argv0: name, stdio: 'inherit', env: { ...process.env, ...environment } });
  child = started;
  return new Promise((resolve, reject) => {
    started.once('error', reject);
    started.once('exit', (code, signal) => resolve({ code, signal }));
  });
}

/** Ends this process as the program has ended. */
export function endAs({ code, signal }: End): void {
  if (signal === null) {
    process.exitCode = code ?? 1;
    return;
  }
  process.removeAllListeners(signal);
  // A signal that this process survives, and those that Node keeps for itself, become the code that a shell gives them.
  process.exitCode = 128 + constants.signals[signal];
  if (signal !== 'SIGUSR1') process.kill(process.pid, signal);
}

function forwardSignals(forward: (signal: NodeJS.Signals) => void): void {
  for (const signal of FORWARDED) process.on(signal, forward);
  for (const signal of FROM_TERMINAL) {
    process.on(signal, () => {
      if (!isatty(0)) forward(signal);
    });
  }
}
