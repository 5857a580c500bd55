/** The machine that the jobs of /dev/iommu run on, and programs on it that have a function of their own. */

import { Machine, PAGE_SIZE, TestFunction } from '@iommukit/hw';
import { type AddressSpace, Credentials, Host, Process, User } from '@iommukit/iommu-core';
import {
  bindDevice,
  DeviceNodes,
  type Ioas,
  IommufdClient,
  type IommufdContext,
  type IommufdDevice,
  ioasAlloc,
  iommufdContextOf,
  registerIommufd,
  SystemCalls,
} from '@iommukit/iommufd';

/** As many as in c/ioas.c. */
const FRAMES = 917504;
const RIDS = [8, 16];
const COMMAND = 4;
const BUS_MASTER = 4;

export const PAGE: bigint = BigInt(PAGE_SIZE);
export const GIB_PAGES = 262144;
/** Where the jobs map. */
export const IOVA: bigint = 1n << 30n;

const machine = new Machine({ ramBytes: FRAMES * PAGE_SIZE });
export const { memory } = machine;
const functions = RIDS.map((rid) => {
  const fn = machine.plug(new TestFunction({ memory, scheduler: machine.scheduler }), rid);
  fn.config.write(COMMAND, 2, BUS_MASTER);
  return fn;
});
const host = new Host(machine);
const { kernel, processes } = host;
const nodes = new DeviceNodes();
registerIommufd(nodes, { kernel });

/** A process that has /dev/iommu open, and the n-th function bound to it. */
export class Program {
  readonly process: Process;
  readonly system: SystemCalls;
  readonly client: IommufdClient;
  readonly context: IommufdContext;
  readonly fn: TestFunction;
  readonly device: IommufdDevice;

  constructor(process: Process, index: number) {
    this.process = process;
    this.system = new SystemCalls({ kernel, processes, process, nodes });
    this.client = new IommufdClient(this.system, this.system.open('/dev/iommu'));
    this.context = iommufdContextOf(this.system.file(this.client.fd));
    this.fn = functions[index]!;
    this.device = this.inKernel(() => bindDevice(this.context, host.device(this.fn.rid)));
  }

  inKernel<T>(body: () => T): T {
    return kernel.call('bench', body);
  }

  /** An IOAS that `domains` tables show, first stages and second stages in turn. */
  ioas(domains: number): Ioas {
    const ioas = this.inKernel(() => ioasAlloc(this.context, 0));
    for (let i = 0; i < domains; i++) {
      this.client.hwptAllocPaging({ deviceId: this.device.id, ioasId: ioas.id, nestParent: (i & 1) !== 0 });
    }
    return ioas;
  }
}

const limits = { memlock: Number.POSITIVE_INFINITY };

/** A program with memory of this machine. */
export const program: Program = new Program(processes.spawn({ name: 'bench', ...limits }), 0);

/** A program whose memory is what `space` says. */
export function programIn(space: AddressSpace): Program {
  return new Program(new Process(1000, 'elsewhere', space, new Credentials(new User(1000), []), limits), 1);
}
