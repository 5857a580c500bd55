/** A host of fakes with a real /dev/iommu: one process that has it open, devices on demand, and a window for arguments. */

import { Trace } from '@iommukit/hw';
import { type IommuGroup, type Kernel, type Process, Processes, User } from '@iommukit/iommu-core';
import { IommufdClient } from '../../src/clients/iommufd-client.ts';
import { ViommuClient } from '../../src/clients/viommu-client.ts';
import type { IommufdContext } from '../../src/context.ts';
import { bindDevice, type IommufdDevice } from '../../src/device.ts';
import { DeviceNodes } from '../../src/files/device-nodes.ts';
import { FdTable } from '../../src/files/fd-table.ts';
import { SystemCalls } from '../../src/files/system-calls.ts';
import type { Fields, Struct, StructValues } from '../../src/index.ts';
import type { IoPageTable } from '../../src/ioas/io-page-table.ts';
import { Ioas } from '../../src/ioas/ioas.ts';
import { type IommufdNode, iommufdContextOf, registerIommufd } from '../../src/iommufd-file.ts';
import type { IommufdEvent } from '../../src/trace.ts';
import {
  FakeAddressSpace,
  FakeDriver,
  type FakeFunction,
  type FakeProcessOptions,
  fakeDevice,
  fakeKernel,
  fakeProcess,
} from './fakes.ts';

/** Where arguments of ioctls lie, and behind them an area for what they point to. */
export const ARGUMENT = 0x10_0000n;
export const BUFFER = 0x10_8000n;
/** Memory to be mapped: 64 pages. */
export const MEMORY = 0x100_0000n;
export const MEMORY_PAGES = 64;

export class Host {
  readonly kernel: Kernel = fakeKernel();
  readonly driver = new FakeDriver(this.kernel);
  readonly space = new FakeAddressSpace();
  readonly user: User;
  readonly process: Process;
  readonly descriptors = new FdTable();
  readonly system: SystemCalls;
  readonly trace: Trace<IommufdEvent>;
  readonly events: IommufdEvent[] = [];
  readonly node: IommufdNode;
  readonly fd: number;
  readonly context: IommufdContext;
  readonly client: IommufdClient;
  readonly viommus: ViommuClient;
  private nextRid = 0x100;

  constructor(options: FakeProcessOptions & { unsafe?: boolean; accountMm?: boolean } = {}) {
    this.user = options.user ?? new User(1000);
    this.process = fakeProcess(this.space, { ...options, user: this.user });
    this.space.map(Number(ARGUMENT >> 12n), 16);
    this.space.map(Number(MEMORY >> 12n), MEMORY_PAGES);
    const { kernel, process } = this;
    this.trace = new Trace(kernel.scheduler);
    this.trace.listen((event) => this.events.push(event));
    const nodes = new DeviceNodes();
    this.node = registerIommufd(nodes, {
      kernel,
      trace: this.trace,
      allowUnsafeInterrupts: options.unsafe ?? false,
      accountMm: options.accountMm ?? false,
    });
    this.system = new SystemCalls({ kernel, processes: new Processes(kernel), process, nodes }, this.descriptors);
    this.fd = this.system.open('/dev/iommu');
    this.context = iommufdContextOf(this.system.file(this.fd));
    this.client = new IommufdClient(this.system, this.fd);
    this.viommus = new ViommuClient(this.system, this.fd);
  }

  bind(group?: IommuGroup, fn: FakeFunction = {}): IommufdDevice {
    return bindDevice(this.context, fakeDevice(this.driver, this.nextRid++, group, fn));
  }

  table(ioasId: number): IoPageTable {
    return this.context.objects.get(ioasId, Ioas).table;
  }

  /** Puts a structure at ARGUMENT, calls, and gives the result with the structure as it is then. */
  ioctl<F extends Fields>(
    request: number,
    layout: Struct<F>,
    values: Partial<StructValues<F>>,
    size = layout.size,
  ): { result: number; reply: StructValues<F> } {
    const bytes = new Uint8Array(Math.max(size, layout.size));
    layout.write({ ...layout.read(new Uint8Array(layout.size)), ...values, size } as StructValues<F>, bytes);
    this.space.write(ARGUMENT, bytes.subarray(0, size));
    const result = this.system.ioctl(this.fd, request, ARGUMENT);
    this.space.read(ARGUMENT, bytes.subarray(0, size));
    return { result, reply: layout.read(bytes) };
  }

  /** What a failed call must leave as it is. */
  snapshot(): unknown {
    return {
      objects: this.context.objects.all().map(({ id, type, users }) => [id, type, users]),
      counts: [this.space.pinnedPages, this.space.lockedPages, this.user.lockedPages, this.descriptors.size],
      pins: [...this.space.pins].sort(),
      routes: [...this.driver.routes].sort(),
      domains: this.driver.live.map((domain) => [domain.id, 'units' in domain ? [...domain.units] : null]),
      viommus: this.driver.viommu?.live.map(({ vdevices, queues }) => [[...vdevices], [...queues.keys()]]),
      frames: this.kernel.frames.allocated,
    };
  }

  eventsOf<Name extends IommufdEvent['name']>(name: Name): Extract<IommufdEvent, { name: Name }>[] {
    return this.events.filter((event) => event.name === name) as Extract<IommufdEvent, { name: Name }>[];
  }
}
