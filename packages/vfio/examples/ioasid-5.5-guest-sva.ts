/** 5.5: shared virtual addressing in the guest. A process's table at the PASID that the guest gave it. */

import { Device, expect, GUEST_BYTES, guest, guestMap, ioasid, PAGE, TABLE } from './support/scene.ts';

const PASID = 1;
const ADDRESS = 0x7000_0000_1000;
const device = new Device(0, 1);
const gpaIoasid = ioasid.alloc();
device.vfio.attachIoasid(gpaIoasid);
ioasid.map({ ioasid: gpaIoasid, iova: 0, vaddr: guest, size: GUEST_BYTES });

const gvaIoasid = ioasid.createNesting(gpaIoasid);
device.vfio.attachIoasid(gvaIoasid, { pasid: PASID });
guestMap(TABLE, ADDRESS, 6 * PAGE);
expect('attached, no table bound', [device.read(ADDRESS, PASID)], [null]);
ioasid.bindPageTable({ ioasid: gvaIoasid, address: TABLE });
const seen = [device.read(ADDRESS, PASID), device.read(ADDRESS, PASID + 1), device.read(6 * PAGE)];
expect('with the PASID, with another, and without', seen, [7, null, 7]);
