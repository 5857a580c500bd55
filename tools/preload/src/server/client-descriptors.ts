/**
 * A process's descriptors as the kernel's calls use them. A descriptor of the server's is found by the name of its open
 * file, every other by what /proc/PID/fd shows.
 *
 * What a call needs that only the program can make, a descriptor or a hold on an eventfd, is noted while the call fails;
 * it is made again when the program has it.
 */

import { type Kernel, SysError } from '@iommukit/iommu-core';
import { type Descriptors, EventFd, type File } from '@iommukit/iommufd';
import type { ForeignFrames } from '../memory/foreign-frames.ts';
import { field, type Proc } from '../memory/proc.ts';
import { ProgramFile } from '../memory/program-file.ts';
import type { SharedFiles } from '../memory/shared-file.ts';
import type { Answer, Offer } from './call.ts';
import type { ServedFiles } from './served-files.ts';
import type { EventSignal } from './transport.ts';

export type DescriptorWorld = {
  readonly kernel: Kernel;
  readonly frames: ForeignFrames;
  readonly files: SharedFiles;
  readonly served: ServedFiles;
};

/** include/uapi/asm-generic/fcntl.h. */
const O_PATH = 0o10000000;

type Wants = Pick<Answer, 'offerWanted' | 'holdWanted'>;

export class ClientDescriptors implements Descriptors {
  private readonly world: DescriptorWorld;
  private readonly proc: Proc;
  private readonly signal: EventSignal;
  /** Keys of eventfds that the program was asked to hold. */
  private readonly held = new Set<bigint>();
  private offer: Offer | null = null;
  private taken = false;
  private wants: Wants | null = null;

  constructor(world: DescriptorWorld, proc: Proc, signal: EventSignal) {
    this.world = world;
    this.proc = proc;
    this.signal = signal;
  }

  /** To be called before a call, with what the program offers to make a descriptor of. */
  begin(offer: Offer | null): void {
    this.offer = offer;
    this.taken = false;
    this.wants = null;
  }

  /** To be called after it: what has become of the offer, and what was missing. */
  end(): { readonly offerTaken: boolean; readonly wants: Wants | null } {
    this.offer = null;
    return { offerTaken: this.taken, wants: this.wants };
  }

  get(fd: number): File {
    const shown = fd < 0 ? null : this.proc.descriptor(fd);
    if (shown === null) throw new SysError('EBADF', 'fd', `descriptor ${fd} is not open`);
    const socket = /^socket:\[(\d+)\]$/.exec(shown);
    const served = socket === null ? null : this.world.served.get(Number(socket[1]));
    if (served !== null) return served;
    return shown === 'anon_inode:[eventfd]' ? this.eventfd(fd) : this.other(fd, shown);
  }

  install(file: File): number {
    const { offer } = this;
    if (offer === null || this.taken) {
      this.wants = { offerWanted: true };
      throw new SysError('EMFILE', 'fd', 'the program has not offered a descriptor yet');
    }
    if (!this.world.served.install(offer.key, file)) throw new SysError('EMFILE', 'fd', `${offer.fd} is gone`);
    this.taken = true;
    return offer.fd;
  }

  close(fd: number): void {
    if (!this.taken || fd !== this.offer?.fd) throw new SysError('EBADF', 'fd', `descriptor ${fd} is not this call's`);
    this.taken = false;
    this.world.served.uninstall(this.offer.key)?.release();
  }

  /** Whether the descriptor only names a file, which no call takes for an open one (Linux: FMODE_PATH). */
  private namesOnly(fd: number): boolean {
    return (Number.parseInt(field(this.proc.text(`fdinfo/${fd}`), 'flags:') ?? '', 8) & O_PATH) !== 0;
  }

  private eventfd(fd: number): EventFd {
    const id = field(this.proc.text(`fdinfo/${fd}`), 'eventfd-id:');
    if (id === null) throw new SysError('EBADF', 'fd', `descriptor ${fd} has no eventfd-id`);
    const key = BigInt(id);
    if (!this.held.has(key)) {
      this.held.add(key);
      this.wants = { holdWanted: { fd, key } };
      throw new SysError('EBADF', 'fd', `the program does not hold eventfd ${id} yet`);
    }
    const eventfd = new EventFd();
    eventfd.watch(() => this.signal(key));
    return eventfd;
  }

  private other(fd: number, name: string): File {
    if (this.namesOnly(fd)) throw new SysError('EBADF', 'fd', `descriptor ${fd} is a path`);
    const { kernel, frames, files } = this.world;
    const pages = new ProgramFile(kernel, frames, files, () => this.proc.open(`fd/${fd}`));
    return { name, pages, release: () => {} };
  }
}
