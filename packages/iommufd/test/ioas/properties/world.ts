/**
 * The real thing beside its model: one open /dev/iommu with several IOAS, modelled processes with their descriptors,
 * memfds, dma-bufs, hardware tables that remember every range they were given, and accesses of drivers.
 */

import { ACCESS_READ, ACCESS_WRITE, U64_MAX } from '@iommukit/hw';
import type { Kernel, MemoryFile, PagingDomain, Processes } from '@iommukit/iommu-core';
import type { Access, LockedPages } from '../../../src/access.ts';
import type { IommufdContext } from '../../../src/context.ts';
import type { DmaBuf } from '../../../src/files/dma-buf.ts';
import { EventFd } from '../../../src/files/eventfd.ts';
import type { IoPageTable } from '../../../src/ioas/io-page-table.ts';
import type { Pages } from '../../../src/ioas/pages.ts';
import type { FakeDomainOptions } from '../../support/fakes.ts';
import { type DriverAccess, type HostedProcess, ProcessHost } from '../../support/process-host.ts';
import type { GroupModel } from './group-model.ts';
import { AccessModel, type DomainModel, IoasModel, type PinModel } from './ioas-model.ts';
import { BufferModel, type Cell, FileModel, ProcessModel, UserModel } from './memory-model.ts';
import { RecordingDomain, watchUnpins } from './recording-domain.ts';
import { SystemModel } from './system-model.ts';

export const MEMORY_PAGE = 0x100;
/** Pages of a process: private, a hole, read-only, and a file mapped shared. */
export const LAYOUT = { private: [0, 10], readOnly: [12, 4], file: [16, 8], end: 26 } as const;
const FILE_PAGES = 12;

export type ProcessPair = HostedProcess & { readonly model: ProcessModel };
export type FilePair = { readonly model: FileModel; readonly file: MemoryFile; readonly fd: number };
export type BufferPair = { readonly model: BufferModel; readonly buffer: DmaBuf; readonly fd: number };
export type AccessPair = Pick<DriverAccess, 'access' | 'pins' | 'pin'> & { readonly model: AccessModel };

/** Makes the hardware tables of a world. */
export type DomainMaker = { readonly kernel: Kernel; make(options: FakeDomainOptions): PagingDomain };

export class World {
  readonly kernel: Kernel;
  readonly host: ProcessHost;
  readonly model: SystemModel;
  readonly running: ProcessPair[] = [];
  readonly files: FilePair[] = [];
  readonly buffers: BufferPair[] = [];
  readonly accesses: AccessPair[] = [];
  readonly domains = new Map<DomainModel, PagingDomain>();
  readonly locks = new Map<PinModel, LockedPages>();
  /** Frames in use before there was anything of this world. */
  readonly framesBefore: number;
  /** The pin group of each group of the model, and the frame of each of its pages while it is pinned. */
  readonly groups = new Map<GroupModel, { readonly pages: Pages; readonly frames: Map<number, number> }>();
  /** Descriptor of a file that is not memory. */
  readonly notMemory: number;
  readonly maker: DomainMaker;
  private readonly tables: IoPageTable[];
  private stamps = 0;

  constructor(maker: DomainMaker, accountMm: boolean) {
    this.maker = maker;
    this.kernel = maker.kernel;
    this.framesBefore = this.kernel.frames.allocated;
    const [alice, bob] = [new UserModel(), new UserModel()];
    const models = [
      new ProcessModel('p0', alice, false, 16),
      new ProcessModel('p1', bob, false, 8),
      new ProcessModel('p2', alice, true, 0),
    ];
    const [first, ...others] = models.map((model) => {
      const uid = model.user === alice ? 1000 : 1001;
      const capabilities = model.privileged ? (['CAP_IPC_LOCK'] as const) : [];
      return { model, options: { name: model.name, uid, capabilities, memlock: model.memlock * 4096 } };
    });
    this.host = new ProcessHost(first!.options, accountMm, this.kernel);
    const { context, client } = this.host;
    // Processes come and go; /dev/iommu stays open.
    context.hold();
    for (const name of ['memfd0', 'memfd1']) this.addFile(name);
    for (const name of ['dmabuf0', 'dmabuf1']) this.addBuffer(name);
    this.notMemory = this.host.first.system.caller.descriptors.install(new EventFd());
    this.start(first!.model, this.host.first);
    for (const { model, options } of others) this.start(model, this.host.spawn(options));
    const ioas = [0, 1, 2].map(() => new IoasModel(client.ioasAlloc()));
    this.tables = ioas.map(({ index }) => this.host.table(index));
    const accesses = [true, false, true, false].map((pins, index) => new AccessModel(index, pins, index === 2));
    this.model = new SystemModel(ioas, accesses, accountMm);
    accesses.forEach((model, index) => {
      const access = this.addAccess(model);
      access.attach(ioas[index % 3]!.index);
      this.model.attach(model, ioas[index % 3]!);
    });
    watchUnpins(this.processes.counts, () => this.recordingDomains());
  }

  get context(): IommufdContext {
    return this.host.context;
  }

  get processes(): Processes {
    return this.host.processes;
  }

  table(ioas: IoasModel): IoPageTable {
    return this.tables[this.model.ioas.indexOf(ioas)]!;
  }

  /** A number that no memory holds yet. */
  nextStamp(): number {
    return ++this.stamps;
  }

  get alive(): ProcessPair[] {
    return this.running.filter(({ model }) => model.alive);
  }

  /** What a failed call must leave as it is, besides what the model knows. */
  snapshot(): string {
    const lines: unknown[] = [];
    for (const table of this.tables) {
      const { space, iovaAlignment, hugePages, domains } = table;
      lines.push(iovaAlignment, hugePages, domains.map(({ id }) => id).join());
      for (const { start, last } of space.reservedRanges) lines.push('r', start, last);
      for (const { start, last } of space.allowedRanges) lines.push('a', start, last);
      space.forEachArea(({ iova, last, startByte, prot, pages, accesses, locks, preventAccess }) => {
        const covered = pages.covered.map((range) => `${range.first}-${range.last}`).join();
        lines.push(iova, last, startByte, prot, pages.id, pages.users, covered, accesses, locks, preventAccess);
        lines.push(pages.revoked, pages.payer.addressSpace.id);
      });
    }
    lines.push(
      'u',
      ...this.context.objects.all().map(({ id, users }) => `${id}:${users}`),
      this.processes.counts.pinned,
    );
    for (const { system } of this.running) {
      const { addressSpace, credentials } = system.process;
      lines.push(addressSpace.pinnedPages, addressSpace.lockedPages, credentials.user.lockedPages);
    }
    for (const { access } of this.accesses) lines.push(access.ioas?.id);
    return lines.join(' ');
  }

  /** fork(2) of a process. */
  fork(parent: ProcessPair): void {
    const { user, privileged, memlock } = parent.model;
    const model = new ProcessModel(`p${this.running.length}`, user, privileged, memlock);
    parent.model.forkTo(model);
    this.running.push({ model, ...this.host.fork(parent) });
  }

  /** Fresh private memory of a process, each page with a number of its own. */
  fill(process: ProcessPair, first: number, count: number): void {
    process.model.mapPrivate(first, count);
    const address = BigInt(first) << 12n;
    const protection = ACCESS_READ | ACCESS_WRITE;
    process.system.process.memory!.map({ length: count * 4096, protection, address, replace: true });
    // Frames are given out in the order of first use: half of the memory lies in adjoining frames.
    for (let page = 0; page < count; page++) this.write(process, first + (page < 5 ? page : count + 4 - page));
  }

  /** The process writes a page of its own. */
  write({ model, system }: ProcessPair, page: number): void {
    const stamp = this.nextStamp();
    model.cellAt(page, true)!.halves.fill(stamp);
    system.process.addressSpace.write(BigInt(page) << 12n, filled(4096, stamp));
  }

  /** Content of a frame of RAM, in halves of which each is one number throughout at these two places. */
  halvesOf(pfn: number): readonly [number, number] {
    const { words } = this.kernel.memory;
    return [words[pfn << 10]!, words[(pfn << 10) + 512]!];
  }

  remember(group: GroupModel, pages: Pages): void {
    this.groups.set(group, { pages, frames: new Map() });
  }

  private recordingDomains(): RecordingDomain[] {
    return [...this.domains.values()].filter((domain) => domain instanceof RecordingDomain);
  }

  private start(model: ProcessModel, hosted: HostedProcess): void {
    const process = { model, ...hosted };
    this.running.push(process);
    this.fill(process, MEMORY_PAGE, LAYOUT.private[1]);
    const [readOnly, pages] = LAYOUT.readOnly;
    this.fill(process, MEMORY_PAGE + readOnly, pages);
    this.protect(process, MEMORY_PAGE + readOnly, pages, false);
    this.mapFile(process, MEMORY_PAGE + LAYOUT.file[0], LAYOUT.file[1], this.files[0]!);
  }

  protect({ model, system }: ProcessPair, first: number, count: number, writable: boolean): void {
    model.protect(first, count, writable);
    const protection = writable ? ACCESS_READ | ACCESS_WRITE : ACCESS_READ;
    system.process.memory!.protect(BigInt(first) << 12n, count * 4096, protection);
  }

  mapFile({ model, system }: ProcessPair, first: number, count: number, { model: fileModel, file }: FilePair): void {
    model.mapFile(first, count, fileModel);
    const protection = ACCESS_READ | ACCESS_WRITE;
    const options = { length: count * 4096, protection, address: BigInt(first) << 12n, replace: true };
    system.process.memory!.map({ ...options, backing: file, shared: true });
  }

  private addFile(name: string): void {
    const model = new FileModel(name, FILE_PAGES);
    const { fd, file } = this.host.memfd(FILE_PAGES);
    model.cells.forEach((cell, index) => this.stampFrame(cell, file.frame(index)));
    this.files.push({ model, file, fd });
  }

  private stampFrame({ halves }: Cell, pfn: number): void {
    const stamp = this.nextStamp();
    halves.fill(stamp);
    this.kernel.memory.write(pfn * 4096, filled(4096, stamp));
  }

  private addBuffer(name: string): void {
    const { fd, buffer } = this.host.dmabuf(8);
    this.buffers.push({ model: new BufferModel(name, buffer.pfn, buffer.frames), buffer, fd });
  }

  private addAccess(model: AccessModel): Access {
    const { access, pins, pin, letGo } = this.host.access(model.alignment === 4096, (iova, length) => {
      // The driver that keeps what is unmapped lets go of everything when it is detached.
      if (!model.stubborn || length === U64_MAX) letGo(iova, length);
    });
    this.accesses.push({ model, access, pins, pin });
    return access;
  }
}

export function filled(bytes: number, stamp: number): Uint8Array {
  return new Uint8Array(new Int32Array(bytes / 4).fill(stamp).buffer);
}
