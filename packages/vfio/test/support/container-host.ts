/**
 * A host whose test functions are on offer, each in a group of its own unless told otherwise, and programs that reach
 * them by group and container.
 */

import {
  Machine,
  requesterId,
  TEST_COMMAND,
  TEST_REGISTER,
  TEST_STATUS_BUSY,
  TestFunction,
  type VtdFeatures,
} from '@iommukit/hw';
import { type Device, Host, IOASID_SET_TYPE_MM, type Process, type ProcessOptions } from '@iommukit/iommu-core';
import {
  DeviceNodes,
  type EventFd,
  type Fields,
  IommufdNode,
  type Struct,
  type StructValues,
  SystemCalls,
} from '@iommukit/iommufd';
import { Vfio, VfioContainerClient, type VfioDevice, type VfioDeviceClient, VfioGroupClient } from '../../src/index.ts';

export const PAGE = 4096;
/** Where `Guest` has its page table's leaves, and guest pages from. */
export const GVA = 0x40_0000n;

export type ContainerHostOptions = {
  features?: Partial<VtdFeatures>;
  /** Slots of the functions; two single functions by default. */
  rids?: readonly number[];
  /** The functions are one device, and cannot be kept apart. */
  multifunction?: boolean;
  /** Mappings that there can be in a container. */
  dmaEntryLimit?: number;
};

export class ContainerHost {
  readonly machine: Machine;
  readonly host: Host;
  readonly nodes = new DeviceNodes();
  readonly iommufd: IommufdNode;
  readonly vfio: Vfio;
  readonly devices: Device[];
  readonly entries: VfioDevice[];
  private readonly frames: number;

  constructor({ features = {}, rids, multifunction = false, ...limits }: ContainerHostOptions = {}) {
    this.machine = new Machine({ features, debug: true });
    const slots = rids ?? [requesterId(0, 1, 0), multifunction ? requesterId(0, 1, 1) : requesterId(0, 2, 0)];
    for (const rid of slots) this.machine.plug(new TestFunction(this.machine), rid);
    this.host = new Host(this.machine);
    const { kernel, core } = this.host;
    this.iommufd = new IommufdNode({ kernel });
    this.nodes.register('/dev/iommu', () => this.iommufd.open());
    this.vfio = new Vfio({ nodes: this.nodes, core, iommufd: this.iommufd, ...limits });
    this.frames = this.machine.frames.allocated;
    this.devices = slots.map((rid) => this.host.device(rid));
    this.entries = this.devices.map((device) => this.vfio.register(device));
  }

  program(options: ProcessOptions = {}): Program {
    const { kernel, processes } = this.host;
    const process = processes.spawn({ memlock: Number.POSITIVE_INFINITY, ...options });
    return new Program(this, new SystemCalls({ kernel, processes, process, nodes: this.nodes }));
  }

  /** Runs everything that happens in the next `span` nanoseconds. */
  settle(span = 10_000_000): void {
    this.host.run(span);
  }

  /** What is held while nobody should hold anything; frames count when the devices have gone too. */
  get held() {
    const { processes, core } = this.host;
    return {
      pins: processes.counts.pinned,
      contexts: this.iommufd.contexts.size,
      objects: this.iommufd.objects,
      binds: core.guestPasids.size,
      owners: this.devices.filter(({ group }) => group.owner !== null || group.ownerCount > 0).length,
      pasids: this.devices.reduce(
        (n, { authorizedPasids, group }) => n + authorizedPasids.size + group.pasidHandles.size,
        0,
      ),
      users: this.entries.filter(({ user, group }) => user !== null || group.isOpen).length,
      handlers: this.devices.filter(({ onUnrecoverableFault }) => onUnrecoverableFault !== null).length,
      domains: this.devices.filter(({ group }) => group.domain !== group.defaultDomain).length,
    };
  }

  /** Takes the devices out, with the tables that the kernel keeps for them. @returns frames that are left */
  leftFrames(): number {
    for (const entry of this.entries) this.vfio.unregister(entry);
    for (const device of this.devices) this.host.core.removeDevice(device);
    return this.machine.frames.allocated - this.frames;
  }
}

export const NOTHING: ContainerHost['held'] = {
  pins: 0,
  contexts: 0,
  objects: 0,
  binds: 0,
  owners: 0,
  pasids: 0,
  users: 0,
  handlers: 0,
  domains: 0,
};

export class Program {
  readonly host: ContainerHost;
  readonly system: SystemCalls;
  /** Two pages for arguments of ioctls. */
  readonly argument: bigint;

  constructor(host: ContainerHost, system: SystemCalls) {
    this.host = host;
    this.system = system;
    this.argument = system.mmap({ length: 2 * PAGE });
  }

  get memory(): NonNullable<Process['memory']> {
    return this.system.process.memory!;
  }

  container(): VfioContainerClient {
    return new VfioContainerClient(this.system, this.system.open('/dev/vfio/vfio'));
  }

  group(index = 0): VfioGroupClient {
    return new VfioGroupClient(this.system, this.system.open(this.host.entries[index]!.group.path));
  }

  /** A container of type `type` with the first `count` groups, their devices open, and `pages` of memory mapped at 0. */
  open({ count = 1, type, pages = 16 }: { count?: number; type?: number; pages?: number } = {}): Opened {
    const container = this.container();
    const groups = Array.from({ length: count }, (_, index) => this.group(index));
    for (const group of groups) group.setContainer(container.fd);
    container.setIommu(type);
    const memory = this.system.mmap({ length: pages * PAGE });
    container.map({ userVa: memory, length: pages * PAGE, iova: 0 });
    const devices = groups.map((group, index) => group.openDevice(this.host.entries[index]!.name));
    for (const device of devices) device.writeConfig(4, 2, 6);
    return { container, groups, devices, memory };
  }

  /** An IOASID of this program's. */
  pasid(): number {
    const { ioasids } = this.host.host.core;
    const token = this.system.process.addressSpace;
    const set = ioasids.findMmSet(token) ?? ioasids.allocSet({ token, quota: 64, type: IOASID_SET_TYPE_MM });
    return ioasids.alloc(set, 1, 2 ** 20 - 1);
  }

  /** Puts a structure at the argument page, calls, and gives result and structure as it is then. */
  ioctl<F extends Fields>(
    fd: number,
    request: number,
    layout: Struct<F>,
    values: Partial<StructValues<F>>,
    tail: Uint8Array = new Uint8Array(),
    argument: bigint = this.argument,
  ): { result: number; reply: StructValues<F>; bytes: Uint8Array } {
    const bytes = new Uint8Array(layout.size + tail.length);
    const defaults = { ...layout.read(bytes), argsz: bytes.length };
    layout.write({ ...defaults, ...values } as StructValues<F>, bytes);
    bytes.set(tail, layout.size);
    this.memory.write(argument, bytes);
    const result = this.system.ioctl(fd, request, argument);
    this.memory.read(argument, bytes);
    return { result, reply: layout.read(bytes), bytes };
  }

  /** The address of a string. */
  string(text: string): bigint {
    const bytes = new Uint8Array(text.length + 1);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    this.memory.write(this.argument, bytes);
    return this.argument;
  }

  /** The address of a page that can only be read, holding a structure. */
  readOnly(bytes: Uint8Array): bigint {
    const va = this.system.mmap({ length: PAGE });
    this.memory.write(va, bytes);
    this.memory.protect(va, PAGE, 1);
    return va;
  }

  eventfd(): { fd: number; event: EventFd } {
    const fd = this.system.eventfd();
    return { fd, event: this.system.file(fd) as EventFd };
  }

  byteAt(va: bigint): number {
    const byte = new Uint8Array(1);
    this.memory.read(va, byte);
    return byte[0]!;
  }
}

export type Opened = {
  readonly container: VfioContainerClient;
  readonly groups: readonly VfioGroupClient[];
  readonly devices: readonly VfioDeviceClient[];
  /** Address of the memory that is mapped at 0. */
  readonly memory: bigint;
};

/** A guest's page table in guest pages 1 to 4 of `memory`, for the 2 MiB from GVA. */
export class GuestTable {
  readonly root = 0x1000n;
  private readonly program: Program;
  private readonly memory: bigint;

  constructor(program: Program, memory: bigint) {
    this.program = program;
    this.memory = memory;
    const indices = [GVA >> 39n, GVA >> 30n, GVA >> 21n].map((index) => index & 511n);
    indices.forEach((index, level) => {
      this.store(0x1000n * BigInt(level + 1) + index * 8n, (0x1000n * BigInt(level + 2)) | 7n);
    });
  }

  /** Maps the page of `gva` to a guest page; null takes it away. */
  set(gva: bigint, guestPage: number | null): void {
    this.store(0x4000n + ((gva >> 12n) & 511n) * 8n, guestPage === null ? 0n : (BigInt(guestPage) << 12n) | 7n);
  }

  private store(gpa: bigint, value: bigint): void {
    this.program.memory.store(this.memory + gpa, 8, value);
  }
}

export type DmaOptions = { pasid?: number; requestPages?: boolean };

/** Starts a write of one byte by a test function. */
export function startWrite(device: VfioDeviceClient, iova: bigint, value: number, options: DmaOptions = {}): void {
  const { pasid, requestPages = false } = options;
  storeRegister(device, TEST_REGISTER.buffer, 4, BigInt(value));
  storeRegister(device, TEST_REGISTER.address, 8, iova);
  storeRegister(device, TEST_REGISTER.length, 4, 1n);
  storeRegister(device, TEST_REGISTER.bufferOffset, 4, 0n);
  storeRegister(device, TEST_REGISTER.pasid, 4, BigInt(pasid ?? 0));
  const { write, withPasid, cached, pageRequestOnDenial } = TEST_COMMAND;
  const command = write | (pasid === undefined ? 0 : withPasid) | (requestPages ? cached | pageRequestOnDenial : 0);
  storeRegister(device, TEST_REGISTER.command, 4, BigInt(command));
}

/** True when the write has arrived, false when it was refused, null while it is under way. */
export function written(device: VfioDeviceClient): boolean | null {
  if ((loadRegister(device, TEST_REGISTER.status) & TEST_STATUS_BUSY) !== 0) return null;
  return loadRegister(device, TEST_REGISTER.result) === 0;
}

/** Writes one byte by DMA; true when it arrived. */
export function dmaWrite(
  host: ContainerHost,
  device: VfioDeviceClient,
  iova: bigint,
  value: number,
  options: DmaOptions = {},
): boolean | null {
  startWrite(device, iova, value, options);
  host.settle();
  return written(device);
}

export function storeRegister(device: VfioDeviceClient, register: number, width: 4 | 8, value: bigint): void {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  device.write(0, register, bytes.subarray(0, width));
}

export function loadRegister(device: VfioDeviceClient, register: number): number {
  const bytes = new Uint8Array(4);
  device.read(0, register, bytes);
  return new DataView(bytes.buffer).getUint32(0, true);
}
