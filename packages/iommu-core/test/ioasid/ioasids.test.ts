import { describe, expect, test } from 'vitest';
import {
  attachDevicePasid,
  detachDevicePasid,
  INVALID_IOASID,
  IOASID_SET_TYPE_MM,
  IOASID_SET_TYPE_NULL,
  Processes,
} from '../../src/index.ts';
import { mapPage, pagingDomain } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';
import { Allocator } from './support.ts';

const NONE = INVALID_IOASID;

describe('ids', () => {
  test('are the lowest of a range of PASIDs', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.hostSet(0);
    expect([ioasids.alloc(set, 0, 2), ioasids.alloc(set, 0, 2), ioasids.alloc(set, 0, 2)]).toEqual([1, 2, NONE]);
    expect([ioasids.alloc(set, 9, 8), ioasids.alloc(set, 0, 0), ioasids.alloc(set, Number.NaN, 9)]).toEqual([
      NONE,
      NONE,
      NONE,
    ]);
    const last = 2 ** 20 - 1;
    expect([ioasids.alloc(set, last, NONE), ioasids.alloc(set, last, NONE)]).toEqual([last, NONE]);
    expect(ioasids.alloc(set, last + 1, NONE)).toBe(NONE);
    expect(set.count).toBe(3);
  });

  test('are idle with their owner’s reference, and active, then pending with others', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.hostSet();
    const id = ioasids.alloc(set, 1, 9);
    const seen = (): unknown => [ioasids.stateOf(id), ioasids.referencesTo(id), ioasids.spidOf(id)];
    expect(seen()).toEqual(['idle', 1, NONE]);
    ioasids.get(set, id);
    expect(seen()).toEqual(['active', 2, NONE]);
    expect(ioasids.put(set, id)).toBe(false);
    expect(seen()).toEqual(['idle', 1, NONE]);
    ioasids.get(set, id);
    ioasids.free(set, id);
    expect(seen()).toEqual(['free_pending', 1, NONE]);
    expect(ioasids.put(set, id)).toBe(true);
    expect(seen()).toEqual([null, 0, NONE]);
  });

  test('B5 an id is referenced through its own set, or without a set', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const [one, two] = [allocator.mmSet(), allocator.mmSet()];
    const id = ioasids.alloc(one, 1, 9);
    expect(refusal(() => ioasids.get(two, id))).toBe('EACCES');
    expect(refusal(() => ioasids.get(one, 9))).toBe('EINVAL');
    expect(refusal(() => ioasids.get(null, NONE))).toBe('EINVAL');
    expect(ioasids.referencesTo(id)).toBe(1);
    ioasids.get(null, id);
    ioasids.get(one, id);
    expect(ioasids.referencesTo(id)).toBe(3);
  });

  test('a reference is dropped through its own set, or without one', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const [one, two] = [allocator.mmSet(), allocator.mmSet()];
    const id = ioasids.alloc(one, 1, 9);
    ioasids.get(one, id);
    expect([ioasids.put(two, id), ioasids.put(null, 8), ioasids.referencesTo(id)]).toEqual([false, false, 2]);
    expect([ioasids.put(null, id), ioasids.referencesTo(id), one.count]).toEqual([false, 1, 1]);
    // The owner's reference is one like the others.
    expect([ioasids.put(one, id), ioasids.stateOf(id), one.count]).toEqual([true, null, 0]);
    expect(ioasids.put(one, id)).toBe(false);
  });

  test('B7 an id that its owner has freed cannot be referenced', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const [set, other] = [allocator.mmSet(), allocator.mmSet()];
    const id = ioasids.alloc(set, 1, 9);
    ioasids.get(set, id);
    ioasids.free(set, id);
    for (const within of [set, null, other]) expect(refusal(() => ioasids.get(within, id))).toBe('EBUSY');
    expect(refusal(() => ioasids.getIfOwned(id, set.token!))).toBe('EBUSY');
    expect(refusal(() => ioasids.attachSpid(id, 1))).toBe('EBUSY');
    expect(ioasids.referencesTo(id)).toBe(1);
  });

  test('B8 an id that its owner has freed is given again after the last reference is gone', () => {
    const allocator = new Allocator();
    const { ioasids, pasids } = allocator;
    const [set, other] = [allocator.mmSet(), allocator.mmSet()];
    const id = ioasids.alloc(set, 5, 5);
    ioasids.get(set, id);
    ioasids.get(set, id);
    ioasids.free(set, id);
    for (const within of [set, other, set]) expect(ioasids.alloc(within, id, id)).toBe(NONE);
    expect(ioasids.put(set, id)).toBe(false);
    expect([ioasids.alloc(other, id, id), pasids.size, set.count]).toEqual([NONE, 1, 1]);
    expect(ioasids.put(set, id)).toBe(true);
    expect([ioasids.alloc(other, id, id), set.count, other.count]).toEqual([id, 0, 1]);
    expect(ioasids.findSet(id)).toBe(other);
  });

  test('free of an unknown id, in another set or in none does nothing', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const [set, other] = [allocator.mmSet(), allocator.mmSet()];
    const id = ioasids.alloc(set, 1, 9);
    ioasids.free(set, 9);
    ioasids.free(other, id);
    ioasids.free(null, id);
    expect(ioasids.stateOf(id)).toBe('idle');
    expect(allocator.ignored).toEqual(['ioasid_free unknown', 'ioasid_free wrong_set', 'ioasid_free wrong_set']);
  });

  test('a freed id can be freed again without effect until it is gone', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    ioasids.get(set, id);
    for (let times = 0; times < 3; times++) ioasids.free(set, id);
    expect(ioasids.referencesTo(id)).toBe(1);
    expect(allocator.ignored).toEqual([]);
    ioasids.put(set, id);
    ioasids.free(set, id);
    expect(allocator.ignored).toEqual(['ioasid_free unknown']);
  });

  test('freeing all ids of a set leaves those with users in it, counted, found and only to be put', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.mmSet();
    const [idle, used, bound] = [1, 2, 3].map((at) => ioasids.alloc(set, at, at, `data ${at}`));
    ioasids.get(set, used!);
    ioasids.attachSpid(used!, 102);
    ioasids.attachSpid(bound!, 103);
    ioasids.freeAllInSet(set);
    ioasids.freeAllInSet(set);
    expect([ioasids.stateOf(idle!), ioasids.stateOf(used!), ioasids.stateOf(bound!)]).toEqual([
      null,
      'free_pending',
      'free_pending',
    ]);
    expect([allocator.members(set), set.count]).toEqual([[2, 3], 2]);
    expect([ioasids.findBySpid(set, 102, false), ioasids.findBySpid(set, 102, true)]).toEqual([used, NONE]);
    expect([ioasids.find(set, used!), ioasids.findSet(used!)]).toEqual(['data 2', set]);
    expect(refusal(() => ioasids.freeSet(set))).toBe('EBUSY');
    ioasids.detachSpid(used!);
    expect(ioasids.put(set, used!)).toBe(true);
    ioasids.detachSpid(bound!);
    expect(set.count).toBe(0);
    ioasids.freeSet(set);
  });

  test('data is found by whoever may look into the set', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const [set, other] = [allocator.mmSet(), allocator.mmSet()];
    const id = ioasids.alloc(set, 1, 9, 'first');
    expect(refusal(() => ioasids.find(set, 9))).toBe('ENOENT');
    expect(refusal(() => ioasids.find(other, id))).toBe('EACCES');
    expect([ioasids.find(set, id), ioasids.find(null, id)]).toEqual(['first', 'first']);
    const asked: unknown[] = [];
    const answer = (wanted: boolean) => (data: unknown) => {
      asked.push(data);
      return wanted;
    };
    expect([ioasids.find(set, id, answer(true)), ioasids.find(set, id, answer(false))]).toEqual(['first', null]);
    expect(asked).toEqual(['first', 'first']);
    expect(refusal(() => ioasids.findSet(9))).toBe('ENOENT');
    expect(ioasids.findSet(id)).toBe(set);
  });

  test('data is attached to an id that has none, and detached', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    expect(ioasids.find(set, id)).toBeNull();
    expect(refusal(() => ioasids.attachData(9, 'x'))).toBe('ENOENT');
    ioasids.attachData(id, 'first');
    expect(refusal(() => ioasids.attachData(id, 'second'))).toBe('EBUSY');
    expect(ioasids.find(set, id)).toBe('first');
    ioasids.detachData(id);
    ioasids.detachData(id);
    expect(ioasids.find(set, id)).toBeNull();
    ioasids.attachData(id, 'second');
    expect(ioasids.find(set, id)).toBe('second');
    ioasids.detachData(9);
    expect(allocator.ignored).toEqual(['ioasid_detach_data unknown']);
  });

  test('B15 an id is its owner’s: another process, an id of the host and an unknown id are refused', () => {
    const machine = new Machine();
    const { ioasids } = machine.core;
    const processes = new Processes(machine.kernel);
    const [owner, other] = [processes.spawn().addressSpace, processes.spawn().addressSpace];
    const set = ioasids.allocSet({ token: owner, quota: 4, type: IOASID_SET_TYPE_MM });
    const host = ioasids.allocSet({ token: null, quota: 4, type: IOASID_SET_TYPE_NULL });
    const [id, hostId] = [ioasids.alloc(set, 1, 99), ioasids.alloc(host, 1, 99)];
    expect(refusal(() => ioasids.getIfOwned(99, owner))).toBe('ENOENT');
    expect(refusal(() => ioasids.getIfOwned(hostId, owner))).toBe('EINVAL');
    expect(refusal(() => ioasids.getIfOwned(id, other))).toBe('EPERM');
    expect([ioasids.referencesTo(id), ioasids.referencesTo(hostId)]).toEqual([1, 1]);
    ioasids.getIfOwned(id, owner);
    expect([ioasids.referencesTo(id), ioasids.put(set, id)]).toEqual([2, false]);
  });
});

describe('SPIDs', () => {
  test('B10 the same number in two sets names two ids', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const [one, two] = [allocator.mmSet(), allocator.mmSet()];
    expect([ioasids.alloc(one, 201, 201), ioasids.alloc(two, 202, 202)]).toEqual([201, 202]);
    ioasids.attachSpid(201, 101);
    ioasids.attachSpid(202, 101);
    expect([ioasids.findBySpid(one, 101, false), ioasids.findBySpid(two, 101, false)]).toEqual([201, 202]);
    expect([ioasids.spidOf(201), ioasids.spidOf(202)]).toEqual([101, 101]);
    ioasids.detachSpid(201);
    expect([ioasids.findBySpid(one, 101, false), ioasids.findBySpid(two, 101, false)]).toEqual([NONE, 202]);
    expect([ioasids.spidOf(201), ioasids.spidOf(7)]).toEqual([NONE, NONE]);
  });

  test('B11 a number is given once in a set, to an id that exists and has none', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.mmSet();
    const [id, other] = [ioasids.alloc(set, 1, 9), ioasids.alloc(set, 1, 9)];
    ioasids.attachSpid(id, 101);
    expect(refusal(() => ioasids.attachSpid(other, 101))).toBe('EINVAL');
    expect(refusal(() => ioasids.attachSpid(id, 101))).toBe('EINVAL');
    for (const spid of [NONE, NONE + 1, -1, 0.5]) expect(refusal(() => ioasids.attachSpid(other, spid))).toBe('EINVAL');
    expect(refusal(() => ioasids.attachSpid(9, NONE))).toBe('EINVAL');
    expect(refusal(() => ioasids.attachSpid(9, 102))).toBe('ENOENT');
    expect(refusal(() => ioasids.attachSpid(id, 102))).toBe('EBUSY');
    expect([ioasids.spidOf(id), ioasids.spidOf(other), ioasids.findBySpid(set, 102, false)]).toEqual([101, NONE, NONE]);
    ioasids.attachSpid(other, 0);
    expect(ioasids.findBySpid(set, 0, false)).toBe(other);
    ioasids.detachSpid(id);
    ioasids.attachSpid(id, NONE - 1);
    expect(ioasids.findBySpid(set, NONE - 1, false)).toBe(id);
  });

  test('a look-up can take a reference with it', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const set = allocator.mmSet();
    const id = ioasids.alloc(set, 1, 9);
    ioasids.attachSpid(id, 7);
    expect([ioasids.findBySpid(set, 7, false), ioasids.referencesTo(id)]).toEqual([id, 2]);
    expect([ioasids.findBySpid(set, 7, true), ioasids.referencesTo(id)]).toEqual([id, 3]);
    expect([ioasids.findBySpid(set, 8, true), ioasids.referencesTo(id)]).toEqual([NONE, 3]);
  });

  test('a number that is attached holds its id, whatever is put and freed', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const [freed, dropped] = [allocator.mmSet(), allocator.mmSet()];
    const [a, b] = [ioasids.alloc(freed, 1, 9), ioasids.alloc(dropped, 1, 9)];
    ioasids.attachSpid(a, 7);
    ioasids.attachSpid(b, 7);
    expect([ioasids.stateOf(a), ioasids.stateOf(b)]).toEqual(['active', 'active']);
    ioasids.free(freed, a);
    expect([ioasids.stateOf(a), ioasids.put(freed, a), ioasids.stateOf(a)]).toEqual([
      'free_pending',
      false,
      'free_pending',
    ]);
    expect([ioasids.put(dropped, b), ioasids.put(dropped, b), ioasids.stateOf(b)]).toEqual([false, false, 'active']);
    ioasids.free(dropped, b);
    expect(ioasids.stateOf(b)).toBe('free_pending');
    ioasids.detachSpid(a);
    ioasids.detachSpid(b);
    expect([freed.count, dropped.count]).toEqual([0, 0]);
  });

  test('detaching where there is nothing does nothing', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const id = ioasids.alloc(allocator.mmSet(), 1, 9);
    ioasids.detachSpid(id);
    ioasids.detachSpid(9);
    expect(allocator.ignored).toEqual(['ioasid_detach_spid no_spid', 'ioasid_detach_spid unknown']);
    expect(ioasids.referencesTo(id)).toBe(1);
  });
});

describe('the system’s PASIDs', () => {
  const IOVA = 0x20_0000n;

  test('ids and the PASIDs of shared virtual addressing never meet', () => {
    const machine = new Machine();
    const { ioasids, sva, pasids } = machine.core;
    const device = machine.add();
    const processes = new Processes(machine.kernel);
    const set = ioasids.allocSet({ token: null, quota: 0, type: IOASID_SET_TYPE_NULL });
    const first = ioasids.alloc(set, 1, 3);
    const handle = sva.bind(device.device, processes.spawn().addressSpace);
    expect([first, handle.pasid, ioasids.alloc(set, 1, 3), ioasids.alloc(set, 1, 3)]).toEqual([1, 2, 3, NONE]);
    expect(ioasids.stateOf(handle.pasid)).toBeNull();
    expect(refusal(() => ioasids.get(null, handle.pasid))).toBe('EINVAL');
    sva.unbind(handle);
    expect([ioasids.alloc(set, 1, 3), pasids.size]).toEqual([2, 3]);
  });

  test('an id without references is not given again while a device still reaches memory by it', () => {
    const machine = new Machine();
    const { ioasids, pasids } = machine.core;
    const device = machine.add();
    const domain = pagingDomain(device);
    mapPage(domain, IOVA, machine.frame(0x5a));
    const set = ioasids.allocSet({ token: null, quota: 1, type: IOASID_SET_TYPE_NULL });
    const id = ioasids.alloc(set, 40, 40);
    attachDevicePasid(device.device, id, { domain });
    ioasids.free(set, id);
    // The quota is free again; the number is not.
    expect([set.count, ioasids.stateOf(id), pasids.size, pasids.parked]).toEqual([0, null, 0, [id]]);
    expect(ioasids.alloc(set, id, id)).toBe(NONE);
    expect(device.read(IOVA, { pasid: id })).toBe(0x5a);
    detachDevicePasid(device.device, id);
    expect(device.read(IOVA, { pasid: id })).toBeNull();
    expect([ioasids.alloc(set, id, id), pasids.parked]).toEqual([id, []]);
  });
});
