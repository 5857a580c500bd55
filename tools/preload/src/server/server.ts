/**
 * The kernel as programs reach it: their system calls on its files, each carried out as a whole before the next, with
 * the hardware running after each of them until it rests.
 */

import { existsSync } from 'node:fs';
import { hex, PAGE_SIZE } from '@iommukit/hw';
import { type Host, type ProcessCapability, SysError } from '@iommukit/iommu-core';
import { type DeviceNodes, type File, POLLIN } from '@iommukit/iommufd';
import { deviceNumber } from '../device-numbers.ts';
import { ForeignFrames } from '../memory/foreign-frames.ts';
import { Proc } from '../memory/proc.ts';
import { SharedFiles } from '../memory/shared-file.ts';
import { Windows } from '../memory/windows.ts';
import type { Answer, Call, CallContext, FileKey } from './call.ts';
import { Client, type ClientWorld } from './client.ts';
import { FailNth, FailNthFile } from './fail-nth.ts';
import { ServedFiles } from './served-files.ts';
import type { CallHandler, EventSignal, Readiness } from './transport.ts';

const ESRCH = 3;
const EIO = 5;
const ENODEV = 19;

/** Virtual time that the hardware has after each call, in nanoseconds. */
const SETTLE = 10_000_000;

/** Bytes that one read or write moves at most: whole records of every kind of file. */
const TRANSFER_MAX = 40 << 19;

/** Longest mapping of a served file. */
const MMAP_MAX = 1n << 30n;

export type ServerOptions = {
  host: Host;
  nodes: DeviceNodes;
  /** An empty folder, for the files that programs map in place of the kernel's memory. */
  memoryFolder: string;
  /** Capabilities that every program is taken to have, besides its own. */
  granted?: Iterable<ProcessCapability>;
  /** Refuse to pin private memory, which cannot be kept when the program unmaps it. */
  strict?: boolean;
  /** Serve /proc/PID/task/TID/fail-nth. */
  failpoints?: boolean;
  /** Hears of each call: the path or name of what it is on, its result, and why it was refused. */
  onCall?: (pid: number, call: Call, file: string, result: number, refusal: SysError | null) => void;
  /** Hears of processes that cannot be served. */
  onRefusal?: (pid: number, reason: string) => void;
  /** Hears of errors that are the server's own. */
  onDefect?: (error: unknown) => void;
};

/** Calls that the kernel carries out; the others only ask the server what is. */
type FileCall = Exclude<Call, { kind: 'status' | 'node' | 'node-of' }>;

export class Server implements CallHandler {
  private readonly host: Host;
  private readonly nodes: DeviceNodes;
  private readonly frames: ForeignFrames;
  private readonly served = new ServedFiles();
  private readonly world: ClientWorld;
  private readonly windows: Windows;
  private readonly clients = new Set<Client>();
  private readonly failNth: FailNth | null;
  private readonly onCall: NonNullable<ServerOptions['onCall']> | null;
  private readonly onRefusal: NonNullable<ServerOptions['onRefusal']>;
  private readonly onDefect: (error: unknown) => void;
  private nextNumber = 1;
  private timer: NodeJS.Timeout | null = null;

  constructor(options: ServerOptions) {
    const { host, nodes, granted = [], strict = false, failpoints = false, onDefect = () => {} } = options;
    const { kernel, processes } = host;
    this.host = host;
    this.nodes = nodes;
    this.onCall = options.onCall ?? null;
    this.onRefusal = options.onRefusal ?? (() => {});
    this.onDefect = onDefect;
    this.frames = new ForeignFrames(kernel.memory);
    this.windows = new Windows(kernel, options.memoryFolder);
    this.failNth = failpoints ? new FailNth(kernel.failpoints) : null;
    this.world = {
      kernel,
      frames: this.frames,
      files: new SharedFiles(this.frames),
      served: this.served,
      user: (uid) => processes.user(uid),
      granted: new Set(granted),
      strict,
    };
  }

  /** Pins held on programs' pages. */
  get pinned(): number {
    return this.frames.pinned;
  }

  /** Files that programs have open. */
  get openFiles(): number {
    return this.served.open;
  }

  connect(pid: number, signal: EventSignal): Client {
    const client = new Client(this.world, new Proc(pid), this.nextNumber++, signal);
    this.clients.add(client);
    return client;
  }

  refuse(pid: number, reason: string): void {
    this.onRefusal(pid, reason);
  }

  disconnect(client: Client): void {
    this.clients.delete(client);
    this.contain(() => {
      this.host.kernel.call('exit', () => {
        this.windows.release(client.memory);
        client.exit();
      });
    });
    this.settle();
  }

  offer(key: FileKey, readiness: Readiness): boolean {
    return this.served.offer(key, readiness);
  }

  close(key: FileKey): void {
    const file = this.served.remove(key);
    if (file === null) return;
    this.contain(() => this.host.kernel.call('close', () => file.release()));
    this.settle();
  }

  /** Closes every file, as if all programs had ended. */
  closeAll(): void {
    for (const file of this.served.removeAll()) {
      this.contain(() => this.host.kernel.call('close', () => file.release()));
    }
    for (const client of [...this.clients]) this.disconnect(client);
    if (this.timer !== null) clearTimeout(this.timer);
  }

  serve(client: Client, call: Call, context: CallContext): Answer {
    client.memory.noteLayout(context.layout);
    if (call.kind === 'status') return this.status(call.pid);
    if (call.kind === 'node') return nodeOf(call.path);
    if (call.kind === 'node-of') return nodeOf(this.served.get(call.file)?.name ?? '');
    this.contain(() => this.windows.takeStores());
    const body = (): Answer => this.carryOut(client, call, context);
    const countless = this.failNth === null || ('file' in call && this.served.get(call.file) instanceof FailNthFile);
    const answer = countless ? body() : this.failNth!.run(context.tid, body, isFinal);
    this.settle();
    return answer;
  }

  private carryOut(client: Client, call: FileCall, context: CallContext): Answer {
    const { descriptors } = client;
    descriptors.begin(context.offer);
    let result: number;
    let refusal: SysError | null = null;
    try {
      result = this.host.kernel.call(call.kind, () => this.run(client, call, context));
    } catch (error) {
      if (error instanceof SysError) refusal = error;
      else this.onDefect(error);
      result = -(refusal?.errno ?? EIO);
    }
    const { offerTaken, wants } = descriptors.end();
    if (result < 0 && wants !== null) return { result, ...wants };
    this.onCall?.(client.pid, call, this.nameOf(call), result, refusal);
    if (call.kind === 'mmap' && result > 0) return { result: 0, values: [BigInt(result), 0n] };
    return { result, offerTaken };
  }

  private nameOf(call: Call): string {
    if (call.kind === 'open') return call.path;
    return 'file' in call ? (this.served.get(call.file)?.name ?? '?') : '';
  }

  /** Gives the result; of mmap, the number of the file to map instead. */
  private run(client: Client, call: FileCall, context: CallContext): number {
    const { caller, memory } = client;
    if (call.kind === 'open') return this.open(client, call.path, context);
    if (call.kind === 'mappings') {
      this.windows.review(memory);
      return 0;
    }
    const file = this.served.get(call.file);
    if (file === null) throw new SysError('EBADF', call.kind, 'the file is not open');
    switch (call.kind) {
      case 'ioctl':
        if (file.ioctl === undefined) throw new SysError('ENOTTY', 'ioctl', `${file.name} has no ioctls`);
        return file.ioctl(caller, call.request, call.argument);
      case 'read': {
        if (file.read === undefined) throw new SysError('EINVAL', 'read', `${file.name} cannot be read`);
        const length = transferLength(call.bytes);
        // What is read is gone; where there is nothing to read, the buffer is not looked at.
        if (isReadable(file)) memory.checkWritable(call.buffer, length);
        const into = new Uint8Array(length);
        const count = file.read(caller, into, call.position);
        if (count > 0) memory.write(call.buffer, into.subarray(0, count));
        return count;
      }
      case 'write': {
        if (file.write === undefined) throw new SysError('EINVAL', 'write', `${file.name} cannot be written`);
        const from = new Uint8Array(transferLength(call.bytes));
        if (from.length > 0) memory.read(call.buffer, from);
        return file.write(caller, from, call.position);
      }
      case 'mmap':
        return this.mmap(client, file, call);
    }
  }

  /** Gives the number of the file to map instead. */
  private mmap({ caller, memory }: Client, file: File, call: Extract<Call, { kind: 'mmap' }>): number {
    const { protection, shared, offset } = call;
    const page = BigInt(PAGE_SIZE);
    if (call.length === 0n || offset % page !== 0n) {
      throw new SysError('EINVAL', 'mmap', `${hex(call.length)} bytes from ${hex(offset)}`);
    }
    if (call.length > MMAP_MAX) throw new SysError('ENOMEM', 'mmap', `${hex(call.length)} bytes`);
    if (file.mmap === undefined) throw new SysError('ENODEV', 'mmap', `${file.name} cannot be mapped`);
    const length = (call.length + page - 1n) & ~(page - 1n);
    return this.windows.open(memory, file.mmap(caller, length, protection, shared, offset), length);
  }

  private open(client: Client, path: string, { tid }: CallContext): number {
    const file = this.failNthFile(client, path, tid) ?? this.nodes.open(path, client.caller);
    try {
      return client.descriptors.install(file);
    } catch (error) {
      file.release();
      throw error;
    }
  }

  private failNthFile(client: Client, path: string, tid: number): File | null {
    if (this.failNth === null || !path.startsWith('/proc/')) return null;
    const [, process, task] = /^\/proc\/(self|thread-self|\d+)(?:\/task\/(\d+))?\/fail-nth$/.exec(path) ?? [];
    if (process === undefined) return null;
    const pid = process === 'self' || process === 'thread-self' ? client.pid : Number(process);
    const thread = task !== undefined ? Number(task) : process === 'thread-self' ? tid : pid;
    if (!existsSync(`/proc/${pid}/task/${thread}`)) throw new SysError('ENOENT', 'open', `no ${path}`);
    return new FailNthFile(path, this.failNth, thread);
  }

  /** KiB that processes with the number `pid` have pinned and locked. */
  private status(pid: number): Answer {
    const memories = [...this.clients].filter((client) => client.pid === pid).map(({ memory }) => memory);
    if (memories.length === 0) return { result: -ESRCH };
    const pinned = memories.reduce((pages, memory) => pages + memory.pinnedPages, 0);
    const locked = memories.reduce((pages, memory) => pages + memory.lockedPages, 0);
    return { result: 0, values: [BigInt(pinned * 4), BigInt(locked * 4)] };
  }

  /** Lets the hardware run, and programs see what has become of their files. What takes longer goes on by itself. */
  private settle(): void {
    const { host } = this;
    const { scheduler } = host.machine;
    this.contain(() => {
      if (scheduler.nextDue < Number.POSITIVE_INFINITY) host.run(SETTLE);
      this.windows.showStores();
      this.served.refresh();
    });
    if (this.timer !== null || scheduler.nextDue === Number.POSITIVE_INFINITY) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.settle();
    }, 1);
  }

  /** An error of the server's own must not keep programs waiting. */
  private contain(body: () => void): void {
    try {
      body();
    } catch (error) {
      this.onDefect(error);
    }
  }
}

function isFinal(answer: Answer): boolean {
  return answer.offerWanted !== true && answer.holdWanted === undefined;
}

function nodeOf(path: string): Answer {
  const number = deviceNumber(path);
  if (number === null) return { result: -ENODEV };
  return { result: 0, values: [BigInt(number.major), BigInt(number.minor)] };
}

/** False when a read of the file would give nothing now. */
function isReadable(file: File): boolean {
  return file.poll === undefined || (file.poll() & POLLIN) !== 0;
}

function transferLength(bytes: bigint): number {
  return bytes > BigInt(TRANSFER_MAX) ? TRANSFER_MAX : Number(bytes);
}
