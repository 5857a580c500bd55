import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IOVA, type MdevUser, refusal, Site, slow } from './support.ts';

/** Everything that a failed attach could have left changed. */
function snapshot(site: Site, users: readonly MdevUser[], ioasIds: readonly number[]): unknown {
  const { host, device, pasids } = site;
  const { group } = device;
  return {
    frames: site.machine.frames.allocated,
    pasids: [pasids.size, pasids.parked],
    domainIds: host.driver.unit.domainIds.used,
    routes: [...group.pasidHandles].map(([pasid, { domain }]) => [pasid, domain.id]),
    authorised: [...device.authorizedPasids],
    pinned: host.processes.counts.pinned,
    objects: users.map((user) => [user.mdev.dma!.physical(-1), user.mdev.dma!.physical(5)]),
    spaces: ioasIds.map((ioasId) => users[0]!.iommufd.ioasIovaRanges(ioasId).ranges),
    dma: users.map((user) => [user.write(IOVA, 1), user.write(IOVA, 1, 5)]),
  };
}

describe('X5 a failure at any step of', () => {
  type Setup = { site: Site; user: MdevUser; spaces: number[]; tables: number[] };

  function setup(): Setup {
    const site = new Site();
    const user = site.user(site.create('pasids'));
    const spaces = [user.space().ioasId, user.space().ioasId];
    return { site, user, spaces, tables: spaces.map((ioasId) => user.table(ioasId)) };
  }

  function sweep({ site, user, spaces }: Setup, operation: () => void): string[] {
    const { failpoints } = site.host.kernel;
    const names: string[] = [];
    for (let nth = 1; ; nth++) {
      const before = snapshot(site, [user], spaces);
      failpoints.arm(nth);
      const outcome = refusal(operation);
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) {
        expect(outcome).toBeNull();
        return names;
      }
      names.push(hit);
      expect([hit, outcome]).toEqual([hit, 'ENOMEM']);
      expect([hit, snapshot(site, [user], spaces)]).toEqual([hit, before]);
    }
  }

  test('attaching and replacing without PASID, by IOAS and by table', { timeout: 60_000 }, () => {
    const all = setup();
    const { user, spaces, tables } = all;
    expect(sweep(all, () => user.vfio.attach(spaces[0]!))).toEqual(
      expect.arrayContaining(['iommufd_attach_handle', 'global_pasid', 'aux_attach', 'pasid_entry']),
    );
    expect(sweep(all, () => user.vfio.attach(spaces[1]!))).toContain('aux_attach');
    expect(sweep(all, () => user.vfio.attach(tables[0]!))).toContain('aux_attach');
    expect(sweep(all, () => user.vfio.detach())).toEqual([]);
  });

  test('attaching and replacing a PASID', { timeout: 60_000 }, () => {
    const all = setup();
    const { user, tables } = all;
    expect(sweep(all, () => user.vfio.attach(tables[0]!, { pasid: 5 }))).toEqual(
      expect.arrayContaining(['iommufd_attach_handle', 'global_pasid', 'pasid_entry']),
    );
    expect(sweep(all, () => user.vfio.attach(tables[1]!, { pasid: 5 }))).toContain('pasid_entry');
    expect(sweep(all, () => user.vfio.detach({ pasid: 5 }))).toEqual([]);
  });

  test('creating and binding', { timeout: 60_000 }, () => {
    const all = setup();
    const { site, user } = all;
    const made = site.mdevs.children(site.parent).length;
    const names = sweep(all, () => {
      const mdev = site.create();
      try {
        user.second(mdev);
      } catch (error) {
        site.mdevs.remove(mdev);
        throw error;
      }
    });
    expect(names).toEqual(['mdev_device', 'iommufd_object_alloc', 'mdev_open']);
    expect(site.mdevs.children(site.parent).length).toBe(made + 1);
  });
});

/** `space` is which of the two; `pasid` 0 stands for none. */
type Step =
  | { readonly kind: 'attach'; readonly device: number; readonly pasid: number; readonly space: number }
  | { readonly kind: 'detach' | 'start'; readonly device: number; readonly pasid: number }
  | { readonly kind: 'reset' | 'reopen'; readonly device: number }
  | { readonly kind: 'pass'; readonly time: number };

const device = fc.nat({ max: 2 });
const pasid = fc.constantFrom(0, 1);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 9,
    arbitrary: fc.record({ kind: fc.constant('attach' as const), device, pasid, space: fc.nat({ max: 1 }) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('detach' as const), device, pasid }) },
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('start' as const), device, pasid }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('reset' as const, 'reopen' as const), device }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('pass' as const), time: fc.nat({ max: 300_000 }) }) },
);

/** A command of the model that is not known to be over: which spaces it may still reach, and whether it may fail. */
type Pending = { readonly pasid: number; readonly value: number; readonly may: Set<number>; mayFail: boolean };

/**
 * What can be: each device has one byte in each space, and at each PASID reaches one space or none. A command reaches
 * one of the spaces that its PASID led to from its start to its end.
 */
class Model {
  readonly routes: Map<number, number>[] = [new Map(), new Map(), new Map()];
  readonly pending: (Pending | null)[] = [null, null, null];
  /** By space and device. */
  readonly bytes: number[][] = [
    [0, 0, 0],
    [0, 0, 0],
  ];

  start(index: number, pasid: number, value: number): void {
    const space = this.routes[index]!.get(pasid);
    this.pending[index] = {
      pasid,
      value,
      may: new Set(space === undefined ? [] : [space]),
      mayFail: space === undefined,
    };
  }

  route(index: number, pasid: number, space: number | null): void {
    const pending = this.pending[index];
    if (space === null) this.routes[index]!.delete(pasid);
    else this.routes[index]!.set(pasid, space);
    if (pending?.pasid !== pasid) return;
    if (space === null) pending.mayFail = true;
    else pending.may.add(space);
  }

  /** The command of a device is over, with success or not, or, when null, taken back; `seen` is what the spaces hold. */
  end(index: number, success: boolean | null, seen: readonly number[]): void {
    const pending = this.pending[index];
    if (pending == null) return;
    this.pending[index] = null;
    const changed = [0, 1].filter((space) => seen[space] !== this.bytes[space]![index]);
    expect(changed.length).toBeLessThanOrEqual(1);
    for (const space of changed) {
      expect([seen[space], pending.may.has(space)]).toEqual([pending.value, true]);
      this.bytes[space]![index] = pending.value;
    }
    if (success === null) return;
    expect(success).toBe(changed.length === 1);
    if (!success) expect(pending.mayFail).toBe(true);
  }

  /** PASIDs of the parent that must be in use: one for each space without PASID, one for each device and PASID with. */
  get pasids(): number {
    const spaces = new Set(this.routes.flatMap((routes) => (routes.has(0) ? [routes.get(0)] : [])));
    return this.routes.reduce((sum, routes) => sum + [...routes.keys()].filter((key) => key !== 0).length, spaces.size);
  }
}

describe('X2 X4 X6 three devices of one parent and two address spaces', () => {
  /** 0.1 ms for a command, so that calls come before, between and after. */
  function run(sequence: readonly Step[]): number {
    const site = slow(1_000);
    const model = new Model();
    const first = site.user(site.create('pasids'));
    const users = [first, first.second(site.create('pasids')), first.second(site.create('pasids'))];
    const spaces = [first.space(), first.space()];
    const tables = spaces.map(({ ioasId }) => first.table(ioasId));
    const seen = (index: number): number[] => spaces.map(({ va }) => first.byteAt(va + BigInt(index)));
    let value = 0;
    let landed = 0;
    const collect = (): void => {
      users.forEach((user, index) => {
        if (model.pending[index] === null || user.busy) return;
        const success = user.result === 0;
        if (success) landed++;
        model.end(index, success, seen(index));
      });
      users.forEach((_, index) => {
        if (model.pending[index] === null) expect(seen(index)).toEqual(model.bytes.map((bytes) => bytes[index]));
      });
      expect(site.pasids.size).toBe(model.pasids);
    };
    for (const step of sequence) {
      if (step.kind === 'pass') site.host.run(step.time);
      else {
        const index = step.device;
        const user = users[index]!;
        if (step.kind === 'attach') {
          user.vfio.attach(tables[step.space]!, step.pasid === 0 ? {} : { pasid: step.pasid });
          model.route(index, step.pasid, step.space);
        } else if (step.kind === 'detach') {
          user.vfio.detach(step.pasid === 0 ? {} : { pasid: step.pasid });
          model.route(index, step.pasid, null);
        } else if (step.kind === 'start') {
          if (model.pending[index] !== null) continue;
          value = (value % 255) + 1;
          model.start(index, step.pasid, value);
          user.setBuffer([value]);
          user.start(IOVA + BigInt(index), step.pasid === 0 ? {} : { pasid: step.pasid });
        } else {
          if (step.kind === 'reset') user.vfio.reset();
          else user.close();
          model.end(index, null, seen(index));
          if (step.kind === 'reopen') {
            model.routes[index]!.clear();
            users[index] = first.second(user.mdev);
          }
        }
      }
      collect();
    }
    site.settle();
    collect();
    expect(model.pending).toEqual([null, null, null]);
    for (const user of users) user.close();
    const { pasids, device: parent, host } = site;
    expect([pasids.size, pasids.parked, parent.group.pasidHandles.size, parent.authorizedPasids.size]).toEqual([
      0,
      [],
      0,
      0,
    ]);
    for (const table of tables) first.iommufd.destroy(table);
    for (const { ioasId } of spaces) first.iommufd.destroy(ioasId);
    expect(host.processes.counts.pinned).toBe(0);
    site.parent.remove();
    return landed;
  }

  test('bytes land only where the model says, and at the end nothing is left', { timeout: 60_000 }, () => {
    let landed = 0;
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 60 }), (sequence) => {
        landed += run(sequence);
      }),
      { numRuns: 60 },
    );
    expect(landed).toBeGreaterThan(60);
  });
});
