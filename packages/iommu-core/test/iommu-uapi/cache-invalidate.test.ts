import { TEST_CONTROL_WITHHOLD, TEST_REGISTER } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { cacheInvalidate, cacheInvalidateUser, type IommuCacheInvalidateInfo, Processes } from '../../src/index.ts';
import { iommuCacheInvalidateInfo } from '../../src/iommu-uapi/layout.ts';
import { FakeDriver, fakeGroup, refusal } from '../support/fake-driver.ts';
import type { MachineOptions } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';
import { bindData, encode, GVA, invalidateInfo, machineWith, Vm } from './support.ts';

const IOTLB = 1;
const DEV_IOTLB = 2;
const PASID_CACHE = 4;
const DOMAIN = 0;
const PER_PASID = 1;
const ADDR = 2;
const PAGES = 8;

type Changes = Partial<IommuCacheInvalidateInfo>;

/** A VM with a page table of some pages bound on a device. */
function setUp(options: MachineOptions = {}) {
  const { machine, devices } = machineWith(1, options);
  const vm = new Vm(machine);
  const [device] = devices as [TestDevice];
  vm.take(device);
  const { guestPasids } = machine.core;
  const table = vm.table();
  const pasid = vm.pasid();
  guestPasids.bind(device.device, vm.mm, bindData(pasid, table.root));
  const invalidate = (changes: Changes = {}): void =>
    cacheInvalidate(guestPasids, device.device, invalidateInfo(pasid, changes));
  /** Lets unit and device cache pages that hold `from` + page, and changes the table to `from` + 8 + page. */
  const change = (from: number): void => {
    for (let page = 0; page < PAGES; page++) table.set(GVA + BigInt(page * 4096), from + page);
    invalidate();
    for (let page = 0; page < PAGES; page++) expect(pageAt(page, 'cached')).toBe(from + page);
    for (let page = 0; page < PAGES; page++) expect(pageAt(page)).toBe(from + page);
    for (let page = 0; page < PAGES; page++) table.set(GVA + BigInt(page * 4096), from + PAGES + page);
  };
  const pageAt = (page: number, addressing?: 'cached'): number | null =>
    device.read(GVA + BigInt(page * 4096), { pasid, ...(addressing === undefined ? {} : { addressing }) });
  /** Pages of which the unit, and the device, still use the old translation. */
  const stale = (from: number): { unit: number[]; device: number[] } => {
    const old = (addressing?: 'cached'): number[] =>
      [...Array(PAGES).keys()].filter((page) => pageAt(page, addressing) === from + page);
    return { unit: old(), device: old('cached') };
  };
  return { machine, vm, device, guestPasids, table, pasid, invalidate, change, stale };
}

function without(...pages: number[]): number[] {
  return [...Array(PAGES).keys()].filter((page) => !pages.includes(page));
}

describe('an invalidation reaches', () => {
  test('nothing when no cache is named', () => {
    const { invalidate, change, stale } = setUp();
    change(32);
    invalidate({ cache: 0 });
    expect(stale(32)).toEqual({ unit: without(), device: without() });
  });

  test('all pages of the PASID, in the unit and in the device, whichever of the two is named', () => {
    for (const cache of [IOTLB, DEV_IOTLB, IOTLB | DEV_IOTLB]) {
      const { invalidate, change, stale } = setUp();
      change(32);
      invalidate({ cache, granularity: PER_PASID });
      expect([cache, stale(32)]).toEqual([cache, { unit: [], device: [] }]);
    }
  });

  test('the pages of a range, and those around it only where the hardware rounds', () => {
    const cases: [Changes, number[]][] = [
      [{ addr: GVA + 4096n, granuleSize: 4096n, nbGranules: 1n }, [1]],
      // Granules below a page, and ranges that begin within one.
      [{ addr: GVA + 4096n + 0x800n, granuleSize: 0x400n, nbGranules: 2n }, [1]],
      [{ addr: GVA + 4096n, granuleSize: 0n, nbGranules: 3n }, [1]],
      [{ addr: GVA + 4096n, granuleSize: 4096n, nbGranules: 0n }, [1]],
      [{ addr: GVA + 4096n + 0x800n, granuleSize: 0x1000n, nbGranules: 1n }, [1, 2]],
      [{ addr: GVA + 2n * 4096n, granuleSize: 8192n, nbGranules: 2n }, [2, 3, 4, 5]],
    ];
    for (const [changes, pages] of cases) {
      const { invalidate, change, stale } = setUp();
      change(32);
      invalidate({ cache: IOTLB, granularity: ADDR, flags: 5, ...changes });
      const left = stale(32);
      for (const page of pages) {
        expect([changes, left.unit.includes(page), left.device.includes(page)]).toEqual([changes, false, false]);
      }
      if (pages.length === 1) expect([changes, left]).toEqual([changes, { unit: without(1), device: without(1) }]);
    }
  });

  test('everything when a range goes beyond the last address', () => {
    const { invalidate, change, stale } = setUp();
    change(32);
    invalidate({ granularity: ADDR, addr: 0xffff_ffff_ffff_f000n, granuleSize: 4096n, nbGranules: 2n });
    expect(stale(32)).toEqual({ unit: [], device: [] });
    change(40);
    invalidate({ granularity: ADDR, addr: 0xffff_ffff_ffff_f000n, granuleSize: 4096n, nbGranules: 1n });
    expect(stale(40)).toEqual({ unit: without(), device: without() });
    invalidate({ granularity: ADDR, granuleSize: 1n << 63n, nbGranules: 1n << 63n });
    expect(stale(40)).toEqual({ unit: [], device: [] });
  });

  test('tables above the pages only when not told that leaves alone have changed', () => {
    const { machine, vm, device, invalidate, table, pasid } = setUp();
    table.set(GVA, 32);
    table.set(GVA + 4096n, 33);
    expect(device.read(GVA, { pasid })).toBe(32);
    // A new table of the lowest level, in guest frame 20, whose page is frame 50.
    const { base } = vm;
    machine.memory.bytes.fill(0, (base + 20) << 12, (base + 21) << 12);
    machine.memory.store((BigInt(base + 20) << 12n) + ((GVA >> 12n) & 511n) * 8n, 8, (50n << 12n) | 7n);
    // The tables are guest frames 1 to 4.
    machine.memory.store((BigInt(base + 3) << 12n) + ((GVA >> 21n) & 511n) * 8n, 8, (20n << 12n) | 7n);
    invalidate({ granularity: ADDR, flags: 5, addr: GVA, granuleSize: 4096n, nbGranules: 1n });
    expect(device.read(GVA, { pasid })).toBe(32);
    invalidate({ granularity: ADDR, flags: 1, addr: GVA, granuleSize: 4096n, nbGranules: 1n });
    expect(device.read(GVA, { pasid })).toBe(50);
  });

  test('one PASID of the device and not the others', () => {
    const { vm, device, guestPasids, invalidate, change, stale, machine } = setUp();
    const other = vm.pasid();
    const table = vm.table(60);
    guestPasids.bind(device.device, vm.mm, bindData(other, table.root));
    expect(device.read(GVA, { pasid: other })).toBe(60);
    change(32);
    table.set(GVA, 61);
    invalidate();
    expect(stale(32)).toEqual({ unit: [], device: [] });
    expect(device.read(GVA, { pasid: other })).toBe(60);
    cacheInvalidate(guestPasids, device.device, invalidateInfo(other));
    expect(device.read(GVA, { pasid: other })).toBe(61);
    machine.settle();
  });
});

describe('an invalidation refuses', () => {
  const cases: [Changes, string][] = [
    [{ version: 0 }, 'EINVAL'],
    [{ version: 2 }, 'EINVAL'],
    [{ cache: 8 }, 'EINVAL'],
    [{ cache: 0x81 }, 'EINVAL'],
    [{ granularity: 3 }, 'EINVAL'],
    [{ granularity: 255 }, 'EINVAL'],
    [{ granularity: ADDR, cache: PASID_CACHE }, 'EINVAL'],
    [{ granularity: ADDR, cache: IOTLB | PASID_CACHE }, 'EINVAL'],
    [{ granularity: ADDR, flags: 8 | 1 }, 'EINVAL'],
    [{ granularity: PER_PASID, flags: 4 | 1 }, 'EINVAL'],
    [{ granularity: DOMAIN, cache: DEV_IOTLB }, 'EINVAL'],
    [{ padding0: 1 }, 'EINVAL'],
    [{ padding1: 1 }, 'EINVAL'],
    [{ padding2: 0x8000 }, 'EINVAL'],
    // What the interface has and VT-d does not.
    [{ granularity: DOMAIN, cache: IOTLB }, 'EINVAL'],
    [{ granularity: DOMAIN, cache: PASID_CACHE }, 'EINVAL'],
    [{ granularity: PER_PASID, cache: PASID_CACHE }, 'EINVAL'],
    [{ granularity: PER_PASID, cache: IOTLB | PASID_CACHE }, 'EINVAL'],
    [{ flags: 0 }, 'EINVAL'],
    [{ flags: 2, archid: 1 }, 'EINVAL'],
  ];

  test('what it does not have, ahead of a PASID that is not bound, and flushes nothing', () => {
    const { invalidate, change, stale } = setUp();
    change(32);
    for (const [changes, code] of cases) {
      expect([changes, refusal(() => invalidate({ ...changes, pasid: 99n }))]).toEqual([changes, code]);
      expect([changes, refusal(() => invalidate(changes))]).toEqual([changes, code]);
    }
    expect(stale(32)).toEqual({ unit: without(), device: without() });
    expect(refusal(() => invalidate({ flags: 3, archid: 1 }))).toBeNull();
  });

  test('a PASID that is not bound on the device, whatever is attached there', () => {
    const { vm, device, guestPasids, invalidate, pasid } = setUp();
    expect(refusal(() => invalidate({ pasid: 0n }))).toBe('ENOENT');
    expect(refusal(() => invalidate({ pasid: 99n }))).toBe('ENOENT');
    expect(refusal(() => invalidate({ pasid: (1n << 32n) + BigInt(pasid) }))).toBe('ENOENT');
    expect(refusal(() => invalidate({ cache: 0, pasid: 99n }))).toBe('ENOENT');
    guestPasids.unbind(device.device, vm.mm, pasid);
    expect(refusal(() => invalidate())).toBe('ENOENT');
  });

  test('a driver without PASIDs', () => {
    const { vm, guestPasids } = setUp();
    const driver = new FakeDriver();
    const [fake] = fakeGroup(driver, [0]).devices;
    (driver as { attachPasid: unknown }).attachPasid = null;
    expect(refusal(() => cacheInvalidate(guestPasids, fake!, invalidateInfo(1, { version: 0 })))).toBe('ENODEV');
    expect(refusal(() => cacheInvalidateUser(guestPasids, fake!, vm.mm, 0n))).toBe('ENODEV');
  });

  test('to say that it is done when the device has not answered', () => {
    const { device, invalidate, change } = setUp();
    change(32);
    device.store(TEST_REGISTER.control, TEST_CONTROL_WITHHOLD);
    expect(refusal(() => invalidate())).toBe('ETIMEDOUT');
  });
});

describe('an invalidation in the user’s memory', () => {
  test('is copied as far as its size says, which its granularity decides', () => {
    const { vm, device, guestPasids, pasid, change, stale } = setUp();
    const end = vm.store(new Uint8Array(0)) + 4096n;
    const call = (changes: Changes, length: number): string | null => {
      const address = end - BigInt(length);
      vm.process.memory!.write(
        address,
        encode(iommuCacheInvalidateInfo, invalidateInfo(pasid, changes)).subarray(0, length),
      );
      return refusal(() => cacheInvalidateUser(guestPasids, device.device, vm.mm, address));
    };
    change(32);
    expect(refusal(() => cacheInvalidateUser(guestPasids, device.device, vm.mm, 0x1000n))).toBe('EFAULT');
    expect(call({ argsz: 56 }, 15)).toBe('EFAULT');
    expect(call({ argsz: 15, granularity: DOMAIN }, 16)).toBe('EINVAL');
    // Not even an unknown version comes before the size.
    expect(call({ argsz: 31, granularity: PER_PASID }, 16)).toBe('EINVAL');
    expect(call({ argsz: 32, granularity: PER_PASID }, 16)).toBe('EFAULT');
    expect(call({ argsz: 55, granularity: ADDR }, 16)).toBe('EINVAL');
    expect(call({ argsz: 56, granularity: ADDR }, 55)).toBe('EFAULT');
    // A size that a granularity without data needs no more than; VT-d does not have it.
    expect(call({ argsz: 16, granularity: DOMAIN }, 16)).toBe('EINVAL');
    expect(stale(32)).toEqual({ unit: without(), device: without() });
    expect(call({ argsz: 32, granularity: PER_PASID }, 32)).toBeNull();
    expect(stale(32)).toEqual({ unit: [], device: [] });
    change(40);
    expect(call({ argsz: 5000, granularity: ADDR, addr: GVA, granuleSize: 4096n, nbGranules: 8n }, 56)).toBeNull();
    expect(stale(40)).toEqual({ unit: [], device: [] });
  });

  test('is of the process that made the bind', () => {
    const { machine, vm, device, guestPasids, pasid } = setUp();
    const other = new Vm(machine, new Processes(machine.kernel));
    const bytes = encode(iommuCacheInvalidateInfo, invalidateInfo(pasid));
    const call = (who: Vm): string | null =>
      refusal(() => cacheInvalidateUser(guestPasids, device.device, who.mm, who.store(bytes)));
    expect([call(vm), call(other)]).toEqual([null, 'EPERM']);
  });
});
