import { describe, expect, test } from 'vitest';
import { INVALID_IOASID, IOASID_SET_TYPE_MM, IOASID_SET_TYPE_NULL, IoasidCgroup } from '../../src/index.ts';
import { refusal } from '../support/fake-driver.ts';
import { Allocator } from './support.ts';

function tree(): { root: IoasidCgroup; parent: IoasidCgroup; child: IoasidCgroup; other: IoasidCgroup } {
  const root = new IoasidCgroup({ parent: null, name: 'root' });
  const parent = new IoasidCgroup({ parent: root, name: 'parent' });
  const child = new IoasidCgroup({ parent, name: 'child' });
  return { root, parent, child, other: new IoasidCgroup({ parent, name: 'other' }) };
}

describe('the files', () => {
  test('are 0 in a new group, and the root has none', () => {
    const { root, child } = tree();
    expect([child.max, child.current, child.events]).toEqual([0, 0, 0]);
    for (const read of [
      () => root.max,
      () => root.current,
      () => root.events,
      () => root.setMax(1),
      () => root.watchEvents(() => {}),
    ]) {
      expect(refusal(read)).toBe('ENOENT');
    }
  });

  test('max takes any other number or all, and nothing negative, broken or the same', () => {
    const { child } = tree();
    for (const limit of [0, -1, 0.5, Number.NaN, Number.NEGATIVE_INFINITY]) {
      expect(refusal(() => child.setMax(limit))).toBe('EINVAL');
    }
    for (const limit of [5, Number.POSITIVE_INFINITY, 0]) {
      child.setMax(limit);
      expect(child.max).toBe(limit);
      expect(refusal(() => child.setMax(limit))).toBe('EINVAL');
    }
  });
});

describe('ids', () => {
  test('of a process are charged to the group of its set and all above, until they are reclaimed', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const { root, parent, child, other } = tree();
    for (const group of [parent, child, other]) group.setMax(10);
    const token = allocator.mm();
    const set = ioasids.allocSet({ token, quota: 5, type: IOASID_SET_TYPE_MM, cgroup: child });
    const free = ioasids.allocSet({ token: allocator.mm(), quota: 5, type: IOASID_SET_TYPE_MM, cgroup: root });
    const used = (): number[] => [parent, child, other].map((group) => group.current);
    const [a, b] = [ioasids.alloc(set, 1, 9), ioasids.alloc(set, 1, 9)];
    ioasids.alloc(free, 1, 9);
    expect(used()).toEqual([2, 2, 0]);
    ioasids.get(set, a);
    ioasids.free(set, a);
    expect(used()).toEqual([2, 2, 0]);
    ioasids.put(set, a);
    expect(used()).toEqual([1, 1, 0]);
    token.release();
    ioasids.free(set, b);
    expect(used()).toEqual([0, 0, 0]);
  });

  test('of the host are not charged', () => {
    const { ioasids } = new Allocator();
    const { child, parent } = tree();
    const set = ioasids.allocSet({ token: null, quota: 5, type: IOASID_SET_TYPE_NULL, cgroup: child });
    const id = ioasids.alloc(set, 1, 9);
    expect([id, child.current, parent.current, child.events]).toEqual([1, 0, 0, 0]);
    ioasids.moveSet(set, parent);
    ioasids.free(set, id);
    expect([child.current, parent.current]).toEqual([0, 0]);
  });

  test('past a limit, here or above, are refused with EAGAIN and an event, and nothing else changes', () => {
    const allocator = new Allocator();
    const { ioasids, pasids } = allocator;
    const { parent, child, other } = tree();
    const setOf = (cgroup: IoasidCgroup) =>
      ioasids.allocSet({ token: allocator.mm(), quota: 5, type: IOASID_SET_TYPE_MM, cgroup });
    const [mine, theirs] = [setOf(child), setOf(other)];
    let told = 0;
    const stop = child.watchEvents(() => told++);
    // A new group may have nothing.
    expect(refusal(() => ioasids.alloc(mine, 1, 9))).toBe('EAGAIN');
    child.setMax(1);
    other.setMax(Number.POSITIVE_INFINITY);
    expect(refusal(() => ioasids.alloc(mine, 1, 9))).toBe('EAGAIN');
    parent.setMax(2);
    expect([ioasids.alloc(mine, 1, 9), told, child.events]).toEqual([1, 2, 2]);
    expect(refusal(() => ioasids.alloc(mine, 1, 9))).toBe('EAGAIN');
    expect([ioasids.alloc(theirs, 1, 9), refusal(() => ioasids.alloc(theirs, 1, 9))]).toEqual([2, 'EAGAIN']);
    expect([child, other, parent].map(({ current, events }) => [current, events])).toEqual([
      [1, 3],
      [1, 1],
      [2, 0],
    ]);
    expect([told, mine.count, theirs.count, pasids.size]).toEqual([3, 1, 1, 2]);
    stop();
    expect(refusal(() => ioasids.alloc(mine, 1, 9))).toBe('EAGAIN');
    expect([told, child.events]).toEqual([3, 4]);
  });

  test('that a full range or quota refuses are not charged, and quota comes before the group', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const { parent, child } = tree();
    const set = ioasids.allocSet({ token: allocator.mm(), quota: 1, type: IOASID_SET_TYPE_MM, cgroup: child });
    for (const group of [parent, child]) group.setMax(1);
    expect([ioasids.alloc(set, 0, 0), child.current, child.events]).toEqual([INVALID_IOASID, 0, 0]);
    expect([ioasids.alloc(set, 1, 1), child.current]).toEqual([1, 1]);
    expect([ioasids.alloc(set, 1, 1), child.current, child.events]).toEqual([INVALID_IOASID, 1, 0]);
  });

  test('are allocated for their own process only', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const token = allocator.mm();
    const [set, host] = [allocator.mmSet(5, token), allocator.hostSet()];
    for (const current of [allocator.mm(), null]) {
      expect(refusal(() => ioasids.alloc(set, 1, 9, null, current))).toBe('EPERM');
    }
    expect(ioasids.alloc(set, 1, 9, null, token)).toBe(1);
    expect(ioasids.alloc(host, 1, 9, null, token)).toBe(2);
  });

  test('move with their process past the limit, and none comes before there is room again', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const { parent, child, other } = tree();
    for (const group of [parent, child]) group.setMax(5);
    other.setMax(1);
    const set = ioasids.allocSet({ token: allocator.mm(), quota: 5, type: IOASID_SET_TYPE_MM, cgroup: child });
    const ids = [1, 2, 3].map((at) => ioasids.alloc(set, at, at));
    ioasids.moveSet(set, other);
    expect([child.current, other.current, other.max, parent.current]).toEqual([0, 3, 1, 3]);
    for (const id of ids) {
      expect(refusal(() => ioasids.alloc(set, 1, 9))).toBe('EAGAIN');
      ioasids.free(set, id);
    }
    expect([ioasids.alloc(set, 1, 9), other.current, parent.current]).toEqual([1, 1, 1]);
    ioasids.moveSet(set, null);
    expect([ioasids.alloc(set, 1, 9), other.current, parent.current]).toEqual([2, 0, 0]);
    ioasids.moveSet(set, child);
    expect([child.current, parent.current, child.events]).toEqual([2, 2, 0]);
  });

  test('stay when the limit goes below them', () => {
    const allocator = new Allocator();
    const { ioasids } = allocator;
    const { parent, child } = tree();
    for (const group of [parent, child]) group.setMax(2);
    const set = ioasids.allocSet({ token: allocator.mm(), quota: 5, type: IOASID_SET_TYPE_MM, cgroup: child });
    ioasids.alloc(set, 1, 9);
    ioasids.alloc(set, 1, 9);
    child.setMax(1);
    expect([child.current, child.max, set.count]).toEqual([2, 1, 2]);
    ioasids.free(set, 1);
    expect(refusal(() => ioasids.alloc(set, 1, 9))).toBe('EAGAIN');
  });
});
