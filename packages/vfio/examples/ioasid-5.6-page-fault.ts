/** 5.6: an I/O page fault. The device asks for a page, the VMM reads the request and the guest supplies it. */

import { Device, expect, GUEST_BYTES, guest, guestMap, ioasid, PAGE, TABLE } from './support/scene.ts';

const PASID = 1;
const COOKIE = 0x100;
const ADDRESS = 0x7000_0000_1000;
const device = new Device(0, COOKIE);
const gpaIoasid = ioasid.alloc();
device.vfio.attachIoasid(gpaIoasid);
ioasid.map({ ioasid: gpaIoasid, iova: 0, vaddr: guest, size: GUEST_BYTES });
const gvaIoasid = ioasid.createNesting(gpaIoasid);
device.vfio.attachIoasid(gvaIoasid, { pasid: PASID });
ioasid.bindPageTable({ ioasid: gvaIoasid, address: TABLE, faults: true });

device.ask(ADDRESS, PASID);
const [fault] = ioasid.readFaults();
if (fault === undefined) throw new Error('no page request');
// The cookie is the way to the guest's device, the IOASID the way to its process.
const { cookie, pasid, address } = fault;
expect('cookie, PASID, address', [cookie, pasid, address], [BigInt(COOKIE), PASID, BigInt(ADDRESS)]);

guestMap(TABLE, ADDRESS, 8 * PAGE);
ioasid.respondFault(fault, true);
expect('the page, after the answer', [device.result()], [9]);
