import { noTrace } from '@iommukit/hw';
import { IOMMU_READ, IOMMU_WRITE, type Kernel, type SysError, User } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Area } from '../../src/ioas/area.ts';
import { IoPageTable } from '../../src/ioas/io-page-table.ts';
import { UserSource } from '../../src/ioas/page-source.ts';
import { Pages } from '../../src/ioas/pages.ts';
import { FakeAddressSpace, FakeDomain, FakeDriver, fakeKernel } from '../support/fakes.ts';

const RW = IOMMU_READ | IOMMU_WRITE;
const MEMORY_VPN = 0x100;
const MEMORY_PAGES = 48;

/** Two IOAS tables over one process's memory, with what the model of the test remembers of them. */
class World {
  readonly kernel: Kernel = fakeKernel();
  readonly driver = new FakeDriver(this.kernel);
  readonly space = new FakeAddressSpace();
  readonly user = new User(1);
  readonly tables = [new IoPageTable(this.kernel), new IoPageTable(this.kernel)];
  /** Frame of each pinned index of each pin group, as it was when it was pinned. */
  readonly frames = new Map<Pages, Map<number, number>>();
  readonly violations: string[] = [];
  limit = Number.POSITIVE_INFINITY;
  private nextPages = 1;
  private nextDomain = 1;

  constructor() {
    this.space.map(MEMORY_VPN, MEMORY_PAGES / 2);
    this.space.map(MEMORY_VPN + MEMORY_PAGES / 2, MEMORY_PAGES / 2, true, 1);
    this.space.onUnpinned = (pfn) => {
      for (const domain of this.domains) {
        if (domain.reaches(pfn)) this.violations.push(`frame ${pfn} unpinned while domain ${domain.id} reaches it`);
      }
    };
  }

  readonly domains: FakeDomain[] = [];

  newDomain(options: ConstructorParameters<typeof FakeDomain>[3]): FakeDomain {
    const domain = new FakeDomain(this.kernel, this.driver, this.nextDomain++, options);
    this.domains.push(domain);
    return domain;
  }

  pages(userVa: bigint, writable: boolean): Pages {
    const payer = { addressSpace: this.space, user: this.user, limit: () => this.limit };
    const { kernel } = this;
    const id = this.nextPages++;
    const source = () => new UserSource(this.space, userVa & ~0xfffn);
    return new Pages({ kernel, payer, accounting: 'user', context: 1, id, writable, trace: noTrace, source });
  }

  map(table: number, userVa: bigint, length: bigint, iova: bigint | null, prot: number, writable = true): bigint {
    const pages = this.pages(userVa, writable);
    const slice = { pages, startByte: userVa - pages.source.start, length };
    return this.tables[table]!.map([slice], length, iova, prot)[0]!.iova;
  }

  copy(from: number, iova: bigint, length: bigint, to: number, dst: bigint | null, prot: number): bigint {
    const slices = this.tables[from]!.slices(iova, length);
    try {
      return this.tables[to]!.map(slices, length, dst, prot)[0]!.iova;
    } catch (error) {
      for (const { pages } of slices) pages.put();
      throw error;
    }
  }

  areas(table: number): Area[] {
    const areas: Area[] = [];
    this.tables[table]!.space.forEachArea((area) => areas.push(area));
    return areas;
  }

  /** Everything that a failed operation must leave as it is. */
  snapshot(): unknown {
    return {
      areas: this.tables.map((_, index) =>
        this.areas(index).map((a) => [a.iova, a.last, a.startByte, a.prot, a.pages.id, a.pages.users]),
      ),
      reserved: this.tables.map((table) => table.space.reservedRanges.map(({ start, last }) => [start, last])),
      alignment: this.tables.map((table) => table.iovaAlignment),
      domains: this.tables.map((table) => table.domains.map(({ id }) => id)),
      units: this.domains.map((domain) => [...domain.units].sort((a, b) => a[0] - b[0])),
      pins: [...this.space.pins].sort((a, b) => a[0] - b[0]),
      counts: [this.space.pinnedPages, this.user.lockedPages],
    };
  }

  /** The invariants of the pinning rules, from scratch. */
  check(): void {
    expect(this.violations).toEqual([]);
    const covered = new Map<Pages, Set<number>>();
    for (const [index, table] of this.tables.entries()) {
      let end = -1n;
      for (const area of this.areas(index)) {
        expect(area.iova > end).toBe(true);
        end = area.last;
        expect(area.isAligned(table.iovaAlignment)).toBe(true);
        expect(table.space.reservedRanges.some((r) => r.start <= area.last && area.iova <= r.last)).toBe(false);
        if ((area.prot & IOMMU_WRITE) !== 0) expect(area.pages.writable).toBe(true);
        const set = covered.get(area.pages) ?? new Set();
        covered.set(area.pages, set);
        if (table.domains.length === 0) continue;
        for (let page = area.firstIndex; page <= area.lastIndex; page++) set.add(page);
      }
      const smallest = table.domains.map((domain) => 2 ** domain.pageSizesLg2[0]!);
      expect(table.iovaAlignment).toBe(Math.max(1, ...smallest));
    }
    this.checkPins(covered);
    this.checkTranslations();
  }

  /** Remembers the frame of an index when it becomes pinned; it must stay what it was. */
  private checkPins(covered: Map<Pages, Set<number>>): void {
    let total = 0;
    const pins = new Map<number, number>();
    for (const [pages, indexes] of covered) {
      const before = this.frames.get(pages) ?? new Map<number, number>();
      const now = new Map<number, number>();
      for (const index of indexes) {
        const vpn = Number(pages.source.start >> 12n) + index;
        now.set(index, before.get(index) ?? this.space.pages.get(vpn)!.pfn);
      }
      this.frames.set(pages, now);
      const seen: number[] = [];
      for (const { first, last } of pages.covered) for (let at = first; at <= last; at++) seen.push(at);
      expect(seen).toEqual([...indexes].sort((a, b) => a - b));
      expect(pages.pinned).toBe(indexes.size);
      total += indexes.size;
      for (const pfn of now.values()) pins.set(pfn, (pins.get(pfn) ?? 0) + 1);
    }
    expect(this.space.pins).toEqual(pins);
    expect([this.space.pinnedPages, this.user.lockedPages]).toEqual([total, total]);
  }

  private checkTranslations(): void {
    for (const [index, table] of this.tables.entries()) {
      for (const domain of table.domains as FakeDomain[]) {
        let units = 0;
        for (const area of this.areas(index)) {
          const frames = this.frames.get(area.pages)!;
          for (let offset = 0n; offset < area.length; offset += 2048n) {
            const byte = area.startByte + offset;
            const phys = BigInt(frames.get(Number(byte >> 12n))!) * 4096n + (byte & 0xfffn);
            expect(domain.iovaToPhys(area.iova + offset)).toBe(phys);
            units++;
          }
        }
        expect(domain.units.size).toBe(units);
        expect(domain.cached.size).toBe(0);
      }
    }
  }
}

describe('areas, domains and pins', () => {
  test('X5 every failpoint of map, copy and adding a domain leaves no trace', () => {
    for (const operation of ['map', 'copy', 'addDomain'] as const) {
      let passed = false;
      for (let nth = 1; !passed; nth++) {
        expect(nth).toBeLessThan(100);
        const world = new World();
        const base = BigInt(MEMORY_VPN) * 4096n;
        world.map(0, base, 0x8000n, 0x10000n, RW);
        world.map(0, base + 0x10000n, 0x18000n, 0x18000n, RW);
        world.tables[operation === 'addDomain' ? 1 : 0]!.addDomain(world.newDomain({}));
        world.tables[1]!.addDomain(world.newDomain({}));
        const target = world.newDomain({ aperture: { first: 0x1000n, last: 0xffff_ffffn } });
        world.check();
        const before = world.snapshot();
        world.kernel.failpoints.arm(nth);
        try {
          if (operation === 'map') world.map(1, base + 0x10000n, 0x14000n, null, RW);
          else if (operation === 'copy') world.copy(0, 0x11000n, 0x9000n, 1, null, RW);
          else world.tables[0]!.addDomain(target);
          passed = true;
        } catch (error) {
          expect((error as SysError).code).toBe('ENOMEM');
          expect(world.kernel.failpoints.hit).not.toBeNull();
          expect(world.snapshot()).toEqual(before);
        }
        world.kernel.failpoints.arm(0);
        world.check();
        if (passed) expect(nth).toBeGreaterThan(3);
      }
    }
  });
});

describe('pins', () => {
  const base = BigInt(MEMORY_VPN) * 4096n;

  test('C3 a range mapped in three IOAS is pinned once and charged once', () => {
    const world = new World();
    const third = new IoPageTable(world.kernel);
    world.tables.push(third);
    for (const table of world.tables) table.addDomain(world.newDomain({}));
    world.map(0, base, 0x10000n, 0x40000n, RW);
    expect([world.space.pinnedPages, world.user.lockedPages]).toEqual([16, 16]);
    world.copy(0, 0x40000n, 0x10000n, 1, 0x80000n, RW);
    world.copy(0, 0x40000n, 0x10000n, 2, null, IOMMU_READ);
    world.check();
    expect([world.space.pinnedPages, world.user.lockedPages]).toEqual([16, 16]);
    expect([...world.space.pins.values()]).toEqual(new Array(16).fill(1));
    expect(world.areas(0)[0]!.pages.users).toBe(3);
    world.tables[0]!.unmapAll(() => {});
    world.tables[2]!.unmapAll(() => {});
    expect(world.space.pinnedPages).toBe(16);
    world.tables[1]!.unmapAll(() => {});
    world.check();
    expect([world.space.pinnedPages, world.user.lockedPages]).toEqual([0, 0]);
  });

  test('C4 a mapping touches one reference counter of its group, however many pages it has', () => {
    const world = new World();
    world.tables[0]!.addDomain(world.newDomain({}));
    world.tables[1]!.addDomain(world.newDomain({}));
    world.space.map(0x1000, 20_000);
    world.map(0, 0x1000n << 12n, 20_000n << 12n, 1n << 30n, RW);
    const { pages } = world.areas(0)[0]!;
    expect([pages.pinned, pages.counters, pages.users]).toEqual([20_000, 1, 1]);
    for (let copies = 1; copies <= 5; copies++) {
      world.copy(0, 1n << 30n, 20_000n << 12n, 1, null, RW);
      expect([pages.pinned, pages.counters, pages.users]).toEqual([20_000, 1, 1 + copies]);
    }
    world.copy(0, (1n << 30n) + 0x5000n, 0x3000n, 1, null, RW);
    expect([pages.counters, pages.users]).toEqual([3, 7]);
    world.check();
  });

  test('EEXIST for one byte in common with an area, at either end, and nothing for none', () => {
    const world = new World();
    world.map(0, base, 0x10n, 0x40010n, RW);
    const at = (iova: bigint, length: bigint): unknown => {
      try {
        return world.map(0, base, length, iova, RW);
      } catch (error) {
        return (error as SysError).code;
      }
    };
    expect([at(0x40008n, 9n), at(0x4001fn, 1n), at(0x40010n, 1n), at(0x40000n, 0x100n)]).toEqual(
      Array(4).fill('EEXIST'),
    );
    expect([at(0x40008n, 8n), at(0x40020n, 1n)]).toEqual([0x40008n, 0x40020n]);
  });

  test('a cut behind the first byte of an area does nothing, and one at another misaligned place is EINVAL', () => {
    const world = new World();
    const [table] = world.tables;
    table!.setHugePages(false);
    world.map(0, base, 0x2000n, 0x40000n, RW);
    table!.cutAt(0x40001n);
    expect(world.areas(0).length).toBe(1);
    expect(() => table!.cutAt(0x40002n)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    table!.cutAt(0x41000n);
    expect(world.areas(0).map(({ iova, last }) => [iova, last])).toEqual([
      [0x40000n, 0x40fffn],
      [0x41000n, 0x41fffn],
    ]);
  });

  test('C6 a map whose page k cannot be pinned leaves no pin, charge or area of the pages before it', () => {
    for (let hole = 0; hole < 16; hole++) {
      const world = new World();
      world.tables[0]!.addDomain(world.newDomain({}));
      world.space.pages.delete(MEMORY_VPN + hole);
      expect(() => world.map(0, base, 0x10000n, 0x40000n, RW)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
      expect([world.space.pins.size, world.user.lockedPages, world.tables[0]!.space.areaCount]).toEqual([0, 0, 0]);
      world.check();
    }
  });

  test('C9 when pages are unpinned the flush has finished', () => {
    const world = new World();
    const domain = world.newDomain({});
    const events: string[] = [];
    const { sync, unmap } = domain;
    domain.sync = () => {
      events.push('sync');
      sync.call(domain);
    };
    domain.unmap = (...range) => {
      events.push('unmap');
      return unmap.apply(domain, range);
    };
    const unpin = world.space.unpin.bind(world.space);
    world.space.unpin = (runs, dirty) => {
      events.push('unpin');
      unpin(runs, dirty);
    };
    world.tables[0]!.addDomain(domain);
    world.map(0, base, 0x2000n, 0x40000n, RW);
    world.map(0, base, 0x2000n, 0x50000n, RW);
    world.tables[0]!.unmap(0x40000n, 0x20000n, () => {});
    expect(events).toEqual(['unmap', 'unmap', 'sync', 'unpin', 'unpin']);
    world.check();
  });

  test('C16 without a domain nothing is pinned; pins come with the first and go with the last', () => {
    const world = new World();
    world.map(0, base, 0x10000n, null, RW);
    world.map(0, base + 0x4000n, 0x4000n, null, IOMMU_READ, false);
    expect(world.space.pinnedPages).toBe(0);
    const [first, second] = [world.newDomain({}), world.newDomain({})];
    world.tables[0]!.addDomain(first);
    expect(world.space.pinnedPages).toBe(20);
    world.tables[0]!.addDomain(second);
    expect(world.space.pinnedPages).toBe(20);
    world.tables[0]!.removeDomain(first);
    expect(world.space.pinnedPages).toBe(20);
    world.check();
    world.tables[0]!.removeDomain(second);
    expect([world.space.pinnedPages, world.user.lockedPages]).toEqual([0, 0]);
    world.check();
  });

  test('groups larger than what is pinned at a time are pinned, shared in part and unpinned like small ones', () => {
    const world = new World();
    for (const table of world.tables) table.addDomain(world.newDomain({}));
    world.space.map(0x1000, 10_000, true, 1);
    world.tables[0]!.removeDomain(world.domains[0]!);
    world.map(0, 0x1000n << 12n, 10_000n << 12n, 1n << 30n, RW);
    const parts = [
      [4000n, 200n],
      [4096n, 4096n],
      [0n, 4096n],
      [8191n, 2n],
      [9999n, 1n],
    ] as const;
    const places = parts.map(([page, pages]) => {
      return world.copy(0, (1n << 30n) + (page << 12n), pages << 12n, 1, null, RW);
    });
    world.check();
    expect(world.space.pinnedPages).toBe(8194);
    parts.forEach(([, pages], index) => {
      world.tables[1]!.unmap(places[index]!, pages << 12n, () => {});
      world.check();
    });
    expect(world.space.pinnedPages).toBe(0);
  });

  test('frames that the process replaces meanwhile are not the ones that are unpinned', () => {
    const world = new World();
    world.tables[0]!.addDomain(world.newDomain({}));
    world.map(0, base, 0x4000n, 0x40000n, RW);
    const pinned = [...world.space.pins.keys()];
    world.check();
    world.space.map(MEMORY_VPN, 4);
    world.check();
    world.tables[0]!.unmapAll(() => {});
    expect([...world.space.dirty].sort()).toEqual(pinned.sort());
    expect(world.space.pins.size).toBe(0);
  });

  test('pages are written back as dirty only when they were pinned for writing', () => {
    const world = new World();
    world.tables[0]!.addDomain(world.newDomain({}));
    world.map(0, base, 0x1000n, 0x40000n, IOMMU_READ, false);
    world.tables[0]!.unmapAll(() => {});
    expect(world.space.dirty.size).toBe(0);
  });

  test('a part of a group stays pinned only as long as an area covers it', () => {
    const world = new World();
    world.tables[1]!.addDomain(world.newDomain({}));
    world.map(0, base, 0x10000n, 0x40000n, RW);
    world.copy(0, 0x42000n, 0x4000n, 1, 0x10000n, RW);
    world.copy(0, 0x44000n, 0x4000n, 1, 0x20000n, RW);
    const { pages } = world.areas(0)[0]!;
    expect(pages.covered).toMatchObject([
      { first: 2, last: 3 },
      { first: 4, last: 5 },
      { first: 6, last: 7 },
    ]);
    world.check();
    world.tables[1]!.unmap(0x10000n, 0x4000n, () => {});
    expect(pages.covered).toMatchObject([{ first: 4, last: 7 }]);
    world.check();
  });
});

describe('addresses', () => {
  const base = BigInt(MEMORY_VPN) * 4096n;
  const auto = (world: World, va: bigint, bytes: bigint): bigint => world.map(0, va, bytes, null, RW);

  test('are the first that fit, never 0, and as aligned as the memory and the length', () => {
    const world = new World();
    expect(auto(world, 0x10_0000n, 0x1000n)).toBe(0x1000n);
    expect(auto(world, 0x10_0000n, 0x4000n)).toBe(0x4000n);
    expect(auto(world, 0x10_1000n, 0x4000n)).toBe(0x8000n);
    expect(auto(world, 0x10_1000n, 0x1000n)).toBe(0x2000n);
    expect(auto(world, 0x4000_0000n, 0x4000_0000n)).toBe(0x20_0000n);
    expect(auto(world, 0x800n, 0x1001n)).toBe(0xc800n);
    // Address 0 has every alignment.
    expect(auto(world, 0n, 0x8000n)).toBe(0x10000n);
  });

  test('avoid reserved ranges and areas', () => {
    const world = new World();
    const table = world.tables[0]!;
    const owner = {};
    table.space.reserve(0n, 0xffffn, owner);
    table.space.reserve(0x8000n, 0x11fffn, owner);
    world.map(0, base, 0x1000n, 0x13000n, RW);
    expect(auto(world, base, 0x1000n)).toBe(0x12000n);
    expect(auto(world, base + 0x1000n, 0x2000n)).toBe(0x14000n);
    expect(() => table.space.reserve(0x13fffn, 0x13fffn, owner)).toThrow(
      expect.objectContaining({ code: 'EADDRINUSE' }),
    );
    expect(table.space.holes()[0]).toEqual({ start: 0x12000n, last: 2n ** 64n - 1n });
    table.space.unreserve(owner);
    expect(auto(world, base, 0x1000n)).toBe(0x1000n);
  });

  test('are looked for from the first place that has the offset in the page of the memory', () => {
    const world = new World();
    const { space } = world.tables[0]!;
    // Both leave a gap at 0x1430, where 0x1c30 would do as well: its bits hold the offset 0x800.
    world.map(0, base, 0x200n, 0x1230n, RW);
    expect(auto(world, base + 0x800n, 0x10n)).toBe(0x1800n);
    space.allow([{ start: 0x8000n, last: 0x8fffn }]);
    world.map(0, base, 0x200n, 0x8230n, RW);
    expect(auto(world, base + 0x800n, 0x10n)).toBe(0x8800n);
  });

  test('reach the top of the address space when they are given, not when they are chosen', () => {
    const world = new World();
    const top = 2n ** 64n;
    expect(world.map(0, base, 0x1000n, top - 0x1000n, RW)).toBe(top - 0x1000n);
    expect(() => world.map(0, base, 0x2000n, top - 0x1000n, RW)).toThrow(
      expect.objectContaining({ code: 'EOVERFLOW' }),
    );
    world.tables[0]!.space.reserve(0n, top - 0x3001n, {});
    expect(auto(world, base, 0x1000n)).toBe(top - 0x3000n);
    expect(auto(world, base, 0x1000n)).toBe(top - 0x2000n);
    expect(() => auto(world, base, 0x1000n)).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
    expect(world.tables[0]!.unmap(top - 0x3000n, 0x3000n, () => {})).toBe(0x3000n);
  });

  test('follow an alignment that a domain raises', () => {
    const world = new World();
    world.map(0, base + 1n, 7n, 0x10001n, RW);
    const domain = world.newDomain({});
    expect(() => world.tables[0]!.addDomain(domain)).toThrow(expect.objectContaining({ code: 'EADDRINUSE' }));
    world.tables[0]!.unmapAll(() => {});
    world.tables[0]!.addDomain(domain);
    for (const [va, bytes, iova] of [
      [1n, 0x1000n, 0x1000n],
      [0n, 0x800n, 0x1000n],
      [0n, 0x1000n, 0x800n],
    ] as const) {
      expect(() => world.map(0, base + va, bytes, iova, RW)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    expect(() => auto(world, base + 0x800n, 0x1000n)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    const large = world.newDomain({ smallestLg2: 13 });
    expect(() => world.tables[0]!.addDomain(large)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    world.tables[0]!.removeDomain(domain);
    expect(world.tables[0]!.iovaAlignment).toBe(1);
  });

  test('of an automatic map obey first fit against a naive search', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(40), fc.integer({ min: 1, max: 6 }), fc.boolean()), { maxLength: 14 }),
        fc.integer({ min: 1, max: 9 }),
        fc.nat(64),
        (taken, pages, vpn) => {
          const world = new World();
          const busy = new Set<number>([0]);
          for (const [start, count, reserve] of taken) {
            const range = Array.from({ length: count }, (_, index) => start + index);
            if (reserve) {
              try {
                world.tables[0]!.space.reserve(BigInt(start) * 4096n, BigInt(start + count) * 4096n - 1n, {});
              } catch {
                continue;
              }
            } else if (range.some((page) => busy.has(page) && page !== 0) || start === 0) continue;
            else world.map(0, base, BigInt(count) * 4096n, BigInt(start) * 4096n, RW);
            for (const page of range) busy.add(page);
          }
          const power = 2 ** Math.ceil(Math.log2(pages));
          const alignment = vpn === 0 ? power : Math.min(power, vpn & -vpn);
          let expected = alignment;
          while (Array.from({ length: pages }, (_, index) => expected + index).some((page) => busy.has(page))) {
            expected += alignment;
          }
          expect(auto(world, BigInt(vpn) * 4096n, BigInt(pages) * 4096n)).toBe(BigInt(expected) * 4096n);
        },
      ),
      { numRuns: 300 },
    );
  });
});
