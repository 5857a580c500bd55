import { NO_PASID } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createAccess } from '../../../src/access.ts';
import type { IommufdDevice } from '../../../src/device.ts';
import { Host, MEMORY } from '../../support/host.ts';
import { errnoOf } from '../../support/process-host.ts';

/** Sequences of each property, in proportion to those of an address space. */
const SEQUENCES = Math.ceil(Number(process.env['IOMMUKIT_SEQUENCES'] ?? 2000) / 8);
const PASIDS = [NO_PASID, 3, 4] as const;

/** The ids that an object holds a use of. */
type Graph = Map<number, number[]>;

describe('property 16: the graph of users', () => {
  const step = fc.record({
    make: fc.constantFrom('ioas', 'fault', 'paging', 'nested', 'access', 'map', 'destroy', 'destroy', 'none'),
    one: fc.nat(20),
    other: fc.nat(20),
    faulting: fc.boolean(),
    fail: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 5 }) }),
  });

  /** What keeps each object, besides whoever made it. */
  function inDegree(graph: Graph, held: ReadonlySet<number>, id: number): number {
    let users = held.has(id) ? 1 : 0;
    for (const uses of graph.values()) users += uses.filter((used) => used === id).length;
    return users;
  }

  test('X6 what nobody uses can be destroyed, what somebody uses cannot, and closing frees all whatever the order', () => {
    const ends = new Set<string>();
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 50, size: 'max' }), (steps) => {
        const host = new Host();
        const { client, context } = host;
        const device = host.bind();
        const graph: Graph = new Map([[device.id, []]]);
        /** Held by a driver or by a descriptor. */
        const held = new Set([device.id]);
        const kinds = new Map<number, string>([[device.id, 'device']]);
        const accesses: { close(): void }[] = [];
        const of = (kind: string, at: number): number => {
          const ids = [...kinds].filter(([, found]) => found === kind).map(([id]) => id);
          return ids[at % Math.max(ids.length, 1)] ?? 0;
        };
        const add = (kind: string, id: number, uses: number[]): void => {
          // Ids are the lowest that are free, from 1.
          let lowest = 1;
          while (graph.has(lowest)) lowest++;
          expect([kind, id]).toEqual([kind, lowest]);
          graph.set(id, uses);
          kinds.set(id, kind);
        };
        for (const { make, one, other, faulting, fail } of steps) {
          const before = host.snapshot();
          host.kernel.failpoints.arm(fail);
          const code = errnoOf(() => {
            if (make === 'ioas') add(make, client.ioasAlloc(), []);
            else if (make === 'fault') {
              const { id } = client.faultQueueAlloc();
              add(make, id, []);
              held.add(id);
            } else if (make === 'paging') {
              const [ioasId, faultId] = [of('ioas', one), faulting ? of('fault', other) : 0];
              const request = { deviceId: device.id, ioasId, nestParent: !faulting };
              const uses = faultId === 0 ? [ioasId] : [ioasId, faultId];
              add(make, client.hwptAllocPaging(faultId === 0 ? request : { ...request, faultId }), uses);
            } else if (make === 'nested') {
              const parentId = of('paging', one);
              const id = client.hwptAllocVtdS1({ deviceId: device.id, parentId, pageTable: 0n, addressWidth: 48 });
              add(make, id, [parentId]);
            } else if (make === 'access') {
              const access = createAccess(context, { needsPinPages: false, unmap() {} });
              const ioasId = of('ioas', one);
              add(make, access.id, []);
              held.add(access.id);
              accesses.push(access);
              access.attach(ioasId);
              graph.set(access.id, [ioasId]);
            } else if (make === 'map') {
              client.ioasMap({ ioasId: of('ioas', one), userVa: MEMORY, length: 0x1000 });
            } else if (make === 'destroy') {
              const ids = [...graph.keys()];
              const id = ids[one % ids.length]!;
              const busy = inDegree(graph, held, id) > 0;
              const refused = errnoOf(() => client.destroy(id));
              ends.add(`destroy ${kinds.get(id)} ${refused}`);
              expect(`${kinds.get(id)} ${refused}`).toBe(`${kinds.get(id)} ${busy ? 'EBUSY' : null}`);
              if (!busy) {
                graph.delete(id);
                kinds.delete(id);
              }
            } else expect(errnoOf(() => client.destroy(100 + one))).toBe('ENOENT');
          });
          host.kernel.failpoints.arm(0);
          ends.add(`${make} ${code}`);
          // An access that could not be attached is there all the same.
          if (code !== null && make !== 'access') expect(host.snapshot()).toEqual(before);
          const users = context.objects.all().map(({ id, users: count }) => [id, count]);
          const expected = [...graph.keys()].sort((a, b) => a - b).map((id) => [id, 1 + inDegree(graph, held, id)]);
          expect(users).toEqual(expected);
        }
        for (const access of accesses) access.close();
        host.system.exit();
        expect(context.objects.size > 0).toBe(true);
        device.unbind();
        const { objects, areas } = host.node;
        const left = [objects, areas, host.driver.live.length, host.space.pinnedPages, host.descriptors.size];
        expect([...left, host.node.contexts.size]).toEqual([0, 0, 0, 0, 0, 0]);
      }),
      { numRuns: SEQUENCES, seed: 16 },
    );
    if (SEQUENCES < 100) return;
    for (const kind of ['ioas', 'paging', 'nested']) expect([...ends]).toContain(`destroy ${kind} null`);
    for (const kind of ['ioas', 'paging', 'fault', 'device', 'access'])
      expect([...ends]).toContain(`destroy ${kind} EBUSY`);
  });
});

describe('property 17: attaching and replacing', () => {
  const step = fc.record({
    op: fc.constantFrom('attach', 'replace', 'detach', 'map', 'unmap', 'forbid'),
    device: fc.nat(3),
    table: fc.nat(7),
    pasid: fc.constantFrom(...PASIDS),
    fail: fc.oneof({ weight: 1, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.integer({ min: 1, max: 14 }) }),
  });

  /** Everything that a failure must leave: routes, reserved ranges, users of tables, and which handle is where. */
  function state(host: Host, devices: readonly IommufdDevice[], ioas: readonly number[]): unknown {
    return {
      snapshot: host.snapshot(),
      ranges: ioas.map((id) => host.client.ioasIovaRanges(id)),
      handles: devices.map((device) => PASIDS.map((pasid) => device.attached(pasid))),
    };
  }

  test('X5 X6 that fail, at any point, leave the device, its PASIDs, reserved ranges, tables and handles as they were', () => {
    const ends = new Set<string>();
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 50, size: 'max' }), (steps) => {
        const host = new Host();
        host.driver.regions = [{ first: 0x8000n, last: 0xffffn, kind: 'reserved', prot: 0 }];
        const { client } = host;
        const first = host.bind();
        const devices = [first, host.bind(first.device.group), host.bind(), host.bind()];
        const deviceId = first.id;
        const ioas = [client.ioasAlloc(), client.ioasAlloc()];
        const parentId = client.hwptAllocPaging({ deviceId, ioasId: ioas[0]!, nestParent: true, pasid: true });
        const tables = [
          ...ioas,
          client.hwptAllocPaging({ deviceId, ioasId: ioas[0]!, pasid: true }),
          client.hwptAllocPaging({ deviceId, ioasId: ioas[1]!, pasid: true }),
          client.hwptAllocPaging({ deviceId, ioasId: ioas[1]! }),
          parentId,
          client.hwptAllocVtdS1({ deviceId, parentId, pageTable: 0n, addressWidth: 48, pasid: true }),
          first.id,
        ];
        for (const { op, device: at, table, pasid, fail } of steps) {
          const device = devices[at]!;
          const before = state(host, devices, ioas);
          host.kernel.failpoints.arm(op === 'detach' ? 0 : fail);
          const code = errnoOf(() => {
            if (op === 'attach') device.attach(tables[table]!, pasid);
            else if (op === 'replace') device.replace(tables[table]!, pasid);
            else if (op === 'detach') device.detach(pasid);
            else if (op === 'map') {
              const iova = BigInt(table) * 0x2000n;
              client.ioasMap({ ioasId: ioas[at % 2]!, userVa: MEMORY, length: 0x2000n, iova });
            } else if (op === 'unmap') client.ioasUnmapAll(ioas[at % 2]!);
            else if (host.driver.incompatible.size > 0) host.driver.incompatible.clear();
            else {
              // Not one that is attached: a device must be able to go back.
              const domain = host.driver.domains[table % 3]!;
              if (![...host.driver.routes.values()].includes(domain.id)) host.driver.incompatible.add(domain);
            }
          });
          const injected = host.kernel.failpoints.hit !== null;
          host.kernel.failpoints.arm(0);
          ends.add(`${op} ${injected ? 'failpoint' : code}`);
          if (code !== null) expect(state(host, devices, ioas)).toEqual(before);
          else if (op !== 'map' && op !== 'unmap') checkRoutes(host, devices);
        }
        for (const device of devices) device.unbind();
        expect([host.driver.routes.size, host.context.groups.size]).toEqual([0, 0]);
        // What the devices reserved is free again.
        for (const ioasId of ioas) expect(client.ioasIovaRanges(ioasId).ranges.length).toBe(1);
        host.process.exit();
        expect([host.context.objects.size, host.space.pinnedPages, host.driver.live.length]).toEqual([0, 0, 0]);
      }),
      { numRuns: SEQUENCES, seed: 17 },
    );
    if (SEQUENCES < 100) return;
    for (const op of ['attach', 'replace']) {
      for (const end of ['null', 'EINVAL', 'failpoint', 'EADDRINUSE']) expect([...ends]).toContain(`${op} ${end}`);
    }
  });

  /** The driver routes each device and PASID to the table whose handle is there. */
  function checkRoutes(host: Host, devices: readonly IommufdDevice[]): void {
    const routes = new Map<string, number>();
    for (const device of devices) {
      for (const pasid of PASIDS) {
        const hwpt = device.group.attached(device, pasid);
        if (hwpt === null) continue;
        // A PASID is the whole group's.
        for (const { rid } of device.group.group.devices) routes.set(`${rid}:${pasid}`, hwpt.domain.id);
      }
    }
    expect([...host.driver.routes].sort()).toEqual([...routes].sort());
  }
});
