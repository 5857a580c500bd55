/** A kernel with modelled processes, whose memory is frames of RAM, and one /dev/iommu that all of them have open. */

import { ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import {
  type ErrnoCode,
  type Kernel,
  type Process,
  Processes,
  type ProcessOptions,
  SysError,
} from '@iommukit/iommu-core';
import { type Access, createAccess } from '../../src/access.ts';
import { IommufdClient } from '../../src/clients/iommufd-client.ts';
import type { IommufdContext } from '../../src/context.ts';
import { DeviceNodes } from '../../src/files/device-nodes.ts';
import { DmaBuf } from '../../src/files/dma-buf.ts';
import { FdTable } from '../../src/files/fd-table.ts';
import type { MemFd } from '../../src/files/memfd.ts';
import { SystemCalls } from '../../src/files/system-calls.ts';
import type { Area } from '../../src/ioas/area.ts';
import type { IoPageTable } from '../../src/ioas/io-page-table.ts';
import { Ioas } from '../../src/ioas/ioas.ts';
import { iommufdContextOf, registerIommufd } from '../../src/iommufd-file.ts';
import { FakeDomain, type FakeDomainOptions, FakeDriver, fakeKernel } from './fakes.ts';

export type HostedProcess = { readonly process: Process; readonly system: SystemCalls; readonly client: IommufdClient };

export class ProcessHost {
  readonly kernel: Kernel;
  readonly processes: Processes;
  readonly driver: FakeDriver;
  readonly context: IommufdContext;
  readonly first: HostedProcess;
  private readonly nodes = new DeviceNodes();
  private readonly fd: number;
  private domains = 0;
  private buffers = 0;

  /** `process` are the options of the first process. */
  constructor(process: ProcessOptions = {}, accountMm = false, kernel: Kernel = fakeKernel(4 << 20)) {
    this.kernel = kernel;
    this.driver = new FakeDriver(kernel);
    this.processes = new Processes(kernel);
    registerIommufd(this.nodes, { kernel, accountMm });
    const system = this.newSystem(process, new FdTable());
    this.fd = system.open('/dev/iommu');
    this.context = iommufdContextOf(system.file(this.fd));
    this.first = this.hosted(system);
  }

  get client(): IommufdClient {
    return this.first.client;
  }

  /** A process with the open files of the first. */
  spawn(options: ProcessOptions = {}): HostedProcess {
    const files = this.first.system.caller.descriptors as FdTable;
    return this.hosted(this.newSystem(options, files.fork()));
  }

  fork(parent: HostedProcess): HostedProcess {
    return this.hosted(parent.system.fork());
  }

  ioas(id: number): Ioas {
    return this.context.objects.get(id, Ioas);
  }

  table(id: number): IoPageTable {
    return this.ioas(id).table;
  }

  areas(id: number): Area[] {
    const areas: Area[] = [];
    this.table(id).space.forEachArea((area) => areas.push(area));
    return areas;
  }

  /** A hardware table that shows an IOAS. */
  addDomain(ioasId: number, options: FakeDomainOptions = {}): FakeDomain {
    const domain = new FakeDomain(this.kernel, this.driver, ++this.domains, options);
    this.table(ioasId).addDomain(domain);
    return domain;
  }

  /** Private memory of a process: each page is filled with its number from `first`. */
  memory({ system, process }: HostedProcess, pages: number, first = 1): bigint {
    const va = system.mmap({ length: pages * 4096, protection: ACCESS_READ | ACCESS_WRITE });
    for (let page = 0; page < pages; page++) {
      process.addressSpace.write(va + BigInt(page * 4096), new Uint8Array(4096).fill(first + page));
    }
    return va;
  }

  /** A memfd of the first process, filled like `memory`. */
  memfd(pages: number, first = 1): { fd: number; file: MemFd['file'] } {
    const { system } = this.first;
    const fd = system.memfd('memory', pages * 4096);
    const { file } = system.file(fd) as MemFd;
    for (let page = 0; page < pages; page++) {
      this.kernel.memory.write(file.frame(page) * 4096, new Uint8Array(4096).fill(first + page));
    }
    return { fd, file };
  }

  /** A dma-buf that the first process has open: frames of a device behind the RAM. */
  dmabuf(frames: number, onRelease: () => void = () => {}): { fd: number; buffer: DmaBuf } {
    const buffer = new DmaBuf({ pfn: 0x10_0000 + 0x1000 * this.buffers++, frames, onRelease });
    return { fd: this.first.system.caller.descriptors.install(buffer), buffer };
  }

  /** A driver's access; `unmap` is told what goes, and unpins everything that `pins` lists of it by default. */
  access(needsPinPages = true, unmap?: (iova: bigint, length: bigint) => void): DriverAccess {
    const pins: { iova: bigint; length: bigint }[] = [];
    const notified: [bigint, bigint][] = [];
    const letGo = (iova: bigint, length: bigint): void => {
      for (const pin of [...pins]) {
        if (pin.iova >= iova + length || pin.iova + pin.length <= iova) continue;
        pins.splice(pins.indexOf(pin), 1);
        access.unpinPages(pin.iova, pin.length);
      }
    };
    const access: Access = createAccess(this.context, {
      needsPinPages,
      unmap: (iova, length) => {
        notified.push([iova, length]);
        (unmap ?? letGo)(iova, length);
      },
    });
    const pin = (iova: bigint, length: bigint, write = true): number[] => {
      const frames = access.pinPages(iova, length, write);
      pins.push({ iova, length });
      return Array.from({ length: frames.pages }, (_, index) => frames.at(index));
    };
    return { access, pins, notified, pin, letGo };
  }

  /** First byte of a frame of RAM. */
  byteOf(pfn: number): number {
    return this.kernel.memory.bytes[pfn * 4096]!;
  }

  /** What a failed call must leave as it is. */
  snapshot(): unknown {
    const ioas = this.context.objects.all().filter((object) => object instanceof Ioas);
    return {
      objects: this.context.objects.all().map(({ id, users }) => [id, users]),
      areas: ioas.map(({ id }) =>
        this.areas(id).map(({ iova, last, prot, startByte, accesses, locks, pages }) => {
          const covered = pages.covered.map(({ first, last: end }) => [first, end]);
          const { revoked, users, pinned, payer } = pages;
          return [iova, last, prot, startByte, accesses, locks, covered, revoked, users, pinned, payer.addressSpace.id];
        }),
      ),
      tables: ioas.map(({ table }) => [table.iovaAlignment, table.hugePages, table.domains.length]),
      ranges: ioas.map(({ table: { space } }) => [
        space.allowedRanges.map(({ start, last }) => [start, last]),
        space.reservedRanges.map(({ start, last }) => [start, last]),
      ]),
      units: ioas.map(({ table }) => (table.domains as FakeDomain[]).map(({ units }) => [...units])),
      pinned: this.processes.counts.pinned,
    };
  }

  private newSystem(options: ProcessOptions, descriptors: FdTable): SystemCalls {
    const { kernel, processes, nodes } = this;
    const process = processes.spawn({ memlock: Number.POSITIVE_INFINITY, ...options });
    return new SystemCalls({ kernel, processes, process, nodes }, descriptors);
  }

  private hosted(system: SystemCalls): HostedProcess {
    return { system, process: system.process, client: new IommufdClient(system, this.fd) };
  }
}

export type DriverAccess = {
  readonly access: Access;
  /** What is pinned and not let go of. */
  readonly pins: { iova: bigint; length: bigint }[];
  /** Every call of its `unmap`. */
  readonly notified: [bigint, bigint][];
  /** Pins, and gives the frames. */
  pin(iova: bigint, length: bigint, write?: boolean): number[];
  letGo(iova: bigint, length: bigint): void;
};

/** Code of the errno a call is refused with, or null. */
export function errnoOf(body: () => unknown): ErrnoCode | null {
  try {
    body();
    return null;
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
}

/**
 * Fails every failpoint of an operation in turn, each on a host of its own, and compares what is left with what was.
 * Gives how many there are.
 */
export function sweep(prepare: () => { host: ProcessHost; operation: () => unknown }): number {
  for (let nth = 1; ; nth++) {
    const { host, operation } = prepare();
    const before = host.snapshot();
    host.kernel.failpoints.arm(nth);
    const code = errnoOf(operation);
    const { hit } = host.kernel.failpoints;
    host.kernel.failpoints.arm(0);
    if (code === null && hit === null) return nth - 1;
    // A page that could not be pinned in one go may be in the next.
    if (code === null) continue;
    const after = host.snapshot();
    if (code !== 'ENOMEM' || !same(before, after)) {
      throw new Error(`${hit}, failing as number ${nth}, gives ${code} and leaves ${spell(after)} of ${spell(before)}`);
    }
  }
}

function same(one: unknown, other: unknown): boolean {
  return spell(one) === spell(other);
}

function spell(value: unknown): string {
  return JSON.stringify(value, (_, item) => (typeof item === 'bigint' ? `0x${item.toString(16)}` : item));
}
