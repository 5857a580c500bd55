/** The flows of the proposal's sections 5.1 to 5.7, in the order and with the commands of its text, on VT-d. */

import { TEST_COMMAND } from '@iommukit/hw';
import type { EventFd } from '@iommukit/iommufd';
import { describe, expect, test } from 'vitest';
import { errno, IoasidMachine, PAGE, type Program } from '../support/ioasid-machine.ts';

const GPASID = 1;
const GVA = 0x7000_0000_1000n;
/** Guest physical addresses of first-stage tables, four pages each. */
const TABLE = 0x10000n;
const SECOND_TABLE = 0x14000n;
/** Pages of guest memory. Page n holds n + 1, but those of the tables, which are empty. */
const GUEST_PAGES = 32;

function guestMemory(program: Program): bigint {
  const hva = program.memory(GUEST_PAGES);
  for (let gpa = TABLE; gpa < BigInt(GUEST_PAGES) * PAGE; gpa += PAGE) program.fill(hva + gpa, 0);
  return hva;
}

/** Both devices at gpa_ioasid, which maps all of guest memory: where a guest boots. */
function booted() {
  const site = new IoasidMachine();
  const program = site.program();
  const { ioasid } = program;
  const [dev1, dev2] = [program.bind(0), program.bind(1)];
  const gpa = ioasid.alloc();
  for (const { vfio } of [dev1, dev2]) vfio.attachIoasid(gpa);
  const hva = guestMemory(program);
  ioasid.map({ ioasid: gpa, iova: 0, vaddr: hva, size: BigInt(GUEST_PAGES) * PAGE });
  return { site, program, ioasid, dev1, dev2, gpa, hva };
}

describe('flows of the RFC', () => {
  test('5.1 a simple example: open, bind, allocate, attach, map, DMA', () => {
    const site = new IoasidMachine();
    const program = site.program();
    const { ioasid } = program;
    const dev1 = program.open(0);
    dev1.vfio.bindIoasid(ioasid.fd, 1);
    dev1.start();
    const gpa = ioasid.alloc();
    dev1.vfio.attachIoasid(gpa);
    const hva = guestMemory(program);
    expect(dev1.read(0n)).toBeNull();
    ioasid.map({ ioasid: gpa, iova: 0, vaddr: hva, size: BigInt(GUEST_PAGES) * PAGE });
    expect([dev1.read(0n), dev1.read(7n * PAGE), dev1.write(3n * PAGE, 99), program.byteAt(hva + 3n * PAGE)]).toEqual([
      1,
      8,
      true,
      99,
    ]);
    // More devices share the address space.
    program.bind(1).vfio.attachIoasid(gpa);
    expect([dev1.read(PAGE), site.pinned]).toEqual([2, GUEST_PAGES]);
  });

  test('5.2 several IOASIDs without nesting: registered memory is pinned once, the VMM merges', () => {
    const site = new IoasidMachine();
    const program = site.program();
    const { ioasid } = program;
    const [dev1, dev2] = [program.bind(0), program.bind(1)];
    const hva = guestMemory(program);
    ioasid.registerMemory(hva, BigInt(GUEST_PAGES) * PAGE);
    expect(site.pinned).toBe(GUEST_PAGES);
    const gpa = ioasid.alloc();
    for (const { vfio } of [dev1, dev2]) vfio.attachIoasid(gpa);
    ioasid.map({ ioasid: gpa, iova: 0, vaddr: hva, size: BigInt(GUEST_PAGES) * PAGE });
    expect([dev1.read(PAGE), dev2.read(PAGE)]).toEqual([2, 2]);
    const giova = ioasid.alloc();
    dev2.vfio.detachIoasid(gpa);
    dev2.vfio.attachIoasid(giova);
    expect([dev1.read(PAGE), dev2.read(PAGE)]).toEqual([2, null]);
    // GIOVA 0x2000 to GPA 0x1000, which is at HVA + 0x1000.
    ioasid.map({ ioasid: giova, iova: 0x2000, vaddr: hva + 0x1000n, size: PAGE });
    expect([dev1.read(PAGE), dev2.read(0x2000n), dev2.read(PAGE)]).toEqual([2, 2, null]);
    expect([site.pinned, program.system.process.credentials.user.lockedPages]).toEqual([GUEST_PAGES, GUEST_PAGES]);
  });

  test('5.3 software nesting: the kernel merges what the guest maps, and what is unmapped above goes below', () => {
    const { site, ioasid, dev1, dev2, gpa } = booted();
    expect(ioasid.info(gpa).softwareNesting).toBe(true);
    const giova = ioasid.createNesting(gpa);
    dev2.vfio.attachIoasid(giova);
    ioasid.map({ ioasid: giova, iova: 0x2000, vaddr: 0x1000, size: PAGE });
    expect([dev2.read(0x2000n), dev2.read(PAGE), dev1.read(PAGE), site.pinned]).toEqual([2, null, 2, GUEST_PAGES]);
    ioasid.unmap(gpa, 0, BigInt(GUEST_PAGES) * PAGE);
    expect([dev2.read(0x2000n), dev1.read(PAGE), site.pinned]).toEqual([null, null, 0]);
    // dev2 is still at its parent when the guest turns its IOMMU off.
    dev2.vfio.detachIoasid(giova);
    ioasid.map({ ioasid: gpa, iova: 0, vaddr: guestMemory(dev2.program), size: PAGE });
    expect(dev2.read(0n)).toBe(1);
  });

  test('5.4 hardware nesting: the guest’s own table, invalidated by the guest', () => {
    const { program, ioasid, dev1, dev2, gpa, hva } = booted();
    expect(ioasid.info(gpa)).toMatchObject({ hardwareNesting: true, formats: [1] });
    const giova = ioasid.createNesting(gpa);
    dev2.vfio.attachIoasid(giova);
    program.guestMap(hva, TABLE, 0x2000n, 0x1000n);
    ioasid.bindPageTable({ ioasid: giova, address: TABLE });
    expect([dev2.read(0x2000n), dev2.read(PAGE), dev1.read(PAGE)]).toEqual([2, null, 2]);
    program.guestMap(hva, TABLE, 0x2000n, 0x5000n);
    expect(dev2.read(0x2000n)).toBe(2);
    ioasid.invalidate({ ioasid: giova, range: { address: 0x2000, size: PAGE }, leaf: true });
    expect(dev2.read(0x2000n)).toBe(6);
  });

  test('5.5 guest SVA: a guest process’s table at the PASID that the guest gave it', () => {
    const { program, ioasid, dev1, dev2, gpa, hva } = booted();
    // dev2 has a GIOVA space, and is not affected.
    const giova = ioasid.createNesting(gpa);
    dev2.vfio.attachIoasid(giova);
    ioasid.map({ ioasid: giova, iova: 0x2000, vaddr: 0x1000, size: PAGE });
    const gva = ioasid.createNesting(gpa);
    dev1.vfio.attachIoasid(gva, { pasid: GPASID });
    program.guestMap(hva, TABLE, GVA, 0x6000n);
    expect(dev1.read(GVA, { pasid: GPASID })).toBeNull();
    ioasid.bindPageTable({ ioasid: gva, address: TABLE });
    expect([dev1.read(GVA, { pasid: GPASID }), dev1.read(GVA), dev1.read(GVA, { pasid: GPASID + 1 })]).toEqual([
      7,
      null,
      null,
    ]);
    expect([dev1.read(6n * PAGE), dev2.read(0x2000n), dev2.read(GVA, { pasid: GPASID })]).toEqual([7, 2, null]);
  });

  test('5.6 an I/O page fault, from the device to the guest and back', () => {
    const { program, ioasid, dev1, gpa, hva } = booted();
    const gva = ioasid.createNesting(gpa);
    dev1.vfio.attachIoasid(gva, { pasid: GPASID });
    ioasid.bindPageTable({ ioasid: gva, address: TABLE, faults: true });
    const fd = program.system.eventfd();
    ioasid.setFaultEventfd(fd);
    dev1.begin(TEST_COMMAND.read, GVA, { pasid: GPASID, requestPages: true });
    expect([dev1.busy, (program.system.file(fd) as EventFd).take()]).toEqual([true, 1n]);
    const [fault] = ioasid.readFaults();
    // The cookie is the VMM's way to the guest's device, the IOASID or the PASID to its address space.
    expect(fault).toMatchObject({ ioasid: gva, cookie: 0x100n, pasid: GPASID, address: GVA, last: true });
    program.guestMap(hva, TABLE, GVA, 0x8000n);
    ioasid.respondFault(fault!, true);
    dev1.settle();
    expect([dev1.busy, dev1.result, ioasid.readFaults()]).toEqual([false, 9, []]);
  });

  test('5.7 BIND_PASID_TABLE: VT-d keeps its own table, says so, and one child for each PASID does the same', () => {
    const { program, ioasid, dev1, gpa, hva } = booted();
    const pasidtbl = ioasid.createNesting(gpa);
    dev1.vfio.attachIoasid(pasidtbl);
    expect(ioasid.info(gpa).pasidRouting).toBe('host-table');
    expect(errno(() => ioasid.bindPasidTable({ ioasid: pasidtbl, address: 0x9000, pasidBits: 8 }))).toBe('EOPNOTSUPP');
    dev1.vfio.detachIoasid(pasidtbl);
    ioasid.free(pasidtbl);
    // What the VMM does when it traps a PASID-cache invalidation of its guest.
    const tables = new Map<number, number>();
    const guestPasidChanged = (pasid: number, table: bigint | null): void => {
      const known = tables.get(pasid);
      if (table === null) {
        if (known !== undefined) ioasid.free(known);
        tables.delete(pasid);
        return;
      }
      const child = known ?? ioasid.createNesting(gpa);
      if (known === undefined) dev1.vfio.attachIoasid(child, { pasid });
      tables.set(pasid, child);
      ioasid.bindPageTable({ ioasid: child, address: table, faults: true });
    };
    program.guestMap(hva, TABLE, GVA, 0x1000n);
    program.guestMap(hva, SECOND_TABLE, GVA, 0x2000n);
    const seen = (): (number | null)[] => [1, 2, 3].map((pasid) => dev1.read(GVA, { pasid }));
    guestPasidChanged(1, TABLE);
    guestPasidChanged(2, SECOND_TABLE);
    expect(seen()).toEqual([2, 3, null]);
    guestPasidChanged(1, SECOND_TABLE);
    guestPasidChanged(3, TABLE);
    expect(seen()).toEqual([3, 3, 2]);
    guestPasidChanged(2, null);
    expect(seen()).toEqual([3, null, 2]);
    // Faults carry the PASID, as those of a whole PASID table would.
    dev1.begin(TEST_COMMAND.read, GVA + PAGE, { pasid: 3, requestPages: true });
    const [fault] = ioasid.readFaults();
    expect(fault).toMatchObject({ ioasid: tables.get(3), pasid: 3, address: GVA + PAGE });
    ioasid.respondFault(fault!, false);
    dev1.settle();
    expect([dev1.busy, dev1.result]).toEqual([false, null]);
  });
});
