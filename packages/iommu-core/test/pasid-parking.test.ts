/**
 * Everything that can name a PASID, let go of in every order, with attempts to use the number again after each step and
 * DMA that comes late.
 */

import { AT_UNTRANSLATED, high32, low32, requesterId, TEST_COMMAND } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  attachDevicePasid,
  authorizePasid,
  deauthorizePasid,
  detachDevicePasid,
  type FaultGroup,
  INVALID_IOASID,
  IOASID_SET_TYPE_NULL,
  type IoasidSet,
  type PagingDomain,
  routePasid,
  unroutePasid,
} from '../src/index.ts';
import { mapPage, pagingDomain } from './support/domains.ts';
import { refusal } from './support/fake-driver.ts';
import { Machine } from './support/machine.ts';
import type { TestDevice } from './support/test-device.ts';

/** Where both owners have their page; `ABSENT` is mapped by nobody. */
const IOVA = 0x40_0000n;
const ABSENT = 0x80_0000n;
const FIRST_BYTE = 0x11;
const NEXT_BYTE = 0x22;
const LATE_BYTE = 0x99;

/** What the first owner has to let go of. `free` is his own: he needs the number no more. */
const STEPS = ['free', 'table entry', 'reference', 'queued fault', 'DMA in flight'] as const;
type Step = (typeof STEPS)[number];

/** What went wrong when the number was used again. */
type Harm = 'given while named' | 'late DMA reached the next owner';

class World {
  readonly machine: Machine;
  readonly pasid: number;
  readonly harm = new Set<Harm>();
  /** The next owner has had the number. */
  reused = false;
  private readonly writer: TestDevice;
  private readonly asker: TestDevice;
  private readonly first: IoasidSet;
  private readonly next: IoasidSet;
  private readonly domain: PagingDomain;
  private readonly nextDomain: PagingDomain;
  private readonly nextPage: number;
  private readonly faults: FaultGroup[] = [];
  private readonly named = new Set<Step>(STEPS);
  private readonly scratch: number;
  private inFlight = true;

  constructor(parkPasids: boolean) {
    this.machine = new Machine({
      parkPasids,
      ramBytes: 4 << 20,
      plug: (host) => {
        for (const bus of [1, 2]) {
          host.plugPort(requesterId(0, bus, 0), bus);
          host.plug(host.testFunction(), requesterId(bus, 0, 0));
        }
      },
    });
    const { machine } = this;
    const { ioasids, pasids } = machine.core;
    this.scratch = machine.memory.reserve(64);
    this.writer = machine.add(requesterId(1, 0, 0));
    this.asker = machine.add(requesterId(2, 0, 0));
    this.first = ioasids.allocSet({ token: null, quota: 4, type: IOASID_SET_TYPE_NULL });
    this.next = ioasids.allocSet({ token: null, quota: 4, type: IOASID_SET_TYPE_NULL });
    this.pasid = ioasids.alloc(this.first, 1, 9);
    ioasids.get(this.first, this.pasid);

    this.domain = pagingDomain(this.writer);
    this.domain.faultHandler = (group) => this.faults.push(group);
    mapPage(this.domain, IOVA, machine.frame(FIRST_BYTE));
    this.nextDomain = pagingDomain(this.writer);
    this.nextPage = machine.frame(NEXT_BYTE);
    mapPage(this.nextDomain, IOVA, this.nextPage);
    for (const { device } of this.devices) attachDevicePasid(device, this.pasid, { domain: this.domain });

    // A request for a page that waits for its answer, and a write that the device has taken up and not yet sent.
    this.asker.start(TEST_COMMAND.pageRequest, ABSENT, 1, { pasid: this.pasid });
    machine.settle();
    expect(this.faults).toHaveLength(1);
    // The driver of a device knows what it has given the device to do.
    pasids.addReferrer((pasid) => (pasid === this.pasid && this.inFlight ? 'a write in flight' : null));
    expect(pasids.namedBy(this.pasid)).not.toBeNull();
  }

  take(step: Step): void {
    const { ioasids } = this.machine.core;
    this.named.delete(step);
    switch (step) {
      case 'free':
        ioasids.free(this.first, this.pasid);
        break;
      case 'reference':
        ioasids.put(this.first, this.pasid);
        break;
      case 'table entry':
        for (const { device } of this.devices) detachDevicePasid(device, this.pasid);
        // The fault of an attachment that goes is answered with it.
        this.named.delete('queued fault');
        break;
      case 'queued fault':
        for (const group of this.faults.splice(0)) group.respond(0);
        break;
      case 'DMA in flight':
        this.send();
        break;
    }
  }

  /** The next owner asks for the very number, and uses it for a while when he gets it. */
  reuse(): void {
    const { ioasids } = this.machine.core;
    const got = ioasids.alloc(this.next, this.pasid, this.pasid);
    if (got === INVALID_IOASID) return;
    this.reused = true;
    if (this.named.size > 0) this.harm.add('given while named');
    const handle = { domain: this.nextDomain };
    const refused = refusal(() => attachDevicePasid(this.writer.device, got, handle));
    if (this.inFlight) this.send();
    if (this.machine.memory.bytes[this.nextPage << 12] !== NEXT_BYTE) this.harm.add('late DMA reached the next owner');
    if (refused === null) detachDevicePasid(this.writer.device, got);
    ioasids.free(this.next, got);
  }

  /** The write goes out, with the PASID that it was given. */
  private send(): void {
    this.inFlight = false;
    const { memory, fabric } = this.machine;
    memory.bytes[this.scratch] = LATE_BYTE;
    const { upstream } = fabric.functionAt(this.writer.device.rid)!;
    upstream.write(AT_UNTRANSLATED, this.pasid, 0, low32(IOVA), high32(IOVA), 1, this.scratch);
  }

  private get devices(): TestDevice[] {
    return [this.writer, this.asker];
  }
}

function* orders(steps: readonly Step[]): Generator<Step[]> {
  if (steps.length === 0) yield [];
  for (const step of steps) {
    for (const rest of orders(steps.filter((other) => other !== step))) yield [step, ...rest];
  }
}

/** Lets go in every order and looks after each step; gives what went wrong, and how many orders ended in reuse. */
function run(parkPasids: boolean): { harm: Set<Harm>; orders: number; reused: number } {
  const result = { harm: new Set<Harm>(), orders: 0, reused: 0 };
  for (const order of orders(STEPS)) {
    const world = new World(parkPasids);
    world.reuse();
    for (const step of order) {
      world.take(step);
      world.reuse();
    }
    for (const harm of world.harm) result.harm.add(harm);
    result.orders++;
    if (world.reused) result.reused++;
  }
  return result;
}

describe('a PASID that its owner has freed', () => {
  test('X4 is not reused while a table entry, a reference, a queued fault or work of a device names it, and then is', () => {
    expect(run(true)).toEqual({ harm: new Set(), orders: 120, reused: 120 });
  });

  test('X4 is named by each half of an attachment alone, and by each state of a page request', () => {
    const machine = new Machine({ ramBytes: 4 << 20 });
    const { pasids } = machine.core;
    const { device } = machine.add();
    const { group, faults } = device;
    const pasid = 5;
    const named = (): string | null => pasids.namedBy(pasid);
    const domain = pagingDomain({ device } as TestDevice);
    const delivered: FaultGroup[] = [];
    domain.faultHandler = (fault) => delivered.push(fault);
    const request = { pasid, access: 1, group: 3, address: ABSENT };

    authorizePasid(device, pasid);
    expect(named()).toMatch('an authorisation of');
    deauthorizePasid(device, pasid);
    expect(named()).toBeNull();
    routePasid(group, pasid, { domain });
    expect(named()).toMatch('a route of');

    faults.report({ ...request, last: false });
    expect(faults.names(pasid)).toBe(true);
    faults.report({ ...request, last: true });
    expect([faults.names(pasid), delivered.length]).toEqual([true, 1]);
    let answering: boolean | null = null;
    machine.kernel.queueWork(() => {
      answering = faults.names(pasid);
    });
    delivered[0]!.respond(0);
    machine.kernel.runWork();
    expect([answering, faults.names(pasid)]).toEqual([true, false]);
    unroutePasid(group, pasid);
    expect(named()).toBeNull();
  });

  test('is reused too early without parking, and late DMA reaches the next owner', () => {
    const { harm } = run(false);
    expect([...harm].sort()).toEqual(['given while named', 'late DMA reached the next owner']);
  });
});
