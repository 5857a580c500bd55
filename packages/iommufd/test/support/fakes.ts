/**
 * The kernel's neighbours of /dev/iommu as naive models: a process's memory as a map of pages, a hardware table as a map
 * of addresses. They keep watch over what must never happen: a translation that is there for a device, or may still be
 * cached, when its page is unpinned.
 */

import {
  FrameAllocator,
  high32,
  joinU64,
  low32,
  NO_PASID,
  noTrace,
  PhysicalMemory,
  Scheduler,
  toU64,
  type U64,
} from '@iommukit/hw';
import {
  type AddressSpace,
  type AttachScope,
  type Capability,
  Credentials,
  Device,
  type DirtyTracking,
  type DirtyVisitor,
  type DmaMaster,
  type Domain,
  type FaultGroup,
  type HwInfo,
  type InvalidateResult,
  type IommuDriver,
  IommuGroup,
  Kernel,
  type NestedDomain,
  type PageFault,
  type PagingDomain,
  type PfnRuns,
  Process,
  type ProcessCapability,
  type ReservedRegion,
  type StaticDomain,
  type SvaDomain,
  SysError,
  User,
  type UserData,
  type ViommuCore,
} from '@iommukit/iommu-core';
import { FakeViommus } from './fake-viommu.ts';

const PAGE = 4096n;

/** `ramBytes` is a multiple of 64 KiB. */
export function fakeKernel(ramBytes: number = 1 << 20): Kernel {
  const memory = new PhysicalMemory({ ramBytes, reservedBytes: 0 });
  const scheduler = new Scheduler();
  const interrupts = { allocate: () => ({ address: 0n, data: 0 }), free() {} };
  return new Kernel({ memory, frames: new FrameAllocator(memory), scheduler, interrupts });
}

/** A process's memory: pages that are there, their frames, and how often each frame is pinned. */
export class FakeAddressSpace implements AddressSpace {
  readonly id: number;
  readonly alive = true;
  readonly rootPfn = null;
  pinnedPages = 0;
  lockedPages = 0;
  readonly pages: Map<number, { pfn: number; writable: boolean }> = new Map();
  readonly pins: Map<number, number> = new Map();
  readonly dirty: Set<number> = new Set();
  readonly bytes: Map<number, Uint8Array> = new Map();
  /** Called for each frame whose last pin goes. */
  onUnpinned: (pfn: number) => void = () => {};
  private nextPfn = 0x1000;

  constructor(id = 1) {
    this.id = id;
  }

  /** Puts `count` fresh pages at `vpn`; `gap` frames are left out between two of them. */
  map(vpn: number, count: number, writable = true, gap = 0): void {
    for (let page = vpn; page < vpn + count; page++) {
      this.pages.set(page, { pfn: this.nextPfn, writable });
      this.nextPfn += 1 + gap;
    }
  }

  pin(va: U64, pages: number, write: boolean, into: PfnRuns): number {
    const first = Number(toU64(va) / PAGE);
    let done = 0;
    for (; done < pages; done++) {
      const page = this.pages.get(first + done);
      if (page === undefined || (write && !page.writable)) break;
      this.pins.set(page.pfn, (this.pins.get(page.pfn) ?? 0) + 1);
      into.push(page.pfn, 1);
    }
    if (done === 0) throw new SysError('EFAULT', 'pin', `no page ${first}`);
    this.pinnedPages += done;
    return done;
  }

  unpin(runs: PfnRuns, dirty: boolean): void {
    for (let index = 0; index < runs.pages; index++) {
      const pfn = runs.at(index);
      const pins = this.pins.get(pfn);
      if (pins === undefined) throw new Error(`frame ${pfn} is not pinned`);
      if (dirty) this.dirty.add(pfn);
      if (pins > 1) this.pins.set(pfn, pins - 1);
      else {
        this.pins.delete(pfn);
        this.onUnpinned(pfn);
      }
    }
    this.pinnedPages -= runs.pages;
  }

  pinCount(pfn: number): number {
    return this.pins.get(pfn) ?? 0;
  }

  read(va: U64, into: Uint8Array): void {
    this.transfer(va, into, false);
  }

  write(va: U64, from: Uint8Array): void {
    this.transfer(va, from, true);
  }

  handleFault(): boolean {
    return false;
  }

  addNotifier(): void {}

  removeNotifier(): void {}

  private transfer(va: U64, buffer: Uint8Array, write: boolean): void {
    for (let done = 0; done < buffer.length; ) {
      const at = toU64(va) + BigInt(done);
      const offset = Number(at % PAGE);
      const page = this.pages.get(Number(at / PAGE));
      if (page === undefined || (write && !page.writable)) throw new SysError('EFAULT', 'copy', `no page at ${at}`);
      const length = Math.min(buffer.length - done, 4096 - offset);
      let bytes = this.bytes.get(page.pfn);
      if (bytes === undefined) this.bytes.set(page.pfn, (bytes = new Uint8Array(4096)));
      if (write) bytes.set(buffer.subarray(done, done + length), offset);
      else buffer.set(bytes.subarray(offset, offset + length), done);
      done += length;
    }
  }
}

export type FakeProcessOptions = { memlock?: number; capabilities?: ProcessCapability[]; user?: User };

export function fakeProcess(space: AddressSpace, options: FakeProcessOptions = {}): Process {
  const { memlock = Number.POSITIVE_INFINITY, capabilities = [], user = new User(1000) } = options;
  return new Process(1, 'test', space, new Credentials(user, capabilities), { memlock });
}

const UNIT = 2048;

/** A hardware table in units of 2 KiB: what is mapped, and what was unmapped but may still be cached. */
export class FakeDomain implements PagingDomain {
  readonly id: number;
  readonly kind = 'unmanaged';
  readonly scopes: readonly AttachScope[] = ['rid', 'pasid'];
  readonly driver: IommuDriver;
  faultHandler: ((group: FaultGroup) => void) | null = null;
  readonly pageSizesLg2: readonly number[];
  readonly aperture: { first: bigint; last: bigint };
  readonly nestParent: boolean;
  readonly pasidCapable: boolean;
  readonly dirty: FakeDirty | null;
  /** Physical byte address and protection behind each unit. */
  readonly units: Map<number, { phys: number; prot: number }> = new Map();
  /** Units that begin a mapping. */
  private readonly starts = new Map<number, number>();
  readonly cached: Map<number, number> = new Map();
  freed = false;
  private readonly kernel: Kernel;

  constructor(kernel: Kernel, driver: IommuDriver, id: number, options: FakeDomainOptions = {}) {
    this.kernel = kernel;
    this.driver = driver;
    this.id = id;
    this.pageSizesLg2 = [options.smallestLg2 ?? 12, 21, 30];
    this.aperture = options.aperture ?? { first: 0n, last: 0xffff_ffff_ffff_ffffn };
    this.nestParent = options.nestParent ?? false;
    this.pasidCapable = options.pasidCapable ?? false;
    this.dirty = options.tracks === true ? new FakeDirty(this.pageSizesLg2[0]!) : null;
  }

  map(iovaLo: number, iovaHi: number, physLo: number, physHi: number, bytes: number, prot: number): void {
    this.kernel.checkpoint('fake_domain_map');
    const first = unit(iovaLo, iovaHi);
    const phys = unit(physLo, physHi) * UNIT + (physLo & (UNIT - 1));
    if (bytes % 2 ** this.pageSizesLg2[0]! !== 0) throw new SysError('EINVAL', 'fake', `size ${bytes}`);
    for (let at = 0; at < bytes / UNIT; at++) {
      if (this.units.has(first + at)) throw new SysError('EEXIST', 'fake', `unit ${first + at}`);
    }
    for (let at = 0; at < bytes / UNIT; at++) this.units.set(first + at, { phys: phys + at * UNIT, prot });
    this.starts.set(first, bytes / UNIT);
  }

  /** Every range is a union of complete earlier mappings. */
  unmap(iovaLo: number, iovaHi: number, bytes: number): number {
    const first = unit(iovaLo, iovaHi);
    const end = first + bytes / UNIT;
    for (let at = first; at < end; ) {
      const units = this.starts.get(at);
      if (units === undefined || at + units > end) throw new Error(`unmap ${first}..${end} cuts a mapping at ${at}`);
      this.starts.delete(at);
      for (let index = at; index < at + units; index++) {
        this.cached.set(index, this.units.get(index)!.phys);
        this.units.delete(index);
      }
      at += units;
    }
    return bytes;
  }

  syncMap(): void {}

  sync(): void {
    this.cached.clear();
    this.dirty?.stale.clear();
  }

  iovaToPhys(iova: bigint): bigint | null {
    const entry = this.units.get(Number(iova / BigInt(UNIT)));
    return entry === undefined ? null : BigInt(entry.phys) + (iova % BigInt(UNIT));
  }

  /** True while a device attached here may still reach the frame. */
  reaches(pfn: number): boolean {
    const hits = (phys: number): boolean => Math.floor(phys / 4096) === pfn;
    return [...this.units.values()].some(({ phys }) => hits(phys)) || [...this.cached.values()].some(hits);
  }

  free(): void {
    if (this.freed) throw new Error(`domain ${this.id} is freed twice`);
    this.freed = true;
  }
}

export type FakeDomainOptions = {
  smallestLg2?: number;
  aperture?: { first: bigint; last: bigint };
  nestParent?: boolean;
  pasidCapable?: boolean;
  /** It can track what is written. */
  tracks?: boolean;
};

/** Dirty bits of a table whose leaves are all of the smallest size, by the leaf's number. */
export class FakeDirty implements DirtyTracking {
  enabled = false;
  readonly leaves: Set<number> = new Set();
  /** Leaves that hardware would not mark again, as it has them cached. */
  readonly stale: Set<number> = new Set();
  private readonly leafLg2: number;

  constructor(leafLg2: number) {
    this.leafLg2 = leafLg2;
  }

  setEnabled(enabled: boolean): void {
    this.enabled = enabled;
  }

  /** A device writes to `iova`. */
  write(iova: bigint): void {
    const leaf = Number(iova >> BigInt(this.leafLg2));
    if (this.enabled && !this.stale.has(leaf)) this.leaves.add(leaf);
  }

  read(iovaLo: number, iovaHi: number, bytes: number, keep: boolean, visit: DirtyVisitor): void {
    const size = BigInt(2 ** this.leafLg2);
    const first = Number(joinU64(iovaLo, iovaHi) / size);
    const last = Number((joinU64(iovaLo, iovaHi) + BigInt(bytes) - 1n) / size);
    for (const leaf of [...this.leaves].sort((a, b) => a - b)) {
      if (leaf < first || leaf > last) continue;
      const start = BigInt(leaf) * size;
      visit(low32(start), high32(start), Number(size));
      if (keep) continue;
      this.leaves.delete(leaf);
      this.stale.add(leaf);
    }
  }
}

function unit(lo: number, hi: number): number {
  return ((hi >>> 0) * 4294967296 + (lo >>> 0) - (lo & (UNIT - 1))) / UNIT;
}

export class FakeNestedDomain implements NestedDomain {
  readonly id: number;
  readonly kind = 'nested';
  readonly scopes: readonly AttachScope[];
  readonly driver: IommuDriver;
  readonly parent: PagingDomain;
  faultHandler: ((group: FaultGroup) => void) | null = null;
  /** Entries carried out, as hex. */
  readonly invalidated: string[] = [];
  /** What it was made through, and goes through to be invalidated. */
  readonly viommu: ViommuCore | null;
  readonly invalidate: NestedDomain['invalidate'];
  freed = false;

  constructor(
    driver: IommuDriver,
    id: number,
    parent: PagingDomain,
    scopes: readonly AttachScope[],
    viommu: ViommuCore | null = null,
  ) {
    this.driver = driver;
    this.id = id;
    this.parent = parent;
    this.scopes = scopes;
    this.viommu = viommu;
    this.invalidate = viommu === null ? this.carryOut.bind(this) : null;
  }

  /** Type 0, or of a PASID table 2; 24-byte entries, or 0 for a probe; an entry that starts with 0xff is bad. */
  private carryOut(dataType: number, entries: Uint8Array, entryLength: number, count: number): InvalidateResult {
    const refuse = (handled: number): InvalidateResult => {
      return { handled, failure: new SysError('EINVAL', 'fake', 'bad invalidation') };
    };
    if (dataType !== (this.scopes.includes('all-pasids') ? 2 : 0)) return refuse(0);
    if (entryLength !== 0 && entryLength !== 24) return refuse(0);
    for (let index = 0; index < count; index++) {
      const entry = entries.subarray(index * entryLength, (index + 1) * entryLength);
      if (entry[0] === 0xff) return refuse(index);
      this.invalidated.push(Buffer.from(entry).toString('hex'));
    }
    return { handled: count, failure: null };
  }

  free(): void {
    this.freed = true;
  }
}

/** A driver whose attachments are entries of a map. */
export class FakeDriver implements IommuDriver {
  readonly name = 'fake-iommu';
  readonly blockedDomain: StaticDomain;
  readonly identityDomain = null;
  readonly features = null;
  viommu: FakeViommus | null;
  readonly kernel: Kernel;
  readonly capabilities: Set<Capability> = new Set(['cache-coherency', 'isolated-msi']);
  regions: ReservedRegion[] = [];
  domainOptions: FakeDomainOptions = {};
  readonly domains: (FakeDomain | FakeNestedDomain)[] = [];
  /** Domain id by `rid:pasid`. */
  readonly routes: Map<string, number> = new Map();
  /** Answers to page requests: `group:code`. */
  readonly responses: string[] = [];
  /** Domains that no device can be attached to. */
  readonly incompatible: Set<Domain> = new Set();
  private nextId = 1;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.blockedDomain = {
      id: 0,
      kind: 'blocked',
      scopes: ['rid', 'pasid'],
      driver: this,
      faultHandler: null,
      free() {},
    };
    this.viommu = new FakeViommus(kernel, (parent, viommu) => {
      return this.add(new FakeNestedDomain(this, this.nextId++, parent, ['rid', 'pasid'], viommu));
    });
  }

  get live(): (FakeDomain | FakeNestedDomain)[] {
    return this.domains.filter((domain) => !domain.freed);
  }

  probeDevice(device: Device): void {
    device.maxPasids = 1 << 16;
  }

  releaseDevice(): void {}

  functionReset(): void {}

  capable(_device: Device, capability: Capability): boolean {
    return this.capabilities.has(capability);
  }

  hwInfo(_device: Device, type: number): HwInfo {
    if (type > 1) throw new SysError('EOPNOTSUPP', 'fake', `type ${type}`);
    return { type: 1, data: Uint8Array.from({ length: 24 }, (_, index) => index + 1) };
  }

  reservedRegions(): ReservedRegion[] {
    return this.regions;
  }

  defaultDomainKind(): null {
    return null;
  }

  allocPaging(_device: Device, _kind: 'unmanaged' | 'dma', flags: number, data?: UserData | null): PagingDomain {
    if (data) throw new SysError('EOPNOTSUPP', 'fake', `data of type ${data.type}`);
    this.kernel.checkpoint('fake_alloc_paging');
    const options = {
      ...this.domainOptions,
      nestParent: (flags & 1) !== 0,
      tracks: (flags & 2) !== 0,
      pasidCapable: (flags & 8) !== 0,
    };
    return this.add(new FakeDomain(this.kernel, this, this.nextId++, options));
  }

  allocNested(_device: Device, parent: PagingDomain, _flags: number, data: UserData): NestedDomain {
    const pasidTable = data.type === 2 && this.capabilities.has('user-pasid-table');
    if (data.type !== 1 && !pasidTable) throw new SysError('EOPNOTSUPP', 'fake', `type ${data.type}`);
    if (data.length !== (pasidTable ? 16 : 24)) throw new SysError('EINVAL', 'fake', `${data.length} bytes`);
    data.read();
    this.kernel.checkpoint('fake_alloc_nested');
    const scopes: AttachScope[] = pasidTable ? ['all-pasids'] : ['rid', 'pasid'];
    return this.add(new FakeNestedDomain(this, this.nextId++, parent, scopes));
  }

  allocSva(): SvaDomain {
    throw new SysError('EOPNOTSUPP', 'fake', 'no SVA');
  }

  attach(domain: Domain, device: Device): void {
    this.route(device, NO_PASID, domain);
  }

  readonly attachPasid = (domain: Domain, device: Device, pasid: number): void => this.route(device, pasid, domain);

  pageResponse(_device: Device, last: PageFault, code: number): void {
    this.responses.push(`${last.group}:${code}`);
  }

  allocateMsi(): { address: bigint; data: number } {
    return { address: 0n, data: 0 };
  }

  freeMsi(): void {}

  private route(device: Device, pasid: number, domain: Domain): void {
    if (domain !== this.blockedDomain) {
      if (this.incompatible.has(domain)) throw new SysError('EINVAL', 'fake', 'incompatible');
      if (domain instanceof FakeNestedDomain && domain.viommu?.virtIdOf(device) === null) {
        throw new SysError('ENOENT', 'fake', `${device.name} is not in the vIOMMU`);
      }
      this.kernel.checkpoint('fake_attach');
    }
    const key = `${device.rid}:${pasid}`;
    if (domain === this.blockedDomain) this.routes.delete(key);
    else this.routes.set(key, domain.id);
  }

  private add<D extends FakeDomain | FakeNestedDomain>(domain: D): D {
    this.domains.push(domain);
    return domain;
  }
}

export type FakeFunction = { virtual?: boolean; pri?: boolean; pasidFeatures?: number };

/** A device in `group`, or in a group of its own. */
export function fakeDevice(driver: FakeDriver, rid: number, group?: IommuGroup, fn: FakeFunction = {}): Device {
  const { virtual = false, pri = false, pasidFeatures = 0 } = fn;
  const master: DmaMaster = {
    rid,
    name: `fake-${rid}`,
    pasidFeatures,
    sharesPageRequests: virtual && pri,
    reset() {},
  };
  const owner = group ?? new IommuGroup(rid, driver.kernel, driver, noTrace);
  const device = new Device(owner, driver, master);
  driver.probeDevice(device);
  owner.devices.push(device);
  return device;
}
