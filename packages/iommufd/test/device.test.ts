import { NO_PASID } from '@iommukit/hw';
import { claimDmaOwner, type ErrnoCode, SysError, useDefaultDomain } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bindDevice, type IommufdDevice } from '../src/device.ts';
import { fakeDevice } from './support/fakes.ts';
import { Host, MEMORY } from './support/host.ts';

/** The errno that `body` throws, or null. */
function errno(body: () => unknown): ErrnoCode | null {
  try {
    body();
    return null;
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
}

const route = (host: Host, device: IommufdDevice, pasid = NO_PASID): number | undefined =>
  host.driver.routes.get(`${device.device.rid}:${pasid}`);

describe('bind', () => {
  test('refuses in the order of the kernel, and changes nothing', () => {
    const host = new Host();
    const device = fakeDevice(host.driver, 1);
    const before = host.snapshot();
    host.driver.capabilities.clear();
    expect(errno(() => bindDevice(host.context, device))).toBe('EINVAL');
    host.driver.capabilities.add('cache-coherency');
    expect(errno(() => bindDevice(host.context, device))).toBe('EPERM');
    host.driver.capabilities.add('isolated-msi');
    claimDmaOwner(device, {});
    expect(errno(() => bindDevice(host.context, device))).toBe('EPERM');
    const busy = fakeDevice(host.driver, 2);
    useDefaultDomain(busy);
    expect(errno(() => bindDevice(host.context, busy))).toBe('EPERM');
    const free = fakeDevice(host.driver, 3);
    for (const nth of [1, 2]) {
      host.kernel.failpoints.arm(nth);
      expect(errno(() => bindDevice(host.context, free))).toBe('ENOMEM');
      expect([free.group.owner, free.group.ownerCount, host.context.hasGroup(free.group)]).toEqual([null, 0, false]);
      expect(host.snapshot()).toEqual(before);
    }
    const bound = bindDevice(host.context, free);
    expect([free.group.owner, host.context.hasGroup(free.group)]).toEqual([host.context, true]);
    bound.unbind();
    expect([free.group.owner, host.context.hasGroup(free.group)]).toEqual([null, false]);
  });

  test('of a device whose interrupts are not isolated needs the unsafe option', () => {
    const host = new Host({ unsafe: true });
    host.driver.capabilities.delete('isolated-msi');
    expect(host.bind().id).toBe(1);
  });

  test('a group belongs to one context', () => {
    const [one, other] = [new Host(), new Host()];
    const first = one.bind();
    expect(one.bind(first.device.group).id).toBe(2);
    expect(errno(() => bindDevice(other.context, first.device))).toBe('EPERM');
  });
});

describe('attach', () => {
  test('to an IOAS finds or makes a table, which goes with its last attachment', () => {
    const host = new Host();
    const [a, b] = [host.bind(), host.bind()];
    const ioas = host.client.ioasAlloc();
    host.client.ioasMap({ ioasId: ioas, userVa: MEMORY, length: 0x4000n });
    const manual = host.client.hwptAllocPaging({ deviceId: a.id, ioasId: ioas });
    const hwpt = a.attach(ioas);
    expect([hwpt !== manual, b.attach(ioas), a.attached(), b.attached()]).toEqual([true, hwpt, hwpt, hwpt]);
    expect(route(host, a)).toBe(route(host, b));
    expect(errno(() => host.client.destroy(hwpt))).toBe('EBUSY');
    a.detach();
    expect([a.attached(), route(host, a), b.attached()]).toEqual([null, undefined, hwpt]);
    b.detach();
    expect(errno(() => host.client.destroy(hwpt))).toBe('ENOENT');
    expect(host.driver.live.length).toBe(1);
    b.detach();
    a.unbind();
  });

  test('passes over tables that do not fit the device', () => {
    const host = new Host();
    const [a, b] = [host.bind(), host.bind()];
    const ioas = host.client.ioasAlloc();
    const first = a.attach(ioas);
    host.driver.incompatible.add(host.driver.live[0]!);
    const second = b.attach(ioas);
    expect([second !== first, b.attached()]).toEqual([true, second]);
    // Areas reach both tables, and are pinned once.
    host.client.ioasMap({ ioasId: ioas, userVa: MEMORY, length: 0x4000n });
    expect([
      host.space.pinnedPages,
      host.driver.live.map((domain) => ('units' in domain ? domain.units.size : 0)),
    ]).toEqual([4, [8, 8]]);
  });

  test('has its errno for what cannot be attached', () => {
    const host = new Host();
    const device = host.bind();
    const ioas = host.client.ioasAlloc();
    expect(errno(() => device.attach(99))).toBe('ENOENT');
    expect(errno(() => device.attach(device.id))).toBe('EINVAL');
    expect(errno(() => device.replace(ioas))).toBe('EINVAL');
    const hwpt = device.attach(ioas);
    expect(errno(() => device.attach(ioas))).toBe('EBUSY');
    expect(errno(() => device.attach(hwpt))).toBe('EBUSY');
    expect(host.context.objects.size).toBe(3);
  });

  test('to an IOAS is refused for what a new table could not be attached before it is made and filled', () => {
    const host = new Host();
    host.driver.regions = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 }];
    const device = host.bind();
    const other = host.bind(device.device.group);
    const [good, bad] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
    // Nothing is there to be pinned.
    const map = (iova: bigint): bigint =>
      host.client.ioasMap({ ioasId: bad, userVa: 0xdead_0000n, length: 4096n, iova });
    map(0xfee0_0000n);
    expect(errno(() => device.attach(bad))).toBe('EADDRINUSE');
    expect(errno(() => device.attach(bad, 5))).toBe('EINVAL');
    host.client.ioasUnmapAll(bad);
    map(0x1000n);
    expect(errno(() => device.attach(bad))).toBe('EFAULT');
    device.attach(good);
    const before = host.snapshot();
    expect(errno(() => device.attach(bad))).toBe('EBUSY');
    expect(errno(() => other.attach(bad))).toBe('EINVAL');
    // What replaces another table is filled first.
    expect(errno(() => device.replace(bad))).toBe('EFAULT');
    expect(host.snapshot()).toEqual(before);
  });

  test('keeps areas out of the regions of the device, and fails where there are some', () => {
    const host = new Host();
    host.driver.regions = [
      { first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 },
      { first: 0x5000n, last: 0x5fffn, kind: 'direct-relaxable', prot: 3 },
    ];
    const device = host.bind();
    const ioas = host.client.ioasAlloc();
    host.client.ioasMap({ ioasId: ioas, userVa: MEMORY, length: 0x1000n, iova: 0xfee0_0000n });
    const before = host.snapshot();
    expect(errno(() => device.attach(ioas))).toBe('EADDRINUSE');
    expect(host.snapshot()).toEqual(before);
    host.client.ioasUnmapAll(ioas);
    device.attach(ioas);
    expect(host.client.ioasIovaRanges(ioas).ranges.length).toBe(2);
    host.client.ioasMap({ ioasId: ioas, userVa: MEMORY, length: 0x1000n, iova: 0x5000n });
    device.detach();
    expect(host.client.ioasIovaRanges(ioas).ranges.length).toBe(1);
  });

  test('C15 devices of one group share one table until it is replaced for all', () => {
    const host = new Host();
    const a = host.bind();
    const b = host.bind(a.device.group);
    const [one, two] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
    const hwpt = a.attach(one);
    expect(errno(() => b.attach(two))).toBe('EINVAL');
    expect(host.context.objects.size).toBe(5);
    expect(b.attach(one)).toBe(hwpt);
    const fresh = a.replace(two);
    expect([a.attached(), b.attached(), route(host, a) === route(host, b)]).toEqual([fresh, fresh, true]);
    expect(errno(() => host.client.destroy(hwpt))).toBe('ENOENT');
    a.detach();
    expect([a.attached(), b.attached(), route(host, b) !== undefined]).toEqual([null, fresh, true]);
    b.unbind();
    a.unbind();
    expect([host.context.objects.size, host.driver.live.length, host.driver.routes.size]).toEqual([2, 0, 0]);
  });
});

describe('replace', () => {
  test('F8 moves at once, and a failure keeps the old table', () => {
    const host = new Host();
    host.driver.regions = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 }];
    const device = host.bind();
    const [one, two] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
    device.attach(one);
    host.client.ioasMap({ ioasId: two, userVa: MEMORY, length: 0x1000n, iova: 0xfee0_0000n });
    const before = host.snapshot();
    expect(errno(() => device.replace(two))).toBe('EADDRINUSE');
    expect(errno(() => device.replace(99))).toBe('ENOENT');
    expect(host.snapshot()).toEqual(before);
    host.client.ioasUnmapAll(two);
    const routes: (number | undefined)[] = [];
    const { set } = host.driver.routes;
    host.driver.routes.set = (key, value) => {
      routes.push(value);
      return set.call(host.driver.routes, key, value);
    };
    const hwpt = device.replace(two);
    expect([device.attached(), routes.length]).toEqual([hwpt, 1]);
    expect(device.replace(two)).toBe(hwpt);
    expect([host.client.ioasIovaRanges(one).ranges.length, host.client.ioasIovaRanges(two).ranges.length]).toEqual([
      1, 2,
    ]);
  });

  test('within one IOAS keeps what the device reserves there', () => {
    const host = new Host();
    host.driver.regions = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 }];
    const device = host.bind();
    const ioasId = host.client.ioasAlloc();
    device.attach(ioasId);
    const manual = host.client.hwptAllocPaging({ deviceId: device.id, ioasId });
    host.kernel.failpoints.arm(2);
    expect(errno(() => device.replace(manual))).toBe('ENOMEM');
    expect(host.client.ioasIovaRanges(ioasId).ranges.length).toBe(2);
    device.replace(manual);
    expect(host.client.ioasIovaRanges(ioasId).ranges.length).toBe(2);
    device.detach();
    expect(host.client.ioasIovaRanges(ioasId).ranges.length).toBe(1);
  });
});

describe('PASIDs', () => {
  const setup = (): { host: Host; device: IommufdDevice; plain: number; made: number; other: number; ioas: number } => {
    const host = new Host();
    const device = host.bind();
    const ioas = host.client.ioasAlloc();
    const plain = host.client.hwptAllocPaging({ deviceId: device.id, ioasId: ioas });
    const made = host.client.hwptAllocPaging({ deviceId: device.id, ioasId: ioas, pasid: true });
    const other = host.client.hwptAllocPaging({ deviceId: device.id, ioasId: ioas, pasid: true });
    return { host, device, plain, made, other, ioas };
  };

  test('F9 need a table made for PASIDs, at the PASID and without', () => {
    const { host, device, plain, made, ioas } = setup();
    const before = host.snapshot();
    expect(errno(() => device.attach(plain, 5))).toBe('EINVAL');
    expect(errno(() => device.attach(ioas, 5))).toBe('EINVAL');
    expect(host.snapshot()).toEqual(before);
    device.attach(plain);
    expect(errno(() => device.attach(made, 5))).toBe('EINVAL');
    device.replace(made);
    device.attach(made, 5);
    expect(errno(() => device.replace(plain))).toBe('EINVAL');
    device.detach();
    expect(errno(() => device.attach(plain))).toBe('EINVAL');
    expect(errno(() => device.attach(ioas))).toBe('EINVAL');
    device.detach(5);
    expect(errno(() => device.attach(plain))).toBeNull();
  });

  test('attach, move and go on their own', () => {
    const { host, device, made, other } = setup();
    device.attach(made, 5);
    device.attach(other, 6);
    device.attach(made);
    expect([device.attached(5), device.attached(6), device.attached()]).toEqual([made, other, made]);
    expect(errno(() => device.attach(made, 5))).toBe('EBUSY');
    expect(errno(() => device.replace(made, 7))).toBe('EINVAL');
    device.replace(other, 5);
    expect([route(host, device, 5), route(host, device, 6)]).toEqual([route(host, device, 6), route(host, device, 6)]);
    expect(errno(() => host.client.destroy(other))).toBe('EBUSY');
    device.detach(5);
    device.detach(5);
    expect([device.attached(5), route(host, device, 5)]).toEqual([null, undefined]);
    device.unbind();
    expect([host.driver.routes.size, errno(() => host.client.destroy(other))]).toEqual([0, null]);
  });

  test('out of range have the errno of the core', () => {
    const { device, made } = setup();
    for (const pasid of [0, 1 << 16, 2 ** 32 - 1]) expect(errno(() => device.attach(made, pasid))).toBe('EINVAL');
  });
});

describe('failures', () => {
  type Operation = { name: string; prepare: (host: Host) => () => unknown };
  const operations: Operation[] = [
    { name: 'IOAS_ALLOC', prepare: (host) => () => host.client.ioasAlloc() },
    {
      name: 'IOAS_MAP',
      prepare: (host) => () => host.client.ioasMap({ ioasId: 1, userVa: MEMORY + 0x8000n, length: 0x4000n }),
    },
    {
      name: 'IOAS_COPY',
      prepare: (host) => () => host.client.ioasCopy({ srcIoasId: 1, srcIova: 0x10000n, length: 0x4000n, dstIoasId: 2 }),
    },
    { name: 'HWPT_ALLOC', prepare: (host) => () => host.client.hwptAllocPaging({ deviceId: 3, ioasId: 2 }) },
    {
      name: 'HWPT_ALLOC with a fault queue',
      prepare: (host) => {
        const { id: faultId } = host.client.faultQueueAlloc();
        return () => host.client.hwptAllocPaging({ deviceId: 3, ioasId: 2, faultId });
      },
    },
    {
      name: 'HWPT_ALLOC nested',
      prepare: (host) => {
        const parentId = host.client.hwptAllocPaging({ deviceId: 3, ioasId: 2, nestParent: true });
        return () => host.client.hwptAllocVtdS1({ deviceId: 3, parentId, pageTable: 0n, addressWidth: 48 });
      },
    },
    { name: 'FAULT_QUEUE_ALLOC', prepare: (host) => () => host.client.faultQueueAlloc() },
    { name: 'bind', prepare: (host) => () => host.bind() },
    { name: 'attach to an IOAS', prepare: (host) => () => device(host, 4).attach(2) },
    {
      name: 'attach of the second device of a group',
      prepare: (host) => {
        const second = host.bind(device(host, 3).device.group);
        return () => second.attach(device(host, 3).attached()!);
      },
    },
    { name: 'replace by an IOAS', prepare: (host) => () => device(host, 3).replace(2) },
    {
      name: 'attach a PASID',
      prepare: (host) => {
        const hwpt = host.client.hwptAllocPaging({ deviceId: 4, ioasId: 2, pasid: true });
        return () => device(host, 4).attach(hwpt, 9);
      },
    },
    {
      name: 'replace a PASID',
      prepare: (host) => {
        const hwpt = host.client.hwptAllocPaging({ deviceId: 4, ioasId: 2, pasid: true });
        device(host, 4).attach(hwpt, 9);
        const other = host.client.hwptAllocPaging({ deviceId: 4, ioasId: 1, pasid: true });
        return () => device(host, 4).replace(other, 9);
      },
    },
  ];

  function device(host: Host, id: number): IommufdDevice {
    return host.context.objects.all().find((object) => object.id === id) as IommufdDevice;
  }

  test.each(operations)('X5 $name fails at every failpoint without a trace', ({ prepare }) => {
    for (let nth = 1; ; nth++) {
      expect(nth).toBeLessThan(60);
      const host = new Host();
      host.driver.regions = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 }];
      const [one, two] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
      const first = host.bind();
      host.bind();
      host.client.ioasMap({ ioasId: one, userVa: MEMORY, length: 0x4000n, iova: 0x10000n });
      host.client.ioasMap({ ioasId: two, userVa: MEMORY + 0x4000n, length: 0x2000n, iova: 0x10000n });
      first.attach(one);
      const operation = prepare(host);
      const before = host.snapshot();
      const ranges = [one, two].map((id) => host.client.ioasIovaRanges(id));
      host.kernel.failpoints.arm(nth);
      const code = errno(operation);
      const { hit } = host.kernel.failpoints;
      host.kernel.failpoints.arm(0);
      if (hit === null) {
        expect([code, nth > 1]).toEqual([null, true]);
        return;
      }
      expect([hit, code]).toEqual([hit, 'ENOMEM']);
      expect(host.snapshot()).toEqual(before);
      expect([one, two].map((id) => host.client.ioasIovaRanges(id))).toEqual(ranges);
    }
  });

  test('X6 random attachments and failures leave what was, and unbinding leaves nothing', () => {
    const action = fc.record({
      op: fc.constantFrom('attach', 'replace', 'detach', 'map', 'unmap', 'forbid'),
      device: fc.nat(2),
      table: fc.nat(6),
      pasid: fc.constantFrom(NO_PASID, NO_PASID, 3, 4),
      fail: fc.oneof({ weight: 2, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(9) }),
    });
    const outcomes = new Set<string>();
    fc.assert(
      fc.property(fc.array(action, { minLength: 10, maxLength: 50, size: 'max' }), (actions) => {
        const host = new Host();
        host.driver.regions = [{ first: 0x8000n, last: 0xffffn, kind: 'reserved', prot: 0 }];
        const first = host.bind();
        const devices = [first, host.bind(first.device.group), host.bind()];
        const deviceId = first.id;
        const ioas = [host.client.ioasAlloc(), host.client.ioasAlloc()];
        const parentId = host.client.hwptAllocPaging({ deviceId, ioasId: ioas[0]!, nestParent: true, pasid: true });
        const tables = [
          ...ioas,
          host.client.hwptAllocPaging({ deviceId, ioasId: ioas[0]!, pasid: true }),
          host.client.hwptAllocPaging({ deviceId, ioasId: ioas[1]! }),
          parentId,
          host.client.hwptAllocVtdS1({ deviceId, parentId, pageTable: 0n, addressWidth: 48, pasid: true }),
          99,
        ];
        const model = new Map<string, number>();
        for (const { op, device: at, table, pasid, fail } of actions) {
          const target = devices[at]!;
          const before = host.snapshot();
          host.kernel.failpoints.arm(fail);
          const code = errno(() => {
            if (op === 'attach') target.attach(tables[table]!, pasid);
            else if (op === 'replace') target.replace(tables[table]!, pasid);
            else if (op === 'detach') target.detach(pasid);
            else if (op === 'map') {
              const iova = BigInt(table) * 0x2000n;
              host.client.ioasMap({ ioasId: ioas[at % 2]!, userVa: MEMORY, length: 0x2000n, iova });
            } else if (op === 'unmap') host.client.ioasUnmapAll(ioas[at % 2]!);
            else if (host.driver.incompatible.size === 0) host.driver.incompatible.add(host.driver.domains[1]!);
            else host.driver.incompatible.clear();
          });
          host.kernel.failpoints.arm(0);
          outcomes.add(`${op} ${code}`);
          if (code !== null) expect(host.snapshot()).toEqual(before);
          model.clear();
          for (const member of devices) {
            for (const at of member.group.pasidsOf(member)) {
              const { domain } = member.group.attached(member, at)!;
              model.set(`${member.device.rid}:${at}`, domain.id);
              // A PASID covers every device of the group that has PASIDs.
              for (const peer of member.group.devices) model.set(`${peer.device.rid}:${at}`, domain.id);
            }
          }
          expect([...host.driver.routes].sort()).toEqual([...model].sort());
        }
        for (const member of devices) member.unbind();
        host.process.exit();
        expect([host.context.objects.size, host.space.pinnedPages, host.driver.live.length]).toEqual([0, 0, 0]);
        expect(host.driver.routes.size).toBe(0);
      }),
      { numRuns: 150, seed: 5 },
    );
    for (const wanted of [
      'attach null',
      'attach EINVAL',
      'attach EBUSY',
      'attach ENOENT',
      'attach ENOMEM',
      'replace null',
    ]) {
      expect([...outcomes]).toContain(wanted);
    }
    for (const wanted of ['replace EINVAL', 'replace ENOMEM', 'attach EADDRINUSE', 'replace EADDRINUSE']) {
      expect([...outcomes]).toContain(wanted);
    }
  });
});

describe('fault-capable tables', () => {
  test('are refused where a VF shares the page requests of its PF', () => {
    const host = new Host();
    const [vf, pf, plain] = [
      host.bind(undefined, { virtual: true, pri: true }),
      host.bind(undefined, { pri: true }),
      host.bind(undefined, { virtual: true }),
    ];
    const ioasId = host.client.ioasAlloc();
    const faultId = host.client.faultQueueAlloc().id;
    const hwpt = host.client.hwptAllocPaging({ deviceId: vf.id, ioasId, faultId, pasid: true });
    expect([errno(() => vf.attach(hwpt)), errno(() => vf.attach(hwpt, 3))]).toEqual(['EINVAL', 'EINVAL']);
    vf.attach(ioasId);
    expect(errno(() => vf.replace(hwpt))).toBe('EINVAL');
    expect([errno(() => pf.attach(hwpt)), errno(() => plain.attach(hwpt))]).toEqual([null, null]);
    expect(errno(() => host.client.destroy(faultId))).toBe('EBUSY');
  });
});
