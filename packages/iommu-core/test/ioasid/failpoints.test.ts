import { expect, test } from 'vitest';
import { INVALID_IOASID, IOASID_PRIO_CPU, IOASID_SET_TYPE_MM, IoasidCgroup } from '../../src/index.ts';
import { refusal } from '../support/fake-driver.ts';
import { Allocator, type Mm } from './support.ts';

const IDS = [1, 2, 3, 4];

class World extends Allocator {
  readonly root = new IoasidCgroup({ parent: null, name: 'root' });
  readonly group = new IoasidCgroup({ parent: this.root, name: 'group' });
  readonly mms: Mm[] = [this.mm(), this.mm()];

  snapshot(): unknown {
    const { ioasids, pasids, group } = this;
    return {
      available: ioasids.available,
      sets: this.mms.map((mm) => {
        const set = ioasids.findMmSet(mm);
        const watched = mm.notifiers.size;
        if (set === null) return { watched };
        const { count, chain } = set;
        return { set, count, watched, members: this.members(set), chain: chain.members.length, spids: set.spids.size };
      }),
      ids: IDS.map((id) => [ioasids.stateOf(id), ioasids.referencesTo(id), ioasids.spidOf(id)]),
      pasids: [pasids.size, pasids.parked],
      group: [group.current, group.events],
      heard: this.heard.length,
    };
  }

  /** Fails every failpoint of `operation` in turn; gives the names, in order. The last run must succeed. */
  sweep(operation: () => void): string[] {
    const names: string[] = [];
    const { failpoints } = this.kernel;
    for (let nth = 1; ; nth++) {
      const before = this.snapshot();
      failpoints.arm(nth);
      const outcome = refusal(operation);
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) {
        expect(outcome).toBeNull();
        expect(this.snapshot()).not.toEqual(before);
        return names;
      }
      names.push(hit);
      expect([hit, outcome]).toEqual([hit, 'ENOMEM']);
      expect([hit, this.snapshot()]).toEqual([hit, before]);
    }
  }
}

test('X5 making sets and ids, giving numbers and subscribing fail at every step without a trace', () => {
  const world = new World();
  const { ioasids, group } = world;
  group.setMax(3);
  const [first, second] = world.mms as [Mm, Mm];
  const listener = world.listener('kvm', IOASID_PRIO_CPU);
  expect(world.sweep(() => ioasids.registerNotifierMm(first, listener))).toEqual(['ioasid_notifier', 'ioasid_mm']);
  const make = (token: Mm) => () => ioasids.allocSet({ token, quota: 4, type: IOASID_SET_TYPE_MM, cgroup: group });
  expect(world.sweep(make(first))).toEqual(['ioasid_set']);
  expect(world.sweep(make(second))).toEqual(['ioasid_set', 'ioasid_mm']);
  const set = ioasids.findMmSet(first)!;
  expect(world.sweep(() => ioasids.registerNotifierMm(first, world.listener('vdcm', 0)))).toEqual(['ioasid_notifier']);
  expect(world.sweep(() => ioasids.alloc(set, 1, 4))).toEqual(['ioasid_data', 'global_pasid']);
  expect(world.sweep(() => ioasids.attachSpid(1, 50))).toEqual(['ioasid_spid']);
  expect(world.heard).toEqual(
    ['kvm', 'vdcm']
      .flatMap((who) => [`${who} alloc 1 ${INVALID_IOASID} 0`])
      .concat(['kvm', 'vdcm'].map((who) => `${who} bind 1 50 0`)),
  );
});

test('X6 what tears down passes no failpoint', () => {
  const world = new World();
  const { ioasids, group, kernel, pasids } = world;
  group.setMax(3);
  const before = world.snapshot();
  const [first] = world.mms as [Mm];
  const listener = world.listener('kvm', IOASID_PRIO_CPU);
  ioasids.registerNotifierMm(first, listener);
  const set = ioasids.allocSet({ token: first, quota: 4, type: IOASID_SET_TYPE_MM, cgroup: group });
  const [id, other] = [ioasids.alloc(set, 1, 9), ioasids.alloc(set, 1, 9)];
  ioasids.attachSpid(id, 50);
  ioasids.get(set, other);
  kernel.failpoints.arm(1);
  ioasids.freeAllInSet(set);
  ioasids.detachSpid(id);
  ioasids.put(set, other);
  ioasids.freeSet(set);
  ioasids.unregisterNotifierMm(first, listener);
  expect([kernel.failpoints.count, kernel.failpoints.hit]).toEqual([0, null]);
  kernel.failpoints.arm(0);
  world.heard.length = 0;
  expect([world.snapshot(), pasids.size, first.notifiers.size]).toEqual([before, 0, 0]);
});
