/**
 * Machines whose program has /dev/ioasid open and devices bound to it. One has a VT-d unit and test functions, so what
 * is tested is DMA; the other has fakes, whose driver can do what no modelled IOMMU does.
 */

import { ACCESS_READ, ACCESS_WRITE, requesterId, type VtdFeatures } from '@iommukit/hw';
import {
  type ErrnoCode,
  type IommuGroup,
  type Kernel,
  type Process,
  Processes,
  SysError,
  User,
} from '@iommukit/iommu-core';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import { Machine } from '../../../iommu-core/test/support/machine.ts';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import type { TestDevice } from '../../../iommu-core/test/support/test-device.ts';
import { DeviceNodes } from '../../src/files/device-nodes.ts';
import { FdTable } from '../../src/files/fd-table.ts';
import { SystemCalls } from '../../src/files/system-calls.ts';
import {
  type BindOptions,
  IoasidClient,
  type IoasidContext,
  type IoasidDevice,
  type IoasidNode,
  type IoasidRules,
  ioasidContextOf,
  registerIoasid,
} from '../../src/ioasid/index.ts';
import {
  FakeAddressSpace,
  FakeDriver,
  type FakeFunction,
  type FakeProcessOptions,
  fakeDevice,
  fakeKernel,
  fakeProcess,
} from './fakes.ts';
import { ARGUMENT, MEMORY, MEMORY_PAGES } from './host.ts';

export const PAGE = 4096n;
const PRESENT_WRITE_USER = 7n;

/** Code of the SysError that `body` throws, or null. */
export function errno(body: () => unknown): ErrnoCode | null {
  try {
    body();
    return null;
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
}

/** A bound device as its driver in the kernel calls it: each operation is a call of its own, by handle. */
export class BoundTester {
  readonly tester: TestDevice;
  readonly device: IoasidDevice;
  private readonly host: IoasidHost;

  constructor(host: IoasidHost, tester: TestDevice, device: IoasidDevice) {
    this.host = host;
    this.tester = tester;
    this.device = device;
  }

  attach(ioasid: number, pasid: number | null = null): number | null {
    return this.host.inKernel((context) => this.device.attach(context.get(ioasid, 'test'), pasid));
  }

  detach(ioasid: number, pasid: number | null = null): void {
    this.host.inKernel((context) => this.device.detach(context.get(ioasid, 'test'), pasid));
  }

  allow(ioasid: number, pasid: number): void {
    this.host.inKernel((context) => this.device.allow(context.get(ioasid, 'test'), pasid));
  }

  disallow(ioasid: number, pasid: number): void {
    this.host.inKernel((context) => this.device.disallow(context.get(ioasid, 'test'), pasid));
  }

  unbind(): void {
    this.host.inKernel(() => this.device.unbind());
  }

  /** The byte at an address, or null when the read was refused. */
  read(iova: bigint, pasid?: number): number | null {
    return this.tester.read(iova, pasid === undefined ? {} : { pasid });
  }
}

export type IoasidHostOptions = {
  rules?: IoasidRules;
  features?: Partial<VtdFeatures>;
  memlock?: number;
  /** The first two functions are in one group. */
  paired?: boolean;
};

/** Three functions: alone in their groups, or the first two in one. */
export class IoasidHost {
  readonly machine: Machine;
  readonly processes: Processes;
  readonly process: Process;
  readonly system: SystemCalls;
  readonly node: IoasidNode;
  readonly client: IoasidClient;
  readonly context: IoasidContext;
  readonly testers: readonly TestDevice[];

  constructor({ rules = 'v1', features = {}, memlock = 1 << 30, paired = false }: IoasidHostOptions = {}) {
    const rids = paired
      ? [requesterId(1, 0, 0), requesterId(1, 0, 1), requesterId(2, 0, 0)]
      : [requesterId(1, 0, 0), requesterId(2, 0, 0), requesterId(3, 0, 0)];
    this.machine = new Machine({
      features,
      plug: (host) => {
        for (const bus of new Set(rids.map((rid) => rid >> 8))) host.plugPort(requesterId(0, bus, 0), bus);
        for (const rid of rids) host.plug(host.testFunction({ totalVfs: 0 }), rid);
      },
    });
    const { kernel, core } = this.machine;
    this.processes = new Processes(kernel);
    this.process = this.processes.spawn({ name: 'vmm', memlock });
    const nodes = new DeviceNodes();
    this.node = registerIoasid(nodes, { kernel, rules, core });
    this.system = new SystemCalls({ kernel, processes: this.processes, process: this.process, nodes });
    this.client = new IoasidClient(this.system, this.system.open('/dev/ioasid'));
    this.context = ioasidContextOf(this.system.file(this.client.fd));
    this.testers = rids.map((rid) => this.machine.add(rid));
  }

  /** Binds the n-th function; its cookie is 0x100 + n. */
  bind(index = 0, options: BindOptions = {}): BoundTester {
    const tester = this.testers[index]!;
    const device = this.inKernel((context) => context.bind(tester.device, BigInt(0x100 + index), options));
    return new BoundTester(this, tester, device);
  }

  /** What a driver does in the kernel, as one call. */
  inKernel<T>(body: (context: IoasidContext) => T): T {
    return this.machine.kernel.call('driver', () => body(this.context));
  }

  /** Anonymous memory of `pages` pages, each filled with its number from `first`. */
  memory(pages: number, first = 1): bigint {
    const va = this.system.mmap({ length: pages * 4096, protection: ACCESS_READ | ACCESS_WRITE });
    for (let page = 0; page < pages; page++) this.fill(va + BigInt(page) * PAGE, first + page);
    return va;
  }

  fill(va: bigint, byte: number): void {
    this.process.addressSpace.write(va, new Uint8Array(4096).fill(byte));
  }

  byteAt(va: bigint): number {
    const byte = new Uint8Array(1);
    this.process.addressSpace.read(va, byte);
    return byte[0]!;
  }

  /** Pinned pages, and pages charged to the user. */
  get pins(): [number, number] {
    return [this.processes.counts.pinned, this.process.credentials.user.lockedPages];
  }

  /**
   * Writes a four-level table into guest memory at `va` (guest physical 0), one table page for each level from guest
   * physical `root`, that maps guest virtual `gva` to guest physical `gpa`, or to nothing. All mappings share the upper tables.
   */
  stage1Map(va: bigint, root: bigint, gva: bigint, gpa: bigint | null): void {
    for (let level = 3n; level >= 0n; level--) {
      const table = root + (3n - level) * PAGE;
      const index = (gva >> (12n + 9n * level)) & 511n;
      const target = level === 0n ? gpa : table + PAGE;
      const entry = target === null ? 0n : target | PRESENT_WRITE_USER;
      const bytes = new Uint8Array(BigUint64Array.of(entry).buffer);
      this.process.addressSpace.write(va + table + index * 8n, bytes);
    }
  }
}

/** Fakes, with a window for arguments of ioctls at ARGUMENT and 64 pages of memory at MEMORY. */
export class FakeIoasidHost {
  readonly kernel: Kernel = fakeKernel();
  readonly driver = new FakeDriver(this.kernel);
  readonly space = new FakeAddressSpace();
  readonly user = new User(1000);
  readonly process: Process;
  readonly descriptors = new FdTable();
  readonly system: SystemCalls;
  readonly node: IoasidNode;
  readonly client: IoasidClient;
  readonly context: IoasidContext;
  private nextRid = 0x100;

  constructor(rules: IoasidRules, options: FakeProcessOptions = {}) {
    this.driver.capabilities.add('enforce-cache-coherency');
    this.process = fakeProcess(this.space, { ...options, user: this.user });
    this.space.map(Number(ARGUMENT >> 12n), 16);
    this.space.map(Number(MEMORY >> 12n), MEMORY_PAGES);
    const { kernel, process } = this;
    const nodes = new DeviceNodes();
    this.node = registerIoasid(nodes, { kernel, rules });
    this.system = new SystemCalls({ kernel, processes: new Processes(kernel), process, nodes }, this.descriptors);
    this.client = new IoasidClient(this.system, this.system.open('/dev/ioasid'));
    this.context = ioasidContextOf(this.system.file(this.client.fd));
  }

  bind(group?: IommuGroup, fn: FakeFunction = {}, options: BindOptions = {}): IoasidDevice {
    const rid = this.nextRid++;
    return this.context.bind(fakeDevice(this.driver, rid, group, fn), BigInt(rid), options);
  }

  attach(device: IoasidDevice, ioasid: number, pasid: number | null = null): number | null {
    return device.attach(this.context.get(ioasid, 'test'), pasid);
  }

  detach(device: IoasidDevice, ioasid: number, pasid: number | null = null): void {
    device.detach(this.context.get(ioasid, 'test'), pasid);
  }

  /** Where DMA of a device with a PASID, or without, goes: to a live domain, or nowhere. */
  route(device: IoasidDevice, pasid = -1): number | null {
    return this.driver.routes.get(`${device.bound.device.rid}:${pasid}`) ?? null;
  }

  /** What a failed call must leave as it is. */
  snapshot(): unknown {
    const { context } = this;
    return {
      objects: context.iommufd.objects.all().map(({ id, type, users }) => [id, type, users]),
      ioasids: context.all.map((ioasid) => [
        ioasid.handle,
        ioasid.table?.id ?? null,
        ioasid.userTable,
        ioasid.faults?.id ?? null,
        ioasid.windows?.all() ?? null,
        ioasid.ioas?.table.space.areasIn(0n, 0xffff_ffff_ffff_ffffn).map(({ iova, last, prot, pages }) => {
          return [iova, last, prot, pages.id, pages.users];
        }),
        ioasid.ioas?.table.space.reservedRanges.map(({ start, last }) => [start, last]),
      ]),
      devices: [...context.devices].map((device) => [
        device.cookie,
        device.pasids.map((pasid) => [pasid, device.line(pasid).map(({ handle }) => handle)]),
        [...device.bound.device.authorizedPasids],
      ]),
      counts: [this.space.pinnedPages, this.space.lockedPages, this.user.lockedPages, this.descriptors.size],
      registered: context.iommufd.registered.count,
      pins: [...this.space.pins].sort(),
      routes: [...this.driver.routes].sort(),
      domains: this.driver.live.map((domain) => [domain.id, 'units' in domain ? [...domain.units] : null]),
    };
  }
}
