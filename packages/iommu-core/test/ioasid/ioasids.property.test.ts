import { fc } from '@fast-check/vitest';
import { expect, test } from 'vitest';
import {
  IOASID_PRIO_CPU,
  IOASID_PRIO_DEVICE,
  IOASID_PRIO_IOMMU,
  IOASID_PRIO_LAST,
  IoasidCgroup,
  type IoasidNotifier,
  type IoasidSet,
  SysError,
} from '../../src/index.ts';
import { fakeKernel } from '../support/fake-driver.ts';
import { CAPACITY, IoasidModel, type ModelMm, type ModelSet, NONE, NUMBERS, Refused } from './ioasid-model.ts';
import { Allocator, type Mm } from './support.ts';

/** Two of a kind, so that equals have an order too. */
const PRIORITIES = [IOASID_PRIO_DEVICE, IOASID_PRIO_CPU, IOASID_PRIO_IOMMU, IOASID_PRIO_LAST, IOASID_PRIO_CPU];
const MMS = 3;
const SPIDS = [0, 1, 2, NONE];
const IDS = Array.from({ length: NUMBERS + 2 }, (_, id) => id);

/** All worlds share one, as its memory is large. */
const KERNEL = fakeKernel();

const KINDS = [
  ...['allocSet', 'allocSet', 'freeSet', 'moveSet', 'reserve', 'cancel', 'cancel', 'exit', 'setMax', 'setMax'],
  ...Array.from({ length: 9 }, () => 'alloc' as const),
  ...['get', 'get', 'get', 'get', 'put', 'put', 'free', 'freeAll', 'getIfOwned', 'getIfOwned', 'getIfOwned'],
  ...['find', 'findSet', 'attachData', 'detachData', 'attachSpid', 'attachSpid', 'attachSpid', 'attachSpid'],
  ...['detachSpid', 'findBySpid', 'findBySpid', 'register', 'register', 'unregister'],
  ...['registerMm', 'registerMm', 'unregisterMm', 'foreignAlloc', 'foreignFree', 'foreignFree'],
  ...['name', 'unname', 'unname'],
] as const;

const step = fc.record({
  kind: fc.constantFrom(...KINDS),
  /** Which set; -1 for none where that is possible. */
  set: fc.integer({ min: -1, max: 3 }),
  /** Which address space; the first are those that came last, and live. */
  mm: fc.nat(4),
  group: fc.nat(3),
  /** Low ones mostly, which is where allocated ones are. */
  id: fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 0, max: NUMBERS + 1 })),
  top: fc.integer({ min: 0, max: NUMBERS }),
  count: fc.constantFrom(0, 1, 2, 3, 5, CAPACITY),
  spid: fc.constantFrom(...SPIDS),
  who: fc.nat(PRIORITIES.length - 1),
  flag: fc.boolean(),
  /** The n-th failpoint fails; mostly none. */
  fail: fc.constantFrom(0, 0, 0, 0, 0, 0, 1, 2),
});

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** The allocator and its model, side by side; names of the one are indices into the arrays of the other. */
class World {
  readonly real = new Allocator(KERNEL);
  readonly model = new IoasidModel(PRIORITIES);
  readonly mms: Mm[] = [];
  readonly groups: IoasidCgroup[] = [];
  readonly sets: IoasidSet[] = [];
  readonly notifiers: IoasidNotifier[] = PRIORITIES.map((priority, who) => this.real.listener(`${who}`, priority));
  /** `kind outcome` of all that happened. */
  readonly seen: Set<string>;

  constructor(seen: Set<string>) {
    this.seen = seen;
    this.real.ioasids.installCapacity(CAPACITY);
    this.real.pasids.addReferrer((pasid) => (this.model.named.has(pasid) ? 'the test' : null));
    this.addGroup(null);
    for (const parent of [0, 1, 1]) this.addGroup(parent);
    for (let count = 0; count < MMS; count++) this.addMm();
    for (let mm = 0; mm < 2; mm++) this.addSet(mm, 4, mm + 1);
  }

  take(taken: Step): void {
    const { failpoints } = this.real.kernel;
    const before = this.observed();
    failpoints.arm(taken.fail);
    const [actual, predict] = this.dispatch(taken);
    const { hit } = failpoints;
    failpoints.arm(0);
    const expected = hit === null ? outcome(predict) : 'ENOMEM';
    expectSame(taken, actual, expected);
    if (taken.kind === 'exit') this.addMm();
    const after = this.observed();
    // What is refused has changed nothing; being refused by a group is an event.
    if (typeof actual === 'string' && actual !== 'EAGAIN') expectSame(taken, after, before);
    expectSame(taken, after, this.expected());
    this.real.heard.length = 0;
    this.model.heard.length = 0;
    const result = typeof actual === 'string' ? actual : actual.value === NONE ? 'INVALID' : 'ok';
    this.seen.add(`${taken.kind} ${result}`);
  }

  /** Everybody gives back what he has, and nothing is left. */
  end(): void {
    const { ioasids, pasids } = this.real;
    for (const set of this.sets) ioasids.freeAllInSet(set);
    for (const set of this.model.sets) this.model.freeAll(set);
    for (const id of IDS) {
      ioasids.detachSpid(id);
      this.model.detachSpid(id);
      for (let count = this.model.referencesBesideSpid(id); count > 0; count--) ioasids.put(null, id);
    }
    this.model.sets.forEach((set, at) => {
      if (set.exists) ioasids.freeSet(this.sets[at]!);
    });
    ioasids.cancelCapacity(this.model.reservedNow);
    for (const mm of this.mms) for (const notifier of this.notifiers) ioasids.unregisterNotifierMm(mm, notifier);
    for (const pasid of this.model.foreign) pasids.free(pasid);
    this.model.named.clear();
    expect([ioasids.available, pasids.size, pasids.parked]).toEqual([CAPACITY, 0, []]);
    expect(this.mms.map((mm) => mm.notifiers.size)).toEqual(this.mms.map(() => 0));
    expect(this.groups.slice(1).map((group) => group.current)).toEqual([0, 0, 0]);
  }

  /** Does the step to the allocator; gives what came of it, and how to ask the model. */
  private dispatch(taken: Step): [Outcome, () => unknown] {
    const { ioasids, pasids } = this.real;
    const { model } = this;
    const { id, top, count, spid, who, flag } = taken;
    const [set, modelSet] = this.setOf(taken.set);
    const [mm, modelMm] = this.mmOf(taken.mm);
    const group = taken.group === 0 && flag ? null : this.groups[taken.group]!;
    const modelGroup = group === null ? null : model.groups[taken.group]!;
    const notifier = this.notifiers[who]!;
    const both = (real: () => unknown, predict: () => unknown): [Outcome, () => unknown] => [outcome(real), predict];
    if (set === null && ['freeSet', 'moveSet', 'alloc', 'freeAll', 'findBySpid'].includes(taken.kind)) {
      return both(nothing, nothing);
    }
    switch (taken.kind) {
      case 'allocSet': {
        const type = spid === NONE ? top : flag ? 2 : 1;
        const token = (type === 1) !== (who === 4) ? null : mm;
        const quota = count > 3 && top > 1 ? 2 : count === 0 && top > 1 ? 3 : count;
        const options = { token, quota, type };
        return both(
          () => {
            const made = ioasids.allocSet(group === null ? options : { ...options, cgroup: group });
            this.sets.push(made);
            return made.id;
          },
          () => model.allocSet(token === null ? null : modelMm, quota, type, modelGroup).number,
        );
      }
      case 'freeSet':
        return both(
          () => ioasids.freeSet(set!),
          () => model.freeSet(modelSet!),
        );
      case 'moveSet':
        return both(
          () => ioasids.moveSet(set!, group),
          () => model.moveSet(modelSet!, modelGroup),
        );
      case 'reserve':
        return both(
          () => ioasids.reserveCapacity(count),
          () => model.reserve(count),
        );
      case 'cancel':
        return both(
          () => ioasids.cancelCapacity(count),
          () => model.cancel(count),
        );
      case 'exit':
        return both(
          () => mm.release(),
          () => model.exit(modelMm),
        );
      case 'setMax': {
        const at = taken.group;
        return both(
          () => this.groups[at]!.setMax(count - 1),
          () => model.setMax(model.groups[at]!, count - 1),
        );
      }
      case 'alloc': {
        const data = flag ? `data ${who}` : null;
        const own = flag || who > 0;
        const min = Math.min(id, top);
        return both(
          () => (own ? ioasids.alloc(set!, min, top, data) : ioasids.alloc(set!, min, top, data, mm)),
          () => model.alloc(modelSet!, min, top, data, own ? modelSet!.mm : modelMm),
        );
      }
      case 'get':
        return both(
          () => ioasids.get(set, id),
          () => model.get(modelSet, id),
        );
      case 'put':
        return both(
          () => ioasids.put(set, id),
          () => model.put(modelSet, id),
        );
      case 'free':
        return both(
          () => ioasids.free(set, id),
          () => model.free(modelSet, id),
        );
      case 'freeAll':
        return both(
          () => ioasids.freeAllInSet(set!),
          () => model.freeAll(modelSet!),
        );
      case 'getIfOwned':
        return both(
          () => ioasids.getIfOwned(id, mm),
          () => model.getIfOwned(id, modelMm),
        );
      case 'find':
        return both(
          () => ioasids.find(set, id, () => flag),
          () => model.find(modelSet, id, flag),
        );
      case 'findSet':
        return both(
          () => this.sets.indexOf(ioasids.findSet(id)),
          () => model.findSet(id).name,
        );
      case 'attachData':
        return both(
          () => ioasids.attachData(id, who),
          () => model.attachData(id, who),
        );
      case 'detachData':
        return both(
          () => ioasids.detachData(id),
          () => model.detachData(id),
        );
      case 'attachSpid':
        return both(
          () => ioasids.attachSpid(id, spid),
          () => model.attachSpid(id, spid),
        );
      case 'detachSpid':
        return both(
          () => ioasids.detachSpid(id),
          () => model.detachSpid(id),
        );
      case 'findBySpid':
        return both(
          () => ioasids.findBySpid(set!, spid, flag),
          () => model.findBySpid(modelSet!, spid, flag),
        );
      case 'register':
        return both(
          () => ioasids.registerNotifier(set, notifier),
          () => model.register(modelSet, who),
        );
      case 'unregister':
        return both(
          () => ioasids.unregisterNotifier(set, notifier),
          () => model.unregister(modelSet, who),
        );
      case 'registerMm':
        return both(
          () => ioasids.registerNotifierMm(mm, notifier),
          () => model.registerMm(modelMm, who),
        );
      case 'unregisterMm':
        return both(
          () => ioasids.unregisterNotifierMm(mm, notifier),
          () => model.unregisterMm(modelMm, who),
        );
      case 'foreignAlloc':
        // Shared virtual addressing takes numbers from the same place.
        return both(
          () => pasids.allocate({ first: id, end: id + 1 }),
          () => model.foreignAlloc(id),
        );
      case 'foreignFree':
        return both(
          () => (model.foreign.has(id) ? pasids.free(id) : undefined),
          () => model.foreignFree(id),
        );
      case 'name':
        return both(nothing, () => model.name(id));
      case 'unname':
        return both(nothing, () => model.unname(id));
    }
  }

  private observed(): unknown {
    const { ioasids, pasids, heard } = this.real;
    return {
      available: ioasids.available,
      sets: this.sets.map((set) => {
        const spids = SPIDS.map((spid) => ioasids.findBySpid(set, spid, false));
        return [set.id, set.type, set.quota, set.count, this.real.members(set), spids];
      }),
      mms: this.mms.map((mm) => this.sets.indexOf(ioasids.findMmSet(mm)!)),
      ids: IDS.map((id) => {
        const state = ioasids.stateOf(id);
        const within = state === null ? null : this.sets.indexOf(ioasids.findSet(id));
        const data = state === null ? null : ioasids.find(null, id);
        return [state, ioasids.referencesTo(id), ioasids.spidOf(id), data, within];
      }),
      groups: this.groups.slice(1).map((group) => [group.max, group.current, group.events]),
      pasids: [pasids.size, pasids.parked],
      heard: [...heard],
    };
  }

  private expected(): unknown {
    const { model } = this;
    return {
      available: model.available,
      sets: model.sets.map((set) => {
        const members = model.members(set);
        const spids = SPIDS.map((spid) => model.findBySpid(set, spid, false));
        return [set.number, set.type, set.quota, members.length, members, spids];
      }),
      mms: model.mms.map((mm) => model.mmSet(mm)?.name ?? -1),
      ids: IDS.map((id) => model.look(id)),
      groups: model.groups.slice(1).map((group) => [group.max, model.charged(group), group.events]),
      pasids: [model.pasidsInUse, [...model.parked].sort((a, b) => a - b)],
      heard: [...model.heard],
    };
  }

  /** The latest first; null for -1, and when there is none. */
  private setOf(index: number): [IoasidSet | null, ModelSet | null] {
    if (index < 0 || this.sets.length === 0) return [null, null];
    const at = this.sets.length - 1 - (index % this.sets.length);
    return [this.sets[at]!, this.model.sets[at]!];
  }

  private mmOf(index: number): [Mm, ModelMm] {
    const at = this.mms.length - 1 - (index % this.mms.length);
    return [this.mms[at]!, this.model.mms[at]!];
  }

  private addMm(): void {
    this.model.mms.push({ exited: false, pending: [] });
    this.mms.push(this.real.mm());
  }

  private addSet(mm: number, quota: number, group: number): void {
    const token = this.mms[mm]!;
    this.sets.push(this.real.ioasids.allocSet({ token, quota, type: 2, cgroup: this.groups[group]! }));
    this.model.allocSet(this.model.mms[mm]!, quota, 2, this.model.groups[group]!);
  }

  private addGroup(parent: number | null): void {
    const { groups } = this;
    const max = parent === null ? 0 : 6 - groups.length;
    const made = new IoasidCgroup({ parent: parent === null ? null : groups[parent]!, name: `group ${groups.length}` });
    if (parent !== null) made.setMax(max);
    groups.push(made);
    this.model.groups.push({ parent: parent === null ? null : this.model.groups[parent]!, max, events: 0 });
  }
}

/** What a call gave, or the errno with which it refused. */
type Outcome = { value: unknown } | string;

function outcome(body: () => unknown): Outcome {
  try {
    return { value: body() };
  } catch (error) {
    if (error instanceof SysError || error instanceof Refused) return error.code;
    throw error;
  }
}

/** Compares as text first, which is many times faster than `toEqual`. */
function expectSame(taken: Step, actual: unknown, expected: unknown): void {
  if (JSON.stringify(actual) !== JSON.stringify(expected)) expect([taken, actual]).toEqual([taken, expected]);
}

function nothing(): void {}

/** What the sequences must have reached, so that none of it goes untested unnoticed. */
const REACHED = [
  ...['allocSet ok', 'allocSet EINVAL', 'allocSet ENOSPC', 'allocSet EEXIST', 'allocSet ENOMEM'],
  ...['freeSet ok', 'freeSet EINVAL', 'freeSet EBUSY', 'moveSet ok', 'moveSet EINVAL'],
  ...['reserve ok', 'reserve ENOSPC', 'cancel ok', 'cancel EINVAL', 'setMax ok', 'setMax EINVAL', 'setMax ENOENT'],
  ...['alloc ok', 'alloc INVALID', 'alloc EPERM', 'alloc EAGAIN', 'alloc ENOMEM'],
  ...['get ok', 'get EINVAL', 'get EBUSY', 'get EACCES', 'put ok', 'free ok', 'freeAll ok'],
  ...['getIfOwned ok', 'getIfOwned ENOENT', 'getIfOwned EINVAL', 'getIfOwned EPERM', 'getIfOwned EBUSY'],
  ...['find ok', 'find ENOENT', 'find EACCES', 'findSet ok', 'findSet ENOENT', 'attachData EBUSY', 'attachData ENOENT'],
  ...['attachSpid ok', 'attachSpid EINVAL', 'attachSpid ENOENT', 'attachSpid EBUSY', 'attachSpid ENOMEM'],
  ...['findBySpid ok', 'findBySpid INVALID', 'register ok', 'register EINVAL', 'register EEXIST'],
  ...['registerMm ok', 'registerMm EBUSY', 'registerMm EINVAL', 'registerMm ENOMEM', 'foreignAlloc ENOSPC'],
];

test('X5 X6 any sequence of calls does what the model does, refusals change nothing, and all is given back', () => {
  const seen = new Set<string>();
  const property = fc.property(fc.array(step, { minLength: 80, maxLength: 160 }), (steps) => {
    const world = new World(seen);
    for (const taken of steps) world.take(taken);
    world.end();
  });
  fc.assert(property, { numRuns: 400 });
  expect(REACHED.filter((line) => !seen.has(line))).toEqual([]);
});
