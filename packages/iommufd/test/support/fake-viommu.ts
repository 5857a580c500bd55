/** vIOMMUs of the fake driver: maps of what was asked of them, with rules as a real driver has. */

import {
  ALLOC_PASID,
  type Device,
  type HwQueueCore,
  type HwQueueOps,
  type InvalidateResult,
  type Kernel,
  type NestedDomain,
  readUserArray,
  readUserData,
  SysError,
  struct,
  type UserArray,
  type UserData,
  type UserReply,
  type VdeviceCore,
  type ViommuCore,
  type ViommuDriver,
  type ViommuOps,
  writeUserData,
} from '@iommukit/iommu-core';

export const VIOMMU_TYPE = 7;
export const VIOMMU_HWPT_TYPE = 3;
export const VIOMMU_INVALIDATE_TYPE = 5;
export const HW_QUEUE_TYPE = 9;
export const HW_QUEUES = 3;
/** A virtual id that the driver does not take. */
export const BAD_VIRT_ID = 0xbadn;

/** What VIOMMU_ALLOC takes and answers: two pages, the first word of which is `inData`. */
export const fakeViommuData = struct({
  inData: 'u32',
  outData: 'u32',
  mmapOffset: 'u64',
  mmapLength: 'u64',
} as const);
export const fakeViommuHwpt = struct({ table: 'u64' } as const);
/** `flags` must be 0. */
export const fakeViommuInvalidate = struct({ flags: 'u32', virtId: 'u32', cache: 'u32' } as const);

type MakeNested = (parent: ViommuCore['parent'], viommu: ViommuCore) => NestedDomain;

export class FakeViommu implements ViommuOps {
  readonly core: ViommuCore;
  /** As `rid:cache`. */
  readonly invalidated: string[] = [];
  /** Virtual ids of the devices that are in it as far as the driver knows. */
  readonly vdevices: Set<bigint> = new Set();
  /** Queues by index. */
  readonly queues: Map<number, HwQueueCore> = new Map();
  hwQueues: HwQueueOps | null;
  destroyed = false;
  /** Frames that its user can map. */
  readonly frames: number[] = [];
  /** Called when a device is taken out of it. */
  onVdeviceGone: () => void = () => {};
  private readonly kernel: Kernel;
  private readonly makeNested: MakeNested;

  constructor(kernel: Kernel, core: ViommuCore, makeNested: MakeNested) {
    this.kernel = kernel;
    this.core = core;
    this.makeNested = makeNested;
    this.hwQueues = {
      supports: (type) => type === HW_QUEUE_TYPE,
      init: (queue, index, base) => this.initQueue(queue, index, base),
    };
  }

  allocNested: ViommuOps['allocNested'] = (flags: number, data: UserData): NestedDomain => {
    if ((flags & ~ALLOC_PASID) !== 0) throw new SysError('EOPNOTSUPP', 'fake', `flags ${flags}`);
    if (data.type !== VIOMMU_HWPT_TYPE) throw new SysError('EOPNOTSUPP', 'fake', `type ${data.type}`);
    readUserData('fake', data, VIOMMU_HWPT_TYPE, fakeViommuHwpt, 'table');
    this.kernel.checkpoint('fake_viommu_nested');
    return this.makeNested(this.core.parent, this.core);
  };

  invalidate: ViommuOps['invalidate'] = (entries: UserArray): InvalidateResult => {
    let handled = 0;
    if (entries.count === 0 && entries.type === VIOMMU_INVALIDATE_TYPE) return { handled, failure: null };
    try {
      const { size } = fakeViommuInvalidate;
      const bytes = readUserArray('fake', entries, VIOMMU_INVALIDATE_TYPE, size);
      for (; handled < entries.count; handled++) {
        const { flags, virtId, cache } = fakeViommuInvalidate.read(bytes, handled * size);
        if (flags !== 0) throw new SysError('EOPNOTSUPP', 'fake', `flags ${flags}`);
        const device = this.core.findDevice(BigInt(virtId));
        if (device === null) throw new SysError('EINVAL', 'fake', `no device ${virtId}`);
        this.invalidated.push(`${device.rid}:${cache}`);
      }
      return { handled, failure: null };
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      return { handled, failure: error };
    }
  };

  initVdevice: ViommuOps['initVdevice'] = ({ virtId, device }: VdeviceCore) => {
    this.kernel.checkpoint('fake_vdevice_init');
    if (virtId === BAD_VIRT_ID) throw new SysError('EIO', 'fake', 'a bad virtual id');
    if (this.core.findDevice(virtId) !== null) throw new Error('a device is found before it is there');
    if (this.core.virtIdOf(device) !== null) throw new Error('a device is in the vIOMMU twice');
    this.vdevices.add(virtId);
    return () => {
      this.vdevices.delete(virtId);
      this.onVdeviceGone();
    };
  };

  destroy(): void {
    if (this.destroyed || this.vdevices.size > 0 || this.queues.size > 0) throw new Error('not the last');
    this.destroyed = true;
    for (const pfn of this.frames) this.kernel.freeFrame(pfn);
  }

  private initQueue(queue: HwQueueCore, index: number, base: bigint): () => void {
    this.kernel.checkpoint('fake_hw_queue_init');
    if (index >= HW_QUEUES) throw new SysError('EINVAL', 'fake', `index ${index}`);
    if (this.queues.has(index)) throw new SysError('EEXIST', 'fake', `index ${index}`);
    const previous = this.queues.get(index - 1);
    if (index > 0 && previous === undefined) throw new SysError('EIO', 'fake', `index ${index} before the one below`);
    if (base !== this.core.parent.iovaToPhys(queue.base)) throw new SysError('EFAULT', 'fake', `base ${base}`);
    if (previous !== undefined) queue.depend(previous);
    this.kernel.checkpoint('fake_hw_queue_enable');
    this.queues.set(index, queue);
    return () => this.queues.delete(index);
  }
}

export class FakeViommus implements ViommuDriver {
  /** All there ever were. */
  readonly made: FakeViommu[] = [];
  private readonly kernel: Kernel;
  private readonly makeNested: MakeNested;

  constructor(kernel: Kernel, makeNested: MakeNested) {
    this.kernel = kernel;
    this.makeNested = makeNested;
  }

  get live(): FakeViommu[] {
    return this.made.filter(({ destroyed }) => !destroyed);
  }

  supports(_device: Device, type: number): boolean {
    return type === VIOMMU_TYPE;
  }

  init(core: ViommuCore, _device: Device, data: UserReply | null): FakeViommu {
    this.kernel.checkpoint('fake_viommu_init');
    const viommu = new FakeViommu(this.kernel, core, this.makeNested);
    if (data !== null) this.shareFrames(viommu, data);
    this.made.push(viommu);
    return viommu;
  }

  private shareFrames(viommu: FakeViommu, data: UserReply): void {
    const values = readUserData('fake', data, VIOMMU_TYPE, fakeViommuData, 'outData');
    const pfn = this.kernel.allocateFrames('fake_viommu_frames', 2);
    try {
      const mmapOffset = viommu.core.allocMmap(BigInt(pfn) << 12n, 0x2000n);
      this.kernel.memory.store(BigInt(pfn) << 12n, 4, BigInt(values.inData));
      const answer = { inData: values.inData, outData: values.inData, mmapOffset, mmapLength: 0x2000n };
      writeUserData('fake', data, VIOMMU_TYPE, fakeViommuData, 'outData', answer);
    } catch (error) {
      this.kernel.freeFrame(pfn, 2);
      throw error;
    }
    viommu.frames.push(pfn, pfn + 1);
  }
}
