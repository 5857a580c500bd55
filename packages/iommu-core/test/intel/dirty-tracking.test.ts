import { describe, expect, test } from 'vitest';
import {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  attachGroup,
  detachDevicePasid,
  IOMMU_READ,
  IOMMU_WRITE,
  type NestedDomain,
} from '../../src/index.ts';
import { GuestTable, LEAF_READ_ONLY, mapPage, nestedDomain, pagingDomain, readDirty } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';

const GVA = 0x7f12_3456_7000n;
const GUEST_FRAMES = 32;
/** Guest frames of the table: root first. */
const TABLES = [1, 2, 3, 4];
const FIRST_DATA_GFN = 16;
const PASID = 5;

/** A guest whose memory lies behind a nest parent that can track writes; its table maps GVA + page to frame 16 + page. */
function setUp(features = {}) {
  const machine = new Machine({ features });
  const device = machine.add();
  const parent = pagingDomain(device, ALLOC_NEST_PARENT | ALLOC_DIRTY_TRACKING);
  const base = machine.frames.allocateRun(GUEST_FRAMES)!;
  for (let gfn = 0; gfn < GUEST_FRAMES; gfn++) mapPage(parent, BigInt(gfn) << 12n, base + gfn);
  const table = new GuestTable(machine.memory, base, TABLES[0]!);
  for (let page = 0; page < 8; page++) table.set(gva(page), FIRST_DATA_GFN + page);
  const child = nestedDomain(device, parent, table.root);
  const dirty = parent.dirty!;
  /** Guest frames of [first, last] that are dirty. */
  const read = (keep = false, first = FIRST_DATA_GFN, last = GUEST_FRAMES - 1): number[] => {
    const ranges = readDirty(parent, BigInt(first) << 12n, (last - first + 1) * 4096, keep);
    return ranges.flatMap(([gpa, bytes]) =>
      Array.from({ length: bytes / 4096 }, (_, page) => Number(gpa >> 12n) + page),
    );
  };
  return { machine, device, parent, child, table, dirty, read };
}

function gva(page: number): bigint {
  return GVA + BigInt(page * 4096);
}

const ADDRESSING = [undefined, 'cached'] as const;

describe.each(ADDRESSING)('writes through a nested child, addressing %s', (addressing) => {
  const options = (pasid?: number) => ({
    ...(pasid === undefined ? {} : { pasid }),
    ...(addressing === undefined ? {} : { addressing }),
  });

  test('D23 are in the parent’s record at the guest-physical address, with PASID and without', () => {
    for (const pasid of [PASID, undefined]) {
      const { device, child, dirty, read } = setUp();
      if (pasid === undefined) attachGroup(device.device.group, { domain: child });
      else attachDevicePasid(device.device, pasid, { domain: child });
      dirty.setEnabled(true);
      expect(device.read(gva(0), options(pasid))).toBe(0);
      expect(device.write(gva(3), 1, options(pasid))).toBe(true);
      expect(device.write(gva(6), 1, options(pasid))).toBe(true);
      expect(read()).toEqual([FIRST_DATA_GFN + 3, FIRST_DATA_GFN + 6]);
    }
  });

  test('D23 are recorded for every child, and for one that is attached later', () => {
    const { device, parent, child, table, dirty, read } = setUp();
    const second = nestedDomain(device, parent, table.root);
    attachDevicePasid(device.device, PASID, { domain: child });
    dirty.setEnabled(true);
    attachDevicePasid(device.device, PASID + 1, { domain: second });
    expect(device.write(gva(1), 1, options(PASID))).toBe(true);
    expect(device.write(gva(2), 1, options(PASID + 1))).toBe(true);
    expect(read()).toEqual([FIRST_DATA_GFN + 1, FIRST_DATA_GFN + 2]);
  });

  test('D24 made before tracking are not recorded; those after it are, until a read that clears', () => {
    const { device, child, dirty, read } = setUp();
    const write = (page: number): void => {
      expect(device.write(gva(page), 1, options(PASID))).toBe(true);
    };
    attachDevicePasid(device.device, PASID, { domain: child });
    write(0);
    write(1);
    expect(read()).toEqual([]);
    dirty.setEnabled(true);
    expect([dirty.enabled, read()]).toEqual([true, []]);
    // Through translations that unit and device had cached before.
    write(1);
    write(2);
    for (let round = 0; round < 2; round++) expect(read(true)).toEqual([FIRST_DATA_GFN + 1, FIRST_DATA_GFN + 2]);
    // Only the pages that are asked for.
    expect(read(false, FIRST_DATA_GFN + 2, FIRST_DATA_GFN + 2)).toEqual([FIRST_DATA_GFN + 2]);
    expect(read()).toEqual([FIRST_DATA_GFN + 1]);
    expect(read()).toEqual([]);
    for (let round = 0; round < 2; round++) {
      write(1);
      expect(read()).toEqual([FIRST_DATA_GFN + 1]);
    }
    dirty.setEnabled(false);
    write(1);
    expect([dirty.enabled, read()]).toEqual([false, []]);
  });

  test('D24 that the guest’s table refuses are not recorded', () => {
    const { device, child, table, dirty, read } = setUp();
    table.set(gva(1), FIRST_DATA_GFN + 1, LEAF_READ_ONLY);
    attachDevicePasid(device.device, PASID, { domain: child });
    dirty.setEnabled(true);
    expect(device.write(gva(1), 1, options(PASID))).toBe(false);
    detachDevicePasid(device.device, PASID);
    expect(device.write(gva(2), 1, options(PASID))).toBe(false);
    expect(read()).toEqual([]);
  });
});

test('D23 a page of the guest’s table is dirty when hardware sets accessed and dirty bits in it', () => {
  const { device, child, dirty, read } = setUp();
  attachDevicePasid(device.device, PASID, { domain: child });
  dirty.setEnabled(true);
  expect(device.write(gva(0), 1, { pasid: PASID })).toBe(true);
  expect(read(false, 0, FIRST_DATA_GFN - 1)).toEqual(TABLES);
  // The bits are there now, and setting nothing writes nothing.
  expect(device.write(gva(0), 1, { pasid: PASID })).toBe(true);
  expect(read(false, 0, FIRST_DATA_GFN - 1)).toEqual([]);
});

test('D23 a large page of the parent is recorded whole', () => {
  const machine = new Machine();
  const device = machine.add();
  const parent = pagingDomain(device, ALLOC_NEST_PARENT | ALLOC_DIRTY_TRACKING);
  const base = machine.frames.allocateRun(512, 512)!;
  parent.map(0, 0, base << 12, base >>> 20, 512 * 4096, IOMMU_READ | IOMMU_WRITE);
  const table = new GuestTable(machine.memory, base, 1);
  table.set(GVA, 100);
  const child: NestedDomain = nestedDomain(device, parent, table.root);
  attachDevicePasid(device.device, PASID, { domain: child });
  parent.dirty!.setEnabled(true);
  expect(device.write(GVA, 1, { pasid: PASID })).toBe(true);
  expect(readDirty(parent, 0n, 2 * 512 * 4096)).toEqual([[0n, 512 * 4096]]);
});

test('a unit that does not track writes offers no domain that does', () => {
  const machine = new Machine({ features: { secondStageAccessedDirty: false } });
  const device = machine.add();
  expect(device.device.capable('dirty-tracking')).toBe(false);
  expect(refusal(() => pagingDomain(device, ALLOC_NEST_PARENT | ALLOC_DIRTY_TRACKING))).toBe('EOPNOTSUPP');
});
