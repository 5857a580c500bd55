import { fc, test } from '@fast-check/vitest';
import { NO_PASID } from '@iommukit/hw';
import { expect } from 'vitest';
import {
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  attachGroup,
  detachDevicePasid,
  detachGroup,
  disableFeature,
  type ErrnoCode,
  enableFeature,
  featureEnabled,
  type IommuGroup,
  type PagingDomain,
  replaceGroup,
} from '../../src/index.ts';
import { AUX_RIDS, AuxMachine, IOVA } from '../support/aux-machine.ts';
import { mapPage, unmapPage } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import type { TestDevice } from '../support/test-device.ts';

/** Which group each device is in. */
const GROUP_OF = [0, 1, 2, 2];
const DEVICES = [0, 1, 2, 3];
const GROUPS = [0, 1, 2];
/** Domains 0 to 2 are unmanaged; 3 is of the kind that kernel drivers map buffers in. */
const DOMAINS = [0, 1, 2, 3];
const DMA_KIND = 3;
/** PASIDs that a user takes for himself, and all that can be in use at all. */
const USER_PASIDS = [1, 2, 3];
const PASIDS = [NO_PASID, 1, 2, 3, 4, 5, 6, 7];
const BYTES = 8;

type Outcome = ErrnoCode | null;
type UserRoute = { readonly domain: number; readonly devices: Set<number> };

/** What the calls mean, and nothing of how it is done. */
class Model {
  readonly page: (number | null)[] = DOMAINS.map(() => null);
  readonly present: boolean[] = DEVICES.map(() => true);
  readonly enabled: boolean[] = DEVICES.map(() => true);
  readonly strict: boolean[] = DEVICES.map(() => false);
  /** How often, by domain and device. */
  readonly count: number[][] = DOMAINS.map(() => DEVICES.map(() => 0));
  readonly pasid: (number | null)[] = DOMAINS.map(() => null);
  readonly primary: (number | null)[] = GROUPS.map(() => null);
  readonly users: Map<number, UserRoute>[] = GROUPS.map(() => new Map());
  /** Given back while a user has the same number somewhere. */
  parked: number[] = [];

  /** Byte that a DMA gets. */
  reached(device: number, pasid: number): number | null {
    const group = GROUP_OF[device]!;
    const domain =
      pasid === NO_PASID ? this.primary[group]! : (this.userDomain(device, pasid) ?? this.auxDomain(device, pasid));
    return domain === null || !this.present[device] ? null : this.page[domain]!;
  }

  auxDomain(device: number, pasid: number): number | null {
    return DOMAINS.find((domain) => this.pasid[domain] === pasid && this.count[domain]![device]! > 0) ?? null;
  }

  userDomain(device: number, pasid: number): number | null {
    const route = this.users[GROUP_OF[device]!]!.get(pasid);
    return route?.devices.has(device) === true ? route.domain : null;
  }

  mayIssue(device: number, pasid: number): boolean {
    return this.auxDomain(device, pasid) !== null || this.userDomain(device, pasid) !== null;
  }

  /** PASIDs with a domain in a group. */
  routes(group: number): number[] {
    const aux = DOMAINS.filter((domain) => this.isIn(domain, group)).map((domain) => this.pasid[domain]!);
    return [...aux, ...this.users[group]!.keys()].sort();
  }

  attach(domain: number, device: number): Outcome {
    const group = GROUP_OF[device]!;
    const count = this.count[domain]!;
    if (!this.enabled[device] || domain === DMA_KIND) return 'EPERM';
    if (count[device]! === 0) {
      const taken = [...this.pasid, ...this.users.flatMap((routes) => [...routes.keys()])];
      const pasid = this.pasid[domain] ?? PASIDS.find((free) => free > 0 && !taken.includes(free))!;
      if (this.users[group]!.has(pasid)) return 'EBUSY';
      this.pasid[domain] = pasid;
    }
    count[device]!++;
    return null;
  }

  detach(domain: number, device: number): Outcome {
    const count = this.count[domain]!;
    if (count[device]! > 0) count[device]!--;
    const pasid = this.pasid[domain]!;
    if (pasid === null || count.some((times) => times > 0)) return null;
    this.pasid[domain] = null;
    this.parked.push(pasid);
    this.unpark();
    return null;
  }

  enable(device: number, strict: boolean): Outcome {
    if (!this.present[device]) return 'EINVAL';
    this.enabled[device] = true;
    this.strict[device] = strict;
    return null;
  }

  disable(device: number): Outcome {
    if (this.count.some((count) => count[device]! > 0)) return 'EBUSY';
    this.enabled[device] = false;
    return null;
  }

  attachPrimary(domain: number, group: number): Outcome {
    return this.primary[group] === null ? this.replacePrimary(domain, group) : 'EBUSY';
  }

  replacePrimary(domain: number, group: number): Outcome {
    const members = DEVICES.filter((device) => GROUP_OF[device] === group);
    if (domain !== DMA_KIND && members.some((device) => this.enabled[device] && this.strict[device])) return 'EPERM';
    if (DOMAINS.some((other) => this.isIn(other, group))) return 'EBUSY';
    this.primary[group] = domain;
    return null;
  }

  detachPrimary(group: number): Outcome {
    this.primary[group] = null;
    return null;
  }

  attachUser(domain: number, group: number, pasid: number): Outcome {
    if (this.routes(group).includes(pasid)) return 'EBUSY';
    const devices = DEVICES.filter((device) => GROUP_OF[device] === group && this.present[device]);
    this.users[group]!.set(pasid, { domain, devices: new Set(devices) });
    return null;
  }

  detachUser(group: number, pasid: number): Outcome {
    this.users[group]!.delete(pasid);
    this.unpark();
    return null;
  }

  remove(device: number): Outcome {
    const group = GROUP_OF[device]!;
    for (const domain of DOMAINS) while (this.count[domain]![device]! > 0) this.detach(domain, device);
    this.present[device] = false;
    this.enabled[device] = false;
    for (const { devices } of this.users[group]!.values()) devices.delete(device);
    if (this.isThere(group)) return null;
    this.primary[group] = null;
    this.users[group]!.clear();
    this.unpark();
    return null;
  }

  add(device: number): Outcome {
    this.present[device] = true;
    return null;
  }

  map(domain: number, byte: number): Outcome {
    this.page[domain] = byte;
    return null;
  }

  /** A group without devices does not exist. */
  isThere(group: number): boolean {
    return DEVICES.some((device) => GROUP_OF[device] === group && this.present[device]);
  }

  private unpark(): void {
    this.parked = this.parked.filter((pasid) => this.users.some((routes) => routes.has(pasid))).sort();
  }

  private isIn(domain: number, group: number): boolean {
    return DEVICES.some((device) => GROUP_OF[device] === group && this.count[domain]![device]! > 0);
  }
}

class Stack {
  readonly machine: AuxMachine = new AuxMachine();
  readonly devices: TestDevice[];
  readonly domains: PagingDomain[];
  private readonly frames: number[];
  private readonly framesAtStart: number;

  constructor() {
    const { machine } = this;
    this.frames = Array.from({ length: BYTES }, (_, byte) => machine.frame(byte));
    for (const { device } of machine.devices) machine.core.removeDevice(device);
    this.framesAtStart = machine.frames.allocated;
    this.devices = AUX_RIDS.map((rid) => machine.add(rid));
    const { driver } = machine;
    const { device } = this.devices[0]!;
    this.domains = DOMAINS.map((domain) =>
      driver.allocPaging(device, domain === DMA_KIND ? 'dma' : 'unmanaged', domain === 1 ? ALLOC_NEST_PARENT : 0),
    );
    for (const one of this.devices) enableFeature(one.device, 'aux');
  }

  attach(domain: number, device: number): void {
    this.machine.aux.attach(this.domains[domain]!, this.devices[device]!.device);
  }

  detach(domain: number, device: number): void {
    this.machine.aux.detach(this.domains[domain]!, this.devices[device]!.device);
  }

  enable(device: number, refusePrimary: boolean): void {
    enableFeature(this.devices[device]!.device, 'aux', { refusePrimary });
  }

  disable(device: number): void {
    disableFeature(this.devices[device]!.device, 'aux');
  }

  attachPrimary(domain: number, group: number): void {
    attachGroup(this.group(group), { domain: this.domains[domain]! });
  }

  replacePrimary(domain: number, group: number): void {
    replaceGroup(this.group(group), { domain: this.domains[domain]! });
  }

  detachPrimary(group: number): void {
    detachGroup(this.group(group));
  }

  attachUser(domain: number, group: number, pasid: number): void {
    attachDevicePasid(this.group(group).devices[0]!, pasid, { domain: this.domains[domain]! });
  }

  detachUser(group: number, pasid: number): void {
    detachDevicePasid(this.group(group).devices[0]!, pasid);
  }

  remove(device: number): void {
    this.machine.core.removeDevice(this.devices[device]!.device);
  }

  add(device: number): void {
    this.devices[device] = this.machine.add(AUX_RIDS[device]!);
  }

  map(domain: number, byte: number): void {
    unmapPage(this.domains[domain]!, IOVA);
    mapPage(this.domains[domain]!, IOVA, this.frames[byte]!);
  }

  /** Everything that can be seen. */
  check(model: Model, cached: boolean): void {
    const { aux, core } = this.machine;
    expect(core.pasids.size).toBe(model.pasid.filter((pasid) => pasid !== null).length);
    const routes = GROUPS.map((group) => (model.isThere(group) ? [...this.group(group).pasidHandles.keys()] : []));
    expect(routes.map((pasids) => pasids.sort())).toEqual(GROUPS.map((group) => model.routes(group)));
    const seen = this.devices.map((own, device) => ({
      enabled: featureEnabled(own.device, 'aux'),
      pasidOf: this.domains.map((one) => refusal(() => aux.pasid(one, own.device)) ?? aux.pasid(one, own.device)),
      authorized: PASIDS.filter((pasid) => own.device.authorizedPasids.has(pasid)),
      dma: PASIDS.map((pasid) => own.probe(IOVA, pasid)),
      cachedDma: cached && model.present[device] ? PASIDS.map((pasid) => this.readCached(own, pasid)) : [],
    }));
    const expected = DEVICES.map((device) => ({
      enabled: model.enabled[device],
      pasidOf: DOMAINS.map((one) => (model.count[one]![device]! > 0 ? model.pasid[one] : 'EINVAL')),
      authorized: PASIDS.filter((pasid) => model.mayIssue(device, pasid)),
      dma: PASIDS.map((pasid) => model.reached(device, pasid)),
      cachedDma: cached && model.present[device] ? PASIDS.map((pasid) => model.reached(device, pasid)) : [],
    }));
    expect(seen).toEqual(expected);
  }

  /** Every device goes, in any state. */
  tearDown(model: Model): void {
    const { core, driver, frames } = this.machine;
    for (const device of DEVICES) {
      if (!model.present[device]) continue;
      model.remove(device);
      this.remove(device);
    }
    this.check(model, false);
    for (const domain of this.domains) {
      expect(this.machine.attachments(domain)).toEqual([]);
      domain.free();
    }
    expect([core.groups.length, core.pasids.size, core.pasids.parked]).toEqual([0, 0, []]);
    expect([driver.unit.domainIds.used, driver.unit.devices.size]).toEqual([0, 0]);
    expect(frames.allocated).toBe(this.framesAtStart);
  }

  private readCached(own: TestDevice, pasid: number): number | null {
    return own.read(IOVA, { pasid, addressing: 'cached' });
  }

  private group(index: number): IommuGroup {
    const { core, bus } = this.machine;
    const member = DEVICES.find(
      (device) => GROUP_OF[device] === index && core.deviceOf(bus.device(AUX_RIDS[device]!)!) !== null,
    );
    return this.devices[member!]!.device.group;
  }
}

const device = fc.constantFrom(...DEVICES);
const group = fc.constantFrom(...GROUPS);
const domain = fc.constantFrom(...DOMAINS);

const step = fc.oneof(
  { weight: 8, arbitrary: fc.tuple(fc.constant('attach'), domain, device) },
  { weight: 5, arbitrary: fc.tuple(fc.constant('detach'), domain, device) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('enable'), device, fc.boolean()) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('disable'), device) },
  { weight: 3, arbitrary: fc.tuple(fc.constantFrom('attachPrimary', 'replacePrimary'), domain, group) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('detachPrimary'), group) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('attachUser'), domain, group, fc.constantFrom(...USER_PASIDS)) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('detachUser'), group, fc.constantFrom(...USER_PASIDS)) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('remove'), device) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('add'), device) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('map'), domain, fc.nat(BYTES - 1)) },
);

type Step = { readonly step: readonly [string, ...unknown[]]; readonly failAt: number | null };

function plan(failures: boolean): fc.Arbitrary<Step[]> {
  const failAt = failures ? fc.option(fc.integer({ min: 1, max: 4 }), { freq: 2 }) : fc.constant(null);
  const steps = fc.array(fc.record({ step, failAt }) as fc.Arbitrary<Step>, { minLength: 20, maxLength: 40 });
  // Pages first, so that DMA shows where it goes.
  return steps.map((some) => [
    ...DOMAINS.map((one) => ({ step: ['map', one, one + 1] as const, failAt: null })),
    ...some,
  ]);
}

/** Steps that concern what is not there: a group without devices, a device that is gone or has come, another's PASID. */
function isVoid(model: Model, [name, ...args]: Step['step']): boolean {
  const numbers = args as number[];
  if (name === 'remove') return !model.present[numbers[0]!];
  if (name === 'add') return model.present[numbers[0]!]!;
  if (name === 'attachPrimary' || name === 'replacePrimary' || name === 'attachUser')
    return !model.isThere(numbers[1]!);
  if (name === 'detachUser') return !model.users[numbers[0]!]!.has(numbers[1]!);
  return name === 'detachPrimary' && !model.isThere(numbers[0]!);
}

function call(target: Model | Stack, [name, ...args]: Step['step']): Outcome {
  return (target as unknown as Record<string, (...args: readonly unknown[]) => Outcome>)[name]!(...args);
}

/** Takes one step on both sides and compares what they say. True when it failed at a failpoint. */
function take(stack: Stack, model: Model, { step: taken, failAt }: Step): boolean {
  if (isVoid(model, taken)) return false;
  const { failpoints } = stack.machine.kernel;
  // Unmapping before mapping is two operations, of which the first takes effect.
  if (failAt !== null && taken[0] !== 'map') failpoints.arm(failAt);
  const outcome = refusal(() => call(stack, taken));
  const failed = failpoints.hit !== null;
  failpoints.arm(0);
  if (failed) expect([taken, outcome]).toEqual([taken, 'ENOMEM']);
  else expect([taken, outcome]).toEqual([taken, call(model, taken)]);
  // Whether a number that was given back is still named is looked at when somebody asks.
  expect(stack.machine.core.pasids.parked).toEqual(model.parked);
  return failed;
}

test.prop([plan(false)], { numRuns: 10 })(
  'X2 after any calls of features, aux domains and primary domains every DMA reaches what is attached and mapped now',
  (steps) => {
    const [stack, model] = [new Stack(), new Model()];
    steps.forEach((one, index) => {
      take(stack, model, one);
      stack.check(model, index % 4 === 0);
    });
    stack.check(model, true);
  },
  60_000,
);

test.prop([plan(true)], { numRuns: 10 })(
  'X5 a call that fails anywhere has changed nothing that DMA or a later call can see',
  (steps) => {
    const [stack, model] = [new Stack(), new Model()];
    for (const one of steps) {
      const failed = take(stack, model, one);
      stack.check(model, failed);
    }
  },
  60_000,
);

test.prop([plan(true)], { numRuns: 12 })(
  'X6 removing every device in any state leaves no attachment, PASID, entry or frame',
  (steps) => {
    const [stack, model] = [new Stack(), new Model()];
    for (const one of steps) take(stack, model, one);
    stack.tearDown(model);
  },
  60_000,
);
