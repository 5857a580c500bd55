/** 5.4: nesting in hardware. The child is the guest's own table, and the guest says when it has changed. */

import { Device, expect, GUEST_BYTES, guest, guestMap, ioasid, PAGE, TABLE } from './support/scene.ts';

const device = new Device(0, 1);
const gpaIoasid = ioasid.alloc();
device.vfio.attachIoasid(gpaIoasid);
ioasid.map({ ioasid: gpaIoasid, iova: 0, vaddr: guest, size: GUEST_BYTES });

const giovaIoasid = ioasid.createNesting(gpaIoasid);
device.vfio.attachIoasid(giovaIoasid);
guestMap(TABLE, 0x2000, PAGE);
ioasid.bindPageTable({ ioasid: giovaIoasid, address: TABLE });
expect('0x2000 is guest page 1', [device.read(0x2000)], [2]);

guestMap(TABLE, 0x2000, 5 * PAGE);
expect('changed, and not yet invalidated', [device.read(0x2000)], [2]);
ioasid.invalidate({ ioasid: giovaIoasid, range: { address: 0x2000, size: PAGE }, leaf: true });
expect('invalidated', [device.read(0x2000)], [6]);
