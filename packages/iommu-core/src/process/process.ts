/** Processes: an address space with an owner, what he may do, and how much. */

import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import type { AddressSpace } from './address-space.ts';
import { Credentials, DEFAULT_MEMLOCK, type ProcessCapability, type ResourceLimits, User } from './credentials.ts';
import { MemoryFile } from './memory-file.ts';
import { PageCounts } from './page-counts.ts';
import { ProcessMemory } from './process-memory.ts';

export class Process {
  readonly pid: number;
  readonly name: string;
  readonly addressSpace: AddressSpace;
  /** The modelled address space; null when the addresses are those of a process elsewhere. */
  readonly memory: ProcessMemory | null;
  readonly credentials: Credentials;
  readonly limits: ResourceLimits;
  private readonly exitActions: (() => void)[] = [];
  private alive = true;

  constructor(
    pid: number,
    name: string,
    addressSpace: AddressSpace,
    credentials: Credentials,
    limits: ResourceLimits = { memlock: DEFAULT_MEMLOCK },
  ) {
    this.pid = pid;
    this.name = name;
    this.addressSpace = addressSpace;
    this.memory = addressSpace instanceof ProcessMemory ? addressSpace : null;
    this.credentials = credentials;
    this.limits = limits;
  }

  get hasExited(): boolean {
    return !this.alive;
  }

  /** Runs `action` when the process exits, after its memory is gone, in the order of registration. */
  onExit(action: () => void): void {
    this.exitActions.push(action);
  }

  /** Ends the process: first its memory goes, then what was registered with `onExit` (Linux: do_exit). Never fails. */
  exit(): void {
    if (!this.alive) return;
    this.alive = false;
    this.memory?.release();
    for (const action of this.exitActions.splice(0)) action();
  }
}

export type ProcessOptions = {
  name?: string;
  /** 0 by default. */
  uid?: number;
  /** None by default, whatever the uid. */
  capabilities?: Iterable<ProcessCapability>;
  /** RLIMIT_MEMLOCK in bytes; 8 MiB by default. */
  memlock?: number;
};

/** All modelled processes of a kernel, and what they share: users and the counts of page uses. */
export class Processes {
  readonly counts: PageCounts;
  private readonly kernel: Kernel;
  private readonly users = new Map<number, User>();
  private nextPid = 1;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.counts = new PageCounts(kernel);
  }

  user(uid: number): User {
    let user = this.users.get(uid);
    if (user === undefined) {
      user = new User(uid);
      this.users.set(uid, user);
    }
    return user;
  }

  /** A process with an empty address space. @throws {SysError} ENOMEM */
  spawn(options: ProcessOptions = {}): Process {
    const { uid = 0, capabilities = [], memlock = DEFAULT_MEMLOCK } = options;
    const memory = new ProcessMemory(this.kernel, this.counts, this.nextPid);
    const pid = this.nextPid++;
    const credentials = new Credentials(this.user(uid), capabilities);
    return new Process(pid, options.name ?? `process-${pid}`, memory, credentials, { memlock });
  }

  /** fork(2): a copy with the same memory, credentials and limits. @throws {SysError} ENOMEM; EINVAL not a modelled process */
  fork(parent: Process): Process {
    const { memory, credentials, limits } = parent;
    if (memory === null) throw new SysError('EINVAL', 'fork', `${parent.name} is not of this kernel`);
    const child = this.spawn({
      name: parent.name,
      uid: credentials.user.uid,
      capabilities: credentials.capabilities,
      memlock: limits.memlock,
    });
    try {
      memory.forkTo(child.memory!);
    } catch (error) {
      child.exit();
      throw error;
    }
    return child;
  }

  /** An empty memfd's pages. The name of the file holds it open until `close`. */
  createFile(bytes = 0): MemoryFile {
    return new MemoryFile(this.kernel, this.counts, bytes);
  }
}
