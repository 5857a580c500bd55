import { describe, expect, test } from 'vitest';
import type { HwQueue } from '../src/hw-queue.ts';
import * as uapi from '../src/uapi/iommufd.ts';
import * as uapiViommu from '../src/uapi/viommu.ts';
import { EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM } from './support/errno.ts';
import { HW_QUEUE_TYPE, HW_QUEUES, VIOMMU_TYPE } from './support/fake-viommu.ts';
import { ARGUMENT, MEMORY } from './support/host.ts';
import { errno, ViommuHost } from './support/viommu-host.ts';

const EIO = -5;
const ERANGE = -34;
const PAGE = 4096n;
const U64_MAX = 2n ** 64n - 1n;
/** Where guest memory of 8 pages begins. */
const GPA = 0x10_0000n;
/** Pages of the process whose frames do not adjoin. */
const SCATTERED = 0x200_0000n;

class QueueHost extends ViommuHost {
  constructor() {
    super();
    const { ioasId } = this;
    this.client.ioasMap({ ioasId, userVa: MEMORY, length: 8n * PAGE, iova: GPA });
    this.space.map(Number(SCATTERED / PAGE), 4, true, 1);
  }

  alloc(values: object): number {
    const good = { viommuId: this.viommuId, type: HW_QUEUE_TYPE, nestingParentIova: GPA, length: PAGE };
    return this.ioctl(uapiViommu.IOMMU_HW_QUEUE_ALLOC, uapiViommu.iommuHwQueueAlloc, { ...good, ...values }).result;
  }

  queue(index: number, iova: bigint, length: bigint): number {
    return this.viommus.hwQueueAlloc({ viommuId: this.viommuId, type: HW_QUEUE_TYPE, index, iova, length });
  }

  unmap(iova: bigint, length: bigint): number {
    return this.ioctl(uapi.IOMMU_IOAS_UNMAP, uapi.iommuIoasUnmap, { ioasId: this.ioasId, iova, length }).result;
  }
}

describe('IOMMU_HW_QUEUE_ALLOC', () => {
  test('EOPNOTSUPP flags or type 0, then EINVAL length 0, then EOVERFLOW, then ENOENT no vIOMMU', () => {
    const host = new QueueHost();
    const before = host.snapshot();
    const bad = { viommuId: 99, length: 0n };
    expect(host.alloc({ ...bad, flags: 1 })).toBe(EOPNOTSUPP);
    expect(host.alloc({ ...bad, type: 0 })).toBe(EOPNOTSUPP);
    expect(host.alloc(bad)).toBe(EINVAL);
    expect(host.alloc({ viommuId: 99, nestingParentIova: U64_MAX, length: 2n })).toBe(EOVERFLOW);
    expect(host.alloc({ viommuId: 99, nestingParentIova: U64_MAX, length: 1n })).toBe(ENOENT);
    for (const viommuId of [0, host.parentId, host.device.id]) expect(host.alloc({ viommuId })).toBe(ENOENT);
    expect(host.snapshot()).toEqual(before);
  });

  test('EOPNOTSUPP a vIOMMU without queues, or without such', () => {
    const host = new QueueHost();
    expect(host.alloc({ type: HW_QUEUE_TYPE + 1 })).toBe(EOPNOTSUPP);
    host.half.hwQueues = null;
    expect(host.alloc({})).toBe(EOPNOTSUPP);
  });

  test('ERANGE pages that 64 bits do not count, ENOMEM a list that is too long, ENOENT a hole', () => {
    const host = new QueueHost();
    const before = host.snapshot();
    expect(host.alloc({ nestingParentIova: 0n, length: U64_MAX })).toBe(ERANGE);
    expect(host.alloc({ nestingParentIova: 0x800n, length: U64_MAX - 0x7ffn })).toBe(ERANGE);
    expect(host.alloc({ nestingParentIova: 0x800n, length: U64_MAX - 0x17ffn })).toBe(ENOMEM);
    expect(host.alloc({ nestingParentIova: 0n, length: 1n << 40n })).toBe(ENOMEM);
    expect(host.alloc({ nestingParentIova: 0n, length: (1n << 40n) - PAGE })).toBe(ENOENT);
    expect(host.alloc({ nestingParentIova: GPA - 1n, length: 1n })).toBe(ENOENT);
    expect(host.alloc({ nestingParentIova: GPA + 8n * PAGE - 1n, length: 2n })).toBe(ENOENT);
    expect(host.alloc({ nestingParentIova: U64_MAX, length: 1n })).toBe(ENOENT);
    expect(host.snapshot()).toEqual(before);
  });

  test('EFAULT pages that do not adjoin in memory; one of them alone is fine', () => {
    const host = new QueueHost();
    host.client.ioasMap({ ioasId: host.ioasId, userVa: SCATTERED, length: 4n * PAGE, iova: 0x20_0000n });
    const before = host.snapshot();
    expect(host.alloc({ nestingParentIova: 0x20_0000n, length: 2n * PAGE })).toBe(EFAULT);
    expect(host.alloc({ nestingParentIova: 0x20_0fffn, length: 2n })).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
    expect(host.alloc({ nestingParentIova: 0x20_0fffn, length: 1n })).toBe(0);
  });

  test('EINVAL, EEXIST, EIO and EFAULT of the driver change nothing', () => {
    const host = new QueueHost();
    const before = host.snapshot();
    expect(host.alloc({ index: HW_QUEUES })).toBe(EINVAL);
    expect(host.alloc({ index: 0xffff_ffff })).toBe(EINVAL);
    expect(host.alloc({ index: 1 })).toBe(EIO);
    expect(host.snapshot()).toEqual(before);
    expect(host.alloc({})).toBe(0);
    expect(host.alloc({})).toBe(EEXIST);
  });

  test('EFAULT without a place for the answer makes none', () => {
    const host = new QueueHost();
    const bytes = new Uint8Array(uapiViommu.iommuHwQueueAlloc.size);
    const values = { viommuId: host.viommuId, type: HW_QUEUE_TYPE, nestingParentIova: GPA, length: PAGE };
    uapiViommu.iommuHwQueueAlloc.write(
      { ...uapiViommu.iommuHwQueueAlloc.read(bytes), ...values, size: bytes.length },
      bytes,
    );
    host.space.write(ARGUMENT, bytes);
    host.space.pages.get(Number(ARGUMENT / PAGE))!.writable = false;
    const before = host.snapshot();
    expect(host.system.ioctl(host.fd, uapiViommu.IOMMU_HW_QUEUE_ALLOC, ARGUMENT)).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
  });
});

describe('a hardware queue', () => {
  test('F14 IOAS_UNMAP of its memory is EBUSY until it is destroyed, and of what lies beside it is not', () => {
    const host = new QueueHost();
    const { ioasId, client } = host;
    client.ioasMap({ ioasId, userVa: MEMORY + 8n * PAGE, length: PAGE, iova: GPA + 8n * PAGE });
    const id = host.queue(0, GPA + 2n * PAGE, PAGE);
    const before = host.snapshot();
    expect(host.unmap(GPA, 8n * PAGE)).toBe(EBUSY);
    expect(host.snapshot()).toEqual(before);
    expect(errno(() => client.ioasUnmapAll(ioasId))).toBe('EBUSY');
    expect(host.snapshot()).toEqual(before);
    expect(host.unmap(GPA + 8n * PAGE, PAGE)).toBe(0);
    client.destroy(id);
    expect(host.unmap(GPA, 8n * PAGE)).toBe(0);
    expect([host.space.pinnedPages, host.user.lockedPages]).toEqual([0, 0]);
  });

  test('F14 two queues on one page: either keeps it', () => {
    for (const first of [0, 1]) {
      const host = new QueueHost();
      const second = host.viommus.viommuAlloc({
        deviceId: host.device.id,
        parentId: host.parentId,
        type: VIOMMU_TYPE,
      });
      const ids = [
        host.queue(0, GPA, 0x800n),
        host.viommus.hwQueueAlloc({ viommuId: second, type: HW_QUEUE_TYPE, index: 0, iova: GPA + 0x800n, length: 1n }),
      ];
      host.client.destroy(ids[first]!);
      expect(host.unmap(GPA, 8n * PAGE)).toBe(EBUSY);
      host.client.destroy(ids[1 - first]!);
      expect(host.unmap(GPA, 8n * PAGE)).toBe(0);
    }
  });

  test('covers whole pages of an unaligned range, which are pinned once as before', () => {
    const host = new QueueHost();
    const { ioasId } = host;
    const pfn = host.space.pages.get(Number(MEMORY / PAGE))!.pfn;
    expect(host.space.pinCount(pfn)).toBe(1);
    host.queue(0, GPA + 0xff0n, 0x20n);
    expect([host.space.pinCount(pfn), host.space.pinCount(pfn + 1), host.space.pinnedPages]).toEqual([1, 1, 8]);
    const queue = host.context.objects.all().find(({ type }) => type === 'hw-queue') as HwQueue;
    expect([queue.base, queue.length]).toEqual([GPA + 0xff0n, 0x20n]);
    expect(errno(() => host.client.ioasUnmapAll(ioasId))).toBe('EBUSY');
  });

  test('reads its memory: read-only pages do, write-only areas do not', () => {
    const host = new QueueHost();
    const { ioasId, client } = host;
    host.space.map(0x3000, 2, false);
    client.ioasMap({ ioasId, userVa: 0x300_0000n, length: PAGE, iova: 0x30_0000n, writable: false });
    client.ioasMap({ ioasId, userVa: MEMORY, length: PAGE, iova: 0x40_0000n, readable: false });
    expect(host.alloc({ nestingParentIova: 0x40_0000n })).toBe(EPERM);
    expect(host.alloc({ nestingParentIova: 0x30_0000n })).toBe(0);
  });

  test('uses its vIOMMU, the queue before it, and an access with an id of its own', () => {
    const host = new QueueHost();
    const { client, viommuId, ioasId } = host;
    const ioasUsers = host.users(ioasId);
    const first = host.queue(0, GPA, PAGE);
    const second = host.queue(1, GPA, PAGE);
    expect(second).toBe(first + 2);
    const objects = host.context.objects.all();
    const access = objects.find(({ id }) => id === first + 1)!;
    expect([access.type, access.users, host.users(ioasId)]).toEqual(['access', 2, ioasUsers + 2]);
    expect([host.users(viommuId), host.users(first), host.users(second)]).toEqual([3, 2, 1]);
    for (const id of [first, access.id, viommuId]) expect(errno(() => client.destroy(id))).toBe('EBUSY');
    client.destroy(second);
    client.destroy(first);
    expect([...host.half.queues]).toEqual([]);
    expect([host.users(viommuId), host.users(ioasId)]).toEqual([1, ioasUsers]);
    expect(errno(() => client.destroy(access.id))).toBe('ENOENT');
  });

  test('depends on no queue of another vIOMMU, and not on itself', () => {
    const host = new QueueHost();
    const { viommus, device, parentId } = host;
    host.queue(0, GPA, PAGE);
    const other = viommus.viommuAlloc({ deviceId: device.id, parentId, type: VIOMMU_TYPE });
    viommus.hwQueueAlloc({ viommuId: other, type: HW_QUEUE_TYPE, index: 0, iova: GPA, length: PAGE });
    const [mine, foreign] = host.context.objects.all().filter(({ type }) => type === 'hw-queue') as HwQueue[];
    expect(errno(() => mine!.depend(foreign!))).toBe('EINVAL');
    expect(errno(() => mine!.depend(mine!))).toBe('EINVAL');
    expect([mine!.users, foreign!.users]).toEqual([1, 1]);
  });
});
