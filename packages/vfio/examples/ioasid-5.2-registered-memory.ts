/** 5.2: two address spaces over the same memory, without nesting. It is pinned once; the VMM merges what the guest maps. */

import { Device, expect, GUEST_BYTES, guest, ioasid, PAGE, pinned } from './support/scene.ts';

const [first, second] = [new Device(0, 1), new Device(1, 2)];
ioasid.registerMemory(guest, GUEST_BYTES);
const gpaIoasid = ioasid.alloc();
first.vfio.attachIoasid(gpaIoasid);
second.vfio.attachIoasid(gpaIoasid);
ioasid.map({ ioasid: gpaIoasid, iova: 0, vaddr: guest, size: GUEST_BYTES });
expect('both see guest page 1', [first.read(PAGE), second.read(PAGE)], [2, 2]);

// The guest turns its IOMMU on for the second device, and maps 0x2000 to guest page 1.
const giovaIoasid = ioasid.alloc();
second.vfio.detachIoasid(gpaIoasid);
second.vfio.attachIoasid(giovaIoasid);
ioasid.map({ ioasid: giovaIoasid, iova: 0x2000, vaddr: guest + BigInt(PAGE), size: PAGE });
expect('the second sees what is mapped for it', [second.read(0x2000), second.read(PAGE)], [2, null]);
expect('pages pinned for both', [pinned()], [32]);
