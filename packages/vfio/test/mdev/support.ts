/**
 * A machine with one function that can be divided, its parent driver, and programs that have mediated devices of it. Tests
 * see what a program sees: descriptors, ioctls, registers, DMA that arrives or does not.
 */

import {
  Machine,
  type MachineOptions,
  RootPort,
  requesterId,
  type Scheduler,
  TEST_COMMAND,
  TEST_REGISTER,
  TEST_STATUS_BUSY,
  TestFunction,
  type TestFunctionOptions,
} from '@iommukit/hw';
import { type Device, Host, type HostOptions, type Process } from '@iommukit/iommu-core';
import { DeviceNodes, type EventFd, IommufdClient, registerIommufd, SystemCalls } from '@iommukit/iommufd';
import { type Mdev, MdevBus, TestFunctionParent, Vfio, VfioDeviceClient } from '../../src/index.ts';

export { refusal } from '../support/machine.ts';

const PARENT_RID: number = requesterId(1, 0, 0);
/** Where `sibling` plugs in a second function, which the bus cannot keep from the parent's DMA. */
export const SIBLING_RID: number = requesterId(1, 0, 1);
export const PAGE = 4096;
export const IOVA = 0x10000n;

type SiteOptions = Pick<MachineOptions, 'features'> &
  HostOptions &
  Partial<TestFunctionOptions> & {
    instances?: number;
    sibling?: boolean;
    /** The function, in place of a `TestFunction`. */
    make?: (options: TestFunctionOptions) => TestFunction;
  };

/** What a command is to do; a write of one byte, untranslated, by default. */
type Command = {
  operation?: number;
  flags?: number;
  /** The user's PASID; none by default. */
  pasid?: number;
  /** Bytes. */
  length?: number;
};

export class Site {
  readonly machine: Machine;
  readonly host: Host;
  readonly device: Device;
  readonly nodes = new DeviceNodes();
  readonly vfio: Vfio;
  readonly mdevs: MdevBus;
  readonly parent: TestFunctionParent;
  private uuids = 0;

  constructor(options: SiteOptions = {}) {
    const { features = {}, sibling = false, make = (given) => new TestFunction(given), instances, ...rest } = options;
    this.machine = new Machine({ features, reservedBytes: 1 << 20, debug: true });
    const { memory, scheduler } = this.machine;
    this.machine.plug(
      new RootPort({ vendorId: 0x8086, deviceId: 0x1234, secondary: 1, acs: !sibling }),
      requesterId(0, 1, 0),
    );
    this.machine.plug(make({ memory, scheduler, siov: true, ...rest }), PARENT_RID);
    if (sibling) this.machine.plug(new TestFunction({ memory, scheduler, totalVfs: 0 }), SIBLING_RID);
    this.host = new Host(this.machine, { defaultDomain: 'blocked', ...rest });
    this.device = this.host.device(PARENT_RID);
    registerIommufd(this.nodes, { kernel: this.host.kernel });
    this.vfio = new Vfio({ nodes: this.nodes });
    this.mdevs = new MdevBus({ vfio: this.vfio });
    this.parent = this.divide(instances);
  }

  get pasids(): Host['core']['pasids'] {
    return this.host.core.pasids;
  }

  divide(instances?: number): TestFunctionParent {
    const { device, mdevs: bus } = this;
    return new TestFunctionParent({
      core: this.host.core,
      bus,
      device,
      ...(instances === undefined ? {} : { instances }),
    });
  }

  create(type: 'default' | 'pasids' = 'default'): Mdev {
    return this.mdevs.create(this.parent, type, uuidOf(++this.uuids));
  }

  program(): SystemCalls {
    const { kernel, processes } = this.host;
    const process = processes.spawn({ memlock: Number.POSITIVE_INFINITY });
    return new SystemCalls({ kernel, processes, process, nodes: this.nodes });
  }

  /** A program with /dev/iommu open and `mdev`, a new one by default, bound to it. */
  user(mdev: Mdev = this.create()): MdevUser {
    const system = this.program();
    return MdevUser.bind(this, mdev, new IommufdClient(system, system.open('/dev/iommu')));
  }

  settle(): void {
    this.host.run(10_000_000);
  }
}

/** A machine whose function takes `factor` times 100 ns to get to a command's transfer. */
export function slow(factor: number, options: SiteOptions = {}): Site {
  return new Site({
    ...options,
    make: (given) => {
      const { scheduler } = given;
      const schedule: Scheduler['schedule'] = (delay, action) => scheduler.schedule(factor * delay, action);
      return new TestFunction({ ...given, scheduler: Object.create(scheduler, { schedule: { value: schedule } }) });
    },
  });
}

export function uuidOf(n: number): string {
  return `00000000-0000-4000-8000-${n.toString(16).padStart(12, '0')}`;
}

export class MdevUser {
  readonly site: Site;
  readonly mdev: Mdev;
  readonly system: SystemCalls;
  readonly vfio: VfioDeviceClient;
  /** Object id at the /dev/iommu. */
  readonly id: number;
  private readonly client: IommufdClient | null;

  private constructor(site: Site, mdev: Mdev, vfio: VfioDeviceClient, id: number, client: IommufdClient | null) {
    this.site = site;
    this.mdev = mdev;
    this.vfio = vfio;
    this.system = vfio.system;
    this.id = id;
    this.client = client;
    this.vfio.writeConfig(4, 2, 6);
  }

  /** Has a program open a device; `bind` takes it, and gives its id at a /dev/iommu when it is bound to one. */
  static take(
    site: Site,
    mdev: Mdev,
    system: SystemCalls,
    bind: (vfio: VfioDeviceClient) => number,
    client: IommufdClient | null = null,
  ): MdevUser {
    const vfio = new VfioDeviceClient(system, system.open(mdev.path));
    return new MdevUser(site, mdev, vfio, bind(vfio), client);
  }

  static bind(site: Site, mdev: Mdev, iommufd: IommufdClient): MdevUser {
    return MdevUser.take(site, mdev, iommufd.system, (vfio) => vfio.bind(iommufd.fd), iommufd);
  }

  get iommufd(): IommufdClient {
    return this.client!;
  }

  /** Another mediated device in the hands of the same program, at the same /dev/iommu. */
  second(mdev: Mdev = this.site.create()): MdevUser {
    return MdevUser.bind(this.site, mdev, this.iommufd);
  }

  get memory(): NonNullable<Process['memory']> {
    return this.system.process.memory!;
  }

  /** An IOAS with pages of new memory at IOVA. */
  space(pages = 1): { ioasId: number; va: bigint } {
    const ioasId = this.iommufd.ioasAlloc();
    const va = this.system.mmap({ length: pages * PAGE });
    this.iommufd.ioasMap({ ioasId, userVa: va, length: pages * PAGE, iova: IOVA });
    return { ioasId, va };
  }

  /** A page table of an IOAS, made for PASIDs. */
  table(ioasId: number): number {
    return this.iommufd.hwptAllocPaging({ deviceId: this.id, ioasId, pasid: true });
  }

  load(register: number): number {
    const bytes = new Uint8Array(4);
    this.vfio.read(0, register, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  store(register: number, value: number): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    this.vfio.write(0, register, bytes);
  }

  setBuffer(bytes: readonly number[]): void {
    this.vfio.write(0, TEST_REGISTER.buffer, Uint8Array.from(bytes));
  }

  buffer(length: number): number[] {
    const bytes = new Uint8Array(length);
    this.vfio.read(0, TEST_REGISTER.buffer, bytes);
    return [...bytes];
  }

  /** Starts a command. */
  start(iova: bigint, { operation = TEST_COMMAND.write, flags = 0, pasid, length = 1 }: Command = {}): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, iova, true);
    this.vfio.write(0, TEST_REGISTER.address, bytes);
    this.store(TEST_REGISTER.length, length);
    this.store(TEST_REGISTER.bufferOffset, 0);
    this.store(TEST_REGISTER.pasid, pasid ?? 0);
    this.store(TEST_REGISTER.command, operation | flags | (pasid === undefined ? 0 : TEST_COMMAND.withPasid));
  }

  get busy(): boolean {
    return (this.load(TEST_REGISTER.status) & TEST_STATUS_BUSY) !== 0;
  }

  get result(): number {
    return this.load(TEST_REGISTER.result);
  }

  /** Runs a command and gives its RESULT. */
  run(iova: bigint, command: Command = {}): number {
    this.start(iova, command);
    this.site.settle();
    if (this.busy) throw new Error('the command hangs');
    return this.result;
  }

  /** Has the device write one byte by DMA; true when it arrived. */
  write(iova: bigint, value: number, pasid?: number): boolean {
    this.setBuffer([value]);
    return this.run(iova, pasid === undefined ? {} : { pasid }) === 0;
  }

  byteAt(va: bigint): number {
    return Number(this.memory.load(va, 1));
  }

  eventfd(): { fd: number; event: EventFd } {
    const fd = this.system.eventfd();
    return { fd, event: this.system.file(fd) as EventFd };
  }

  close(): void {
    this.system.close(this.vfio.fd);
  }
}
