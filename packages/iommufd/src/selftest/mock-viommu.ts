/**
 * Virtual IOMMUs of the mock IOMMU (Linux: mock_viommu_ops, drivers/iommu/iommufd/selftest.c): nested domains that want
 * their device in the vIOMMU, invalidation of the words that a device has cached, two hardware queues of which the
 * second needs the first, and, of a vIOMMU made with data, two pages to map that begin with what the data said.
 */

import { hex, PAGE_SIZE } from '@iommukit/hw';
import {
  type Device,
  type HwQueueCore,
  type HwQueueOps,
  type InvalidateResult,
  type Kernel,
  type NestedDomain,
  readUserArray,
  readUserData,
  SysError,
  type UserArray,
  type UserData,
  type UserReply,
  type ViommuCore,
  type ViommuDriver,
  type ViommuOps,
  writeUserData,
} from '@iommukit/iommu-core';
import { mockDeviceOf } from './mock-device.ts';
import {
  IOMMU_HW_QUEUE_TYPE_SELFTEST,
  IOMMU_TEST_HW_QUEUE_MAX,
  IOMMU_TEST_INVALIDATE_FLAG_ALL,
  IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
  IOMMU_VIOMMU_TYPE_SELFTEST,
  iommuViommuInvalidateSelftest,
  iommuViommuSelftest,
} from './uapi.ts';

const SHARED_PAGES = 2;

/** Makes a nested domain through a vIOMMU. */
export type MakeNested = (viommu: ViommuCore, flags: number, data: UserData) => NestedDomain;

export class MockViommus implements ViommuDriver {
  private readonly kernel: Kernel;
  private readonly makeNested: MakeNested;

  constructor(kernel: Kernel, makeNested: MakeNested) {
    this.kernel = kernel;
    this.makeNested = makeNested;
  }

  supports(_device: Device, type: number): boolean {
    return type === IOMMU_VIOMMU_TYPE_SELFTEST;
  }

  init(core: ViommuCore, _device: Device, data: UserReply | null): ViommuOps {
    this.kernel.checkpoint('mock_viommu');
    return new MockViommu(this.kernel, core, this.makeNested, data);
  }
}

class MockViommu implements ViommuOps {
  readonly initVdevice = null;
  readonly hwQueues: HwQueueOps;
  private readonly kernel: Kernel;
  private readonly core: ViommuCore;
  private readonly makeNested: MakeNested;
  private readonly queues: (HwQueueCore | null)[] = new Array(IOMMU_TEST_HW_QUEUE_MAX).fill(null);
  /** First of the pages that its user can map; null without. */
  private readonly shared: number | null;

  /** @throws {SysError} EINVAL length; EFAULT; ENOMEM */
  constructor(kernel: Kernel, core: ViommuCore, makeNested: MakeNested, data: UserReply | null) {
    this.kernel = kernel;
    this.core = core;
    this.makeNested = makeNested;
    this.hwQueues = {
      supports: (type) => type === IOMMU_HW_QUEUE_TYPE_SELFTEST,
      init: (queue, index, base) => this.initQueue(queue, index, base),
    };
    this.shared = data === null ? null : this.share(data);
  }

  readonly allocNested = (flags: number, data: UserData): NestedDomain => this.makeNested(this.core, flags, data);

  readonly invalidate = (entries: UserArray): InvalidateResult => {
    const type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST;
    let handled = 0;
    if (entries.count === 0 && entries.type === type) return { handled, failure: null };
    const { size } = iommuViommuInvalidateSelftest;
    try {
      const bytes = readUserArray('IOMMU_HWPT_INVALIDATE', entries, type, size);
      for (; handled < entries.count; handled++) this.invalidateOne(bytes, handled * size);
      return { handled, failure: null };
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      return { handled, failure: error };
    }
  };

  destroy(): void {
    if (this.shared !== null) this.kernel.freeFrame(this.shared, SHARED_PAGES);
  }

  private share(data: UserReply): number {
    const { kernel, core } = this;
    const layout = iommuViommuSelftest;
    const call = 'IOMMU_VIOMMU_ALLOC';
    const values = readUserData(call, data, IOMMU_VIOMMU_TYPE_SELFTEST, layout, 'outData');
    const pfn = kernel.allocateFrames('mock_viommu_pages', SHARED_PAGES);
    try {
      const base = BigInt(pfn) * BigInt(PAGE_SIZE);
      values.outMmapLength = BigInt(SHARED_PAGES * PAGE_SIZE);
      values.outMmapOffset = core.allocMmap(base, values.outMmapLength);
      values.outData = values.inData;
      kernel.memory.store(base, 4, BigInt(values.inData));
      writeUserData(call, data, IOMMU_VIOMMU_TYPE_SELFTEST, layout, 'outData', values);
    } catch (error) {
      kernel.freeFrame(pfn, SHARED_PAGES);
      throw error;
    }
    return pfn;
  }

  private invalidateOne(bytes: Uint8Array, at: number): void {
    const call = 'IOMMU_HWPT_INVALIDATE';
    const { flags, vdevId, cacheId } = iommuViommuInvalidateSelftest.read(bytes, at);
    if ((flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL) !== 0) throw new SysError('EOPNOTSUPP', call, `flags ${hex(flags)}`);
    const device = this.core.findDevice(BigInt(vdevId));
    const cache = device === null ? null : mockDeviceOf(device).cache;
    if (cache === null || cacheId >= cache.length) {
      throw new SysError('EINVAL', call, `word ${cacheId} of the cache of device ${hex(vdevId)}`);
    }
    if ((flags & IOMMU_TEST_INVALIDATE_FLAG_ALL) !== 0) cache.fill(0);
    else cache[cacheId] = 0;
  }

  private initQueue(queue: HwQueueCore, index: number, base: bigint): () => void {
    const call = 'IOMMU_HW_QUEUE_ALLOC';
    const { queues } = this;
    if (index >= queues.length) throw new SysError('EINVAL', call, `queue ${index} of ${queues.length}`);
    if (queues[index] !== null) throw new SysError('EEXIST', call, `there is a queue ${index}`);
    const previous = index === 0 ? null : queues[index - 1]!;
    if (index > 0 && previous === null) throw new SysError('EIO', call, `queue ${index} without queue ${index - 1}`);
    if (base !== this.core.parent.iovaToPhys(queue.base)) {
      throw new SysError('EFAULT', call, `${hex(queue.base)} is not at ${hex(base)}`);
    }
    if (previous !== null) queue.depend(previous);
    queues[index] = queue;
    return () => {
      queues[index] = null;
    };
  }
}
