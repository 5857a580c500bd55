import { NO_PASID, PRG_INVALID_REQUEST, PRG_SUCCESS } from '@iommukit/hw';
import { type ErrnoCode, SysError } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { IommufdDevice } from '../src/device.ts';
import { POLLIN, POLLOUT } from '../src/files/file.ts';
import { Host } from './support/host.ts';

const RECORD = 40;

function errno(body: () => unknown): ErrnoCode | null {
  try {
    body();
    return null;
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
}

type Setup = { host: Host; device: IommufdDevice; hwpt: number; other: number; fd: number; faultId: number };

/** A device attached, without PASID and at PASID 5, to a table whose page requests go to a queue. */
function setup(): Setup {
  const host = new Host();
  const device = host.bind();
  const ioasId = host.client.ioasAlloc();
  const { id: faultId, fd } = host.client.faultQueueAlloc();
  const hwpt = host.client.hwptAllocPaging({ deviceId: device.id, ioasId, faultId, pasid: true });
  const other = host.client.hwptAllocPaging({ deviceId: device.id, ioasId, pasid: true });
  device.attach(hwpt);
  device.attach(hwpt, 5);
  return { host, device, hwpt, other, fd, faultId };
}

/** Reports the requests of a group; the last one closes it. */
function report(device: IommufdDevice, group: number, addresses: bigint[], pasid = 5): void {
  addresses.forEach((address, index) => {
    device.device.faults.report({ pasid, access: 3, group, last: index === addresses.length - 1, address });
  });
}

const answer = (cookie: number, code: number): Uint8Array => new Uint8Array(Uint32Array.of(cookie, code).buffer);

describe('the file of IOMMU_FAULT_QUEUE_ALLOC', () => {
  test('D17 a group is delivered when its last request is there, whole and in order', () => {
    const { host, device, fd } = setup();
    device.device.faults.report({ pasid: 5, access: 1, group: 7, last: false, address: 0x1000n });
    device.device.faults.report({ pasid: 5, access: 2, group: 7, last: false, address: 0x3000n });
    expect([host.client.readFaults(fd), host.system.poll(fd)]).toEqual([[], POLLOUT]);
    device.device.faults.report({ pasid: 5, access: 3, group: 7, last: true, address: 0x2000n });
    expect(host.system.poll(fd)).toBe(POLLIN | POLLOUT);
    const records = host.client.readFaults(fd);
    expect(records.map(({ address, access, last }) => [address, access, last])).toEqual([
      [0x1000n, 1, false],
      [0x3000n, 2, false],
      [0x2000n, 3, true],
    ]);
    expect(records.map(({ deviceId, pasid, group, cookie }) => [deviceId, pasid, group, cookie])).toEqual(
      new Array(3).fill([device.id, 5, 7, 1]),
    );
    expect([host.client.readFaults(fd), host.system.poll(fd)]).toEqual([[], POLLOUT]);
  });

  test('records are byte-exact', () => {
    const { host, device, fd } = setup();
    report(device, 9, [0x1234_5678_9000n]);
    report(device, 10, [0x2000n], NO_PASID);
    const bytes = new Uint8Array(2 * RECORD);
    expect(host.system.read(fd, bytes)).toBe(2 * RECORD);
    const words = [...new Uint32Array(bytes.buffer)];
    expect(words.slice(0, 10)).toEqual([3, device.id, 5, 9, 3, 0, 0x5678_9000, 0x1234, 0, 1]);
    expect(words.slice(10)).toEqual([2, device.id, 0, 10, 3, 0, 0x2000, 0, 0, 2]);
  });

  test('D16 an answer reaches the device as it is; a bad code or cookie is EINVAL', () => {
    const { host, device, fd } = setup();
    for (const group of [1, 2, 3]) report(device, group, [0x1000n]);
    expect(errno(() => host.system.write(fd, answer(1, 0)))).toBe('EINVAL');
    expect(host.client.readFaults(fd).map(({ cookie }) => cookie)).toEqual([1, 2, 3]);
    expect(errno(() => host.system.write(fd, answer(1, 7)))).toBe('EINVAL');
    expect(errno(() => host.system.write(fd, answer(0, 0)))).toBe('EINVAL');
    expect(errno(() => host.system.write(fd, answer(4, 0)))).toBe('EINVAL');
    expect(host.driver.responses).toEqual([]);
    host.client.respondFault(fd, 1, true);
    host.client.respondFault(fd, 2, false);
    expect(host.driver.responses).toEqual([`1:${PRG_SUCCESS}`, `2:${PRG_INVALID_REQUEST}`]);
    expect(errno(() => host.client.respondFault(fd, 1, true))).toBe('EINVAL');
    // Two good answers and a bad one: the good ones are carried out.
    report(device, 4, [0x1000n]);
    expect(host.client.readFaults(fd)[0]!.cookie).toBe(1);
    const three = new Uint8Array([...answer(3, 0), ...answer(1, 1), ...answer(9, 0)]);
    expect(host.system.write(fd, three)).toBe(16);
    expect(host.driver.responses.slice(2)).toEqual([`3:${PRG_SUCCESS}`, `4:${PRG_INVALID_REQUEST}`]);
  });

  test('D18 pending requests are answered INVALID once when the attachment goes, and their cookies with them', () => {
    for (const leave of ['detach', 'replace', 'unbind'] as const) {
      const { host, device, other, fd } = setup();
      report(device, 1, [0x1000n]);
      expect(host.client.readFaults(fd).length).toBe(1);
      report(device, 2, [0x2000n]);
      report(device, 3, [0x3000n], NO_PASID);
      if (leave === 'detach') device.detach(5);
      else if (leave === 'replace') device.replace(other, 5);
      else device.unbind();
      const gone = leave === 'unbind' ? ['1:1', '2:1', '3:1'] : ['1:1', '2:1'];
      expect([...host.driver.responses].sort()).toEqual(gone);
      expect(errno(() => host.client.respondFault(fd, 1, true))).toBe('EINVAL');
      // What came through another attachment is still there.
      expect(host.client.readFaults(fd).map(({ group }) => group)).toEqual(leave === 'unbind' ? [] : [3]);
      expect([...host.driver.responses].sort()).toEqual(gone);
    }
  });

  test('a request that nobody asked for is refused at once', () => {
    const { host, device } = setup();
    expect(errno(() => report(device, 1, [0x1000n], 6))).toBe('EINVAL');
    expect(host.driver.responses).toEqual(['1:1']);
  });

  test('sizes: ESPIPE for parts of a record, EINVAL for a group that does not fit, groups are never split', () => {
    const { host, device, fd } = setup();
    const read = (length: number, position: bigint | null = null): number =>
      host.system.read(fd, new Uint8Array(length), position);
    expect([read(0), read(RECORD)]).toEqual([0, 0]);
    for (const length of [1, 39, 41, 79]) expect(errno(() => read(length))).toBe('ESPIPE');
    expect(errno(() => read(RECORD, 40n))).toBe('ESPIPE');
    for (const length of [1, 7, 9]) expect(errno(() => host.system.write(fd, new Uint8Array(length)))).toBe('ESPIPE');
    expect(host.system.write(fd, new Uint8Array())).toBe(0);
    report(device, 1, [0x1000n]);
    report(device, 2, [0x1000n, 0x2000n]);
    expect(read(2 * RECORD)).toBe(RECORD);
    for (const length of [0, RECORD]) expect(errno(() => read(length))).toBe('EINVAL');
    expect(read(5 * RECORD)).toBe(2 * RECORD);
  });

  test('the object answers what is left when it goes', () => {
    const { host, device, fd, faultId, hwpt } = setup();
    report(device, 1, [0x1000n]);
    host.client.readFaults(fd);
    report(device, 2, [0x1000n]);
    device.unbind();
    expect([...host.driver.responses].sort()).toEqual(['1:1', '2:1']);
    host.client.destroy(hwpt);
    host.system.close(fd);
    host.client.destroy(faultId);
    expect(host.driver.responses.length).toBe(2);
  });

  test('a failed cookie leaves the group to be read again', () => {
    const { host, device, fd } = setup();
    report(device, 1, [0x1000n]);
    report(device, 2, [0x2000n]);
    host.kernel.failpoints.arm(1);
    expect(errno(() => host.client.readFaults(fd))).toBe('ENOMEM');
    host.kernel.failpoints.arm(2);
    expect(host.client.readFaults(fd).map(({ group }) => group)).toEqual([1]);
    host.kernel.failpoints.arm(0);
    expect(host.client.readFaults(fd).map(({ group, cookie }) => [group, cookie])).toEqual([[2, 2]]);
  });

  test('each group is answered exactly once, whatever is read, written and detached', () => {
    const word = fc.oneof(fc.nat(6), fc.nat(0xffff_ffff));
    const action = fc.oneof(
      fc.record({
        op: fc.constant('report' as const),
        size: fc.integer({ min: 1, max: 3 }),
        pasid: fc.constantFrom(NO_PASID, 5),
      }),
      fc.record({ op: fc.constant('read' as const), records: fc.nat(6), odd: fc.nat(3) }),
      fc.record({ op: fc.constant('write' as const), words: fc.array(word, { maxLength: 7 }) }),
      fc.record({ op: fc.constant('move' as const), pasid: fc.constantFrom(NO_PASID, 5), away: fc.boolean() }),
    );
    fc.assert(
      fc.property(fc.array(action, { minLength: 5, maxLength: 50, size: 'max' }), (actions) => {
        const { host, device, hwpt, other, fd } = setup();
        let groups = 0;
        for (const step of actions) {
          if (step.op === 'report') {
            const known = device.attached(step.pasid) === hwpt;
            const addresses = Array.from({ length: step.size }, (_, index) => BigInt(index) * 4096n);
            if (known) report(device, ++groups, addresses, step.pasid);
          } else if (step.op === 'read') {
            errno(() => host.system.read(fd, new Uint8Array(step.records * RECORD + (step.odd === 3 ? 1 : 0))));
          } else if (step.op === 'write') {
            errno(() => host.system.write(fd, new Uint8Array(Uint32Array.from(step.words).buffer)));
          } else device.replace(step.away ? other : hwpt, step.pasid);
          const answered = host.driver.responses.map((entry) => entry.split(':')[0]);
          expect(new Set(answered).size).toBe(answered.length);
        }
        device.unbind();
        expect(host.driver.responses.length).toBe(groups);
        host.process.exit();
        expect([host.context.objects.size, host.driver.responses.length]).toEqual([0, groups]);
      }),
      { numRuns: 200 },
    );
  });

  test('the trace tells the way of a group by its ids', () => {
    const { host, device, fd, faultId } = setup();
    report(device, 3, [0x1000n]);
    host.client.readFaults(fd);
    host.client.respondFault(fd, 1, true);
    const where = { context: 1, fault: faultId, device: device.id, pasid: 5, group: 3 };
    expect(host.events.filter(({ name }) => name.startsWith('fault_'))).toEqual([
      { name: 'fault_queue', ...where, cookie: 0 },
      { name: 'fault_read', ...where, cookie: 1 },
      { name: 'fault_response', ...where, cookie: 1, code: PRG_SUCCESS },
    ]);
  });
});
