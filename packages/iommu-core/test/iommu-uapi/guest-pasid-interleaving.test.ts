/**
 * What work that runs while a call waits for hardware does to the call. Taking down always waits; making waits on a unit
 * that caches absence. Elsewhere the work runs right after the call.
 */

import { describe, expect, test } from 'vitest';
import { INVALID_IOASID } from '../../src/index.ts';
import { refusal } from '../support/fake-driver.ts';
import { bindable, bindData, eventsOf, GPASID, GVA, watchersOf, withSpid } from './support.ts';

const MODES = [{ cachingMode: false }, { cachingMode: true }] as const;
const SPIDS = [
  { given: 'no guest PASID', spid: {} },
  { given: 'a guest PASID', spid: withSpid() },
] as const;

/** A PASID of a VM that has two devices, to be bound. */
function ready(features: { cachingMode: boolean }) {
  const state = bindable({ features });
  const { machine, vm, device, second, guestPasids, ioasids, pasid, table } = state;
  vm.take(second);
  const watchers = watchersOf(vm.mm);
  const domains = machine.driver.unit.domainIds.used;
  const engines = [device, second];

  /** How `body` ends when `step` is the work that waits: inside the call, or after it. */
  function during(inside: boolean, body: () => void, step: () => void): string | null {
    let returned = false;
    let within = false;
    const outcome = machine.kernel.call('test', () => {
      machine.kernel.queueWork(() => {
        within = !returned;
        step();
      });
      const code = refusal(body);
      returned = true;
      return code;
    });
    expect(within).toBe(inside);
    return outcome;
  }

  function reads(): (number | null)[] {
    return engines.map((one) => one.read(GVA, { pasid }));
  }

  /** Nothing is bound; `references` are those of the PASID's owner. */
  function expectNothing(references: number): void {
    for (const { device: one } of engines) {
      expect(machine.driver.unit.devices.get(one.rid)?.pasidTable.tag(pasid) ?? null).toBeNull();
      expect([[...one.group.pasidHandles.keys()], [...one.authorizedPasids]]).toEqual([[], []]);
      expect(guestPasids.find(one, pasid)).toBeNull();
    }
    expect([guestPasids.size, watchers(), machine.driver.unit.domainIds.used]).toEqual([0, 0, domains]);
    expect([ioasids.referencesTo(pasid), ioasids.spidOf(pasid)]).toEqual([references, INVALID_IOASID]);
  }

  const data = (id: number, changes = {}) => bindData(id, table.root, changes);
  const unbind = (one = device): void => guestPasids.unbind(one.device, vm.mm, pasid);
  return { ...state, during, reads, expectNothing, data, unbind };
}

describe.each(MODES)('while a bind waits, absence cached: $cachingMode', (features) => {
  const { cachingMode } = features;

  describe.each(SPIDS)('with $given', ({ spid }) => {
    test('its PASID is freed: nothing of it stays', () => {
      const { vm, ioasids, pasid, bind, during, reads, expectNothing } = ready(features);
      const outcome = during(
        cachingMode,
        () => bind(spid),
        () => ioasids.free(vm.set, pasid),
      );
      expect([outcome, reads()]).toEqual([cachingMode ? 'EBUSY' : null, [null, null]]);
      expectNothing(0);
      expect(ioasids.alloc(vm.set, pasid, pasid)).toBe(pasid);
      bind(spid);
      expect(reads()).toEqual([40, null]);
    });

    test('its process ends: nothing of it stays', () => {
      const { vm, bind, during, reads, expectNothing } = ready(features);
      const outcome = during(
        cachingMode,
        () => bind(spid),
        () => vm.process.exit(),
      );
      expect([outcome, reads()]).toEqual([cachingMode ? 'EINVAL' : null, [null, null]]);
      expectNothing(1);
      expect(refusal(() => bind(spid))).toBe('EINVAL');
      expectNothing(1);
    });

    test('its device is released: nothing of it stays', () => {
      const { device, guestPasids, bind, during, reads, expectNothing } = ready(features);
      const outcome = during(
        cachingMode,
        () => bind(spid),
        () => guestPasids.release(device.device),
      );
      expect([outcome, reads()]).toEqual([cachingMode ? 'ENODEV' : null, [null, null]]);
      expectNothing(1);
      bind(spid);
      expect(reads()).toEqual([40, null]);
    });

    test('another device has the PASID already, and it goes: neither bind stays', () => {
      for (const way of ['free', 'exit'] as const) {
        const { vm, second, ioasids, pasid, bind, during, reads, expectNothing } = ready(features);
        const events = eventsOf(vm);
        bind(spid);
        const outcome = during(
          cachingMode,
          () => bind(spid, second),
          () => (way === 'free' ? ioasids.free(vm.set, pasid) : vm.process.exit()),
        );
        expect(outcome).toBe(cachingMode ? { free: 'EBUSY', exit: 'EINVAL' }[way] : null);
        expect(reads()).toEqual([null, null]);
        expectNothing(way === 'free' ? 0 : 1);
        expect(events.filter((event) => event === 'unbind 7')).toHaveLength(spid === SPIDS[1].spid ? 1 : 0);
      }
    });

    test('it is bound on another device, and unbound there: both are binds of one PASID', () => {
      const { vm, second, bind, during, reads, expectNothing, unbind } = ready(features);
      const events = eventsOf(vm);
      const published = spid === SPIDS[1].spid ? ['bind 7', 'unbind 7'] : [];
      expect(
        during(
          cachingMode,
          () => bind(spid),
          () => bind(spid, second),
        ),
      ).toBeNull();
      expect([reads(), events]).toEqual([[40, 40], published.slice(0, 1)]);
      unbind();
      expect(
        during(
          cachingMode,
          () => bind(spid),
          () => unbind(second),
        ),
      ).toBeNull();
      expect([reads(), events]).toEqual([[40, null], published.slice(0, 1)]);
      unbind();
      expectNothing(1);
      expect(events).toEqual(published);
    });
  });

  test('the same is bound, and unbound: the one is refused, the other finds nothing yet', () => {
    const { bind, during, reads, unbind, expectNothing } = ready(features);
    const outcomes: unknown[] = [];
    const steps = (): void => {
      outcomes.push(refusal(() => bind()));
      if (cachingMode) outcomes.push(refusal(() => unbind()));
    };
    outcomes.push(during(cachingMode, () => bind(), steps));
    expect([outcomes, reads()]).toEqual([cachingMode ? ['EBUSY', 'ENOENT', null] : ['EBUSY', null], [40, null]]);
    unbind();
    expectNothing(1);
  });

  test('the owner gives the PASID another number: it is refused, and the number stays', () => {
    const { ioasids, guestPasids, pasid, bind, during, reads } = ready(features);
    const outcome = during(
      cachingMode,
      () => bind(withSpid()),
      () => {
        if (cachingMode) ioasids.attachSpid(pasid, 9);
      },
    );
    expect(outcome).toBe(cachingMode ? 'EINVAL' : null);
    expect([reads()[0], guestPasids.size]).toEqual(cachingMode ? [null, 0] : [40, 1]);
    expect(ioasids.spidOf(pasid)).toBe(cachingMode ? 9 : Number(GPASID));
  });
});

describe.each(MODES)('while the last unbind waits, absence cached: $cachingMode', (features) => {
  test('another device binds: the PASID keeps its number, and the bind can be undone in every way', () => {
    for (const way of ['unbind', 'free', 'exit', 'release'] as const) {
      const { machine, vm, second, guestPasids, ioasids, pasid, bind, during, reads, unbind, expectNothing } =
        ready(features);
      const events = eventsOf(vm);
      bind(withSpid());
      expect(during(true, unbind, () => bind(withSpid(), second))).toBeNull();
      expect([reads(), events, guestPasids.size]).toEqual([[null, 40], ['bind 7'], 1]);
      machine.kernel.call('test', () => {
        if (way === 'unbind') unbind(second);
        else if (way === 'free') ioasids.free(vm.set, pasid);
        else if (way === 'exit') vm.process.exit();
        else guestPasids.release(second.device);
      });
      expect([way, reads()]).toEqual([way, [null, null]]);
      expectNothing(way === 'free' ? 0 : 1);
      expect(events).toEqual(['bind 7', ...(way === 'free' ? ['free 7'] : []), 'unbind 7']);
    }
  });

  test('the device binds again, unbinds again and is released: nothing is undone twice', () => {
    const { device, guestPasids, bind, during, reads, unbind, expectNothing } = ready(features);
    bind(withSpid());
    const outcomes: unknown[] = [];
    const outcome = during(
      true,
      () => unbind(),
      () => {
        outcomes.push(
          refusal(() => bind(withSpid())),
          refusal(() => unbind()),
        );
        guestPasids.release(device.device);
      },
    );
    expect([outcome, outcomes]).toEqual([null, ['EBUSY', 'ENOENT']]);
    expectNothing(1);
    bind();
    expect(reads()).toEqual([40, null]);
  });

  test('the PASID is freed or the process ends: the number that the owner gave it goes too', () => {
    for (const way of ['free', 'exit'] as const) {
      const { vm, ioasids, pasid, bind, during, unbind, expectNothing } = ready(features);
      ioasids.attachSpid(pasid, Number(GPASID));
      bind(withSpid());
      const step = (): void => (way === 'free' ? ioasids.free(vm.set, pasid) : vm.process.exit());
      expect(during(true, () => unbind(), step)).toBeNull();
      expectNothing(way === 'free' ? 0 : 1);
    }
  });
});

describe.each(MODES)('while the release of a device waits, absence cached: $cachingMode', (features) => {
  test('another of its PASIDs moves to another device, where it can still be undone', () => {
    for (const way of ['unbind', 'free', 'exit'] as const) {
      const { machine, vm, device, second, guestPasids, ioasids, data, bind, during, reads, expectNothing } =
        ready(features);
      const other = vm.pasid();
      bind();
      guestPasids.bind(device.device, vm.mm, data(other));
      const step = (): void => {
        guestPasids.unbind(device.device, vm.mm, other);
        guestPasids.bind(second.device, vm.mm, data(other));
      };
      expect(during(true, () => guestPasids.release(device.device), step)).toBeNull();
      expect([guestPasids.size, second.read(GVA, { pasid: other })]).toEqual([1, 40]);
      machine.kernel.call('test', () => {
        if (way === 'unbind') guestPasids.unbind(second.device, vm.mm, other);
        else if (way === 'free') ioasids.free(vm.set, other);
        else vm.process.exit();
      });
      expect([way, reads(), second.read(GVA, { pasid: other })]).toEqual([way, [null, null], null]);
      expectNothing(1);
      expect(ioasids.referencesTo(other)).toBe(way === 'free' ? 0 : 1);
    }
  });

  test('another of its PASIDs is bound: it goes with the rest', () => {
    const { vm, device, guestPasids, data, bind, during, expectNothing } = ready(features);
    const [other, third] = [vm.pasid(), vm.pasid()];
    bind();
    guestPasids.bind(device.device, vm.mm, data(other));
    const step = (): void => guestPasids.bind(device.device, vm.mm, data(third));
    expect(during(true, () => guestPasids.release(device.device), step)).toBeNull();
    expectNothing(1);
  });
});
