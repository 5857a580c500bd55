/**
 * Changes of attachments that come while another one waits for hardware: work that was queued before a call runs inside
 * its wait. Attaching over an absent entry waits on a unit in caching mode only, detaching always.
 */

import { ACCESS_READ, ACCESS_WRITE, requesterId } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  attachDevicePasid,
  authorizePasid,
  deauthorizePasid,
  detachDevicePasid,
  disableFeature,
  enableFeature,
  featureEnabled,
  IOASID_SET_TYPE_NULL,
  Processes,
  replaceDevicePasid,
  routePasid,
  type SvaHandle,
  unroutePasid,
} from '../../src/index.ts';
import { mapPage, pagingDomain } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

const IOVA = 0x40_0000n;
const PASID = 5;

function setUp(cachingMode = true) {
  const machine = new Machine({
    ramBytes: 8 << 20,
    features: { cachingMode },
    plug: (host) => {
      for (const bus of [1, 2]) {
        host.plugPort(requesterId(0, bus, 0), bus);
        host.plug(host.testFunction({ siov: true }), requesterId(bus, 0, 0));
      }
    },
  });
  const [first, second] = [machine.add(requesterId(1, 0, 0)), machine.add(requesterId(2, 0, 0))] as const;
  /** A domain with a page of its own at IOVA. */
  const domain = (byte: number) => {
    const made = pagingDomain(first);
    mapPage(made, IOVA, machine.frame(byte));
    return made;
  };
  /** Runs `call`, with `work` inside its first wait. True when it ran there. */
  const during = (work: () => void, call: () => void): boolean => {
    let inside = true;
    let ran = false;
    machine.kernel.queueWork(() => {
      ran = inside;
      work();
    });
    try {
      call();
    } finally {
      inside = false;
      machine.kernel.runWork();
    }
    return ran;
  };
  return { machine, first, second, domain, during };
}

const read = (device: TestDevice, pasid = PASID): number | null => device.read(IOVA, { pasid });

describe('while a half of a PASID attachment comes or goes', () => {
  test('X4 a number that is being deauthorised is not given out before the hardware has forgotten it', () => {
    const { machine, first, domain, during } = setUp(false);
    const { ioasids, pasids } = machine.core;
    const set = () => ioasids.allocSet({ token: null, quota: 4, type: IOASID_SET_TYPE_NULL });
    const [owner, next] = [set(), set()];
    const id = ioasids.alloc(owner, 1, 9);
    const { group } = first.device;
    authorizePasid(first.device, id);
    routePasid(group, id, { domain: domain(0x11) });
    expect(read(first, id)).toBe(0x11);
    ioasids.free(owner, id);
    let given = id;
    const inside = during(
      () => {
        unroutePasid(group, id);
        expect(pasids.namedBy(id)).toMatch('change under way');
        given = ioasids.alloc(next, id, 99);
      },
      () => deauthorizePasid(first.device, id),
    );
    expect([inside, given, pasids.parked, read(first, id)]).toEqual([true, id + 1, [], null]);
  });

  test('X4 a number whose attach is under way is named', () => {
    const { machine, first, domain, during } = setUp();
    let name: string | null = null;
    const inside = during(
      () => {
        name = machine.core.pasids.namedBy(PASID);
      },
      () => attachDevicePasid(first.device, PASID, { domain: domain(1) }),
    );
    expect([inside, name]).toEqual([true, `a change under way in group ${first.device.group.id}`]);
  });

  test('no half of it can be added', () => {
    const { first, domain, during } = setUp();
    const refused: (string | null)[] = [];
    const [one, two] = [domain(1), domain(2)];
    during(
      () => {
        refused.push(refusal(() => attachDevicePasid(first.device, PASID, { domain: two })));
        refused.push(refusal(() => authorizePasid(first.device, PASID)));
        refused.push(refusal(() => routePasid(first.device.group, PASID, { domain: two })));
      },
      () => attachDevicePasid(first.device, PASID, { domain: one }),
    );
    expect([refused, read(first)]).toEqual([['EBUSY', 'EBUSY', 'EBUSY'], 1]);
  });

  test('the other half can go, and nothing stays behind', () => {
    const { first, domain, during } = setUp();
    const { device } = first;
    const { group } = device;
    const handle = { domain: domain(1) };
    routePasid(group, PASID, handle);
    during(
      () => unroutePasid(group, PASID),
      () => authorizePasid(device, PASID),
    );
    expect([read(first), device.authorizedPasids.has(PASID), group.pasidHandles.size]).toEqual([null, true, 0]);
    during(
      () => deauthorizePasid(device, PASID),
      () => routePasid(group, PASID, handle),
    );
    expect([read(first), device.authorizedPasids.size, group.handle(PASID)]).toEqual([null, 0, handle]);
    authorizePasid(device, PASID);
    expect(read(first)).toBe(1);
  });

  test('what is detached while it is replaced stays detached', () => {
    const { first, domain, during } = setUp();
    const [one, two] = [domain(1), domain(2)];
    attachDevicePasid(first.device, PASID, { domain: one });
    let refused: string | null = null;
    during(
      () => detachDevicePasid(first.device, PASID),
      () => {
        refused = refusal(() => replaceDevicePasid(first.device, PASID, { domain: two }));
      },
    );
    expect([refused, read(first), first.device.group.pasidHandles.size]).toEqual(['EINVAL', null, 0]);
  });
});

describe('while an auxiliary domain comes or goes', () => {
  function enabled(cachingMode = true) {
    const scene = setUp(cachingMode);
    for (const { device } of [scene.first, scene.second]) enableFeature(device, 'aux');
    return { ...scene, aux: scene.machine.core.aux };
  }

  test('a second device gets the same PASID, and can be detached', () => {
    const { machine, first, second, aux, domain, during } = enabled();
    const shared = domain(7);
    during(
      () => aux.attach(shared, second.device),
      () => aux.attach(shared, first.device),
    );
    const pasid = aux.pasid(shared, first.device);
    expect([aux.pasid(shared, second.device), read(first, pasid), read(second, pasid)]).toEqual([pasid, 7, 7]);
    aux.detach(shared, second.device);
    expect([read(first, pasid), read(second, pasid)]).toEqual([7, null]);
    aux.detach(shared, first.device);
    expect([machine.core.pasids.size, machine.core.pasids.parked]).toEqual([0, []]);
  });

  test('the feature cannot be disabled, and the same attach is refused until the first is done', () => {
    const { first, aux, domain, during } = enabled();
    const shared = domain(7);
    const refused: (string | null)[] = [];
    during(
      () => {
        refused.push(refusal(() => disableFeature(first.device, 'aux')));
        refused.push(refusal(() => aux.attach(shared, first.device)));
      },
      () => aux.attach(shared, first.device),
    );
    expect([refused, featureEnabled(first.device, 'aux')]).toEqual([['EBUSY', 'EBUSY'], true]);
  });

  test('what is detached while it is attached is not attached', () => {
    const { machine, first, aux, domain, during } = enabled();
    const shared = domain(7);
    let refused: string | null = null;
    during(
      () => aux.detach(shared, first.device),
      () => {
        refused = refusal(() => aux.attach(shared, first.device));
      },
    );
    expect([refused, first.device.authorizedPasids.size, first.device.group.pasidHandles.size]).toEqual([
      'EBUSY',
      0,
      0,
    ]);
    expect([machine.core.pasids.size, machine.core.pasids.parked]).toEqual([0, []]);
  });

  test('another domain that is attached while the first leaves has a PASID of its own and keeps it', () => {
    const { machine, first, aux, domain, during } = enabled(false);
    const [leaving, coming] = [domain(1), domain(2)];
    aux.attach(leaving, first.device);
    const old = aux.pasid(leaving, first.device);
    const inside = during(
      () => aux.attach(coming, first.device),
      () => aux.detach(leaving, first.device),
    );
    const pasid = aux.pasid(coming, first.device);
    expect([inside, pasid === old, read(first, pasid), read(first, old)]).toEqual([true, false, 2, null]);
    aux.detach(coming, first.device);
    expect([machine.core.pasids.size, machine.core.pasids.parked]).toEqual([0, []]);
  });
});

describe('while a process is bound or unbound', () => {
  function process() {
    const scene = setUp();
    const { addressSpace, memory } = new Processes(scene.machine.kernel).spawn();
    memory!.map({ length: 0x1000, protection: ACCESS_READ | ACCESS_WRITE, address: IOVA });
    memory!.write(IOVA, Uint8Array.of(0x42));
    return { ...scene, sva: scene.machine.core.sva, addressSpace };
  }

  test('a second device shares the PASID, and unbinding either leaves the other its table', () => {
    const { machine, first, second, sva, addressSpace, during } = process();
    const handles: SvaHandle[] = [];
    during(
      () => handles.push(sva.bind(second.device, addressSpace)),
      () => handles.push(sva.bind(first.device, addressSpace)),
    );
    const [inner, outer] = handles as [SvaHandle, SvaHandle];
    expect([inner.pasid, inner.domain]).toEqual([outer.pasid, outer.domain]);
    sva.unbind(outer);
    expect([read(first, inner.pasid), read(second, inner.pasid)]).toEqual([null, 0x42]);
    sva.unbind(inner);
    expect([machine.core.pasids.size, machine.core.pasids.parked, sva.pasidOf(addressSpace)]).toEqual([0, [], null]);
  });

  test('the same device is refused until the first call is done', () => {
    const { first, sva, addressSpace, during } = process();
    const refused: (string | null)[] = [];
    const again = (): unknown => refused.push(refusal(() => sva.bind(first.device, addressSpace)));
    let handle: SvaHandle | null = null;
    during(again, () => {
      handle = sva.bind(first.device, addressSpace);
    });
    expect(read(first, handle!.pasid)).toBe(0x42);
    during(again, () => sva.unbind(handle!));
    expect(refused).toEqual(['EBUSY', 'EBUSY']);
    sva.unbind(sva.bind(first.device, addressSpace));
  });

  test('a failed first bind parks no number that another device uses', () => {
    const { machine, first, second, sva, addressSpace, domain } = process();
    attachDevicePasid(second.device, 1, { domain: domain(1) });
    for (let nth = 1; ; nth++) {
      machine.kernel.failpoints.arm(nth);
      const outcome = refusal(() => sva.unbind(sva.bind(first.device, addressSpace)));
      machine.kernel.failpoints.arm(0);
      expect([machine.core.pasids.size, machine.core.pasids.parked]).toEqual([0, []]);
      if (outcome === null) break;
    }
  });
});
