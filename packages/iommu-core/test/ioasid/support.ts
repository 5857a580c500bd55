/** An allocator alone, address spaces that can only go away, and subscribers that write down what they hear. */

import {
  type AddressSpace,
  type AddressSpaceNotifier,
  GlobalPasids,
  IOASID_SET_TYPE_MM,
  IOASID_SET_TYPE_NULL,
  type IoasidEvent,
  type IoasidNotifier,
  type IoasidSet,
  Ioasids,
  type IommuEvent,
  type Kernel,
} from '../../src/index.ts';
import { fakeKernel } from '../support/fake-driver.ts';

export class FakeMm {
  readonly id: number;
  readonly notifiers: Set<AddressSpaceNotifier> = new Set();
  private gone = false;

  constructor(id: number) {
    this.id = id;
  }

  get alive(): boolean {
    return !this.gone;
  }

  addNotifier(notifier: AddressSpaceNotifier): void {
    this.notifiers.add(notifier);
  }

  removeNotifier(notifier: AddressSpaceNotifier): void {
    this.notifiers.delete(notifier);
  }

  release(): void {
    if (this.gone) return;
    this.gone = true;
    for (const notifier of [...this.notifiers]) notifier.release?.();
    this.notifiers.clear();
  }
}

export type Mm = FakeMm & AddressSpace;

export function fakeMm(id: number): Mm {
  return new FakeMm(id) as Mm;
}

export class Allocator {
  readonly kernel: Kernel;
  readonly pasids: GlobalPasids;
  readonly ioasids: Ioasids;
  readonly traced: IommuEvent[] = [];
  /** What subscribers heard, as `name kind id spid set`. */
  readonly heard: string[] = [];
  private nextMm = 1;

  constructor(kernel: Kernel = fakeKernel()) {
    const trace = { enabled: true, emit: (event: IommuEvent) => this.traced.push(event) };
    this.kernel = kernel;
    this.pasids = new GlobalPasids(kernel);
    this.ioasids = new Ioasids({ kernel, pasids: this.pasids, trace });
  }

  mm(): Mm {
    return fakeMm(this.nextMm++);
  }

  mmSet(quota = 10, token: AddressSpace = this.mm()): IoasidSet {
    return this.ioasids.allocSet({ token, quota, type: IOASID_SET_TYPE_MM });
  }

  hostSet(quota = 10): IoasidSet {
    return this.ioasids.allocSet({ token: null, quota, type: IOASID_SET_TYPE_NULL });
  }

  /** `then` runs inside the handler, after it has written down the event. */
  listener(name: string, priority: number, then: (event: IoasidEvent) => void = () => {}): IoasidNotifier {
    return {
      priority,
      notify: (event) => {
        this.heard.push(`${name} ${event.kind} ${event.id} ${event.spid} ${event.set.id}`);
        then(event);
      },
    };
  }

  members(set: IoasidSet): number[] {
    const ids: number[] = [];
    this.ioasids.forEach(set, (id) => ids.push(id));
    return ids;
  }

  /** The names of the calls that had nothing to do, with their reasons. */
  get ignored(): string[] {
    return this.traced.flatMap((event) => (event.name === 'ioasid_ignored' ? [`${event.call} ${event.reason}`] : []));
  }
}
