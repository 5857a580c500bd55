/** Commands that are waiting or under way when something goes. */

import { NO_PASID, TEST_COMMAND, TEST_REGISTER, TEST_RESULT_REFUSED } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { IOVA, type MdevUser, refusal, type Site, slow } from './support.ts';

/** RESULT of a command that a reset of the parent ended. */
const ABORTED = 33;

/** 0.1 ms: a call may return before a command is over; one that waits for it gets it. */
const SLOW = 1_000;
/** 10 ms: longer than anybody waits for a command. */
const HUNG = 100_000;

function start(user: MdevUser, value: number, pasid?: number): void {
  user.setBuffer([value]);
  user.start(IOVA, pasid === undefined ? {} : { pasid });
}

/** A device with an address space at `pasid`, or without PASID. */
function attachedUser(site: Site, pasid?: number): { user: MdevUser; va: bigint } {
  const user = site.user(site.create(pasid === undefined ? 'default' : 'pasids'));
  const { ioasId, va } = user.space();
  if (pasid === undefined) user.vfio.attach(ioasId);
  else user.vfio.attach(user.table(ioasId), { pasid });
  return { user, va };
}

describe('the queue', () => {
  test('commands of several devices run one after the other, each in its own address space', () => {
    const site = slow(SLOW);
    const users = [attachedUser(site), attachedUser(site, 5), attachedUser(site, 5)];
    const events = users.map(({ user }) => {
      const { fd, event } = user.eventfd();
      user.vfio.setTriggers({ index: 2 }, [fd]);
      return event;
    });
    users.forEach(({ user }, i) => {
      user.setBuffer([i + 1]);
      user.start(IOVA, { flags: TEST_COMMAND.interruptWhenDone, ...(i === 0 ? {} : { pasid: 5 }) });
    });
    site.host.run(150_000);
    expect(users.map(({ user }) => user.busy)).toEqual([false, true, true]);
    expect(events.map((event) => event.take())).toEqual([1n, 0n, 0n]);
    site.settle();
    expect(users.map(({ user, va }) => [user.busy, user.result, user.byteAt(va)])).toEqual([
      [false, 0, 1],
      [false, 0, 2],
      [false, 0, 3],
    ]);
    expect(events.map((event) => event.take())).toEqual([0n, 1n, 1n]);
  });

  test('while a command waits or runs, its registers stand', () => {
    const site = slow(SLOW);
    const { user, va } = attachedUser(site);
    start(user, 1);
    user.store(TEST_REGISTER.address, 0x5000);
    user.store(TEST_REGISTER.command, TEST_COMMAND.read);
    expect(user.load(TEST_REGISTER.address)).toBe(Number(IOVA));
    site.settle();
    expect([user.result, user.byteAt(va)]).toEqual([0, 1]);
  });

  test('a command that waits is judged when its turn comes', () => {
    const site = slow(SLOW);
    const first = attachedUser(site);
    const { user, va } = attachedUser(site);
    start(first.user, 1);
    start(user, 2);
    user.vfio.detach();
    site.settle();
    expect([user.result, user.byteAt(va), first.user.byteAt(first.va)]).toEqual([TEST_RESULT_REFUSED, 0, 1]);
  });

  test('closing a device takes its waiting command back; the others go on', () => {
    const site = slow(SLOW);
    const [first, gone, last] = [attachedUser(site), attachedUser(site), attachedUser(site)];
    [first, gone, last].forEach(({ user }, i) => start(user, i + 1));
    gone.user.close();
    site.settle();
    expect([first, gone, last].map(({ user, va }) => user.byteAt(va))).toEqual([1, 0, 3]);
  });
});

describe('closing and removing with a command under way', () => {
  test('A7 it is over when the close returns, although another device keeps address space and PASID', () => {
    const site = slow(SLOW);
    const first = site.user();
    const second = first.second();
    const { ioasId, va } = first.space();
    first.vfio.attach(ioasId);
    second.vfio.attach(ioasId);
    start(first, 1);
    first.close();
    first.memory.store(va, 1, 9);
    site.settle();
    expect(second.byteAt(va)).toBe(9);
    expect([second.write(IOVA, 2), second.byteAt(va)]).toEqual([true, 2]);
    site.mdevs.remove(first.mdev);
  });

  test('A7 so it is when a detach returns', () => {
    const site = slow(SLOW);
    const first = site.user();
    const second = first.second();
    const { ioasId, va } = first.space();
    first.vfio.attach(ioasId);
    second.vfio.attach(ioasId);
    start(first, 1);
    first.vfio.detach();
    first.memory.store(va, 1, 9);
    site.settle();
    expect([first.byteAt(va), first.busy]).toEqual([9, false]);
  });

  test('one that does not end is ended by a reset of the parent, which the others do not notice', () => {
    const site = slow(HUNG);
    const { user, va } = attachedUser(site);
    const other = attachedUser(site, 7);
    const { fd, event } = other.user.eventfd();
    other.user.vfio.setTriggers({ index: 2 }, [fd]);
    start(user, 1);
    other.user.setBuffer([2]);
    other.user.start(IOVA, { pasid: 7, flags: TEST_COMMAND.interruptWhenDone });
    const before = site.machine.scheduler.now;
    user.close();
    site.mdevs.remove(user.mdev);
    expect(site.machine.scheduler.now - before).toBeGreaterThanOrEqual(100_000_000);
    site.settle();
    site.settle();
    expect([user.byteAt(va), other.user.result, other.user.byteAt(other.va), event.take()]).toEqual([0, 0, 2, 1n]);
  });

  test('one that ends at last, while the parent is being reset for it, does not let the next be lost', {
    timeout: 60_000,
  }, () => {
    for (let factor = 10_000; factor <= 10_020; factor++) {
      const site = slow(factor);
      const { user } = attachedUser(site);
      const next = attachedUser(site);
      start(user, 1);
      start(next.user, 2);
      user.close();
      site.settle();
      site.settle();
      expect([factor, next.user.busy, next.user.result, next.user.byteAt(next.va)]).toEqual([factor, false, 0, 2]);
    }
  });

  test('a reset by its user ends it too, also when it waits for the answer to a page request', () => {
    const site = slow(1);
    const user = site.user(site.create('pasids'));
    const { ioasId, va } = user.space();
    const faults = user.iommufd.faultQueueAlloc();
    const table = user.iommufd.hwptAllocPaging({ deviceId: user.id, ioasId, pasid: true, faultId: faults.id });
    user.vfio.attach(table, { pasid: 3 });
    user.start(0x7000n, { pasid: 3, flags: TEST_COMMAND.cached | TEST_COMMAND.pageRequestOnDenial });
    site.settle();
    expect(user.busy).toBe(true);
    user.vfio.reset();
    expect([user.busy, user.result]).toEqual([false, 0]);
    const [fault] = user.iommufd.readFaults(faults.fd);
    if (fault !== undefined) user.iommufd.respondFault(faults.fd, fault.cookie, true);
    site.settle();
    expect([user.write(IOVA, 4, 3), user.byteAt(va)]).toEqual([true, 4]);
  });

  test('a detach that cannot wait for it tells its user so', () => {
    const site = slow(HUNG);
    const { user, va } = attachedUser(site);
    start(user, 1);
    user.vfio.detach();
    expect([user.busy, user.result, user.byteAt(va)]).toEqual([false, ABORTED, 0]);
  });
});

describe('a command that others wait for', () => {
  /** 10 ms of waiting, 1 ms to end, a reset of the parent of 100 ms, and the commands of the others. */
  const BOUND = 113_000_000;

  /** A device whose command waits for the answer to its page request, and the descriptor that it is read from. */
  function asking(site: Site): { user: MdevUser; va: bigint; faults: { id: number; fd: number } } {
    const user = site.user(site.create('pasids'));
    const { ioasId, va } = user.space();
    const faults = user.iommufd.faultQueueAlloc();
    const table = user.iommufd.hwptAllocPaging({ deviceId: user.id, ioasId, pasid: true, faultId: faults.id });
    user.vfio.attach(table, { pasid: 3 });
    ask(user);
    site.settle();
    expect(user.busy).toBe(true);
    return { user, va, faults };
  }

  function ask(user: MdevUser): void {
    user.start(0x7000n, { pasid: 3, flags: TEST_COMMAND.cached | TEST_COMMAND.pageRequestOnDenial });
  }

  test('is ended in bounded time when nobody answers its page request', () => {
    const site = slow(1);
    const { user, va, faults } = asking(site);
    const others = [attachedUser(site, 3), attachedUser(site)];
    // Alone it may wait for as long as it likes.
    site.host.run(1_000_000_000);
    expect(user.busy).toBe(true);
    const began = site.machine.scheduler.now;
    start(others[0]!.user, 1, 3);
    site.host.run(9_900_000);
    start(others[1]!.user, 2);
    expect([user, others[0]!.user, others[1]!.user].map(({ busy }) => busy)).toEqual([true, true, true]);
    site.host.run(100_001);
    expect([user.busy, user.result]).toEqual([false, ABORTED]);
    site.host.run(1_000_000);
    expect(site.machine.scheduler.now - began).toBeLessThanOrEqual(BOUND);
    expect(others.map(({ user: other, va: at }) => [other.busy, other.result, other.byteAt(at)])).toEqual([
      [false, 0, 1],
      [false, 0, 2],
    ]);
    // A late answer harms nobody.
    const [fault] = user.iommufd.readFaults(faults.fd);
    if (fault !== undefined) user.iommufd.respondFault(faults.fd, fault.cookie, true);
    site.settle();
    expect([user.write(IOVA, 4, 3), user.byteAt(va)]).toEqual([true, 4]);
  });

  test('is ended each time anew, and whoever repeats it waits for his turn', () => {
    const site = slow(1);
    const { user } = asking(site);
    const other = attachedUser(site);
    for (let value = 1; value <= 3; value++) {
      start(other.user, value);
      site.host.run(BOUND);
      expect([user.result, other.user.busy, other.user.byteAt(other.va)]).toEqual([ABORTED, false, value]);
      ask(user);
      site.settle();
      expect(user.busy).toBe(true);
    }
  });

  test('goes on when it is answered in time, or when the others have given up', () => {
    const site = slow(1);
    const { user, faults } = asking(site);
    const other = attachedUser(site);
    start(other.user, 1);
    site.host.run(9_000_000);
    other.user.vfio.reset();
    site.host.run(1_000_000_000);
    expect(user.busy).toBe(true);
    start(other.user, 2);
    site.host.run(9_000_000);
    const [fault] = user.iommufd.readFaults(faults.fd);
    user.iommufd.respondFault(faults.fd, fault!.cookie, false);
    site.host.run(1_000_000);
    expect([user.busy, user.result === ABORTED, other.user.busy]).toEqual([false, false, false]);
  });

  test('and is waited for by its own user at the same time, is ended once', () => {
    const site = slow(2 * HUNG);
    const [first, second, third] = [attachedUser(site), attachedUser(site), attachedUser(site)];
    start(first.user, 1);
    site.host.run(500_000);
    start(second.user, 2);
    start(third.user, 3);
    // The time of the second is up while the first is being waited for.
    site.host.run(9_400_000);
    first.user.vfio.detach();
    expect([first.user.busy, first.user.result]).toEqual([false, ABORTED]);
    site.host.run(9_900_000);
    expect(second.user.busy).toBe(true);
    for (let i = 0; i < 2; i++) site.host.run(BOUND);
    expect([second, third].map(({ user }) => [user.busy, user.result])).toEqual([
      [false, ABORTED],
      [false, 0],
    ]);
  });
});

describe('a PASID that is given back while a command carries it', () => {
  /** Detaches `user` from v with a command under way, then attaches `next`; gives both numbers on the wire. */
  function hand(site: Site): { old: number; fresh: number; from: bigint; to: bigint; user: MdevUser; next: MdevUser } {
    const { user, va: from } = attachedUser(site, 5);
    const next = site.user(site.create('pasids'));
    const { ioasId, va: to } = next.space();
    const table = next.table(ioasId);
    const old = user.mdev.dma!.physical(5)!;
    start(user, 0x66, 5);
    user.vfio.detach({ pasid: 5 });
    next.vfio.attach(table, { pasid: 5 });
    return { old, fresh: next.mdev.dma!.physical(5)!, from, to, user, next };
  }

  test('X4 is parked until the command is over; late DMA reaches neither owner', () => {
    const site = slow(SLOW);
    const { old, fresh, from, to, user, next } = hand(site);
    expect([user.busy, site.pasids.parked, fresh === old]).toEqual([true, [old], false]);
    expect(site.pasids.namedBy(old)).toContain('command');
    site.settle();
    expect([user.busy, user.result === 0, user.byteAt(from), next.byteAt(to)]).toEqual([false, false, 0, 0]);
    expect(site.pasids.parked).toEqual([]);
    const later = attachedUser(site, 5);
    expect(later.user.mdev.dma!.physical(5)).toBe(old);
  });

  test('X4 without parking the next owner would be written to', () => {
    const site = slow(SLOW, { parkPasids: false });
    const { old, fresh, to, next } = hand(site);
    expect(fresh).toBe(old);
    site.settle();
    expect(next.byteAt(to)).toBe(0x66);
  });

  test('an auxiliary domain gives its PASID back when the command is over, not before', () => {
    const site = slow(SLOW);
    const { user } = attachedUser(site);
    const wire = user.mdev.dma!.physical(NO_PASID)!;
    start(user, 1);
    const seen: number[][] = [];
    for (let delay = 0; delay < 90_000; delay += 1_000) {
      site.machine.scheduler.schedule(delay, () => seen.push(site.pasids.has(wire) ? [] : site.pasids.parked));
    }
    user.vfio.detach();
    expect(seen.some((parked) => parked.includes(wire))).toBe(true);
    expect([user.busy, site.pasids.parked, site.pasids.size]).toEqual([false, [], 0]);
    expect(refusal(() => site.parent.remove())).toBe('EBUSY');
  });
});
