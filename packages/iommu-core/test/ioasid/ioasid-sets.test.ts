import { describe, expect, test } from 'vitest';
import {
  GlobalPasids,
  INVALID_IOASID,
  IOASID_PRIO_CPU,
  IOASID_SET_TYPE_MM,
  IOASID_SET_TYPE_NULL,
  Ioasids,
} from '../../src/index.ts';
import { testKernel } from '../process/support.ts';
import { fakeKernel, refusal } from '../support/fake-driver.ts';
import { Allocator } from './support.ts';

const MM = IOASID_SET_TYPE_MM;
const NULL = IOASID_SET_TYPE_NULL;

describe('capacity', () => {
  test('is 2^20 until it is installed, once, before anything is promised', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    expect([ioasids.capacity, ioasids.available]).toEqual([2 ** 20, 2 ** 20]);
    for (const total of [0, -1, 1.5, 2 ** 20 + 1]) expect(refusal(() => ioasids.installCapacity(total))).toBe('EINVAL');
    ioasids.installCapacity(100);
    expect([ioasids.capacity, ioasids.available]).toEqual([100, 100]);
    expect(allocator.ignored).toEqual([]);
  });

  test('installed a second time, or after a promise, is ignored', () => {
    const first = new Allocator();
    first.ioasids.installCapacity(100);
    first.ioasids.installCapacity(200);
    expect(first.ioasids.capacity).toBe(100);
    expect(first.ignored).toEqual(['ioasid_install_capacity installed']);
    const second = new Allocator();
    second.hostSet(5);
    second.ioasids.installCapacity(3);
    expect([second.ioasids.capacity, second.ioasids.available]).toEqual([2 ** 20, 2 ** 20 - 5]);
    expect(second.ignored).toEqual(['ioasid_install_capacity installed']);
  });

  test('is reserved up to what is left, with 0 for all of it', () => {
    const { ioasids } = new Allocator();
    ioasids.installCapacity(100);
    expect(refusal(() => ioasids.reserveCapacity(101))).toBe('ENOSPC');
    for (const count of [-1, 0.5]) expect(refusal(() => ioasids.reserveCapacity(count))).toBe('EINVAL');
    expect(ioasids.reserveCapacity(30)).toBe(30);
    expect(ioasids.available).toBe(70);
    expect(ioasids.reserveCapacity(0)).toBe(70);
    expect(ioasids.available).toBe(0);
    expect(refusal(() => ioasids.reserveCapacity(1))).toBe('ENOSPC');
    expect(ioasids.reserveCapacity(0)).toBe(0);
  });

  test('is cancelled up to what is reserved, and never out of the quota of a set', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    ioasids.installCapacity(100);
    allocator.hostSet(40);
    ioasids.reserveCapacity(20);
    for (const count of [21, 101, -1]) expect(refusal(() => ioasids.cancelCapacity(count))).toBe('EINVAL');
    expect(ioasids.cancelCapacity(5)).toBe(45);
    expect(ioasids.cancelCapacity(15)).toBe(60);
    expect(refusal(() => ioasids.cancelCapacity(1))).toBe('EINVAL');
    expect(ioasids.available).toBe(60);
  });
});

describe('sets', () => {
  test('B1 a quota above what is available is refused, and quota 0 takes all', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    ioasids.installCapacity(100);
    expect(refusal(() => allocator.hostSet(101))).toBe('ENOSPC');
    expect(ioasids.available).toBe(100);
    const all = allocator.hostSet(0);
    expect([all.quota, ioasids.available]).toEqual([100, 0]);
    expect(refusal(() => allocator.hostSet(1))).toBe('ENOSPC');
    expect(allocator.hostSet(0).quota).toBe(0);
    for (const quota of [-1, 1.5, Number.NaN]) expect(refusal(() => allocator.hostSet(quota))).toBe('EINVAL');
  });

  test('B2 a token is an address space with one set, or none, as the type wants it', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const token = allocator.mm();
    const set = allocator.mmSet(4, token);
    expect([set.type, set.token, set.quota, set.count]).toEqual([MM, token, 4, 0]);
    const refused = { token, quota: 1, type: MM };
    expect(refusal(() => ioasids.allocSet(refused))).toBe('EEXIST');
    expect(refusal(() => ioasids.allocSet({ ...refused, token: null }))).toBe('EINVAL');
    expect(refusal(() => ioasids.allocSet({ ...refused, type: NULL }))).toBe('EINVAL');
    for (const type of [0, -1, 3, 99, Number.NaN]) {
      expect(refusal(() => ioasids.allocSet({ token: null, quota: 1, type }))).toBe('EINVAL');
    }
    expect(ioasids.available).toBe(ioasids.capacity - 4);
    const hostSets = [allocator.hostSet(1), allocator.hostSet(1)];
    expect(hostSets.map(({ id }) => id)).toEqual([1, 2]);
    ioasids.freeSet(hostSets[0]!);
    expect([allocator.hostSet(1).id, allocator.hostSet(1).id]).toEqual([1, 3]);
  });

  test('checks come in the order of the proposal: type, capacity, token', () => {
    const { ioasids } = new Allocator();
    ioasids.installCapacity(1);
    expect(refusal(() => ioasids.allocSet({ token: null, quota: 2, type: 99 }))).toBe('EINVAL');
    expect(refusal(() => ioasids.allocSet({ token: null, quota: 2, type: MM }))).toBe('ENOSPC');
    expect(refusal(() => ioasids.allocSet({ token: null, quota: 2, type: 0 }))).toBe('ENOSPC');
  });

  test('B3 a set gives as many ids as its quota says, and another when one is free again', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.mmSet(2);
    const ids = [ioasids.alloc(set, 10, 20), ioasids.alloc(set, 10, 20)];
    expect([...ids, ioasids.alloc(set, 10, 20), set.count]).toEqual([10, 11, INVALID_IOASID, 2]);
    ioasids.free(set, 10);
    expect(ioasids.alloc(set, 10, 20)).toBe(10);
    expect(ioasids.alloc(allocator.hostSet(1), 10, 20)).toBe(12);
  });

  test('B4 a set with an id cannot be freed, and an empty one gives its quota back', () => {
    const allocator = new Allocator();
    const { ioasids, pasids } = allocator;
    const set = allocator.mmSet(4);
    const id = ioasids.alloc(set, 1, 9);
    expect(refusal(() => ioasids.freeSet(set))).toBe('EBUSY');
    expect(ioasids.available).toBe(ioasids.capacity - 4);
    ioasids.free(set, id);
    // It is not destroyed because its last id went.
    expect([ioasids.findMmSet(set.token!), ioasids.alloc(set, 1, 9)]).toEqual([set, id]);
    ioasids.free(set, id);
    ioasids.freeSet(set);
    expect([ioasids.available, pasids.size]).toEqual([ioasids.capacity, 0]);
    expect(refusal(() => ioasids.freeSet(set))).toBe('EINVAL');
    expect(ioasids.available).toBe(ioasids.capacity);
  });

  test('a set that is freed, or another allocator’s, is no set', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const kernel = fakeKernel();
    const other = new Ioasids({ kernel, pasids: new GlobalPasids(kernel) });
    const [freed, foreign] = [allocator.hostSet(), other.allocSet({ token: null, quota: 5, type: NULL })];
    ioasids.freeSet(freed);
    const own = allocator.hostSet();
    // The same number, at once.
    expect([own.id, foreign.id]).toEqual([freed.id, freed.id]);
    for (const set of [freed, foreign]) {
      expect(ioasids.alloc(set, 1, 9)).toBe(INVALID_IOASID);
      expect(ioasids.findBySpid(set, 1, false)).toBe(INVALID_IOASID);
      expect(refusal(() => ioasids.freeSet(set))).toBe('EINVAL');
      expect(refusal(() => ioasids.moveSet(set, null))).toBe('EINVAL');
      expect(refusal(() => ioasids.registerNotifier(set, allocator.listener('x', IOASID_PRIO_CPU)))).toBe('EINVAL');
      ioasids.unregisterNotifier(set, allocator.listener('x', IOASID_PRIO_CPU));
      ioasids.freeAllInSet(set);
      expect(allocator.members(set)).toEqual([]);
    }
    expect(allocator.ignored).toEqual(['ioasid_free_all_in_set unknown', 'ioasid_free_all_in_set unknown']);
  });

  test('a new set of the same token has none of the ids that are not reclaimed yet', () => {
    const allocator = new Allocator();
    const { ioasids, pasids } = allocator;
    pasids.addReferrer((pasid) => (pasid === 5 ? 'a table' : null));
    const token = allocator.mm();
    const first = allocator.mmSet(4, token);
    ioasids.free(first, ioasids.alloc(first, 5, 6));
    ioasids.freeSet(first);
    expect([ioasids.alloc(allocator.mmSet(4, token), 5, 6), pasids.parked]).toEqual([6, [5]]);
  });

  test('the set of a process is found by its address space', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const [one, two] = [allocator.mm(), allocator.mm()];
    expect(ioasids.findMmSet(one)).toBeNull();
    const sets = [allocator.mmSet(1, one), allocator.mmSet(1, two)];
    expect([ioasids.findMmSet(one), ioasids.findMmSet(two)]).toEqual(sets);
    ioasids.freeSet(sets[0]!);
    expect(ioasids.findMmSet(one)).toBeNull();
  });

  test('the ids of a set are visited ascending, freed ones too, and the visitor may free them', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.hostSet();
    for (const at of [7, 3, 5]) ioasids.alloc(set, at, at);
    ioasids.get(set, 5);
    ioasids.free(set, 5);
    expect(allocator.members(set)).toEqual([3, 5, 7]);
    const visited: number[] = [];
    ioasids.forEach(set, (id) => {
      visited.push(id);
      ioasids.free(set, id);
    });
    expect([visited, allocator.members(set), set.count]).toEqual([[3, 5, 7], [5], 1]);
  });
});

describe('an address space that goes away', () => {
  test('leaves set and ids to those who hold them, and the set gives out no more', () => {
    const allocator = new Allocator();
    const { ioasids, pasids } = allocator;
    const token = allocator.mm();
    const set = allocator.mmSet(4, token);
    const id = ioasids.alloc(set, 1, 9);
    ioasids.attachSpid(id, 77);
    token.release();
    expect(ioasids.alloc(set, 1, 9)).toBe(INVALID_IOASID);
    expect([ioasids.findMmSet(token), ioasids.findBySpid(set, 77, false), ioasids.stateOf(id)]).toEqual([
      set,
      id,
      'active',
    ]);
    ioasids.detachSpid(id);
    ioasids.free(set, id);
    ioasids.freeSet(set);
    expect([ioasids.findMmSet(token), ioasids.available, pasids.size]).toEqual([null, ioasids.capacity, 0]);
    expect(refusal(() => allocator.mmSet(1, token))).toBe('EINVAL');
    expect(ioasids.available).toBe(ioasids.capacity);
  });

  test('takes the subscriptions that wait for its set with it, and the others go with the set', () => {
    const allocator = new Allocator();
    const { ioasids, heard } = allocator;
    const waiting = allocator.mm();
    const listener = allocator.listener('kvm', IOASID_PRIO_CPU);
    ioasids.registerNotifierMm(waiting, listener);
    waiting.release();
    expect(refusal(() => ioasids.registerNotifierMm(waiting, listener))).toBe('EINVAL');
    ioasids.unregisterNotifierMm(waiting, listener);

    const token = allocator.mm();
    const set = allocator.mmSet(4, token);
    ioasids.registerNotifierMm(token, listener);
    const id = ioasids.alloc(set, 1, 9);
    token.release();
    ioasids.get(set, id);
    ioasids.free(set, id);
    expect(heard).toEqual([`kvm alloc 1 ${INVALID_IOASID} 0`, `kvm free 1 ${INVALID_IOASID} 0`]);
    ioasids.put(set, id);
    ioasids.freeSet(set);
    expect(refusal(() => ioasids.registerNotifierMm(token, listener))).toBe('EINVAL');
  });

  test('is watched while it has a set or a subscription, and no longer', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const token = allocator.mm();
    const listener = allocator.listener('kvm', IOASID_PRIO_CPU);
    const watchers = (): number => token.notifiers.size;
    ioasids.registerNotifierMm(token, listener);
    const set = allocator.mmSet(4, token);
    expect(watchers()).toBe(1);
    ioasids.unregisterNotifierMm(token, listener);
    expect(watchers()).toBe(1);
    ioasids.registerNotifierMm(token, listener);
    ioasids.freeSet(set);
    expect(watchers()).toBe(1);
    ioasids.unregisterNotifierMm(token, listener);
    expect(watchers()).toBe(0);
  });

  test('is noticed when the process exits', () => {
    const { kernel, processes } = testKernel();
    const ioasids = new Ioasids({ kernel, pasids: new GlobalPasids(kernel) });
    const process = processes.spawn();
    const set = ioasids.allocSet({ token: process.addressSpace, quota: 2, type: MM });
    expect(ioasids.alloc(set, 1, 9)).toBe(1);
    process.exit();
    expect(ioasids.alloc(set, 1, 9)).toBe(INVALID_IOASID);
  });

  test('before anybody asked has no set and no subscriptions either', () => {
    const { kernel, processes } = testKernel();
    const ioasids = new Ioasids({ kernel, pasids: new GlobalPasids(kernel) });
    const process = processes.spawn();
    const { addressSpace: token } = process;
    expect(token.alive).toBe(true);
    process.exit();
    expect(token.alive).toBe(false);
    expect(refusal(() => ioasids.allocSet({ token, quota: 2, type: MM }))).toBe('EINVAL');
    const notifier = { priority: IOASID_PRIO_CPU, notify: () => {} };
    expect(refusal(() => ioasids.registerNotifierMm(token, notifier))).toBe('EINVAL');
    expect([ioasids.findMmSet(token), ioasids.available]).toEqual([null, ioasids.capacity]);
  });
});
