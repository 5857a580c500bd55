import { fc, test } from '@fast-check/vitest';
import { NO_PASID, requesterId } from '@iommukit/hw';
import { expect } from 'vitest';
import {
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  attachGroup,
  authorizePasid,
  deauthorizePasid,
  detachDevicePasid,
  detachGroup,
  type ErrnoCode,
  type PagingDomain,
  replaceDevicePasid,
  replaceGroup,
  resetDevice,
  routePasid,
  unroutePasid,
} from '../../src/index.ts';
import { mapPage, pagingDomain, unmapPage } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

const DEVICES = 3;
const DOMAINS = 3;
const PAGES = 2;
const PASIDS = [NO_PASID, 1, 64];
const BASE = 0x1f_f000n;

type Outcome = ErrnoCode | null;

/** What software asked for, and nothing of how it is done. */
class Model {
  readonly pages: (number | null)[][] = Array.from({ length: DOMAINS }, () =>
    new Array<number | null>(PAGES).fill(null),
  );
  readonly routes: Map<number, number>[] = Array.from({ length: DEVICES }, () => new Map());
  readonly authorized: Set<number>[] = Array.from({ length: DEVICES }, () => new Set([NO_PASID]));

  expected(device: number, pasid: number, page: number): number | null {
    const domain = this.routes[device]!.get(pasid);
    if (domain === undefined || !this.authorized[device]!.has(pasid)) return null;
    return this.pages[domain]![page]!;
  }

  attach(device: number, pasid: number, domain: number): Outcome {
    const [routes, authorized] = [this.routes[device]!, this.authorized[device]!];
    if (routes.has(pasid) || (pasid !== NO_PASID && authorized.has(pasid))) return 'EBUSY';
    routes.set(pasid, domain);
    authorized.add(pasid);
    return null;
  }

  replace(device: number, pasid: number, domain: number): Outcome {
    if (pasid !== NO_PASID && !this.routes[device]!.has(pasid)) return 'EINVAL';
    this.routes[device]!.set(pasid, domain);
    return null;
  }

  detach(device: number, pasid: number): Outcome {
    if (this.routes[device]!.delete(pasid) && pasid !== NO_PASID) this.authorized[device]!.delete(pasid);
    return null;
  }

  route(device: number, pasid: number, domain: number): Outcome {
    if (this.routes[device]!.has(pasid)) return 'EBUSY';
    this.routes[device]!.set(pasid, domain);
    return null;
  }

  unroute(device: number, pasid: number): Outcome {
    this.routes[device]!.delete(pasid);
    return null;
  }

  authorize(device: number, pasid: number): Outcome {
    if (this.authorized[device]!.has(pasid)) return 'EBUSY';
    this.authorized[device]!.add(pasid);
    return null;
  }

  deauthorize(device: number, pasid: number): Outcome {
    this.authorized[device]!.delete(pasid);
    return null;
  }

  map(domain: number, page: number, byte: number): Outcome {
    if (this.pages[domain]![page] !== null) return 'EEXIST';
    this.pages[domain]![page] = byte;
    return null;
  }

  unmap(domain: number, page: number): Outcome {
    this.pages[domain]![page] = null;
    return null;
  }
}

class Stack {
  readonly machine: Machine;
  readonly devices: TestDevice[];
  readonly domains: PagingDomain[];
  /** A frame for every byte value that is used. */
  readonly frames: number[];
  readonly framesAtStart: number;

  constructor() {
    this.machine = new Machine();
    const pf = this.machine.add(requesterId(1, 0, 0));
    this.devices = [pf, ...this.machine.addVirtual(pf, DEVICES - 1)];
    this.frames = Array.from({ length: 16 }, (_, byte) => this.machine.frame(byte));
    // PASID tables that are used stay with their device; make them all before counting.
    for (const { device } of this.devices) {
      for (const pasid of [1, 64]) {
        const domain = this.machine.driver.allocPaging(device, 'unmanaged', 0);
        attachDevicePasid(device, pasid, { domain });
        detachDevicePasid(device, pasid);
        domain.free();
      }
    }
    this.framesAtStart = this.machine.frames.allocated;
    this.domains = [0, ALLOC_NEST_PARENT, 0].map((flags) => pagingDomain(pf, flags));
  }

  attach(device: number, pasid: number, domain: number): void {
    const handle = { domain: this.domains[domain]! };
    const own = this.devices[device]!.device;
    if (pasid === NO_PASID) attachGroup(own.group, handle);
    else attachDevicePasid(own, pasid, handle);
  }

  replace(device: number, pasid: number, domain: number): void {
    const handle = { domain: this.domains[domain]! };
    const own = this.devices[device]!.device;
    if (pasid === NO_PASID) replaceGroup(own.group, handle);
    else replaceDevicePasid(own, pasid, handle);
  }

  detach(device: number, pasid: number): void {
    const own = this.devices[device]!.device;
    if (pasid === NO_PASID) detachGroup(own.group);
    else detachDevicePasid(own, pasid);
  }

  route(device: number, pasid: number, domain: number): void {
    routePasid(this.devices[device]!.device.group, pasid, { domain: this.domains[domain]! });
  }

  unroute(device: number, pasid: number): void {
    unroutePasid(this.devices[device]!.device.group, pasid);
  }

  authorize(device: number, pasid: number): void {
    authorizePasid(this.devices[device]!.device, pasid);
  }

  deauthorize(device: number, pasid: number): void {
    deauthorizePasid(this.devices[device]!.device, pasid);
  }

  map(domain: number, page: number, byte: number): void {
    mapPage(this.domains[domain]!, BASE + BigInt(page * 4096), this.frames[byte]!);
  }

  unmap(domain: number, page: number): void {
    unmapPage(this.domains[domain]!, BASE + BigInt(page * 4096));
  }

  /** What every device reads with every PASID, through its cache or past it. */
  check(model: Model, cached: boolean): void {
    for (let device = 0; device < DEVICES; device++) {
      for (const pasid of PASIDS) {
        for (let page = 0; page < PAGES; page++) {
          const options = cached ? { pasid, addressing: 'cached' as const } : { pasid };
          const seen = this.devices[device]!.read(BASE + BigInt(page * 4096), options);
          expect([device, pasid, page, seen]).toEqual([device, pasid, page, model.expected(device, pasid, page)]);
        }
      }
    }
  }

  /** Everything goes, in any state. */
  tearDown(): void {
    for (let device = 0; device < DEVICES; device++) {
      for (const pasid of PASIDS) {
        this.detach(device, pasid);
        if (pasid !== NO_PASID) this.deauthorize(device, pasid);
      }
    }
    for (const domain of this.domains) {
      expect(domain).toMatchObject({ attachments: { list: [] } });
      domain.free();
    }
    expect(this.machine.frames.allocated).toBe(this.framesAtStart);
    expect(this.machine.driver.unit.domainIds.used).toBe(0);
    expect(this.machine.core.pasids.size).toBe(0);
    for (const { device } of this.devices) {
      expect(device.group.pasidHandles.size).toBe(0);
      expect(device.authorizedPasids.size).toBe(0);
      expect(device.faults.pendingGroups).toBe(0);
    }
  }
}

const device = fc.nat(DEVICES - 1);
const domain = fc.nat(DOMAINS - 1);
const anyPasid = fc.constantFrom(...PASIDS);
const realPasid = fc.constantFrom(...PASIDS.slice(1));

const step = fc.oneof(
  fc.tuple(fc.constantFrom('attach', 'replace'), device, anyPasid, domain),
  fc.tuple(fc.constantFrom('detach'), device, anyPasid),
  fc.tuple(fc.constantFrom('route'), device, realPasid, domain),
  fc.tuple(fc.constantFrom('unroute', 'authorize', 'deauthorize'), device, realPasid),
  fc.tuple(fc.constantFrom('map'), domain, fc.nat(PAGES - 1), fc.integer({ min: 1, max: 15 })),
  fc.tuple(fc.constantFrom('unmap'), domain, fc.nat(PAGES - 1)),
);

function call(target: Model | Stack, name: string, args: readonly unknown[]): Outcome {
  return (target as unknown as Record<string, (...args: readonly unknown[]) => Outcome>)[name]!(...args);
}

type Step = { step: readonly [string, ...unknown[]]; failAt: number | null; reset: boolean };

function plan(failures: boolean): fc.Arbitrary<Step[]> {
  const failAt = failures ? fc.option(fc.integer({ min: 1, max: 4 })) : fc.constant(null);
  return fc.array(fc.record({ step, failAt, reset: fc.boolean() }) as fc.Arbitrary<Step>, {
    minLength: 5,
    maxLength: 30,
  });
}

/** Takes one step on both sides and compares what they say. */
function take(stack: Stack, model: Model, { step: [name, ...args], failAt, reset }: Step, index: number): void {
  const { failpoints } = stack.machine.kernel;
  if (failAt !== null) failpoints.arm(failAt);
  const outcome = refusal(() => call(stack, name, args));
  const failed = failpoints.hit !== null;
  failpoints.arm(0);
  if (failed) expect(outcome).toBe('ENOMEM');
  else expect([name, args, outcome]).toEqual([name, args, call(model, name, args)]);
  if (reset && index % 7 === 3) resetDevice(stack.devices[index % DEVICES]!.device);
}

test.prop([plan(false)], { numRuns: 12 })(
  'X2 after any calls, every DMA reaches what is attached, authorised and mapped now',
  (steps) => {
    const [stack, model] = [new Stack(), new Model()];
    steps.forEach((one, index) => {
      take(stack, model, one, index);
      stack.check(model, false);
    });
  },
  60_000,
);

test.prop([plan(false)], { numRuns: 12 })(
  'X3 no order of calls lets a device keep a translation of a page that is taken from it',
  (steps) => {
    const [stack, model] = [new Stack(), new Model()];
    steps.forEach((one, index) => {
      take(stack, model, one, index);
      stack.check(model, true);
    });
  },
  60_000,
);

test.prop([plan(true)], { numRuns: 12 })(
  'X5 a call that fails anywhere has changed nothing that DMA or a later call can see',
  (steps) => {
    const [stack, model] = [new Stack(), new Model()];
    steps.forEach((one, index) => {
      take(stack, model, one, index);
      stack.check(model, index % 2 === 0);
    });
    stack.tearDown();
  },
  60_000,
);

test.prop([plan(true)], { numRuns: 12 })(
  'X6 tearing everything down in any state leaves no attachment, PASID, entry or frame',
  (steps) => {
    const [stack, model] = [new Stack(), new Model()];
    steps.forEach((one, index) => {
      take(stack, model, one, index);
    });
    stack.tearDown();
    stack.check(new Model(), true);
  },
  60_000,
);
