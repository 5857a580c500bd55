/** 5.3: nesting in software. The child maps onto the parent's addresses, and the kernel keeps the two merged. */

import { Device, expect, GUEST_BYTES, guest, ioasid, PAGE, pinned } from './support/scene.ts';

const [first, second] = [new Device(0, 1), new Device(1, 2)];
const gpaIoasid = ioasid.alloc();
first.vfio.attachIoasid(gpaIoasid);
second.vfio.attachIoasid(gpaIoasid);
ioasid.map({ ioasid: gpaIoasid, iova: 0, vaddr: guest, size: GUEST_BYTES });

const giovaIoasid = ioasid.createNesting(gpaIoasid);
second.vfio.attachIoasid(giovaIoasid);
ioasid.map({ ioasid: giovaIoasid, iova: 0x2000, vaddr: PAGE, size: PAGE });
expect('through the child, beside it, and pins', [second.read(0x2000), second.read(PAGE), pinned()], [2, null, 32]);

ioasid.unmapAll(gpaIoasid);
expect('after the parent has unmapped', [second.read(0x2000), first.read(PAGE), pinned()], [null, null, 0]);
