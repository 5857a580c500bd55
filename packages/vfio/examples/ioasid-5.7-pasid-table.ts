/**
 * 5.7: the guest's whole PASID table. Hardware that keeps the PASID table in the guest's memory takes it as one child.
 * VT-d keeps its own: it says so beforehand, and the VMM traps the guest's changes and has one child for each PASID.
 */

import { SysError } from '@iommukit/iommufd';
import { Device, expect, GUEST_BYTES, guest, guestMap, ioasid, PAGE, SECOND_TABLE, TABLE } from './support/scene.ts';

const ADDRESS = 0x7000_0000_1000;
const device = new Device(0, 1);
const gpaIoasid = ioasid.alloc();
device.vfio.attachIoasid(gpaIoasid);
ioasid.map({ ioasid: gpaIoasid, iova: 0, vaddr: guest, size: GUEST_BYTES });
guestMap(TABLE, ADDRESS, PAGE);
guestMap(SECOND_TABLE, ADDRESS, 2 * PAGE);

const pasidTable = ioasid.createNesting(gpaIoasid);
device.vfio.attachIoasid(pasidTable);
let refused = '';
try {
  ioasid.bindPasidTable({ ioasid: pasidTable, address: 0x9000, pasidBits: 8 });
} catch (error) {
  if (!(error instanceof SysError)) throw error;
  refused = error.code;
}
expect('routing, and the answer', [ioasid.info(gpaIoasid).pasidRouting, refused], ['host-table', 'EOPNOTSUPP']);
device.vfio.detachIoasid(pasidTable);
ioasid.free(pasidTable);

// What the VMM does when the guest flushes its PASID cache.
const children = new Map<number, number>();
function entryChanged(pasid: number, table: number | null): void {
  const present = children.get(pasid);
  if (table === null) {
    if (present !== undefined) ioasid.free(present);
    children.delete(pasid);
    return;
  }
  const child = present ?? ioasid.createNesting(gpaIoasid);
  if (present === undefined) device.vfio.attachIoasid(child, { pasid });
  ioasid.bindPageTable({ ioasid: child, address: table });
  children.set(pasid, child);
}
entryChanged(1, TABLE);
entryChanged(2, SECOND_TABLE);
expect('PASIDs 1 and 2', [device.read(ADDRESS, 1), device.read(ADDRESS, 2)], [2, 3]);
entryChanged(1, SECOND_TABLE);
entryChanged(2, null);
expect('changed and cleared', [device.read(ADDRESS, 1), device.read(ADDRESS, 2)], [3, null]);
