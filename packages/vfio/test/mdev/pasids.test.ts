import { NO_PASID, TEST_COMMAND, TEST_REGISTER, TEST_RESULT_REFUSED } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { IOVA, type MdevUser, PAGE, refusal, SIBLING_RID, Site } from './support.ts';

function physical({ mdev }: MdevUser, pasid: number): number | null {
  return mdev.dma!.physical(pasid);
}

/** A program with a device whose user can name PASIDs. */
function pasidUser(site: Site): MdevUser {
  return site.user(site.create('pasids'));
}

describe('translated PASIDs', () => {
  test('V7 V8 user PASID v is another on the wire; attached it reaches its memory, before and after nothing', () => {
    const site = new Site();
    const user = pasidUser(site);
    const { ioasId, va } = user.space();
    const table = user.table(ioasId);
    const bar = site.device.pci.resource(0)!.address;
    const sent = (): bigint => site.machine.memory.load(bar + BigInt(TEST_REGISTER.command), 4);
    expect(user.run(IOVA, { pasid: 1 })).toBe(TEST_RESULT_REFUSED);
    expect(sent()).toBe(0n);
    user.vfio.attach(table, { pasid: 1 });
    const wire = physical(user, 1)!;
    expect(wire).not.toBe(1);
    expect([user.write(IOVA, 7, 1), user.byteAt(va)]).toEqual([true, 7]);
    expect(site.machine.memory.load(bar + BigInt(TEST_REGISTER.pasid), 4)).toBe(BigInt(wire));
    // The number on the wire is no name of the user's.
    expect(user.run(IOVA, { pasid: wire })).toBe(TEST_RESULT_REFUSED);
    expect(user.run(IOVA)).toBe(TEST_RESULT_REFUSED);
    user.vfio.detach({ pasid: 1 });
    expect(user.run(IOVA, { pasid: 1 })).toBe(TEST_RESULT_REFUSED);
    expect([site.pasids.size, user.byteAt(va)]).toEqual([0, 7]);
  });

  test('two devices of one parent use the same v for different address spaces', () => {
    const site = new Site();
    const [one, other] = [pasidUser(site), pasidUser(site)];
    const [mine, theirs] = [one.space(), other.space()];
    one.vfio.attach(one.table(mine.ioasId), { pasid: 5 });
    other.vfio.attach(other.table(theirs.ioasId), { pasid: 5 });
    expect(physical(one, 5)).not.toBe(physical(other, 5));
    expect([one.write(IOVA, 1, 5), other.write(IOVA, 2, 5)]).toEqual([true, true]);
    expect([one.byteAt(mine.va), other.byteAt(theirs.va)]).toEqual([1, 2]);
  });

  test('each PASID of one device has its own space, beside that without PASID', () => {
    const site = new Site();
    const user = pasidUser(site);
    const spaces = [user.space(), user.space(), user.space()];
    user.vfio.attach(spaces[0]!.ioasId);
    user.vfio.attach(user.table(spaces[1]!.ioasId), { pasid: 1 });
    user.vfio.attach(user.table(spaces[2]!.ioasId), { pasid: 0xfffff });
    expect([user.write(IOVA, 1), user.write(IOVA, 2, 1), user.write(IOVA, 3, 0xfffff)]).toEqual([true, true, true]);
    expect(spaces.map(({ va }) => user.byteAt(va))).toEqual([1, 2, 3]);
    expect(site.pasids.size).toBe(3);
    user.vfio.detach();
    expect([user.write(IOVA, 4), user.write(IOVA, 5, 1)]).toEqual([false, true]);
  });

  test('V6 the parent alone may issue the number on the wire, not a function of the same group', () => {
    const site = new Site({ sibling: true });
    const sibling = site.host.device(SIBLING_RID);
    expect(sibling.group).toBe(site.device.group);
    const user = pasidUser(site);
    const { ioasId, va } = user.space();
    user.vfio.attach(user.table(ioasId), { pasid: 9 });
    const wire = physical(user, 9)!;
    expect([...site.device.authorizedPasids]).toEqual([wire]);
    sibling.pci.setMemoryDecode(true);
    sibling.pci.setBusMaster(true);
    const bar = sibling.pci.resource(0)!.address;
    const set = (register: number, value: bigint, width: 4 | 8 = 4): void =>
      site.machine.memory.store(bar + BigInt(register), width, value);
    set(TEST_REGISTER.buffer, 0x66n);
    set(TEST_REGISTER.pasid, BigInt(wire));
    set(TEST_REGISTER.address, IOVA, 8);
    set(TEST_REGISTER.length, 1n);
    set(TEST_REGISTER.command, BigInt(TEST_COMMAND.write | TEST_COMMAND.withPasid));
    site.settle();
    expect(site.machine.memory.load(bar + BigInt(TEST_REGISTER.result), 4)).not.toBe(0n);
    expect([user.byteAt(va), user.write(IOVA, 5, 9), user.byteAt(va)]).toEqual([0, true, 5]);
  });

  test('refuses PASIDs out of range, tables without PASIDs and a second attach, and changes nothing', () => {
    const site = new Site();
    const user = pasidUser(site);
    const { ioasId } = user.space();
    const table = user.table(ioasId);
    for (const pasid of [0, 1 << 20, 0xfffffffe])
      expect(refusal(() => user.vfio.attach(table, { pasid }))).toBe('EINVAL');
    expect(refusal(() => user.vfio.attach(ioasId, { pasid: 1 }))).toBe('EINVAL');
    const plain = user.iommufd.hwptAllocPaging({ deviceId: user.id, ioasId });
    expect(refusal(() => user.vfio.attach(plain, { pasid: 1 }))).toBe('EINVAL');
    expect([site.pasids.size, site.device.group.pasidHandles.size]).toEqual([0, 0]);
    user.vfio.detach({ pasid: 1 });
    user.iommufd.destroy(plain);
    user.iommufd.destroy(table);
    user.iommufd.destroy(ioasId);
  });

  test('64 are attached at a time, and each device has as many for itself', () => {
    const site = new Site();
    const [one, other] = [pasidUser(site), pasidUser(site)];
    const [table, theirs] = [one.table(one.space().ioasId), other.table(other.space().ioasId)];
    for (let pasid = 1; pasid <= 64; pasid++) one.vfio.attach(table, { pasid: 1000 * pasid });
    expect(refusal(() => one.vfio.attach(table, { pasid: 65 }))).toBe('ENOSPC');
    expect(refusal(() => one.vfio.attach(table, { pasid: 0 }))).toBe('EINVAL');
    expect([site.pasids.size, site.device.authorizedPasids.size]).toEqual([64, 64]);
    other.vfio.attach(theirs, { pasid: 65 });
    one.vfio.attach(one.table(one.space().ioasId), { pasid: 1000 });
    one.vfio.detach({ pasid: 1000 });
    one.vfio.attach(table, { pasid: 65 });
    expect([one.write(IOVA, 1, 65), other.write(IOVA, 1, 65), site.pasids.size]).toEqual([true, true, 65]);
  });

  test('F8 A22 a replaced PASID keeps its number on the wire, and a refused replacement the old table', () => {
    const site = new Site();
    const user = pasidUser(site);
    const [from, to] = [user.space(), user.space()];
    const old = user.table(from.ioasId);
    user.vfio.attach(old, { pasid: 4 });
    const wire = physical(user, 4);
    expect(refusal(() => user.vfio.attach(user.space().ioasId, { pasid: 4 }))).toBe('EINVAL');
    expect([user.write(IOVA, 1, 4), user.byteAt(from.va)]).toEqual([true, 1]);
    user.vfio.attach(user.table(to.ioasId), { pasid: 4 });
    expect(physical(user, 4)).toBe(wire);
    expect([user.write(IOVA, 2, 4), user.byteAt(from.va), user.byteAt(to.va)]).toEqual([true, 1, 2]);
    user.iommufd.destroy(old);
  });

  test('GET_HW_INFO tells how many PASIDs there are, and that none is privileged', () => {
    const site = new Site();
    const user = pasidUser(site);
    const { maxPasidLog2, capabilities } = user.iommufd.hwInfo(user.id);
    expect([maxPasidLog2, capabilities & 6]).toEqual([20, 0]);
  });
});

describe('vSVA through a mediated device', () => {
  const GUEST_PAGES = 16;
  const V = 33;

  /** Guest memory at I/O address 0, with a stage 1 for PASID V in it that maps nothing at 0x7000 yet. */
  function guest(site: Site): { user: MdevUser; va: bigint; faults: { id: number; fd: number } } {
    const user = pasidUser(site);
    const va = user.system.mmap({ length: GUEST_PAGES * PAGE });
    const ioasId = user.iommufd.ioasAlloc();
    user.iommufd.ioasMap({ ioasId, userVa: va, length: GUEST_PAGES * PAGE, iova: 0 });
    const parentId = user.iommufd.hwptAllocPaging({ deviceId: user.id, ioasId, nestParent: true, pasid: true });
    for (let level = 0; level < 3; level++) {
      user.memory.store(va + BigInt(PAGE * (level + 1)), 8, BigInt(PAGE * (level + 2)) | 7n);
    }
    const faults = user.iommufd.faultQueueAlloc();
    const stage1 = { deviceId: user.id, parentId, pageTable: PAGE, addressWidth: 48, pasid: true, faultId: faults.id };
    user.vfio.attach(user.iommufd.hwptAllocVtdS1(stage1), { pasid: V });
    return { user, va, faults };
  }

  const leaf = (va: bigint): bigint => va + 0x4000n + 7n * 8n;

  test('V2 a guest table is walked for the PASID that the guest knows', () => {
    const site = new Site();
    const { user, va } = guest(site);
    expect(physical(user, V)).not.toBe(V);
    user.memory.store(leaf(va), 8, 0x9000n | 7n);
    expect([user.write(0x7000n, 0x2a, V), user.byteAt(va + 0x9000n)]).toEqual([true, 0x2a]);
  });

  test('D15 a page request comes with the PASID that the guest knows; answered, the command goes on', () => {
    const site = new Site();
    const { user, va, faults } = guest(site);
    user.setBuffer([0x2b]);
    user.start(0x7000n, { pasid: V, flags: TEST_COMMAND.cached | TEST_COMMAND.pageRequestOnDenial });
    site.settle();
    const [fault] = user.iommufd.readFaults(faults.fd);
    expect(fault).toMatchObject({ pasid: V, address: 0x7000n, deviceId: user.id });
    expect(user.busy).toBe(true);
    user.memory.store(leaf(va), 8, 0xa000n | 7n);
    user.iommufd.respondFault(faults.fd, fault!.cookie, true);
    site.settle();
    expect([user.busy, user.result, user.byteAt(va + 0xa000n)]).toEqual([false, 0, 0x2b]);
  });

  test('D18 so does a replacement, which then serves the PASID', () => {
    const site = new Site();
    const { user, va, faults } = guest(site);
    user.setBuffer([0x2c]);
    user.start(0x7000n, { pasid: V, flags: TEST_COMMAND.cached | TEST_COMMAND.pageRequestOnDenial });
    site.settle();
    const [fault] = user.iommufd.readFaults(faults.fd);
    const ioasId = user.iommufd.ioasAlloc();
    user.iommufd.ioasMap({ ioasId, userVa: va, length: PAGE, iova: 0x7000n });
    user.vfio.attach(user.table(ioasId), { pasid: V });
    expect(refusal(() => user.iommufd.respondFault(faults.fd, fault!.cookie, true))).toBe('EINVAL');
    site.settle();
    expect([user.busy, user.result === 0]).toEqual([false, false]);
    expect([user.write(0x7000n, 0x2d, V), user.byteAt(va)]).toEqual([true, 0x2d]);
  });

  test('D18 V5 detaching answers what waits, once; the command ends without its page', () => {
    const site = new Site();
    const { user, va, faults } = guest(site);
    user.start(0x7000n, { pasid: V, flags: TEST_COMMAND.cached | TEST_COMMAND.pageRequestOnDenial });
    site.settle();
    const [fault] = user.iommufd.readFaults(faults.fd);
    user.vfio.detach({ pasid: V });
    expect(refusal(() => user.iommufd.respondFault(faults.fd, fault!.cookie, true))).toBe('EINVAL');
    site.settle();
    expect([user.busy, user.result === 0]).toEqual([false, false]);
    user.memory.store(leaf(va), 8, 0xa000n | 7n);
    expect(user.run(0x7000n, { pasid: V })).toBe(TEST_RESULT_REFUSED);
    expect([site.pasids.size, site.pasids.parked, physical(user, NO_PASID)]).toEqual([0, [], null]);
  });
});
