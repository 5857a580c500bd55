/**
 * One thing broken at a time, behind the driver's back or by a driver that forgets: what the hardware then does is what
 * the specification says, stale use or a fault with its reason.
 */

import { high32, low32, PASID2_RESERVED, vtdFault } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  detachDevicePasid,
  type FaultRecord,
  IOMMU_READ,
} from '../../src/index.ts';
import { addEntryFlush } from '../../src/intel/attachments.ts';
import { GuestTable, LEAF_READ_ONLY, mapPage, nestedDomain, pagingDomain, unmapPage } from '../support/domains.ts';
import { Machine } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

const IOVA = 0x40_0000n;
const PASID = 5;

function setUp() {
  const machine = new Machine();
  const device = machine.add();
  const own = machine.driver.unit.devices.get(device.device.rid)!;
  const faults: FaultRecord[] = [];
  machine.driver.unit.faultLog.onFault = (fault) => faults.push(fault);
  const reasons = (): number[] => {
    machine.settle();
    return faults.splice(0).map((fault) => fault.reason);
  };
  return { machine, device, own, reasons };
}

describe('one thing broken', () => {
  test('a PASID entry that is cleared without a flush is used as it was; after the flush it is not present', () => {
    const { machine, device, own, reasons } = setUp();
    const domain = pagingDomain(device);
    mapPage(domain, IOVA, machine.frame(0x21));
    attachDevicePasid(device.device, PASID, { domain });
    expect(device.read(IOVA, { pasid: PASID })).toBe(0x21);
    const { domainId, translation } = own.pasidTable.tag(PASID)!;
    own.pasidTable.clear(PASID);
    expect(device.read(IOVA, { pasid: PASID })).toBe(0x21);
    expect(reasons()).toEqual([]);
    addEntryFlush(machine.driver.unit.queue, own, PASID, domainId, translation);
    expect(machine.driver.unit.queue.submit()).toBe('done');
    expect(device.read(IOVA, { pasid: PASID })).toBeNull();
    expect(reasons()).toEqual([vtdFault.SPT_2]);
  });

  test('a leaf that is unmapped without an invalidation is used as it was; after it the page is not present', () => {
    const { machine, device, reasons } = setUp();
    const domain = pagingDomain(device);
    mapPage(domain, IOVA, machine.frame(0x22));
    attachDevicePasid(device.device, PASID, { domain });
    expect(device.read(IOVA, { pasid: PASID })).toBe(0x22);
    domain.unmap(low32(IOVA), high32(IOVA), 4096);
    expect(domain.iovaToPhys(IOVA)).toBeNull();
    expect(device.read(IOVA, { pasid: PASID })).toBe(0x22);
    domain.sync();
    expect(device.read(IOVA, { pasid: PASID })).toBeNull();
    expect(reasons()).toEqual([vtdFault.SFS_2]);
  });

  test('a PASID entry with a reserved bit is refused whole', () => {
    const { machine, device, own, reasons } = setUp();
    const domain = pagingDomain(device);
    mapPage(domain, IOVA, machine.frame(0x23));
    attachDevicePasid(device.device, PASID, { domain });
    const words = own.pasidTable.save(PASID);
    words[2] = words[2]! | (PASID2_RESERVED & -PASID2_RESERVED);
    own.pasidTable.write(PASID, words);
    expect(device.read(IOVA, { pasid: PASID })).toBeNull();
    expect(reasons()).toEqual([vtdFault.SPT_3]);
    detachDevicePasid(device.device, PASID);
    attachDevicePasid(device.device, PASID, { domain });
    expect(device.read(IOVA, { pasid: PASID })).toBe(0x23);
  });

  test('a read-only page of the kernel or of a guest refuses writes', () => {
    const { machine, device, reasons } = setUp();
    const own = pagingDomain(device);
    mapPage(own, IOVA, machine.frame(0x24), IOMMU_READ);
    attachDevicePasid(device.device, PASID, { domain: own });
    expect(device.write(IOVA, 1, { pasid: PASID })).toBe(false);
    const { domain, table } = guest(machine, device);
    table.set(IOVA, 10, LEAF_READ_ONLY);
    attachDevicePasid(device.device, PASID + 1, { domain });
    expect(device.write(IOVA, 1, { pasid: PASID + 1 })).toBe(false);
    expect(reasons()).toEqual([vtdFault.SGN_6, vtdFault.SGN_6]);
  });

  test('a second stage without the target page, or without a table of the guest', () => {
    const { machine, device, reasons } = setUp();
    const { domain, table, parent } = guest(machine, device);
    table.set(IOVA, 10);
    attachDevicePasid(device.device, PASID, { domain });
    expect(device.read(IOVA, { pasid: PASID })).not.toBeNull();
    unmapPage(parent, 10n << 12n);
    expect(device.read(IOVA, { pasid: PASID })).toBeNull();
    expect(reasons()).toEqual([vtdFault.SSS_2]);
    mapPage(parent, 10n << 12n, machine.frame(0x26));
    expect(device.read(IOVA, { pasid: PASID })).toBe(0x26);
    // The guest's tables are its frames 1 (the root) to 4.
    for (const gfn of [4n, 1n]) {
      unmapPage(parent, gfn << 12n);
      expect(device.read(IOVA, { pasid: PASID })).toBeNull();
      expect(reasons()).toEqual([vtdFault.SSS_2]);
    }
  });
});

/** A guest of sixteen frames with its tables from frame 1 on. */
function guest(machine: Machine, device: TestDevice) {
  const parent = pagingDomain(device, ALLOC_NEST_PARENT);
  const base = machine.frames.allocateRun(16)!;
  for (let gfn = 0; gfn < 16; gfn++) mapPage(parent, BigInt(gfn) << 12n, base + gfn);
  const table = new GuestTable(machine.memory, base, 1);
  return { parent, table, domain: nestedDomain(device, parent, table.root) };
}
