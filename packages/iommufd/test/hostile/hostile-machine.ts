/**
 * The host of hostile programs: a VT-d machine with two functions that are bound, attached here and there by their
 * driver with ids that come from the program, and send DMA and page requests.
 */

import { requesterId, TEST_COMMAND, Trace } from '@iommukit/hw';
import { Processes, SysError } from '@iommukit/iommu-core';
// @boundaries-ignore the generator of the lowest layer's tests
import { Random } from '../../../hw/test/support/random.ts';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import type { Host } from '../../../iommu-core/test/support/host.ts';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import { Machine } from '../../../iommu-core/test/support/machine.ts';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import type { TestDevice } from '../../../iommu-core/test/support/test-device.ts';
import type { IommufdContext } from '../../src/context.ts';
import { bindDevice, type IommufdDevice } from '../../src/device.ts';
import { dumpContext } from '../../src/dump.ts';
import { DeviceNodes } from '../../src/files/device-nodes.ts';
import { type IommufdNode, registerIommufd } from '../../src/iommufd-file.ts';
import { SelftestIommu } from '../../src/selftest/index.ts';
import type { IommufdEvent } from '../../src/trace.ts';
import { operations, requests, Targets } from './targets.ts';

/** PASIDs that DMA has. The first 64 share a table, which the IOMMU's driver keeps. */
const PASIDS = [undefined, undefined, 0, 1, 2, 7];
/** What PASIDs the functions are attached with; the last is one more than they have. */
const ATTACHED = [...PASIDS, 0x10_0000];

const RIDS = [requesterId(1, 0, 0), requesterId(2, 0, 0)];

/** Each function below a root port of its own. */
function plug(host: Host): void {
  for (const [index, rid] of RIDS.entries()) {
    host.plugPort(requesterId(0, index + 1, 0), index + 1);
    host.plug(host.testFunction(), rid);
  }
}

export class HostileMachine {
  readonly random: Random;
  readonly machine: Machine = new Machine({ ramBytes: 24 << 20, plug });
  readonly processes: Processes = new Processes(this.machine.kernel);
  readonly nodes: DeviceNodes = new DeviceNodes();
  readonly node: IommufdNode;
  /** The mock IOMMU of the kernel's tests, in the same /dev/iommu. */
  readonly selftest: SelftestIommu;
  readonly targets: Targets;
  /** How often each errno came, 0 for none. */
  readonly results: Map<number, number> = new Map();
  /** How often each thing was done: requests, and the events of traces. */
  readonly done: Map<string, number> = new Map();
  private readonly functions: { readonly tester: TestDevice; bound: IommufdDevice | null }[];
  /** Frames that the kernel has before there is any process. */
  private readonly framesBefore: number;

  /** `mocks`: programs find the kernel's tests as well. */
  constructor(seed: number, mocks: boolean) {
    this.random = new Random(seed);
    this.targets = new Targets(mocks ? [...requests(), ...operations()] : requests());
    const { kernel } = this.machine;
    const trace = new Trace<IommufdEvent>(kernel.scheduler);
    trace.listen(({ name }) => this.note(name));
    this.selftest = new SelftestIommu({ kernel });
    this.node = registerIommufd(this.nodes, { kernel, trace }, mocks ? this.selftest.commands : []);
    this.functions = RIDS.map((rid) => ({ tester: this.machine.add(rid), bound: null }));
    this.framesBefore = this.machine.frames.allocated;
  }

  /** True while nothing changes but by calls. */
  get quiet(): boolean {
    return this.functions.every(({ tester }) => !tester.busy);
  }

  /** What is left: all of these are 0 when no program runs and nothing leaked. */
  get left(): { contexts: number; pinned: number; locked: number; frames: number; owned: number; mocks: number } {
    return {
      contexts: this.node.contexts.size,
      pinned: this.processes.counts.pinned,
      locked: this.processes.user(0).lockedPages,
      frames: this.machine.frames.allocated - this.framesBefore,
      owned: this.functions.filter(({ tester }) => tester.device.group.owner !== null).length,
      mocks: this.selftest.devices,
    };
  }

  /** What a failed call must leave as it is. */
  snapshot(): string {
    const contexts = [...this.node.contexts].map(dumpContext);
    return JSON.stringify([contexts, this.processes.counts.pinned, this.processes.user(0).lockedPages]);
  }

  /** The driver binds the first function. */
  bind(context: IommufdContext): IommufdDevice {
    const fn = this.functions[0]!;
    return this.machine.kernel.call('bind', () => (fn.bound = bindDevice(context, fn.tester.device)));
  }

  /** Something that a driver in the kernel does with a function, for `context`. `id` is what it is to be attached to. */
  driver(context: IommufdContext, id: number): void {
    const { random } = this;
    const pasid = random.pick(ATTACHED);
    const fn = random.pick(this.functions);
    const action = random.below(20);
    this.machine.kernel.call('driver', () => {
      if (fn.bound === null) fn.bound = bindDevice(context, fn.tester.device);
      else if (action < 9) fn.bound.attach(id, pasid);
      else if (action < 14) fn.bound.replace(id, pasid);
      else if (action < 19) fn.bound.detach(pasid);
      else this.unbind(fn);
    });
  }

  /** The driver lets go of the functions. */
  unbindAll(): void {
    for (const fn of this.functions) this.machine.kernel.call('unbind', () => this.unbind(fn));
    this.machine.settle();
  }

  /** A function sends something, and some time goes by. */
  dma(): void {
    const { random, machine } = this;
    const { tester } = random.pick(this.functions);
    const pasid = random.pick(PASIDS);
    if (!tester.busy) {
      const operation = random.pick([TEST_COMMAND.read, TEST_COMMAND.write]);
      tester.start(operation, BigInt(random.below(48)) << 12n, 1 + random.below(64), {
        ...(pasid === undefined ? {} : { pasid }),
        ...(random.chance(60) ? { addressing: 'cached' } : {}),
        requestPages: random.chance(80),
      });
    }
    machine.settle(random.below(100_000));
  }

  /** Does something that may be refused, but by nothing else than a SysError. */
  attempt(body: () => void): void {
    try {
      body();
      this.count(0);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.count(-error.errno);
    }
  }

  private unbind(fn: { bound: IommufdDevice | null }): void {
    fn.bound?.unbind();
    fn.bound = null;
  }

  note(name: string): void {
    this.done.set(name, (this.done.get(name) ?? 0) + 1);
  }

  /** Notes the result of a call: what is not negative is a success. */
  count(result: number): void {
    const errno = Math.max(-result, 0);
    this.results.set(errno, (this.results.get(errno) ?? 0) + 1);
  }
}
