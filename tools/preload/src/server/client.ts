/** One process of a program, as the kernel sees it: who it is, what it may, its memory and its descriptors. */

import { Credentials, type Kernel, Process, type ProcessCapability, type User } from '@iommukit/iommu-core';
import type { Caller } from '@iommukit/iommufd';
import type { ForeignFrames } from '../memory/foreign-frames.ts';
import { field, type Proc } from '../memory/proc.ts';
import { ProgramMemory } from '../memory/program-memory.ts';
import type { SharedFiles } from '../memory/shared-file.ts';
import { ClientDescriptors } from './client-descriptors.ts';
import type { ServedFiles } from './served-files.ts';
import type { EventSignal } from './transport.ts';

/** Bits of CapEff (include/uapi/linux/capability.h). */
const CAPABILITY_BITS: { readonly [name in ProcessCapability]: number } = {
  CAP_IPC_LOCK: 14,
  CAP_SYS_RAWIO: 17,
  CAP_SYS_RESOURCE: 24,
};

export const CAPABILITIES: readonly ProcessCapability[] = Object.keys(CAPABILITY_BITS) as ProcessCapability[];

/** What all clients share. */
export type ClientWorld = {
  readonly kernel: Kernel;
  readonly frames: ForeignFrames;
  readonly files: SharedFiles;
  readonly served: ServedFiles;
  user(uid: number): User;
  /** Capabilities that every process is taken to have. */
  readonly granted: ReadonlySet<ProcessCapability>;
  readonly strict: boolean;
};

export class Client {
  readonly number: number;
  readonly pid: number;
  readonly process: Process;
  readonly memory: ProgramMemory;
  readonly descriptors: ClientDescriptors;
  readonly caller: Caller;

  constructor(world: ClientWorld, proc: Proc, number: number, signal: EventSignal) {
    const { kernel, frames, files, strict } = world;
    this.number = number;
    this.pid = proc.pid;
    this.memory = new ProgramMemory({ kernel, frames, files, proc, id: number, strict });
    this.descriptors = new ClientDescriptors(world, proc, signal);
    const uid = Number.parseInt(proc.status('Uid') ?? '0', 10);
    const credentials = new ProgramCredentials(world.user(uid), proc, world.granted);
    const name = `${proc.text('comm').trim()}[${proc.pid}]`;
    this.process = new Process(proc.pid, name, this.memory, credentials, new ProgramLimits(proc));
    this.caller = { process: this.process, descriptors: this.descriptors };
  }

  /** The process is gone, or another program now. Never fails. */
  exit(): void {
    this.memory.release();
    this.process.exit();
  }
}

/** Capabilities as they are at each call; those of a process that is gone are none. */
class ProgramCredentials extends Credentials {
  private readonly proc: Proc;
  private readonly granted: ReadonlySet<ProcessCapability>;

  constructor(user: User, proc: Proc, granted: ReadonlySet<ProcessCapability>) {
    super(user, []);
    this.proc = proc;
    this.granted = granted;
  }

  override has(capability: ProcessCapability): boolean {
    if (this.granted.has(capability)) return true;
    const effective = BigInt(`0x${this.proc.status('CapEff') ?? '0'}`);
    return ((effective >> BigInt(CAPABILITY_BITS[capability])) & 1n) !== 0n;
  }
}

/** Limits as they are at each call; those of a process that is gone are what they were when last asked. */
class ProgramLimits {
  private readonly proc: Proc;
  private last = Number.POSITIVE_INFINITY;

  constructor(proc: Proc) {
    this.proc = proc;
  }

  get memlock(): number {
    const soft = field(this.proc.text('limits'), 'Max locked memory')?.split(/\s+/)[0];
    if (soft === 'unlimited') this.last = Number.POSITIVE_INFINITY;
    else if (soft !== undefined) this.last = Number(soft);
    return this.last;
  }
}
