import { describe, expect, test } from 'vitest';
import {
  INVALID_IOASID,
  IOASID_PRIO_CPU,
  IOASID_PRIO_DEVICE,
  IOASID_PRIO_IOMMU,
  IOASID_PRIO_LAST,
  type IoasidEvent,
  type IoasidNotifier,
} from '../../src/index.ts';
import { refusal } from '../support/fake-driver.ts';
import { Allocator } from './support.ts';

const NONE = INVALID_IOASID;

function permutations<T>(of: readonly T[]): T[][] {
  if (of.length === 0) return [[]];
  return of.flatMap((first, at) => permutations(of.toSpliced(at, 1)).map((rest) => [first, ...rest]));
}

const PRIORITIES = [
  ['CPU', IOASID_PRIO_CPU],
  ['IOMMU', IOASID_PRIO_IOMMU],
  ['DEVICE', IOASID_PRIO_DEVICE],
  ['LAST', IOASID_PRIO_LAST],
] as const;

describe('what is told to whom', () => {
  test('B6 an id with two users is freed in one event for each chain, however often it is freed', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const set = allocator.mmSet();
    ioasids.registerNotifier(set, allocator.listener('set', IOASID_PRIO_CPU));
    ioasids.registerNotifier(null, allocator.listener('all', IOASID_PRIO_IOMMU));
    const id = ioasids.alloc(set, 1, 9);
    ioasids.get(set, id);
    heard.length = 0;
    ioasids.free(set, id);
    ioasids.free(set, id);
    ioasids.freeAllInSet(set);
    expect(heard).toEqual([`set free 1 ${NONE} 0`, `all free 1 ${NONE} 0`]);
    ioasids.put(set, id);
    expect(heard).toHaveLength(2);
  });

  test('an id that its owner alone holds goes in silence, and so does the last put', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const set = allocator.mmSet();
    for (const chain of [set, null]) ioasids.registerNotifier(chain, allocator.listener('x', IOASID_PRIO_LAST));
    const ids = [ioasids.alloc(set, 1, 9), ioasids.alloc(set, 1, 9)];
    heard.length = 0;
    ioasids.free(set, ids[0]!);
    ioasids.put(set, ids[1]!);
    expect([heard, set.count]).toEqual([[], 0]);
  });

  test('a set hears of its own ids only, and all ids are told of when they are freed', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const [one, two] = [allocator.mmSet(), allocator.hostSet()];
    ioasids.registerNotifier(one, allocator.listener('one', IOASID_PRIO_CPU));
    ioasids.registerNotifier(null, allocator.listener('all', IOASID_PRIO_CPU));
    for (const set of [one, two]) {
      const id = ioasids.alloc(set, 1, 9);
      ioasids.attachSpid(id, 50);
      ioasids.get(set, id);
      ioasids.free(set, id);
      ioasids.detachSpid(id);
    }
    expect(heard).toEqual([
      `one alloc 1 ${NONE} 0`,
      'one bind 1 50 0',
      'one free 1 50 0',
      'all free 1 50 0',
      'one unbind 1 50 0',
      'all free 2 50 1',
    ]);
  });

  test('an event carries the id, its number in the set, the set and the data', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.mmSet();
    const events: IoasidEvent[] = [];
    ioasids.registerNotifier(set, { priority: IOASID_PRIO_CPU, notify: (event) => events.push(event) });
    const id = ioasids.alloc(set, 4, 4, 'data');
    ioasids.attachSpid(id, 50);
    expect(events).toEqual([
      { kind: 'alloc', id, spid: NONE, set, data: 'data' },
      { kind: 'bind', id, spid: 50, set, data: 'data' },
    ]);
  });

  test('one bind and one unbind for each time that a number is attached', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    ioasids.registerNotifier(set, allocator.listener('kvm', IOASID_PRIO_CPU));
    for (let cycle = 0; cycle < 2; cycle++) {
      ioasids.attachSpid(id, 50);
      expect(refusal(() => ioasids.attachSpid(id, 51))).toBe('EBUSY');
      ioasids.detachSpid(id);
      ioasids.detachSpid(id);
    }
    expect(heard).toEqual(['kvm bind 1 50 0', 'kvm unbind 1 50 0', 'kvm bind 1 50 0', 'kvm unbind 1 50 0']);
  });

  test('a bound id is never reclaimed without a word: free, then unbind', () => {
    const allocator = new Allocator();
    const { ioasids, heard, pasids } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    ioasids.attachSpid(id, 50);
    ioasids.registerNotifier(set, allocator.listener('kvm', IOASID_PRIO_CPU));
    ioasids.free(set, id);
    expect([heard, pasids.size]).toEqual([['kvm free 1 50 0'], 1]);
    ioasids.detachSpid(id);
    expect([heard, pasids.size]).toEqual([['kvm free 1 50 0', 'kvm unbind 1 50 0'], 0]);
  });
});

describe('order', () => {
  test('B12 CPU, IOMMU and DEVICE are called in this order, whatever order they came in', () => {
    for (const order of permutations(PRIORITIES)) {
      const allocator = new Allocator();
      const { ioasids, heard } = allocator;
      const set = allocator.mmSet();
      const id = ioasids.alloc(set, 1, 9);
      let found = NONE;
      for (const [name, priority] of order) {
        const lookUp = (): void => {
          found = ioasids.findBySpid(set, 50, false);
        };
        ioasids.registerNotifier(set, allocator.listener(name, priority, lookUp));
      }
      ioasids.attachSpid(id, 50);
      expect(heard.splice(0)).toEqual(PRIORITIES.map(([name]) => `${name} bind 1 50 0`));
      found = NONE;
      ioasids.detachSpid(id);
      expect(heard).toEqual(PRIORITIES.map(([name]) => `${name} unbind 1 50 0`));
      // It goes after they have heard of it.
      expect([found, ioasids.findBySpid(set, 50, false)]).toEqual([id, NONE]);
    }
  });

  test('priority orders the chain of the set and that of all ids together', () => {
    for (const order of permutations(PRIORITIES)) {
      const allocator = new Allocator();
      const { ioasids, heard } = allocator;
      const set = allocator.mmSet();
      for (const [name, priority] of order) {
        const onSet = name === 'CPU' || name === 'DEVICE';
        ioasids.registerNotifier(onSet ? set : null, allocator.listener(name, priority));
      }
      const id = ioasids.alloc(set, 1, 9);
      ioasids.get(set, id);
      heard.length = 0;
      ioasids.free(set, id);
      expect(heard.map((line) => line.split(' ')[0])).toEqual(['CPU', 'IOMMU', 'DEVICE', 'LAST']);
    }
  });

  test('equals are called in the order they came in, those of the set before those of all', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const set = allocator.mmSet();
    for (const name of ['all 1', 'all 2']) ioasids.registerNotifier(null, allocator.listener(name, IOASID_PRIO_DEVICE));
    for (const name of ['set 1', 'set 2']) ioasids.registerNotifier(set, allocator.listener(name, IOASID_PRIO_DEVICE));
    const id = ioasids.alloc(set, 1, 9);
    ioasids.get(set, id);
    heard.length = 0;
    ioasids.free(set, id);
    expect(heard.map((line) => line.slice(0, 5))).toEqual(['set 1', 'set 2', 'all 1', 'all 2']);
  });
});

describe('handlers', () => {
  test('may drop the last reference of others: the id is there until all have been called', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    ioasids.get(set, id);
    const states: unknown[] = [];
    const put = allocator.listener('first', IOASID_PRIO_CPU, () => states.push(ioasids.put(set, id)));
    const look = allocator.listener('second', IOASID_PRIO_LAST, () => states.push(ioasids.stateOf(id)));
    ioasids.registerNotifier(set, put);
    ioasids.registerNotifier(null, look);
    ioasids.free(set, id);
    expect([heard, states]).toEqual([
      [`first free 1 ${NONE} 0`, `second free 1 ${NONE} 0`],
      [false, 'free_pending'],
    ]);
    expect([ioasids.stateOf(id), set.count]).toEqual([null, 0]);
  });

  test('may drop more than that: the id is reclaimed once', () => {
    const allocator = new Allocator();
    const { ioasids, pasids } = allocator;
    const set = allocator.mmSet();
    const [id, next] = [ioasids.alloc(set, 1, 1), ioasids.alloc(set, 2, 2)];
    for (const one of [id, next]) ioasids.get(set, one);
    const drop = (): void => {
      for (const one of [id, next]) while (ioasids.referencesTo(one) > 0) ioasids.put(set, one);
    };
    ioasids.registerNotifier(set, allocator.listener('greedy', IOASID_PRIO_CPU, drop));
    ioasids.freeAllInSet(set);
    expect([set.count, pasids.size, allocator.heard]).toEqual([0, 0, [`greedy free 1 ${NONE} 0`]]);
    const reclaimed = allocator.traced.filter(({ name }) => name === 'ioasid_reclaim');
    expect(reclaimed).toEqual([id, next].map((gone) => ({ name: 'ioasid_reclaim', id: gone, set: set.id })));
  });

  test('start no notification of their own, but queue what does', () => {
    const allocator = new Allocator();
    const { ioasids, heard, kernel } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    ioasids.attachSpid(id, 50);
    const forbidden: (() => unknown)[] = [
      () => ioasids.detachSpid(id),
      () => ioasids.attachSpid(id, 51),
      () => ioasids.free(set, id),
      () => ioasids.freeAllInSet(set),
      () => ioasids.alloc(set, 1, 9),
    ];
    const handler = allocator.listener('iommu', IOASID_PRIO_IOMMU, ({ kind }) => {
      for (const call of forbidden) expect(call).toThrow(/inside a notification/);
      if (kind === 'free') kernel.queueWork(() => ioasids.detachSpid(id));
    });
    ioasids.registerNotifier(set, handler);
    ioasids.free(set, id);
    expect([heard, ioasids.stateOf(id)]).toEqual([['iommu free 1 50 0'], 'free_pending']);
    kernel.runWork();
    expect([heard, ioasids.stateOf(id)]).toEqual([['iommu free 1 50 0', 'iommu unbind 1 50 0'], null]);
  });

  test('have their queued work done in the order of the events', () => {
    const allocator = new Allocator();
    const { ioasids, kernel } = allocator;
    const set = allocator.mmSet();
    const done: string[] = [];
    for (const [name, priority] of PRIORITIES) {
      const later = ({ kind }: IoasidEvent): void => kernel.queueWork(() => done.push(`${kind} ${name}`));
      ioasids.registerNotifier(set, allocator.listener(name, priority, later));
    }
    const id = ioasids.alloc(set, 1, 9);
    ioasids.attachSpid(id, 50);
    kernel.runWork();
    expect(done).toEqual(['alloc', 'bind'].flatMap((kind) => PRIORITIES.map(([name]) => `${kind} ${name}`)));
  });

  test('that fail leave the allocator whole', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    ioasids.attachSpid(id, 50);
    const broken = allocator.listener('broken', IOASID_PRIO_CPU, () => {
      throw new RangeError('broken');
    });
    ioasids.registerNotifier(set, broken);
    expect(() => ioasids.free(set, id)).toThrow('broken');
    expect([ioasids.stateOf(id), ioasids.referencesTo(id)]).toEqual(['free_pending', 1]);
    expect(() => ioasids.detachSpid(id)).toThrow('broken');
    expect([ioasids.stateOf(id), set.count]).toEqual([null, 0]);
    ioasids.unregisterNotifier(set, broken);
    expect(ioasids.alloc(set, 1, 9)).toBe(id);
  });

  test('may come and go during an event: who goes is not called, who comes waits for the next', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    const [late, victim] = [allocator.listener('late', IOASID_PRIO_LAST), allocator.listener('victim', 1)];
    const meddler = allocator.listener('meddler', IOASID_PRIO_CPU, ({ kind }) => {
      if (kind !== 'bind') return;
      ioasids.unregisterNotifier(set, victim);
      ioasids.registerNotifier(set, late);
    });
    for (const notifier of [victim, meddler]) ioasids.registerNotifier(set, notifier);
    ioasids.attachSpid(id, 50);
    expect(heard.splice(0)).toEqual(['meddler bind 1 50 0']);
    ioasids.detachSpid(id);
    expect(heard).toEqual(['meddler unbind 1 50 0', 'late unbind 1 50 0']);
  });
});

describe('subscriptions', () => {
  test('to a set with ids hear nothing of what was before', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const set = allocator.mmSet();
    ioasids.attachSpid(ioasids.alloc(set, 1, 9), 50);
    ioasids.registerNotifier(set, allocator.listener('late', IOASID_PRIO_CPU));
    expect(heard).toEqual([]);
  });

  test('exist once on a chain, and end', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const set = allocator.mmSet();
    const listener = allocator.listener('x', IOASID_PRIO_CPU);
    for (const chain of [set, null]) {
      ioasids.registerNotifier(chain, listener);
      expect(refusal(() => ioasids.registerNotifier(chain, listener))).toBe('EEXIST');
    }
    for (const chain of [set, null, null]) ioasids.unregisterNotifier(chain, listener);
    const id = ioasids.alloc(set, 1, 9);
    ioasids.get(set, id);
    ioasids.free(set, id);
    expect(heard).toEqual([]);
  });

  test('to a process wait for its set, move there, and wait again when it is freed', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const [token, other] = [allocator.mm(), allocator.mm()];
    for (const [name, priority] of PRIORITIES.toReversed()) {
      ioasids.registerNotifierMm(token, allocator.listener(name, priority));
    }
    ioasids.alloc(allocator.mmSet(4, other), 1, 1);
    expect(heard).toEqual([]);
    for (let life = 0; life < 2; life++) {
      const set = allocator.mmSet(4, token);
      const id = ioasids.alloc(set, 2, 9);
      expect(heard.splice(0)).toEqual(PRIORITIES.map(([name]) => `${name} alloc 2 ${NONE} 1`));
      ioasids.free(set, id);
      ioasids.freeSet(set);
    }
  });

  test('to a process are refused twice, pending or not, and when its set has ids', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const token = allocator.mm();
    const [listener, late] = [allocator.listener('kvm', IOASID_PRIO_CPU), allocator.listener('late', 0)];
    const again = (): string | null => refusal(() => ioasids.registerNotifierMm(token, listener));
    expect([again(), again()]).toEqual([null, 'EBUSY']);
    // The same one for another process is another subscription.
    ioasids.registerNotifierMm(allocator.mm(), listener);
    const set = allocator.mmSet(4, token);
    expect(again()).toBe('EBUSY');
    const id = ioasids.alloc(set, 1, 9);
    expect(refusal(() => ioasids.registerNotifierMm(token, late))).toBe('EBUSY');
    ioasids.get(set, id);
    ioasids.free(set, id);
    expect(refusal(() => ioasids.registerNotifierMm(token, late))).toBe('EBUSY');
    ioasids.put(set, id);
    ioasids.registerNotifierMm(token, late);
    heard.length = 0;
    ioasids.alloc(set, 1, 9);
    expect(heard.map((line) => line.split(' ')[0])).toEqual(['kvm', 'late']);
  });

  test('to a process and to its set are told apart when they end', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const token = allocator.mm();
    const [viaMm, viaSet] = [allocator.listener('mm', IOASID_PRIO_CPU), allocator.listener('set', 0)];
    ioasids.registerNotifierMm(token, viaMm);
    const set = allocator.mmSet(4, token);
    ioasids.registerNotifier(set, viaSet);
    expect(refusal(() => ioasids.registerNotifier(set, viaMm))).toBe('EEXIST');
    expect(refusal(() => ioasids.registerNotifierMm(token, viaSet))).toBe('EBUSY');
    const who = (): string[] => {
      heard.length = 0;
      ioasids.free(set, ioasids.alloc(set, 1, 9));
      return heard.map((line) => line.split(' ')[0]!);
    };
    ioasids.unregisterNotifier(set, viaMm);
    ioasids.unregisterNotifierMm(token, viaSet);
    expect(who()).toEqual(['mm', 'set']);
    ioasids.unregisterNotifier(set, viaSet);
    expect(who()).toEqual(['mm']);
    ioasids.unregisterNotifierMm(token, viaMm);
    expect(who()).toEqual([]);
    // One to a set goes with the set.
    ioasids.registerNotifier(set, viaSet);
    ioasids.freeSet(set);
    const next = allocator.mmSet(4, token);
    ioasids.alloc(next, 1, 9);
    expect(heard).toEqual([]);
  });

  test('to a process can end while they wait', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const token = allocator.mm();
    const listener: IoasidNotifier = allocator.listener('kvm', IOASID_PRIO_CPU);
    ioasids.unregisterNotifierMm(token, listener);
    ioasids.registerNotifierMm(token, listener);
    ioasids.unregisterNotifierMm(token, listener);
    ioasids.alloc(allocator.mmSet(4, token), 1, 9);
    expect(heard).toEqual([]);
  });
});
