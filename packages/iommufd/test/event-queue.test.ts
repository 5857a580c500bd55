import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { EventQueue } from '../src/event-queue.ts';
import { POLLIN } from '../src/files/file.ts';
import * as uapi from '../src/uapi/viommu.ts';
import { EEXIST, EFAULT, EINVAL, EMFILE, ENOENT, EOPNOTSUPP } from './support/errno.ts';
import { ARGUMENT } from './support/host.ts';
import { errno, ViommuHost } from './support/viommu-host.ts';

const EVENT_TYPE = 4;
const HEADER = 8;

const alloc = (host: ViommuHost, values: object): number => {
  const good = { viommuId: host.viommuId, type: EVENT_TYPE, veventqDepth: 2 };
  return host.ioctl(uapi.IOMMU_VEVENTQ_ALLOC, uapi.iommuVeventqAlloc, { ...good, ...values }).result;
};

/** A host whose vIOMMU has an event queue of this depth. */
function setUp(depth: number) {
  const host = new ViommuHost();
  const { id, fd } = host.viommus.veventqAlloc(host.viommuId, EVENT_TYPE, depth);
  const report = (...bytes: number[]): void => host.half.core.reportEvent(EVENT_TYPE, Uint8Array.from(bytes));
  const read = (length: number): Uint8Array => {
    const bytes = new Uint8Array(length);
    return bytes.subarray(0, host.system.read(fd, bytes));
  };
  return { host, id, fd, report, read };
}

describe('IOMMU_VEVENTQ_ALLOC', () => {
  test('makes a queue that holds its vIOMMU, and a file that holds the queue', () => {
    const { host, id, fd } = setUp(1);
    expect([host.users(host.viommuId), host.users(id)]).toEqual([2, 2]);
    expect([errno(() => host.client.destroy(id)), errno(() => host.client.destroy(host.viommuId))]).toEqual([
      'EBUSY',
      'EBUSY',
    ]);
    expect(host.system.file(fd).name).toBe('anon_inode:[iommufd-viommu-event]');
    host.system.close(fd);
    expect([host.users(id), errno(() => host.client.destroy(host.viommuId))]).toEqual([1, 'EBUSY']);
    host.client.destroy(id);
    host.client.destroy(host.viommuId);
  });

  test('EOPNOTSUPP flags, a reserved field, type 0, before EINVAL a depth of 0 or above 2^19, before ENOENT', () => {
    const host = new ViommuHost();
    const before = host.snapshot();
    const bad = { viommuId: 99, veventqDepth: 0 };
    expect(alloc(host, { ...bad, flags: 1 })).toBe(EOPNOTSUPP);
    expect(alloc(host, { ...bad, reserved: 1 })).toBe(EOPNOTSUPP);
    expect(alloc(host, { ...bad, type: 0 })).toBe(EOPNOTSUPP);
    expect(alloc(host, bad)).toBe(EINVAL);
    expect(alloc(host, { ...bad, veventqDepth: (1 << 19) + 1 })).toBe(EINVAL);
    expect(alloc(host, { ...bad, veventqDepth: 0xffff_ffff })).toBe(EINVAL);
    for (const viommuId of [0, 99, host.parentId]) expect(alloc(host, { viommuId })).toBe(ENOENT);
    expect(host.snapshot()).toEqual(before);
    expect(alloc(host, { veventqDepth: 1 << 19 })).toBe(0);
  });

  test('EEXIST a second queue of a type; other types have theirs', () => {
    const { host } = setUp(1);
    expect(alloc(host, { type: EVENT_TYPE + 1 })).toBe(0);
    const before = host.snapshot();
    expect(alloc(host, {})).toBe(EEXIST);
    expect(host.snapshot()).toEqual(before);
  });

  test('EMFILE without a descriptor to give, and EFAULT without a place for the answer, make nothing', () => {
    const host = new ViommuHost();
    const bytes = new Uint8Array(uapi.iommuVeventqAlloc.size);
    const values = { size: bytes.length, viommuId: host.viommuId, type: EVENT_TYPE, veventqDepth: 1 };
    uapi.iommuVeventqAlloc.write({ ...uapi.iommuVeventqAlloc.read(bytes), ...values }, bytes);
    host.space.write(ARGUMENT, bytes);
    const page = host.space.pages.get(Number(ARGUMENT >> 12n))!;
    const before = host.snapshot();
    page.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_VEVENTQ_ALLOC, ARGUMENT)).toBe(EFAULT);
    page.writable = true;
    expect(host.snapshot()).toEqual(before);
    while (host.descriptors.size < 1024) host.system.dup(host.fd);
    const full = host.snapshot();
    expect(host.system.ioctl(host.fd, uapi.IOMMU_VEVENTQ_ALLOC, ARGUMENT)).toBe(EMFILE);
    expect(host.snapshot()).toEqual(full);
  });
});

describe('the driver', () => {
  test('hears EOPNOTSUPP where there is no queue of the type, and EINVAL of an event without data', () => {
    const { host, id, fd } = setUp(1);
    const { core } = host.half;
    expect(errno(() => core.reportEvent(EVENT_TYPE + 1, Uint8Array.of(1)))).toBe('EOPNOTSUPP');
    expect(errno(() => core.reportEvent(EVENT_TYPE, new Uint8Array()))).toBe('EINVAL');
    host.system.close(fd);
    host.client.destroy(id);
    expect(errno(() => core.reportEvent(EVENT_TYPE, Uint8Array.of(1)))).toBe('EOPNOTSUPP');
  });

  test('hears nothing of a full queue, and ENOMEM of an event there was no memory for, which counts as lost', () => {
    const { host, report, fd } = setUp(1);
    report(1);
    report(2);
    expect(host.viommus.readVevents(fd, 1)).toEqual([
      { sequence: 0, data: Uint8Array.of(1) },
      { sequence: 1, data: null },
    ]);
    host.kernel.failpoints.arm(1);
    expect(errno(() => report(3))).toBe('ENOMEM');
    expect(host.viommus.readVevents(fd, 1)).toEqual([{ sequence: 2, data: null }]);
    expect(host.eventsOf('vevent_report').map(({ sequence, lost }) => [sequence, lost])).toEqual([
      [0, false],
      [1, true],
      [2, true],
    ]);
    // Memory is taken first: its want is told of a full queue as well.
    report(4);
    host.kernel.failpoints.arm(1);
    expect(errno(() => report(5))).toBe('ENOMEM');
  });

  test('keeps what it has reported to itself', () => {
    const { host, fd } = setUp(1);
    const data = Uint8Array.of(1, 2);
    host.half.core.reportEvent(EVENT_TYPE, data);
    data.fill(9);
    expect(host.viommus.readVevents(fd, 2)[0]!.data).toEqual(Uint8Array.of(1, 2));
  });
});

describe('reading the file of IOMMU_VEVENTQ_ALLOC', () => {
  test('records are byte-exact: flags, sequence, data', () => {
    const { report, read } = setUp(2);
    report(0xaa, 0xbb, 0xcc);
    report(0xdd, 0xee, 0xff);
    report(0);
    expect([...read(64)]).toEqual(
      [
        [0, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0xbb, 0xcc],
        [0, 0, 0, 0, 1, 0, 0, 0, 0xdd, 0xee, 0xff],
        [1, 0, 0, 0, 2, 0, 0, 0],
      ].flat(),
    );
  });

  test('EINVAL less room than a header, even when empty, or than the first event', () => {
    const { read, report } = setUp(2);
    for (const length of [0, 1, HEADER - 1]) expect(errno(() => read(length))).toBe('EINVAL');
    expect(read(HEADER).length).toBe(0);
    report(1, 2, 3, 4);
    report(5, 6, 7, 8);
    for (const length of [0, HEADER - 1, HEADER, HEADER + 3]) expect(errno(() => read(length))).toBe('EINVAL');
    // The second does not fit, whether its header does or not.
    expect(read(HEADER + 4 + HEADER).length).toBe(HEADER + 4);
    expect(read(HEADER + 4 + HEADER - 1).length).toBe(HEADER + 4);
    expect(read(HEADER).length).toBe(0);
  });

  test('ESPIPE at a position, EINVAL to write, and readable while something is there', () => {
    const { host, fd, report, read } = setUp(1);
    expect(errno(() => host.system.read(fd, new Uint8Array(64), 0n))).toBe('ESPIPE');
    expect(errno(() => host.system.write(fd, new Uint8Array(8)))).toBe('EINVAL');
    expect(host.system.poll(fd)).toBe(0);
    report(1);
    report(2);
    expect(host.system.poll(fd)).toBe(POLLIN);
    read(HEADER + 1);
    expect(host.system.poll(fd)).toBe(POLLIN);
    expect(read(64)).toEqual(Uint8Array.of(1, 0, 0, 0, 1, 0, 0, 0));
    expect(host.system.poll(fd)).toBe(0);
  });

  test('an event that finds room again takes the place of the note, and leaves a gap in the numbers', () => {
    const { host, fd, report, read } = setUp(2);
    for (const byte of [1, 2, 3, 4]) report(byte);
    read(HEADER + 1);
    report(5);
    expect(host.viommus.readVevents(fd, 1)).toEqual([
      { sequence: 1, data: Uint8Array.of(2) },
      { sequence: 4, data: Uint8Array.of(5) },
    ]);
    report(6);
    expect(host.viommus.readVevents(fd, 1)).toEqual([{ sequence: 5, data: Uint8Array.of(6) }]);
  });

  test('ENOMEM where the note cannot be copied leaves it to be read again', () => {
    const { host, fd, report } = setUp(1);
    report(1);
    report(2);
    host.kernel.failpoints.arm(1);
    expect(host.viommus.readVevents(fd, 1)).toEqual([{ sequence: 0, data: Uint8Array.of(1) }]);
    host.kernel.failpoints.arm(1);
    expect(errno(() => host.viommus.readVevents(fd, 1))).toBe('ENOMEM');
    host.kernel.failpoints.arm(0);
    expect(host.viommus.readVevents(fd, 1)).toEqual([{ sequence: 1, data: null }]);
  });

  test('sequence numbers go on from 0 after 2^31 - 1', () => {
    const { host, id, fd, report } = setUp(1);
    const queue = host.context.objects.all().find((object) => object.id === id) as EventQueue;
    (queue as unknown as { nextSequence: number }).nextSequence = 0x7fff_ffff;
    report(1);
    report(2);
    report(3);
    expect(host.viommus.readVevents(fd, 1).map(({ sequence }) => sequence)).toEqual([0x7fff_ffff, 1]);
  });

  test('what is read is what a list of the kernel would give, whatever is reported, lost and read', () => {
    const action = fc.oneof(
      { weight: 3, arbitrary: fc.record({ op: fc.constant('report' as const), size: fc.integer({ min: 1, max: 5 }) }) },
      { weight: 1, arbitrary: fc.record({ op: fc.constant('starve' as const), size: fc.constant(1) }) },
      { weight: 2, arbitrary: fc.record({ op: fc.constant('read' as const), size: fc.nat(50) }) },
    );
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.array(action, { minLength: 5, maxLength: 60, size: 'max' }),
        (depth, actions) => {
          const { host, fd, report, read } = setUp(depth);
          const model = new ModelQueue(depth);
          let next = 0;
          for (const { op, size } of actions) {
            if (op === 'read') {
              const expected = model.read(size);
              if (expected === null) expect(errno(() => read(size))).toBe('EINVAL');
              else expect([...read(size)]).toEqual(expected);
            } else {
              const data = Array.from({ length: size }, () => next++ & 0xff);
              host.kernel.failpoints.arm(op === 'starve' ? 1 : 0);
              expect(errno(() => report(...data))).toBe(op === 'starve' ? 'ENOMEM' : null);
              model.report(data, op === 'starve');
            }
            expect(host.system.poll(fd)).toBe(model.list.length > 0 ? POLLIN : 0);
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});

type ModelNode = { flags: number; sequence: number; data: number[] };

/** A list of nodes, of which one, put at the end again and again, says that events were lost. */
class ModelQueue {
  readonly list: ModelNode[] = [];
  private readonly note: ModelNode = { flags: 1, sequence: 0, data: [] };
  private readonly depth: number;
  private sequence = 0;

  constructor(depth: number) {
    this.depth = depth;
  }

  report(data: number[], noMemory: boolean): void {
    const events = this.list.filter((node) => node !== this.note).length;
    const node = noMemory || events === this.depth ? this.note : { flags: 0, sequence: 0, data };
    if (this.list.at(-1) === this.note) this.list.pop();
    this.list.push(node);
    node.sequence = this.sequence++;
  }

  /** Null for EINVAL. */
  read(room: number): number[] | null {
    if (room < HEADER) return null;
    const bytes: number[] = [];
    for (let node = this.list[0]; node !== undefined; node = this.list[0]) {
      if (HEADER + node.data.length > room - bytes.length) return bytes.length === 0 ? null : bytes;
      bytes.push(node.flags, 0, 0, 0, node.sequence, 0, 0, 0, ...node.data);
      this.list.shift();
    }
    return bytes;
  }
}
