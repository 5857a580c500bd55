import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MERGED_AREAS_MAX } from '../../src/ioasid/software-nesting.ts';
import { MEMORY } from '../support/host.ts';
import { errno, FakeIoasidHost, IoasidHost, PAGE } from '../support/ioasid-host.ts';

describe('nesting in software', () => {
  /** Both devices at a root with 8 pages at 0, filled with 1..8, the second at a child as well. */
  function nested() {
    const host = new IoasidHost();
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = host.client.alloc();
    for (const device of [first, second]) device.attach(gpa);
    const va = host.memory(8);
    host.client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 8n * PAGE });
    const child = host.client.createNesting(gpa);
    second.attach(child);
    return { host, client: host.client, first, second, gpa, child, va };
  }

  test('what the child maps is merged with what the parent maps, and pinned and charged at the parent alone', () => {
    const { host, client, first, second, child, va } = nested();
    client.map({ ioasid: child, iova: 0x40_0000, vaddr: 2n * PAGE, size: 3n * PAGE });
    expect([0n, 1n, 2n, 3n].map((page) => second.read(0x40_0000n + page * PAGE))).toEqual([3, 4, 5, null]);
    expect([first.read(2n * PAGE), first.read(0x40_0000n), second.read(2n * PAGE)]).toEqual([3, null, null]);
    expect([second.tester.write(0x40_0007n, 99), host.byteAt(va + 2n * PAGE + 7n), host.pins]).toEqual([
      true,
      99,
      [8, 8],
    ]);
    expect(client.unmap(child, 0x40_0000, 3n * PAGE)).toBe(3n * PAGE);
    expect([second.read(0x40_0000n), host.pins]).toEqual([null, [8, 8]]);
  });

  test('an unmap in the parent reaches through to the child before it returns, and a map fills the window again', () => {
    const { host, client, second, gpa, child } = nested();
    client.map({ ioasid: child, iova: 0x10_0000, vaddr: 0, size: 16n * PAGE });
    expect([second.read(0x10_7000n), second.read(0x10_8000n)]).toEqual([8, null]);
    // A translation in the device's own cache goes as well.
    expect(second.tester.read(0x10_3000n, { addressing: 'cached' })).toBe(4);
    expect(client.unmap(gpa, 0, 8n * PAGE)).toBe(8n * PAGE);
    expect([second.read(0x10_3000n), second.tester.read(0x10_3000n, { addressing: 'cached' })]).toEqual([null, null]);
    expect(host.pins).toEqual([0, 0]);
    client.map({ ioasid: gpa, iova: 6n * PAGE, vaddr: host.memory(4, 50), size: 4n * PAGE });
    expect([5n, 6n, 7n, 8n, 9n, 10n].map((page) => second.read(0x10_0000n + page * PAGE))).toEqual([
      null,
      50,
      51,
      52,
      53,
      null,
    ]);
    client.unmap(child, 0x10_0000, 16n * PAGE);
    expect([second.read(0x10_7000n), host.pins]).toEqual([null, [4, 4]]);
  });

  test('one map merges so many areas below and no more, whatever the levels multiply', () => {
    const host = new FakeIoasidHost('v2');
    const { client } = host;
    const width = 256n;
    const ioasids = [client.alloc()];
    for (let level = 1; level < 4; level++) ioasids.push(client.alloc({ parent: ioasids[level - 1]! }));
    const [root, first, second, third] = ioasids as [number, number, number, number];
    // Of each page of the root there are 16 in the first level, 256 in the second and 65,536 in the third.
    for (let n = 0n; n < 16n; n++) {
      client.map({ ioasid: first, iova: n * PAGE, vaddr: 0, size: PAGE });
      client.map({ ioasid: second, iova: n * 16n * PAGE, vaddr: 0, size: 16n * PAGE });
    }
    for (let n = 0n; n < width; n++) {
      client.map({ ioasid: third, iova: n * width * PAGE, vaddr: 0, size: width * PAGE });
    }
    const areas = (): number[] =>
      ioasids.map((ioasid) => host.context.get(ioasid, 'test').ioas!.table.space.areasIn(0n, 1n << 48n).length);
    expect(errno(() => client.map({ ioasid: root, iova: 0, vaddr: MEMORY, size: PAGE }))).toBe('ENOSPC');
    expect(areas()).toEqual([0, 0, 0, 0]);
    for (let n = 0n; n < 2n; n++) client.unmap(third, n * width * PAGE, width * PAGE);
    client.map({ ioasid: root, iova: 0, vaddr: MEMORY, size: PAGE });
    const merged = areas();
    expect(merged).toEqual([1, 16, 256, 254 * 256]);
    expect(merged.slice(1).reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(MERGED_AREAS_MAX);
    host.system.exit();
    expect(host.node.iommufd.objects).toBe(0);
  });

  test('of access both levels have a say', () => {
    const host = new IoasidHost({ features: { nested: false } });
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    device.attach(gpa);
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(1), size: PAGE });
    client.map({ ioasid: gpa, iova: PAGE, vaddr: host.memory(1), size: PAGE, writable: false });
    const child = client.createNesting(gpa);
    device.attach(child);
    client.map({ ioasid: child, iova: 0x10000, vaddr: 0, size: 2n * PAGE });
    client.map({ ioasid: child, iova: 0x20000, vaddr: 0, size: 2n * PAGE, writable: false });
    client.map({ ioasid: child, iova: 0x30000, vaddr: 0, size: 2n * PAGE, readable: false });
    const access = (iova: bigint): [boolean, boolean] => [device.read(iova) !== null, device.tester.write(iova, 1)];
    expect([access(0x10000n), access(0x11000n)]).toEqual([
      [true, true],
      [true, false],
    ]);
    expect([access(0x20000n), access(0x21000n)]).toEqual([
      [true, false],
      [true, false],
    ]);
    // The second page may be read by the one and written by the other: that is nothing.
    expect([device.tester.write(0x30000n, 1), access(0x31000n)]).toEqual([true, [false, false]]);
    expect(client.unmap(child, 0x30000, 2n * PAGE)).toBe(2n * PAGE);
  });

  test('windows are mapped and unmapped whole', () => {
    const { client, second, child } = nested();
    const map = (iova: bigint, pages: bigint, vaddr = 0n): string | null =>
      errno(() => client.map({ ioasid: child, iova, vaddr, size: pages * PAGE }));
    expect([map(0x10000n, 4n), map(0x13000n, 1n), map(0xf000n, 2n)]).toEqual([null, 'EEXIST', 'EEXIST']);
    const unmap = (iova: bigint, pages: bigint): bigint | string | null => {
      let bytes = 0n;
      return errno(() => (bytes = client.unmap(child, iova, pages * PAGE))) ?? bytes;
    };
    expect([unmap(0x10000n, 2n), unmap(0x12000n, 4n), unmap(0x50000n, 1n)]).toEqual(['EINVAL', 'EINVAL', 0n]);
    expect(second.read(0x11000n)).toBe(2);
    // A window onto nothing is one all the same.
    expect([map(0x20000n, 1n, 0x9999_0000n), map(0x20000n, 1n)]).toEqual([null, 'EEXIST']);
    expect(map(0xffff_ffff_ffff_f000n, 1n)).toBe('EINVAL');
    expect(client.unmapAll(child)).toBe(5n * PAGE);
    expect([second.read(0x11000n), client.unmapAll(child)]).toEqual([null, 0n]);
    for (const request of [
      { iova: 1, vaddr: 0, size: PAGE },
      { iova: 0, vaddr: 1, size: PAGE },
      { iova: 0, vaddr: 0, size: 1 },
      { iova: 0, vaddr: 0, size: 0 },
      { iova: 0xffff_ffff_ffff_f000n, vaddr: 0, size: 2n * PAGE },
      { iova: 0, vaddr: 0xffff_ffff_ffff_f000n, size: 2n * PAGE },
      { iova: 0, vaddr: 0, size: PAGE, readable: false, writable: false },
    ]) {
      expect(errno(() => client.map({ ioasid: child, ...request }))).toBe('EINVAL');
    }
  });

  test('a map in the parent that cannot be shown in a child is not made', () => {
    const { host, client, first, second, gpa, child } = nested();
    client.unmapAll(gpa);
    client.map({ ioasid: child, iova: 0x10000, vaddr: 0, size: 4n * PAGE });
    const vaddr = host.memory(4, 60);
    const { failpoints } = host.machine.kernel;
    for (let nth = 1; ; nth++) {
      failpoints.arm(nth);
      const code = errno(() => client.map({ ioasid: gpa, iova: 0, vaddr, size: 4n * PAGE }));
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) break;
      expect([hit, code, first.read(0n), second.read(0x10000n), host.pins]).toEqual([
        hit,
        'ENOMEM',
        null,
        null,
        [0, 0],
      ]);
    }
    expect([first.read(0n), second.read(0x13000n)]).toEqual([60, 63]);
  });

  test('what is shown is always the one map after the other, whatever is mapped and unmapped in which order', () => {
    const SLOTS = 6;
    const levels = 3;
    const step = fc.oneof(
      fc.record({
        op: fc.constant('map' as const),
        level: fc.nat(levels - 1),
        slot: fc.nat(SLOTS - 1),
        pages: fc.integer({ min: 1, max: 3 }),
        target: fc.nat(SLOTS - 1),
      }),
      fc.record({ op: fc.constant('unmap' as const), level: fc.nat(levels - 1), slot: fc.nat(SLOTS - 1) }),
    );
    fc.assert(
      fc.property(fc.array(step, { minLength: 8, maxLength: 24, size: 'max' }), (steps) => {
        const host = new IoasidHost({ rules: 'v2' });
        const { client } = host;
        const devices = [host.bind(0), host.bind(1), host.bind(2)];
        const va = host.memory(SLOTS, 100);
        const ioasids = [client.alloc()];
        for (let level = 1; level < levels; level++) ioasids.push(client.alloc({ parent: ioasids[level - 1]! }));
        devices.forEach((device, level) => device.attach(ioasids[level]!));
        /** At each level, the mappings: first page, pages, and the page of the level above. */
        const maps: { slot: number; pages: number; target: number }[][] = [[], [], []];
        const translate = (level: number, page: number): number | null => {
          const map = maps[level]!.find(({ slot, pages }) => slot <= page && page < slot + pages);
          if (map === undefined) return null;
          const target = map.target + page - map.slot;
          if (level > 0) return translate(level - 1, target);
          return target < SLOTS ? 100 + target : null;
        };
        for (const { op, level, slot, ...rest } of steps) {
          const mine = maps[level]!;
          if (op === 'map') {
            const { pages, target } = rest as { pages: number; target: number };
            if (level === 0 && target + pages > SLOTS) continue;
            const free = mine.every((map) => map.slot >= slot + pages || slot >= map.slot + map.pages);
            const vaddr = (level === 0 ? va : 0n) + BigInt(target) * PAGE;
            const request = { ioasid: ioasids[level]!, iova: BigInt(slot) * PAGE, vaddr, size: BigInt(pages) * PAGE };
            expect(errno(() => client.map(request))).toBe(free ? null : 'EEXIST');
            if (free) mine.push({ slot, pages, target });
          } else {
            const map = mine.find((candidate) => candidate.slot === slot);
            const inside = mine.find((candidate) => candidate.slot < slot && slot < candidate.slot + candidate.pages);
            const size = BigInt(map?.pages ?? 1) * PAGE;
            const code = errno(() => client.unmap(ioasids[level]!, BigInt(slot) * PAGE, size));
            expect(code).toBe(inside === undefined ? null : 'EINVAL');
            if (map !== undefined) mine.splice(mine.indexOf(map), 1);
          }
          for (let at = 0; at < levels; at++) {
            const seen = Array.from({ length: SLOTS + 2 }, (_, page) => devices[at]!.read(BigInt(page) * PAGE));
            expect(seen).toEqual(seen.map((_, page) => translate(at, page)));
          }
          const pinned = maps[0]!.reduce((count, { pages }) => count + pages, 0);
          expect(host.pins).toEqual([pinned, pinned]);
        }
        host.system.exit();
        for (const device of devices) device.unbind();
        expect([host.pins, host.node.iommufd.objects]).toEqual([[0, 0], 0]);
      }),
      { numRuns: 12 },
    );
  });
});
