/** 5.1: one device. Open, bind, allocate, attach, map; before the map nothing is reached, and then all of it. */

import { Device, expect, GUEST_BYTES, guest, ioasid, PAGE, pinned } from './support/scene.ts';

const device = new Device(0, 1);
const gpaIoasid = ioasid.alloc();
device.vfio.attachIoasid(gpaIoasid);
expect('before the map', [device.read(3 * PAGE), pinned()], [null, 0]);

ioasid.map({ ioasid: gpaIoasid, iova: 0, vaddr: guest, size: GUEST_BYTES });
expect('guest page 3, and pages pinned', [device.read(3 * PAGE), pinned()], [4, 32]);
