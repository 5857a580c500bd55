/**
 * The system calls of one process, as far as files and memory go. Each runs as one call of the kernel: calls do not
 * nest, and queued kernel work runs before a call returns.
 */

import { ACCESS_READ, ACCESS_WRITE, hex, toU64, type U64, U64_MAX } from '@iommukit/hw';
import { type Kernel, type Process, type Processes, type ProcessMemory, SysError } from '@iommukit/iommu-core';
import type { DeviceNodes } from './device-nodes.ts';
import { EventFd } from './eventfd.ts';
import { FdTable } from './fd-table.ts';
import { type Caller, type File, POLLIN, POLLOUT } from './file.ts';
import { MemFd } from './memfd.ts';

export type SystemCallsOptions = {
  kernel: Kernel;
  processes: Processes;
  process: Process;
  /** What open(2) finds. */
  nodes: DeviceNodes;
};

export type MmapOptions = {
  /** Bytes. */
  length: U64;
  /** hw's ACCESS_ bits; read and write by default. */
  protection?: number;
  /** What to map; anonymous memory by default. */
  fd?: number;
  /** Byte offset into the file. */
  offset?: U64;
  /** True by default for files, false for anonymous memory. */
  shared?: boolean;
};

const PAGE = 4096n;

export class SystemCalls {
  readonly process: Process;
  /** The process as the files see it. */
  readonly caller: Caller;
  private readonly kernel: Kernel;
  private readonly processes: Processes;
  private readonly nodes: DeviceNodes;
  private readonly descriptors: FdTable;

  constructor(options: SystemCallsOptions, descriptors: FdTable = new FdTable()) {
    this.kernel = options.kernel;
    this.processes = options.processes;
    this.process = options.process;
    this.caller = { process: this.process, descriptors };
    this.nodes = options.nodes;
    this.descriptors = descriptors;
    this.process.onExit(() => this.descriptors.closeAll());
  }

  /** Open descriptors. */
  get openDescriptors(): number {
    return this.descriptors.size;
  }

  /** The file behind a descriptor, for the kernel's side of calls that name one. @throws {SysError} EBADF */
  file(fd: number): File {
    return this.descriptors.get(fd);
  }

  /** Runs `body` as one call of the kernel that this process makes: what clients of a kind of file are made of. */
  call<T>(name: string, body: (caller: Caller) => T): T {
    return this.kernel.call(name, () => body(this.caller));
  }

  /** @throws {SysError} ENOENT, EMFILE, or what the file's open refuses with */
  open(path: string): number {
    return this.kernel.call('open', () => this.install(this.nodes.open(path, this.caller)));
  }

  /** @throws {SysError} EBADF */
  close(fd: number): void {
    this.kernel.call('close', () => this.descriptors.close(fd));
  }

  /** @throws {SysError} EBADF, EMFILE */
  dup(fd: number): number {
    return this.kernel.call('dup', () => this.descriptors.duplicate(fd));
  }

  /** Gives the result, >= 0, or the negative errno, as the system-call instruction does. */
  ioctl(fd: number, request: number, argument: U64 = 0): number {
    return this.kernel.call('ioctl', () => {
      try {
        const file = this.descriptors.get(fd);
        if (file.ioctl === undefined) throw new SysError('ENOTTY', 'ioctl', `${file.name} has no ioctls`);
        return file.ioctl(this.caller, request, toU64(argument));
      } catch (error) {
        if (error instanceof SysError) return -error.errno;
        throw error;
      }
    });
  }

  /** Bytes read. @throws {SysError} EBADF, EINVAL when the file cannot be read, and the file's own */
  read(fd: number, into: Uint8Array, position: U64 | null = null): number {
    return this.kernel.call('read', () => {
      const file = this.descriptors.get(fd);
      if (file.read === undefined) throw new SysError('EINVAL', 'read', `${file.name} cannot be read`);
      return file.read(this.caller, into, position === null ? null : toU64(position));
    });
  }

  /** Bytes written. @throws {SysError} EBADF, EINVAL when the file cannot be written, and the file's own */
  write(fd: number, from: Uint8Array, position: U64 | null = null): number {
    return this.kernel.call('write', () => {
      const file = this.descriptors.get(fd);
      if (file.write === undefined) throw new SysError('EINVAL', 'write', `${file.name} cannot be written`);
      return file.write(this.caller, from, position === null ? null : toU64(position));
    });
  }

  /** POLL bits that hold now; a file without poll is always ready. @throws {SysError} EBADF */
  poll(fd: number): number {
    return this.kernel.call('poll', () => this.descriptors.get(fd).poll?.() ?? POLLIN | POLLOUT);
  }

  /**
   * Gives the address. @throws {SysError} EBADF; ENODEV the file cannot be mapped; EINVAL length 0, misaligned offset;
   * ENOMEM; and the file's own
   */
  mmap(options: MmapOptions): bigint {
    const { protection = ACCESS_READ | ACCESS_WRITE, fd } = options;
    return this.kernel.call('mmap', () => {
      const shared = options.shared ?? fd !== undefined;
      if (fd === undefined) return this.memory().map({ length: options.length, protection, shared });
      const offset = toU64(options.offset ?? 0);
      if (offset % PAGE !== 0n) throw new SysError('EINVAL', 'mmap', `offset ${hex(offset)} is not page-aligned`);
      const file = this.descriptors.get(fd);
      const length = wholePages(toU64(options.length));
      if (file.mmap === undefined) throw new SysError('ENODEV', 'mmap', `${file.name} cannot be mapped`);
      const mapping = file.mmap(this.caller, length, protection, shared, offset);
      return this.memory().map({ ...mapping, length, protection, shared });
    });
  }

  /** @throws {SysError} EINVAL, ENOMEM */
  munmap(address: U64, length: U64): void {
    this.kernel.call('munmap', () => this.memory().unmap(address, length));
  }

  /** A descriptor of a new eventfd. @throws {SysError} EMFILE */
  eventfd(): number {
    return this.kernel.call('eventfd2', () => this.install(new EventFd()));
  }

  /** A descriptor of a new memory file of `bytes` bytes. @throws {SysError} EMFILE, EINVAL */
  memfd(name: string, bytes: number): number {
    return this.kernel.call('memfd_create', () => this.install(new MemFd(name, this.processes.createFile(bytes))));
  }

  /** The child's system calls: same descriptors, copied memory. @throws {SysError} ENOMEM */
  fork(): SystemCalls {
    return this.kernel.call('fork', () => {
      const process = this.processes.fork(this.process);
      const { kernel, processes, nodes } = this;
      return new SystemCalls({ kernel, processes, process, nodes }, this.descriptors.fork());
    });
  }

  /** Ends the process: its memory goes, then its descriptors are closed. */
  exit(): void {
    this.kernel.call('exit', () => this.process.exit());
  }

  private install(file: File): number {
    try {
      return this.descriptors.install(file);
    } catch (error) {
      file.release();
      throw error;
    }
  }

  private memory(): ProcessMemory {
    const { memory, name } = this.process;
    if (memory === null) throw new SysError('ENOSYS', 'mmap', `${name} maps its own memory`);
    return memory;
  }
}

/** `length` rounded up to pages. @throws {SysError} EINVAL it is 0; ENOMEM there are not so many addresses */
function wholePages(length: bigint): bigint {
  if (length === 0n) throw new SysError('EINVAL', 'mmap', 'length 0');
  if (length > U64_MAX - (PAGE - 1n)) throw new SysError('ENOMEM', 'mmap', `length ${hex(length)}`);
  return (length + PAGE - 1n) & ~(PAGE - 1n);
}
