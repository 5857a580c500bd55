import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { IoasidRules } from '../../src/ioasid/index.ts';
import { type BoundTester, errno, IoasidHost, PAGE } from '../support/ioasid-host.ts';

/** Pages of memory, each filled with its number from 1. */
const PAGES = 4;
/** Addresses of an IOASID at which single pages are mapped. */
const SLOTS = 3;
/** Where the root of the user's only table and the three tables below it are mapped, as one piece, when they are. */
const TABLES = 0x10000n;
const TABLES_SLOT = SLOTS;
/** The user's table leads this address to slot 0, and the pages behind it to the next slots. */
const GVA = 0x7000_0000_1000n;
const PASIDS = [null, 5] as const;
/** The PASID that devices are allowed to use, and at which none is attached. */
const ALLOWED = 9;
const LEVELS = 4;
const DEVICES = 3;

type Place = number | null;

/** An IOASID as the rules of the proposal tell of it, with no idea of page tables, objects and references. */
type Space = {
  parent: number | null;
  /** The user's table is here. */
  user: boolean;
  /** Source of each mapped slot: memory page, or slot of the parent. */
  maps: Map<number, number>;
};

type Refusal = string | null;

/** Both rule sets, written down as they read. Devices 0 and 1 are one group. */
class Model {
  readonly rules: IoasidRules;
  readonly spaces: Map<number, Space> = new Map();
  readonly bound: Set<number> = new Set([0, 1, 2]);
  /** What each device is attached to at each place. */
  readonly lines: Map<string, number[]> = new Map();
  /** What each device is allowed to use, at ALLOWED. */
  readonly allowed: Map<number, number> = new Map();
  /** Pages that are registered; null when nothing ever is. */
  readonly registered: Set<number> | null;

  constructor(rules: IoasidRules, registers: boolean) {
    this.rules = rules;
    this.registered = registers ? new Set() : null;
  }

  line(device: number, place: Place): number[] {
    return this.lines.get(`${device}/${place}`) ?? [];
  }

  isAt(device: number, ioasid: number): boolean {
    return this.places(device, ioasid) > 0;
  }

  /** Ways by which a device is at an IOASID. */
  places(device: number, ioasid: number): number {
    const attached = PASIDS.filter((place) => this.line(device, place).includes(ioasid)).length;
    return attached + (this.allowed.get(device) === ioasid ? 1 : 0);
  }

  depth(ioasid: number): number {
    const { parent } = this.spaces.get(ioasid)!;
    return parent === null ? 0 : 1 + this.depth(parent);
  }

  within(ioasid: number, ancestor: number): boolean {
    if (ioasid === ancestor) return true;
    const { parent } = this.spaces.get(ioasid)!;
    return parent !== null && this.within(parent, ancestor);
  }

  group(device: number): number[] {
    return device < 2 ? [0, 1] : [2];
  }

  /** What the DMA of a device reaches at a place. */
  reached(device: number, place: Place): number | null {
    if (place === ALLOWED) return this.allowed.get(device) ?? null;
    const all = this.group(device).flatMap((member) => this.line(member, place));
    if (all.length === 0) return null;
    return all.reduce((a, b) => (this.depth(b) > this.depth(a) ? b : a));
  }

  /** The byte that is found in a slot of an IOASID. */
  slot(ioasid: number, slot: number): number | null {
    const space = this.spaces.get(ioasid)!;
    const source = space.user ? undefined : space.maps.get(slot);
    if (source === undefined) return null;
    return space.parent === null ? source + 1 : this.slot(space.parent, source);
  }

  dma(device: number, place: Place): { slots: (number | null)[]; gva: (number | null)[] } {
    const nothing = new Array<number | null>(SLOTS).fill(null);
    const ioasid = this.reached(device, place);
    if (ioasid === null) return { slots: nothing, gva: nothing };
    const { user, parent } = this.spaces.get(ioasid)!;
    if (!user) return { slots: nothing.map((_, slot) => this.slot(ioasid, slot)), gva: nothing };
    const walks = parent !== null && this.hasTables(parent);
    return { slots: nothing, gva: nothing.map((_, slot) => (walks ? this.slot(parent, slot) : null)) };
  }

  hasTables(ioasid: number): boolean {
    const { parent, maps } = this.spaces.get(ioasid)!;
    return maps.has(TABLES_SLOT) && (parent === null || this.hasTables(parent));
  }

  /** Pages pinned: what is registered and the tables with it; else each map of a root while a hardware table shows it. */
  pins(): number {
    if (this.registered !== null) return this.registered.size + 4;
    let pinned = 0;
    for (const [ioasid, { parent, maps }] of this.spaces) {
      if (parent !== null) continue;
      for (const slot of maps.keys()) if (this.shown(ioasid, slot)) pinned += slot === TABLES_SLOT ? 4 : 1;
    }
    return pinned;
  }

  shown(ioasid: number, slot: number): boolean {
    if (this.isShown(ioasid)) return true;
    return [...this.spaces].some(([child, { parent, user, maps }]) => {
      if (parent !== ioasid || user) return false;
      return [...maps].some(([at, source]) => source === slot && this.shown(child, at));
    });
  }

  /** A hardware table shows the IOASID: a device is there, or at a table nested on it. */
  isShown(ioasid: number): boolean {
    const devices = [...this.bound];
    if (devices.some((device) => this.isAt(device, ioasid))) return true;
    return [...this.spaces].some(([child, { parent, user }]) => {
      return parent === ioasid && user && devices.some((device) => this.isAt(device, child));
    });
  }

  /** Version 1 wants a device, and with it all of its group. */
  accepts(ioasid: number): Refusal {
    if (this.rules === 'v2') return null;
    const devices = [...this.bound].filter((device) => this.isAt(device, ioasid));
    if (devices.length === 0) return 'ENODEV';
    return devices.every((device) => this.group(device).every((member) => this.isAt(member, ioasid))) ? null : 'EBUSY';
  }

  attach(device: number, ioasid: number, place: Place): Refusal {
    const space = this.spaces.get(ioasid)!;
    if (this.rules === 'v1' && space.parent !== null && !this.isAt(device, space.parent)) return 'EINVAL';
    const own = this.line(device, place).at(-1);
    if (own !== undefined && (own === ioasid || !this.within(ioasid, own))) return 'EBUSY';
    const reached = this.reached(device, place);
    if (reached !== null && !this.within(ioasid, reached) && !this.within(reached, ioasid)) return 'EINVAL';
    const line = [...this.line(device, place), ioasid].sort((a, b) => this.depth(a) - this.depth(b));
    this.lines.set(`${device}/${place}`, line);
    return null;
  }

  detach(device: number, ioasid: number, place: Place): Refusal {
    if (!this.line(device, place).includes(ioasid)) return 'ENOENT';
    if (this.staysForChildren(device, ioasid)) return 'EBUSY';
    this.leave(device, ioasid, place);
    return null;
  }

  staysForChildren(device: number, ioasid: number): boolean {
    const children = [...this.spaces].filter(([child, { parent }]) => parent === ioasid && this.isAt(device, child));
    return this.rules === 'v1' && children.length > 0 && this.places(device, ioasid) === 1;
  }

  /** One IOASID is at the PASID for all of a group, and each of its devices is allowed for itself. */
  allow(device: number, ioasid: number): Refusal {
    const { parent } = this.spaces.get(ioasid)!;
    if (this.rules === 'v1' && parent !== null && !this.isAt(device, parent)) return 'EINVAL';
    if (this.group(device).some((member) => (this.allowed.get(member) ?? ioasid) !== ioasid)) return 'EINVAL';
    if (this.allowed.has(device)) return 'EBUSY';
    this.allowed.set(device, ioasid);
    return null;
  }

  disallow(device: number, ioasid: number): Refusal {
    if (this.allowed.get(device) !== ioasid) return 'ENOENT';
    if (this.staysForChildren(device, ioasid)) return 'EBUSY';
    this.allowed.delete(device);
    return null;
  }

  leave(device: number, ioasid: number, place: Place): void {
    this.lines.set(
      `${device}/${place}`,
      this.line(device, place).filter((other) => other !== ioasid),
    );
  }

  free(ioasid: number): Refusal {
    if ([...this.spaces.values()].some(({ parent }) => parent === ioasid)) return 'EBUSY';
    for (const device of this.bound) for (const place of PASIDS) this.leave(device, ioasid, place);
    for (const device of this.bound) if (this.allowed.get(device) === ioasid) this.allowed.delete(device);
    this.spaces.delete(ioasid);
    return null;
  }

  map(ioasid: number, slot: number, source: number): Refusal {
    const { user, maps, parent } = this.spaces.get(ioasid)!;
    const refusal = this.accepts(ioasid);
    if (refusal !== null) return refusal;
    if (user) return 'EINVAL';
    const registered = this.registered?.has(source) ?? true;
    if (parent === null && slot !== TABLES_SLOT && !registered) return 'ENOENT';
    if (maps.has(slot)) return 'EEXIST';
    maps.set(slot, source);
    return null;
  }

  unmap(ioasid: number, slot: number): Refusal {
    const { user, maps } = this.spaces.get(ioasid)!;
    const refusal = this.accepts(ioasid) ?? (user ? 'EINVAL' : null);
    if (refusal === null) maps.delete(slot);
    return refusal;
  }

  bind(ioasid: number): Refusal {
    const space = this.spaces.get(ioasid)!;
    const refusal = this.accepts(ioasid);
    if (refusal !== null) return refusal;
    if (space.parent === null) return 'EINVAL';
    if (space.maps.size > 0) return 'EBUSY';
    space.user = true;
    return null;
  }

  unbind(ioasid: number): Refusal {
    const space = this.spaces.get(ioasid)!;
    const refusal = this.accepts(ioasid);
    if (refusal !== null) return refusal;
    if (!space.user) return 'EINVAL';
    space.user = false;
    return null;
  }

  /** Registers a page that is not, or unregisters one that is. */
  toggle(page: number): Refusal {
    const registered = this.registered!;
    if (!registered.has(page)) registered.add(page);
    else {
      const roots = [...this.spaces.values()].filter(({ parent }) => parent === null);
      if (roots.some(({ maps }) => [...maps].some(([at, source]) => at !== TABLES_SLOT && source === page)))
        return 'EBUSY';
      registered.delete(page);
    }
    return null;
  }
}

const ioasid = fc.nat(5);
const device = fc.nat(DEVICES - 1);
const place = fc.constantFrom(...PASIDS);
const slot = fc.nat(TABLES_SLOT);
const step = fc.oneof(
  { weight: 2, arbitrary: fc.record({ op: fc.constant('alloc' as const) }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('nest' as const), ioasid, user: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('free' as const), ioasid }) },
  {
    weight: 10,
    arbitrary: fc.record({ op: fc.constant('attach' as const), ioasid, device, place, together: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ op: fc.constant('detach' as const), ioasid, device, place, together: fc.boolean() }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ op: fc.constant('allow' as const), ioasid, device, together: fc.boolean() }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant('disallow' as const), ioasid, device, together: fc.boolean() }),
  },
  { weight: 8, arbitrary: fc.record({ op: fc.constant('map' as const), ioasid, slot, source: fc.nat(PAGES - 1) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('unmap' as const), ioasid, slot }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('bind' as const), ioasid }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('unbind' as const), ioasid }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('rebind' as const), device }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('toggle' as const), source: fc.nat(PAGES - 1) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Model and machine side by side. Both name IOASIDs by the handles that the machine gives. */
class Pair {
  readonly model: Model;
  readonly host: IoasidHost;
  readonly devices: BoundTester[];
  readonly va: bigint;
  readonly tables: bigint;

  constructor(rules: IoasidRules, registers: boolean) {
    this.host = new IoasidHost({ rules, paired: true });
    this.model = new Model(rules, registers);
    this.devices = [0, 1, 2].map((index) => this.host.bind(index));
    this.va = this.host.memory(PAGES);
    this.tables = this.host.memory(4);
    for (let page = 0n; page < 4n; page++) this.host.fill(this.tables + page * PAGE, 0);
    for (let slot = 0n; slot < SLOTS; slot++) {
      this.host.stage1Map(this.tables - TABLES, TABLES, GVA + slot * PAGE, slot * PAGE);
    }
    if (registers) this.host.client.registerMemory(this.tables, 4n * PAGE);
  }

  /** A handle that exists, chosen by number; null when there is none. */
  pick(number: number): number | null {
    const handles = [...this.model.spaces.keys()];
    return handles[number % handles.length] ?? null;
  }

  run(step: Step): void {
    const { model, host, devices } = this;
    const { client } = host;
    if (step.op === 'alloc') {
      model.spaces.set(client.alloc(), { parent: null, user: false, maps: new Map() });
      return;
    }
    if (step.op === 'rebind') {
      for (const place of PASIDS) model.lines.delete(`${step.device}/${place}`);
      model.allowed.delete(step.device);
      devices[step.device]!.unbind();
      devices[step.device] = host.bind(step.device);
      return;
    }
    if (step.op === 'toggle') {
      if (model.registered === null) return;
      const va = this.va + BigInt(step.source) * PAGE;
      const known = model.registered.has(step.source);
      this.same(step, model.toggle(step.source), () => {
        if (known) client.unregisterMemory(va, PAGE);
        else client.registerMemory(va, PAGE);
      });
      return;
    }
    const ioasid = this.pick(step.ioasid);
    if (ioasid === null) return;
    if (step.op === 'nest') this.nest(ioasid, step.user);
    else if (step.op === 'free') this.same(step, model.free(ioasid), () => client.free(ioasid));
    else if (step.op === 'attach' || step.op === 'detach') {
      const { op, device, place, together } = step;
      for (const member of together ? model.group(device) : [device]) {
        this.same(step, model[op](member, ioasid, place), () => devices[member]![op](ioasid, place));
      }
    } else if (step.op === 'allow' || step.op === 'disallow') {
      const { op, device, together } = step;
      for (const member of together ? model.group(device) : [device]) {
        this.same(step, model[op](member, ioasid), () => devices[member]![op](ioasid, ALLOWED));
      }
    } else if (step.op === 'map') this.map(ioasid, step.slot, step.source);
    else if (step.op === 'unmap') {
      const tables = step.slot === TABLES_SLOT;
      const [iova, size] = tables ? [TABLES, 4n * PAGE] : [BigInt(step.slot) * PAGE, PAGE];
      this.same(step, model.unmap(ioasid, step.slot), () => client.unmap(ioasid, iova, size));
    } else if (model.rules === 'v1' && step.op === 'bind') {
      this.same(step, model.bind(ioasid), () => client.bindPageTable({ ioasid, address: TABLES }));
    } else if (model.rules === 'v1') this.same(step, model.unbind(ioasid), () => client.unbindPageTable(ioasid));
  }

  /** A root with all devices and the user's table, and two children. */
  furnish(): void {
    this.run({ op: 'alloc' });
    for (const device of [0, 2]) this.run({ op: 'attach', ioasid: 0, device, place: null, together: true });
    for (let source = 0; source < PAGES; source++) this.run({ op: 'toggle', source });
    for (let slot = 0; slot <= TABLES_SLOT; slot++) this.run({ op: 'map', ioasid: 0, slot, source: slot });
    for (const user of [false, true]) this.run({ op: 'nest', ioasid: 0, user });
  }

  check(): void {
    for (let device = 0; device < DEVICES; device++) {
      const { tester } = this.devices[device]!;
      for (const place of [...PASIDS, ALLOWED]) {
        const at = (base: bigint): (number | null)[] =>
          Array.from({ length: SLOTS }, (_, slot) => tester.probe(base + BigInt(slot) * PAGE, place ?? -1));
        expect([device, place, { slots: at(0n), gva: at(GVA) }]).toEqual([
          device,
          place,
          this.model.dma(device, place),
        ]);
      }
    }
    const pins = this.model.pins();
    expect(this.host.pins).toEqual([pins, pins]);
    this.host.machine.settle(1_000_000);
  }

  end(): void {
    const { host, devices } = this;
    host.system.exit();
    expect(host.pins).toEqual([0, 0]);
    for (const device of devices) device.unbind();
    expect([host.node.iommufd.objects, host.node.iommufd.contexts.size]).toEqual([0, 0]);
    for (const { tester } of devices) {
      const { group, authorizedPasids } = tester.device;
      expect([group.owner, group.pasidHandles.size, authorizedPasids.size, tester.probe(0n, -1)]).toEqual([
        null,
        0,
        0,
        null,
      ]);
    }
  }

  private nest(parent: number, user: boolean): void {
    const { model, host } = this;
    const space = model.spaces.get(parent)!;
    if (model.rules === 'v2') {
      const request = user ? { parent, pageTable: { address: TABLES } } : { parent };
      const refusal = space.user || model.depth(parent) === LEVELS - 1 ? 'EINVAL' : null;
      this.same({ op: 'nest' }, refusal, () => {
        model.spaces.set(host.client.alloc(request), { parent, user, maps: new Map() });
      });
      return;
    }
    const refusal = model.accepts(parent) ?? (space.parent === null ? null : 'EINVAL');
    this.same({ op: 'nest' }, refusal, () => {
      model.spaces.set(host.client.createNesting(parent), { parent, user: false, maps: new Map() });
    });
  }

  private map(ioasid: number, slot: number, source: number): void {
    const { model, host } = this;
    const root = model.spaces.get(ioasid)!.parent === null;
    // A child's window is onto a slot of its parent, or onto its tables.
    const from = root ? source : source % SLOTS;
    const tables = slot === TABLES_SLOT;
    const refusal = model.map(ioasid, slot, tables ? TABLES_SLOT : from);
    const vaddr = tables ? (root ? this.tables : TABLES) : (root ? this.va : 0n) + BigInt(from) * PAGE;
    const [iova, size] = tables ? [TABLES, 4n * PAGE] : [BigInt(slot) * PAGE, PAGE];
    this.same({ op: 'map', slot, from }, refusal, () => host.client.map({ ioasid, iova, vaddr, size }));
  }

  private same(step: object, refusal: Refusal, body: () => unknown): void {
    expect([step, errno(body)]).toEqual([step, refusal]);
  }
}

describe.each<[IoasidRules, boolean]>([
  ['v1', false],
  ['v1', true],
  ['v2', false],
])('the rules of %s, with registered memory: %s', (rules, registers) => {
  test('X1 X3 X5 X6 every command and all DMA are as the rules say, and nothing is left', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 15, maxLength: 40, size: 'max' }), (steps) => {
        const pair = new Pair(rules, registers);
        pair.furnish();
        for (const next of steps) {
          pair.run(next);
          pair.check();
        }
        pair.end();
      }),
      { numRuns: 15 },
    );
  });
});
