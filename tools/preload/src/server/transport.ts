/**
 * How calls of programs get to the server. The one there is listens on a Unix socket for the library that is preloaded
 * into programs; one that has the kernel stop system calls (seccomp_unotify(2)) would stand in the same place.
 */

import type { Answer, Call, CallContext, FileKey } from './call.ts';
import type { Client } from './client.ts';

/** Tells a program that its descriptor is ready to be read, or is not. */
export type Readiness = (readable: boolean) => void;

/** Has a program's eventfd signalled. */
export type EventSignal = (key: bigint) => void;

/** What a transport does with what it hears. Calls are served one at a time, in the order in which they were made. */
export type CallHandler = {
  /** A process that has not called before. @throws {Error} it cannot be looked into */
  connect(pid: number, signal: EventSignal): Client;
  /** A process that calls and cannot be served. */
  refuse(pid: number, reason: string): void;
  /** The process is gone, or has become another program. */
  disconnect(client: Client): void;
  /** A file that can become a descriptor. False: there is one of that name. */
  offer(key: FileKey, readiness: Readiness): boolean;
  /** No process has the file any more. */
  close(key: FileKey): void;
  serve(client: Client, call: Call, context: CallContext): Answer;
};

export type Transport = {
  /** Environment that makes a program's calls come here. */
  readonly environment: { readonly [name: string]: string };
  /** Stops listening; the calls of programs that are still there fail with EIO. */
  close(): void;
};
