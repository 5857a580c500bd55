import { NO_PASID, TEST_COMMAND, TEST_RESULT_REFUSED } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { IOVA, type MdevUser, PAGE, refusal, Site } from './support.ts';

function physical({ mdev }: MdevUser, pasid = NO_PASID): number | null {
  return mdev.dma!.physical(pasid);
}

describe('an auxiliary domain for each address space', () => {
  test('a fresh device has no DMA; attached, it reaches its memory and nothing else; detached, nothing', () => {
    const site = new Site();
    const user = site.user();
    const { ioasId, va } = user.space();
    expect(user.run(IOVA)).toBe(TEST_RESULT_REFUSED);
    user.vfio.attach(ioasId);
    expect(physical(user)).toBeGreaterThan(0);
    expect([user.write(IOVA, 7), user.byteAt(va)]).toEqual([true, 7]);
    expect(user.write(IOVA + BigInt(PAGE), 8)).toBe(false);
    user.setBuffer([0]);
    expect(user.run(IOVA, { operation: TEST_COMMAND.read })).toBe(0);
    expect(user.buffer(1)).toEqual([7]);
    user.vfio.detach();
    expect([physical(user), site.pasids.size]).toEqual([null, 0]);
    expect(user.run(IOVA)).toBe(TEST_RESULT_REFUSED);
    user.vfio.detach();
  });

  test('A7 two devices of one parent in one address space share a PASID; the second detach ends it', () => {
    const site = new Site();
    const first = site.user();
    const second = first.second();
    const { ioasId, va } = first.space();
    const hwptId = first.vfio.attach(ioasId);
    expect(second.vfio.attach(ioasId)).toBe(hwptId);
    expect(physical(second)).toBe(physical(first));
    expect(site.pasids.size).toBe(1);
    expect([first.write(IOVA, 1), second.write(IOVA, 2), first.byteAt(va)]).toEqual([true, true, 2]);
    first.vfio.detach();
    expect([first.write(IOVA, 3), second.write(IOVA, 4), first.byteAt(va)]).toEqual([false, true, 4]);
    const pasid = physical(second)!;
    second.vfio.detach();
    expect([second.write(IOVA, 5), first.byteAt(va)]).toEqual([false, 4]);
    expect(site.device.group.pasidHandles.has(pasid)).toBe(false);
    expect([site.pasids.size, site.host.processes.counts.pinned]).toEqual([0, 0]);
  });

  test('A5 two devices of one parent in two address spaces reach each its own page at one address', () => {
    const site = new Site();
    const one = site.user();
    const other = site.user();
    const [mine, theirs] = [one.space(), other.space()];
    one.vfio.attach(mine.ioasId);
    other.vfio.attach(theirs.ioasId);
    expect(physical(one)).not.toBe(physical(other));
    expect([one.write(IOVA, 1), other.write(IOVA, 2)]).toEqual([true, true]);
    expect([one.byteAt(mine.va), other.byteAt(theirs.va)]).toEqual([1, 2]);
  });

  test('A17 what has been unmapped is reached no more, by way of the translation cache either', () => {
    const site = new Site();
    const user = site.user();
    const { ioasId, va } = user.space();
    user.vfio.attach(ioasId);
    const cached = { flags: TEST_COMMAND.cached };
    user.setBuffer([9]);
    expect([user.run(IOVA, cached), user.byteAt(va)]).toEqual([0, 9]);
    user.iommufd.ioasUnmap(ioasId, IOVA, PAGE);
    user.setBuffer([10]);
    expect(user.run(IOVA, cached)).not.toBe(0);
    expect(user.byteAt(va)).toBe(9);
  });

  test('closing the file detaches; the next user finds nothing of the last one', () => {
    const site = new Site();
    const mdev = site.create();
    const first = site.user(mdev);
    const { ioasId, va } = first.space();
    first.vfio.attach(ioasId);
    expect(first.write(IOVA, 3)).toBe(true);
    expect(refusal(() => first.iommufd.destroy(ioasId))).toBe('EBUSY');
    first.close();
    first.iommufd.destroy(ioasId);
    expect([site.pasids.size, site.device.group.pasidHandles.size]).toEqual([0, 0]);
    const next = site.user(mdev);
    expect(next.buffer(1)).toEqual([0]);
    expect([next.write(IOVA, 4), first.byteAt(va)]).toEqual([false, 3]);
  });

  test('X6 a program that ends with everything live leaves nothing', () => {
    const site = new Site();
    const run = (): void => {
      const user = site.user(site.create('pasids'));
      const second = user.second();
      const { ioasId } = user.space(3);
      user.vfio.attach(ioasId);
      second.vfio.attach(ioasId);
      user.vfio.attach(user.table(ioasId), { pasid: 5 });
      user.vfio.setTriggers({ index: 2 }, [user.eventfd().fd]);
      user.start(IOVA);
      second.start(IOVA);
      user.system.exit();
      site.settle();
    };
    // The first time the function gets tables of PASIDs that stay with it.
    run();
    const frames = site.machine.frames.allocated;
    run();
    expect([site.pasids.size, site.pasids.parked, site.host.processes.counts.pinned]).toEqual([0, [], 0]);
    expect([site.device.group.pasidHandles.size, site.machine.frames.allocated]).toEqual([0, frames]);
    site.parent.remove();
  });
});

describe('attach and replace', () => {
  test('F8 replacing moves every later command to the new address space; a refused one leaves the old', () => {
    const site = new Site();
    const user = site.user();
    const [from, to] = [user.space(), user.space()];
    user.vfio.attach(from.ioasId);
    const before = physical(user);
    expect(refusal(() => user.vfio.attach(999))).toBe('ENOENT');
    const fault = user.iommufd.hwptAllocPaging({
      deviceId: user.id,
      ioasId: to.ioasId,
      faultId: user.iommufd.faultQueueAlloc().id,
    });
    expect(refusal(() => user.vfio.attach(fault))).toBe('EOPNOTSUPP');
    expect(physical(user)).toBe(before);
    expect([user.write(IOVA, 1), user.byteAt(from.va)]).toEqual([true, 1]);
    const hwptId = user.vfio.attach(to.ioasId);
    expect(user.vfio.attach(to.ioasId)).toBe(hwptId);
    expect(physical(user)).not.toBe(before);
    expect([user.write(IOVA, 2), user.byteAt(from.va), user.byteAt(to.va)]).toEqual([true, 1, 2]);
    expect(site.pasids.size).toBe(1);
    user.iommufd.destroy(from.ioasId);
  });

  test('F8 the command under way at a replacement ends in the old address space before that goes', () => {
    const site = new Site();
    const user = site.user();
    const [from, to] = [user.space(), user.space()];
    user.vfio.attach(from.ioasId);
    user.setBuffer([1]);
    user.start(IOVA);
    user.vfio.attach(to.ioasId);
    expect([user.byteAt(from.va), user.byteAt(to.va), user.busy, user.result]).toEqual([1, 0, false, 0]);
  });

  test('with a PASID it is refused: the device has one address space', () => {
    const site = new Site();
    const user = site.user();
    const table = user.table(user.space().ioasId);
    expect(refusal(() => user.vfio.attach(table, { pasid: 3 }))).toBe('EOPNOTSUPP');
    expect(refusal(() => user.vfio.detach({ pasid: 3 }))).toBe('EOPNOTSUPP');
    expect(user.iommufd.hwInfo(user.id).maxPasidLog2).toBe(0);
    expect(site.pasids.size).toBe(0);
  });

  test('a nested table cannot be an auxiliary domain', () => {
    const site = new Site();
    const user = site.user();
    const { ioasId } = user.space();
    const parentId = user.iommufd.hwptAllocPaging({ deviceId: user.id, ioasId, nestParent: true });
    const nested = user.iommufd.hwptAllocVtdS1({
      deviceId: user.id,
      parentId,
      pageTable: Number(IOVA),
      addressWidth: 48,
    });
    expect(refusal(() => user.vfio.attach(nested))).toBe('EOPNOTSUPP');
    user.vfio.attach(parentId);
  });

  test('areas keep out of the regions that the parent reserves, while it is attached', () => {
    const site = new Site();
    const user = site.user();
    const { ioasId } = user.space();
    const area = { ioasId, userVa: user.system.mmap({ length: PAGE }), length: PAGE, iova: 0xfee00000n };
    user.iommufd.ioasMap(area);
    expect(refusal(() => user.vfio.attach(ioasId))).toBe('EADDRINUSE');
    expect(site.pasids.size).toBe(0);
    user.iommufd.ioasUnmap(ioasId, 0xfee00000n, PAGE);
    user.vfio.attach(ioasId);
    expect(refusal(() => user.iommufd.ioasMap(area))).toBe('EINVAL');
    user.vfio.attach(user.space().ioasId);
    user.iommufd.ioasMap(area);
  });

  test('the object cannot be destroyed by its user, and goes with the file', () => {
    const site = new Site();
    const user = site.user();
    expect(refusal(() => user.iommufd.destroy(user.id))).toBe('EBUSY');
    user.close();
    expect(refusal(() => user.iommufd.destroy(user.id))).toBe('ENOENT');
  });
});
