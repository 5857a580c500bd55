/**
 * A machine with a VT-d unit, test functions behind it, /dev/iommu and VFIO, and processes that have both open. Tests see
 * what a program sees: descriptors, ioctls, mapped registers, DMA that arrives or does not.
 */

import {
  FrameAllocator,
  LOCAL_APIC_BASE,
  LocalApic,
  PciFabric,
  PhysicalMemory,
  RootPort,
  requesterId,
  Scheduler,
  TEST_COMMAND,
  TEST_REGISTER,
  TEST_STATUS_BUSY,
  TestFunction,
  type VtdFeatures,
  VtdUnit,
} from '@iommukit/hw';
import {
  ApicInterrupts,
  type Device,
  IntelIommu,
  IommuCore,
  Kernel,
  PciBus,
  type Process,
  Processes,
  type ProcessOptions,
  SysError,
} from '@iommukit/iommu-core';
import {
  DeviceNodes,
  type EventFd,
  type Fields,
  IommufdClient,
  registerIommufd,
  type Struct,
  type StructValues,
  SystemCalls,
} from '@iommukit/iommufd';
import { Vfio, VfioDeviceClient, type VfioDeviceOptions } from '../../src/index.ts';

const ECAM_BASE = 0xe000_0000n;
const VTD_BASE = 0xfed9_0000n;
export const DEVICE_RID: number = requesterId(1, 0, 0);
export const PAGE = 4096;

export type MachineOptions = VfioDeviceOptions & {
  features?: Partial<VtdFeatures>;
  /** VFs to create and offer. */
  virtualFunctions?: number;
};

export class Machine {
  readonly scheduler = new Scheduler();
  readonly memory = new PhysicalMemory({ ramBytes: 16 << 20, reservedBytes: 1 << 20 });
  readonly frames = new FrameAllocator(this.memory, { debug: true });
  readonly interrupts: ApicInterrupts;
  readonly fabric: PciFabric;
  readonly kernel: Kernel;
  readonly bus: PciBus;
  readonly driver: IntelIommu;
  readonly core: IommuCore;
  readonly processes: Processes;
  readonly nodes = new DeviceNodes();
  readonly vfio: Vfio;
  readonly devices: Device[] = [];

  constructor(options: MachineOptions = {}) {
    const { memory, scheduler, frames, nodes } = this;
    const apic = new LocalApic({ scheduler });
    this.fabric = new PciFabric({ memory, scheduler, interrupts: apic });
    memory.mapMmio(LOCAL_APIC_BASE / 4096, 1, apic);
    memory.mapMmio(Number(ECAM_BASE >> 12n), 65536, this.fabric.ecam);
    this.fabric.plug(
      new RootPort({ vendorId: 0x8086, deviceId: 0x1234, secondary: 1, acs: true }),
      requesterId(0, 1, 0),
    );
    this.fabric.plug(new TestFunction({ memory, scheduler }), DEVICE_RID);
    this.interrupts = new ApicInterrupts(apic);
    this.kernel = new Kernel({ memory, frames, scheduler, interrupts: this.interrupts });
    const { kernel } = this;
    this.bus = new PciBus(kernel, {
      ecamBase: ECAM_BASE,
      window32: { first: 0xc000_0000n, last: 0xdfff_ffffn },
      window64: { first: 0x80_0000_0000n, last: 0xff_ffff_ffffn },
    });
    this.bus.enumerate();
    const unit = new VtdUnit({
      memory,
      scheduler,
      port: this.fabric,
      interrupts: apic,
      features: options.features ?? {},
    });
    this.fabric.setAgent(unit);
    memory.mapMmio(Number(VTD_BASE >> 12n), 1, unit.registers);
    this.driver = new IntelIommu({ kernel, registerBase: VTD_BASE });
    this.core = new IommuCore({ kernel, driver: this.driver, defaultDomain: 'blocked' });
    this.processes = new Processes(kernel);
    registerIommufd(nodes, { kernel });
    this.vfio = new Vfio({ nodes });
    const pf = this.bus.device(DEVICE_RID)!;
    this.devices.push(this.core.addDevice(pf));
    if (options.virtualFunctions !== undefined) {
      for (const vf of this.bus.enableVirtualFunctions(pf, options.virtualFunctions)) {
        this.devices.push(this.core.addDevice(vf));
      }
    }
    for (const device of this.devices) this.vfio.register(device, options);
  }

  /** A process with some memory, /dev/iommu and the n-th device open. */
  user(options: ProcessOptions = {}, index = 0): User {
    const process = this.processes.spawn({ memlock: Number.POSITIVE_INFINITY, ...options });
    const { kernel, processes, nodes } = this;
    const system = new SystemCalls({ kernel, processes, process, nodes });
    return new User(this, system, index);
  }

  /** Runs everything that happens in the next `span` nanoseconds, and the work it queues. */
  settle(span = 10_000_000): void {
    const end = this.scheduler.now + span;
    while (this.scheduler.nextDue <= end) {
      this.scheduler.runNext();
      this.kernel.runWork();
    }
    this.kernel.runWork();
  }
}

export class User {
  readonly machine: Machine;
  readonly system: SystemCalls;
  readonly iommufd: IommufdClient;
  readonly vfio: VfioDeviceClient;
  /** Two pages for arguments of ioctls. */
  readonly argument: bigint;

  constructor(machine: Machine, system: SystemCalls, index: number) {
    this.machine = machine;
    this.system = system;
    this.iommufd = new IommufdClient(system, system.open('/dev/iommu'));
    this.vfio = new VfioDeviceClient(system, system.open(`/dev/vfio/devices/vfio${index}`));
    this.argument = system.mmap({ length: 2 * PAGE });
  }

  get memory(): NonNullable<Process['memory']> {
    return this.system.process.memory!;
  }

  /** Puts a structure at the argument page, calls, and gives result and structure as it is then. */
  ioctl<F extends Fields>(
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
    const result = this.system.ioctl(this.vfio.fd, request, argument);
    this.memory.read(argument, bytes);
    return { result, reply: layout.read(bytes), bytes };
  }

  /** Binds, makes an IOAS with `pages` pages of memory at IOVA 0x10000, attaches it. */
  bindAndAttach(pages = 1): { deviceId: number; ioasId: number; va: bigint; iova: bigint; hwptId: number } {
    const deviceId = this.vfio.bind(this.iommufd.fd);
    const { ioasId, va, iova } = this.mappedIoas(pages);
    const hwptId = this.vfio.attach(ioasId);
    return { deviceId, ioasId, va, iova, hwptId };
  }

  mappedIoas(pages = 1): { ioasId: number; va: bigint; iova: bigint } {
    const ioasId = this.iommufd.ioasAlloc();
    const va = this.system.mmap({ length: pages * PAGE });
    const iova = 0x10000n;
    this.iommufd.ioasMap({ ioasId, userVa: va, length: pages * PAGE, iova });
    return { ioasId, va, iova };
  }

  /** Lets the device write one byte by DMA; true when it arrived. Bus mastering must be on. */
  dmaWrite(iova: bigint, value: number, pasid?: number): boolean {
    const bytes = new Uint8Array(8);
    const view = new DataView(bytes.buffer);
    this.vfio.write(0, TEST_REGISTER.buffer, new Uint8Array([value]));
    view.setBigUint64(0, iova, true);
    this.vfio.write(0, TEST_REGISTER.address, bytes);
    this.storeRegister(TEST_REGISTER.length, 1);
    this.storeRegister(TEST_REGISTER.bufferOffset, 0);
    this.storeRegister(TEST_REGISTER.pasid, pasid ?? 0);
    const command = TEST_COMMAND.write | (pasid === undefined ? 0 : TEST_COMMAND.withPasid);
    this.storeRegister(TEST_REGISTER.command, command);
    this.machine.settle();
    if ((this.loadRegister(TEST_REGISTER.status) & TEST_STATUS_BUSY) !== 0) throw new Error('the device hangs');
    return this.loadRegister(TEST_REGISTER.result) === 0;
  }

  storeRegister(offset: number, value: number): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    this.vfio.write(0, offset, bytes);
  }

  loadRegister(offset: number): number {
    const bytes = new Uint8Array(4);
    this.vfio.read(0, offset, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  busMaster(on: boolean): void {
    this.vfio.writeConfig(4, 2, on ? 6 : 2);
  }

  byteAt(va: bigint): number {
    const byte = new Uint8Array(1);
    this.memory.read(va, byte);
    return byte[0]!;
  }

  eventfd(): { fd: number; event: EventFd } {
    const fd = this.system.eventfd();
    return { fd, event: this.system.file(fd) as EventFd };
  }
}

/** Code of the SysError that `body` throws, or null. */
export function refusal(body: () => unknown): string | null {
  try {
    body();
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
  return null;
}
