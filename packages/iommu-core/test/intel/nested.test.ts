import { describe, expect, test } from 'vitest';
import {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  attachDevicePasid,
  attachGroup,
  detachDevicePasid,
  type NestedDomain,
  replaceDevicePasid,
  SysError,
} from '../../src/index.ts';
import {
  GuestTable,
  LEAF_READ_ONLY,
  mapPage,
  nestedDomain,
  pagingDomain,
  readDirty,
  unmapPage,
  userData,
  vtdInvalidate,
  vtdS1,
} from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';

const GVA = 0x7f12_3456_7000n;
const GUEST_FRAMES = 64;

/** A guest of 64 frames, its first page table from frame 1 on, data frames from 32 on, filled with their numbers. */
function guest(features = {}) {
  const machine = new Machine({ features });
  const device = machine.add();
  const parent = pagingDomain(device, ALLOC_NEST_PARENT);
  const base = machine.frames.allocateRun(GUEST_FRAMES)!;
  for (let gfn = 0; gfn < GUEST_FRAMES; gfn++) mapPage(parent, BigInt(gfn) << 12n, base + gfn);
  for (let gfn = 32; gfn < GUEST_FRAMES; gfn++) {
    machine.memory.bytes.fill(gfn, (base + gfn) << 12, (base + gfn + 1) << 12);
  }
  const table = new GuestTable(machine.memory, base, 1);
  const domain = nestedDomain(device, parent, table.root);
  return { machine, device, parent, base, table, domain };
}

function flush(domain: NestedDomain, address: bigint, pages: bigint): void {
  expect(domain.invalidate!(0, vtdInvalidate(address, pages), 24, 1)).toEqual({ handled: 1, failure: null });
}

describe('two-stage translation', () => {
  test('V2 a guest table over a nest parent reaches the right host frames', () => {
    const { device, table, domain, machine, base } = guest();
    table.set(GVA, 40);
    table.set(GVA + 4096n, 41, LEAF_READ_ONLY);
    attachDevicePasid(device.device, 5, { domain });
    expect(device.read(GVA, { pasid: 5 })).toBe(40);
    expect(device.write(GVA, 0xaa, { pasid: 5 })).toBe(true);
    expect(machine.memory.bytes[(base + 40) << 12]).toBe(0xaa);
    expect(device.read(GVA + 4096n, { pasid: 5 })).toBe(41);
    expect(device.write(GVA + 4096n, 1, { pasid: 5 })).toBe(false);
    expect(device.read(GVA + 8192n, { pasid: 5 })).toBeNull();
    expect(device.read(GVA)).toBeNull();
  });

  test('V3 a table page outside the nest parent is a fault, and nothing outside the guest is read', () => {
    const { device, table, domain, parent, machine } = guest();
    table.set(GVA, 40);
    attachDevicePasid(device.device, 5, { domain });
    expect(device.read(GVA, { pasid: 5 })).toBe(40);
    const faults: string[] = [];
    machine.trace.listen((event) => {
      if (event.name === 'io_page_fault') faults.push(`${event.pasid} ${event.iova.toString(16)}`);
    });
    // The table of the lowest level: root is frame 1, then 2, 3 and 4.
    unmapPage(parent, 4n << 12n);
    expect(device.read(GVA, { pasid: 5 })).toBeNull();
    machine.settle();
    expect(faults).toEqual([`5 ${GVA.toString(16)}`]);
    table.set(GVA, 0x7777777);
    expect(device.read(GVA, { pasid: 5 })).toBeNull();
  });

  test('V4 a changed leaf may be used as it was until the guest invalidates it, and not after', () => {
    const { device, table, domain } = guest();
    table.set(GVA, 40);
    attachDevicePasid(device.device, 5, { domain });
    for (const addressing of [undefined, 'cached'] as const) {
      const dma = addressing === undefined ? { pasid: 5 } : { pasid: 5, addressing };
      table.set(GVA, 40);
      flush(domain, 0n, 0xffff_ffff_ffff_ffffn);
      expect(device.read(GVA, dma)).toBe(40);
      table.set(GVA, 41);
      expect([40, 41]).toContain(device.read(GVA, dma));
      flush(domain, GVA, 1n);
      expect(device.read(GVA, dma)).toBe(41);
    }
  });

  test('D3 attached without PASID, requests without PASID take both stages', () => {
    const { device, table, domain } = guest();
    table.set(GVA, 50);
    attachGroup(device.device.group, { domain });
    expect(device.read(GVA)).toBe(50);
    expect(device.read(GVA, { addressing: 'cached' })).toBe(50);
    expect(device.read(GVA, { pasid: 5 })).toBeNull();
  });

  test('D4 kernel-owned and user-owned domains share a device, each at its PASID', () => {
    const { device, table, domain, machine } = guest();
    table.set(GVA, 51);
    const own = pagingDomain(device, ALLOC_PASID);
    mapPage(own, GVA & 0x7fff_ffffn, machine.frame(0xee));
    attachDevicePasid(device.device, 1, { domain });
    attachDevicePasid(device.device, 2, { domain: own });
    expect(device.read(GVA, { pasid: 1 })).toBe(51);
    expect(device.read(GVA & 0x7fff_ffffn, { pasid: 2 })).toBe(0xee);
    expect(device.read(GVA, { pasid: 2 })).toBeNull();
    replaceDevicePasid(device.device, 2, { domain });
    expect(device.read(GVA, { pasid: 2 })).toBe(51);
    detachDevicePasid(device.device, 1);
    expect(device.read(GVA, { pasid: 1 })).toBeNull();
    expect(device.read(GVA, { pasid: 2 })).toBe(51);
  });

  test('unmapping from the parent reaches what was cached through its children, in the unit and in devices', () => {
    const { device, table, domain, parent } = guest();
    table.set(GVA, 40);
    attachDevicePasid(device.device, 5, { domain });
    attachGroup(device.device.group, { domain });
    for (const dma of [
      { pasid: 5 },
      { pasid: 5, addressing: 'cached' as const },
      {},
      { addressing: 'cached' as const },
    ]) {
      expect(device.read(GVA, dma)).toBe(40);
    }
    unmapPage(parent, 40n << 12n);
    for (const dma of [
      { pasid: 5 },
      { pasid: 5, addressing: 'cached' as const },
      {},
      { addressing: 'cached' as const },
    ]) {
      expect(device.read(GVA, dma)).toBeNull();
    }
  });
});

test('writes through a child mark the pages of a parent that tracks them', () => {
  const { machine, device } = guest();
  const parent = pagingDomain(device, ALLOC_NEST_PARENT | ALLOC_DIRTY_TRACKING);
  const base = machine.frames.allocateRun(16)!;
  for (let gfn = 0; gfn < 16; gfn++) mapPage(parent, BigInt(gfn) << 12n, base + gfn);
  const table = new GuestTable(machine.memory, base, 1);
  for (let page = 0; page < 3; page++) table.set(GVA + BigInt(page * 4096), 10 + page);
  attachDevicePasid(device.device, 5, { domain: nestedDomain(device, parent, table.root) });
  const dirtied = (): [bigint, number][] => readDirty(parent, 10n << 12n, 3 * 4096);
  expect(device.write(GVA, 1, { pasid: 5 })).toBe(true);
  expect(dirtied()).toEqual([]);
  parent.dirty!.setEnabled(true);
  for (let round = 0; round < 2; round++) {
    expect(device.write(GVA + 4096n, 1, { pasid: 5 })).toBe(true);
    expect(device.read(GVA + 8192n, { pasid: 5 })).not.toBeNull();
    expect(dirtied()).toEqual([[11n << 12n, 4096]]);
  }
});

describe('allocation', () => {
  test('D1 a nested domain has nothing to map or unmap with', () => {
    const { domain } = guest();
    expect('map' in domain || 'unmap' in domain || 'syncMap' in domain || 'iovaToPhys' in domain).toBe(false);
  });

  test('what is not a first stage of this unit is refused', () => {
    const { device, parent } = guest({ supervisorRequests: false, extendedAccessed: false, firstStage5Level: false });
    const { driver } = device.device;
    const alloc = (data: Uint8Array, type = 1, flags = 0, on = parent): string | null =>
      refusal(() => driver.allocNested(device.device, on, flags, userData(data, type)).free());
    expect(alloc(vtdS1(0n))).toBeNull();
    expect(alloc(vtdS1(0n), 2)).toBe('EOPNOTSUPP');
    expect(alloc(vtdS1(0n), 1, ALLOC_NEST_PARENT)).toBe('EOPNOTSUPP');
    expect(alloc(vtdS1(0n), 1, ALLOC_PASID)).toBeNull();
    expect(alloc(vtdS1(0n), 1, 0, pagingDomain(device))).toBe('EINVAL');
    expect(alloc(vtdS1(0n).subarray(0, 16))).toBe('EINVAL');
    const unread = (type: number, length: number, on = parent): string | null => {
      const read = (): never => {
        throw new SysError('EFAULT', 'test', 'the structure was fetched');
      };
      return refusal(() => driver.allocNested(device.device, on, 0, { type, length, read }).free());
    };
    expect(unread(2, 24)).toBe('EOPNOTSUPP');
    expect(unread(1, 24, pagingDomain(device))).toBe('EINVAL');
    expect(unread(1, 16)).toBe('EINVAL');
    expect(unread(1, 24)).toBe('EFAULT');
    expect(alloc(vtdS1(0n, { width: 39 }))).toBe('EINVAL');
    expect(alloc(vtdS1(0n, { width: 57 }))).toBe('EINVAL');
    expect(alloc(vtdS1(0n, { flags: 1n }))).toBe('EINVAL');
    expect(alloc(vtdS1(0n, { flags: 2n }))).toBe('EINVAL');
    expect(alloc(vtdS1(0n, { flags: 4n }))).toBeNull();
    expect(alloc(vtdS1(0n, { flags: 8n }))).toBe('EOPNOTSUPP');
    expect(alloc(vtdS1(0n, { reserved: 1 }))).toBe('EOPNOTSUPP');
  });
});

describe('invalidation by the user', () => {
  test('entries are carried out in order up to the first that is wrong', () => {
    const { domain } = guest();
    const run = (type: number, length: number, ...entries: Uint8Array[]): [number, string | null] => {
      const bytes = new Uint8Array(entries.flatMap((entry) => [...entry]));
      const { handled, failure } = domain.invalidate!(type, bytes, length, entries.length);
      return [handled, failure?.code ?? null];
    };
    const good = vtdInvalidate(GVA, 4n, 1);
    expect(run(0, 24)).toEqual([0, null]);
    expect(run(1, 24)).toEqual([0, 'EINVAL']);
    expect(run(0, 16, good.subarray(0, 16))).toEqual([0, 'EINVAL']);
    expect(run(0, 24, good, good)).toEqual([2, null]);
    expect(run(0, 24, good, vtdInvalidate(GVA + 1n, 1n), good)).toEqual([1, 'EINVAL']);
    expect(run(0, 24, good, vtdInvalidate(GVA, 0xffff_ffff_ffff_ffffn))).toEqual([1, 'EINVAL']);
    expect(run(0, 24, vtdInvalidate(GVA, 1n, 2))).toEqual([0, 'EOPNOTSUPP']);
    expect(run(0, 24, vtdInvalidate(0n, 0xffff_ffff_ffff_ffffn))).toEqual([1, null]);
    expect(run(0, 24, vtdInvalidate(0xffff_ffff_ffff_f000n, 1n))).toEqual([1, null]);
    expect(run(0, 24, vtdInvalidate(0xffff_ffff_ffff_f000n, 9n))).toEqual([1, null]);
  });
});
