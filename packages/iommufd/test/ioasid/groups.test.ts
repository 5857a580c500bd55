import { describe, expect, test } from 'vitest';
import { errno, IoasidHost, PAGE } from '../support/ioasid-host.ts';

describe('C15 the devices of a group share one address space', () => {
  test('C15 version 1: no command before all devices of the group are attached, and no other IOASID for the second', () => {
    const host = new IoasidHost({ paired: true });
    const { client } = host;
    const [first, second, third] = [host.bind(0), host.bind(1), host.bind(2)];
    expect(first.tester.device.group).toBe(second.tester.device.group);
    const [gpa, other] = [client.alloc(), client.alloc()];
    const va = host.memory(2);
    const map = (): string | null => errno(() => client.map({ ioasid: gpa, iova: 0, vaddr: va, size: PAGE }));
    first.attach(gpa);
    expect([map(), errno(() => client.info(gpa)), errno(() => client.createNesting(gpa))]).toEqual([
      'EBUSY',
      'EBUSY',
      'EBUSY',
    ]);
    third.attach(gpa);
    expect([map(), errno(() => second.attach(other))]).toEqual(['EBUSY', 'EINVAL']);
    second.attach(gpa);
    expect([map(), first.read(0n), second.read(0n), third.read(0n)]).toEqual([null, 1, 1, 1]);
    second.detach(gpa);
    expect(errno(() => client.unmap(gpa, 0, PAGE))).toBe('EBUSY');
    first.detach(gpa);
    expect([first.read(0n), second.read(0n), client.unmap(gpa, 0, PAGE)]).toEqual([null, null, PAGE]);
  });

  test('C15 version 2: the first device attaches the group, and the second must attach to the same', () => {
    const host = new IoasidHost({ paired: true, rules: 'v2' });
    const { client } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const [gpa, other] = [client.alloc(), client.alloc()];
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(1, 3), size: PAGE });
    client.map({ ioasid: other, iova: 0, vaddr: host.memory(1, 4), size: PAGE });
    first.attach(gpa);
    expect([first.read(0n), second.read(0n)]).toEqual([3, 3]);
    expect([errno(() => second.attach(other)), errno(() => second.attach(other, 5))]).toEqual(['EINVAL', null]);
    second.attach(gpa);
    first.detach(gpa);
    expect([first.read(0n), second.read(0n)]).toEqual([3, 3]);
    second.detach(gpa);
    expect([first.read(0n), second.read(0n), first.read(0n, 5)]).toEqual([null, null, 4]);
  });

  test('C15 a child moves the group with its first device and gives it back with its last', () => {
    const host = new IoasidHost({ paired: true });
    const { client } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    for (const device of [first, second]) device.attach(gpa);
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(4), size: 4n * PAGE });
    const [child, sibling] = [client.createNesting(gpa), client.createNesting(gpa)];
    first.attach(child);
    expect([first.read(0n), second.read(0n)]).toEqual([null, null]);
    const map = (): string | null => errno(() => client.map({ ioasid: child, iova: 0x9000, vaddr: PAGE, size: PAGE }));
    expect([map(), errno(() => second.attach(sibling))]).toEqual(['EBUSY', 'EINVAL']);
    second.attach(child);
    expect([map(), first.read(0x9000n), second.read(0x9000n)]).toEqual([null, 2, 2]);
    first.detach(child);
    expect([first.read(0x9000n), second.read(0x9000n), first.read(PAGE)]).toEqual([2, 2, null]);
    second.detach(child);
    expect([first.read(0x9000n), first.read(PAGE), second.read(PAGE)]).toEqual([null, 2, 2]);
  });

  test('a device that is given up while its group is at a child leaves the rest at the parent', () => {
    const host = new IoasidHost({ paired: true });
    const { client } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    for (const device of [first, second]) device.attach(gpa);
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(1, 8), size: PAGE });
    first.attach(client.createNesting(gpa));
    expect(second.read(0n)).toBeNull();
    first.unbind();
    expect(second.read(0n)).toBe(8);
    second.unbind();
    expect([second.read(0n), host.pins, second.tester.device.group.owner]).toEqual([null, [0, 0], null]);
  });

  test('a group that cannot go back to the parent for want of memory is blocked', () => {
    const host = new IoasidHost({ paired: true });
    const { client, machine } = host;
    const [first, second] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    for (const device of [first, second]) device.attach(gpa);
    client.map({ ioasid: gpa, iova: 0, vaddr: host.memory(1, 8), size: PAGE });
    const child = client.createNesting(gpa);
    first.attach(child);
    const { failpoints } = machine.kernel;
    failpoints.arm(1);
    expect([errno(() => first.detach(child)), failpoints.hit === null, first.read(0n)]).toEqual([
      'ENOMEM',
      false,
      null,
    ]);
    failpoints.arm(1);
    first.unbind();
    expect(failpoints.hit).not.toBeNull();
    expect(second.read(0n)).toBeNull();
    second.detach(gpa);
    host.bind(0).attach(gpa);
    second.attach(gpa);
    expect(second.read(0n)).toBe(8);
  });
});
