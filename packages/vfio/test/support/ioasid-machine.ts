/**
 * A machine with test functions on offer by VFIO and /dev/ioasid beside it, and a program that plays a VMM: it has both
 * files open and sees the functions' registers.
 */

import {
  ACCESS_READ,
  Machine,
  requesterId,
  TEST_COMMAND,
  TEST_REGISTER,
  TEST_STATUS_BUSY,
  TestFunction,
  type VtdFeatures,
} from '@iommukit/hw';
import { type ErrnoCode, Host, SysError } from '@iommukit/iommu-core';
import { DeviceNodes, type Fields, type Struct, type StructValues, SystemCalls } from '@iommukit/iommufd';
import { IoasidClient, type IoasidNode, type IoasidRules, registerIoasid } from '@iommukit/iommufd/ioasid';
import { Vfio, VfioDeviceClient } from '../../src/index.ts';

export const PAGE = 4096n;
/** Memory decode and bus mastering. */
const COMMAND_ON = 6;

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

export class IoasidMachine {
  readonly machine: Machine;
  readonly host: Host;
  readonly nodes = new DeviceNodes();
  readonly vfio: Vfio;
  readonly node: IoasidNode;

  /** Two functions; in one group when they are `paired`. */
  constructor(options: { rules?: IoasidRules; features?: Partial<VtdFeatures>; paired?: boolean } = {}) {
    const { rules = 'v1', features = {}, paired = false } = options;
    this.machine = new Machine({ features });
    const rids = [requesterId(0, 1, 0), paired ? requesterId(0, 1, 1) : requesterId(0, 2, 0)];
    for (const rid of rids) this.machine.plug(new TestFunction({ ...this.machine, totalVfs: 0 }), rid);
    this.host = new Host(this.machine, { defaultDomain: 'blocked' });
    const { kernel, core } = this.host;
    this.node = registerIoasid(this.nodes, { kernel, core, rules });
    this.vfio = new Vfio({ nodes: this.nodes });
    for (const rid of rids) this.vfio.register(this.host.device(rid));
  }

  program(): Program {
    const { kernel, processes } = this.host;
    const process = processes.spawn({ memlock: Number.POSITIVE_INFINITY });
    return new Program(this, new SystemCalls({ kernel, processes, process, nodes: this.nodes }));
  }

  get pinned(): number {
    return this.host.processes.counts.pinned;
  }
}

export class Program {
  readonly site: IoasidMachine;
  readonly system: SystemCalls;
  readonly ioasid: IoasidClient;
  private readonly argument: bigint;

  constructor(site: IoasidMachine, system: SystemCalls) {
    this.site = site;
    this.system = system;
    this.ioasid = new IoasidClient(system, system.open('/dev/ioasid'));
    this.argument = system.mmap({ length: 4096 });
  }

  /** The n-th device, open and not bound. */
  open(index: number): ProgramDevice {
    return new ProgramDevice(this, this.system.open(`/dev/vfio/devices/vfio${index}`));
  }

  /** The n-th device bound to the program's /dev/ioasid with cookie 0x100 + n, and let loose. */
  bind(index: number): ProgramDevice {
    const device = this.open(index);
    device.vfio.bindIoasid(this.ioasid.fd, 0x100 + index);
    device.start();
    return device;
  }

  /** Memory of `pages` pages, each filled with its number from `first`. */
  memory(pages: number, first = 1): bigint {
    const va = this.system.mmap({ length: pages * 4096 });
    for (let page = 0; page < pages; page++) this.fill(va + BigInt(page) * PAGE, first + page);
    return va;
  }

  fill(va: bigint, byte: number): void {
    this.system.process.memory!.write(va, new Uint8Array(4096).fill(byte));
  }

  byteAt(va: bigint): number {
    return Number(this.system.process.memory!.load(va, 1));
  }

  /**
   * Writes a four-level table into guest memory at `va` (guest physical 0), one table page for each level from guest
   * physical `root`, that maps guest virtual `gva` to guest physical `gpa`.
   */
  guestMap(va: bigint, root: bigint, gva: bigint, gpa: bigint): void {
    for (let level = 3n; level >= 0n; level--) {
      const table = root + (3n - level) * PAGE;
      const index = (gva >> (12n + 9n * level)) & 511n;
      this.system.process.memory!.store(va + table + index * 8n, 8, (level === 0n ? gpa : table + PAGE) | 7n);
    }
  }

  /** Puts a structure into memory, calls, and gives the result with the structure as it is then. */
  ioctl<F extends Fields>(
    fd: number,
    request: number,
    layout: Struct<F>,
    values: Partial<StructValues<F>>,
    argument: bigint = this.argument,
  ): { result: number; reply: StructValues<F> } {
    const bytes = new Uint8Array(layout.size);
    layout.write({ ...layout.read(bytes), argsz: layout.size, ...values } as StructValues<F>, bytes);
    this.system.process.memory!.write(argument, bytes);
    const result = this.system.ioctl(fd, request, argument);
    this.system.process.memory!.read(argument, bytes);
    return { result, reply: layout.read(bytes) };
  }
}

export type DmaOptions = {
  pasid?: number | undefined;
  /** Ask for a page that is denied, and go on when it is supplied. */
  requestPages?: boolean;
};

export class ProgramDevice {
  readonly program: Program;
  readonly vfio: VfioDeviceClient;

  constructor(program: Program, fd: number) {
    this.program = program;
    this.vfio = new VfioDeviceClient(program.system, fd);
  }

  /** Lets the device decode memory and master DMA. */
  start(): void {
    this.vfio.writeConfig(4, 2, COMMAND_ON);
  }

  /** One byte read by DMA, or null when the read was refused. */
  read(iova: bigint, options: DmaOptions = {}): number | null {
    this.begin(TEST_COMMAND.read, iova, options);
    if (this.busy) throw new Error('the device waits');
    return this.result;
  }

  /** One byte written by DMA; true when it arrived. */
  write(iova: bigint, byte: number, options: DmaOptions = {}): boolean {
    this.vfio.write(0, TEST_REGISTER.buffer, Uint8Array.of(byte));
    this.begin(TEST_COMMAND.write, iova, options);
    return this.load(TEST_REGISTER.result) === 0;
  }

  /** Starts an operation and lets it run as far as it gets. */
  begin(operation: number, iova: bigint, { pasid, requestPages = false }: DmaOptions): void {
    this.vfio.write(0, TEST_REGISTER.address, new Uint8Array(BigUint64Array.of(iova).buffer));
    this.store(TEST_REGISTER.length, 1);
    this.store(TEST_REGISTER.bufferOffset, 0);
    this.store(TEST_REGISTER.pasid, pasid ?? 0);
    const tag = pasid === undefined ? 0 : TEST_COMMAND.withPasid;
    const request = requestPages ? TEST_COMMAND.cached | TEST_COMMAND.pageRequestOnDenial : 0;
    this.store(TEST_REGISTER.command, operation | tag | request);
    this.settle();
  }

  settle(): void {
    this.program.site.host.run(10_000_000);
  }

  get busy(): boolean {
    return (this.load(TEST_REGISTER.status) & TEST_STATUS_BUSY) !== 0;
  }

  /** The byte that the last read got, or null. */
  get result(): number | null {
    if (this.load(TEST_REGISTER.result) !== 0) return null;
    return this.load(TEST_REGISTER.buffer) & 0xff;
  }

  /** A register through a mapping of its own: the first words of BAR 0. */
  map(): bigint {
    return this.vfio.map(0, 0, 4096, ACCESS_READ);
  }

  private store(register: number, value: number): void {
    this.vfio.write(0, register, new Uint8Array(Uint32Array.of(value).buffer));
  }

  private load(register: number): number {
    const bytes = new Uint8Array(4);
    this.vfio.read(0, register, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }
}
