/**
 * Queues in guest memory that hardware reads by physical address: the HW_QUEUE object (Linux:
 * drivers/iommu/iommufd/viommu.c). The pages stay where they are, and mapped, as long as hardware may look there.
 */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { type HwQueueCore, type PfnRuns, SysError } from '@iommukit/iommu-core';
import { type LockedPages, lockPages } from './access.ts';
import type { IommufdContext } from './context.ts';
import type { Ioas } from './ioas/ioas.ts';
import { IommufdObject, type ObjectDetails } from './object-table.ts';
import { IOMMU_HW_QUEUE_TYPE_DEFAULT } from './uapi/viommu.ts';
import { Viommu } from './viommu.ts';

const CALL = 'IOMMU_HW_QUEUE_ALLOC';
const PAGE = BigInt(PAGE_SIZE);
/** Pages of the largest queue: a list of pointers to them has less than 2^31 bytes (Linux: kvmalloc). */
const PAGES_MAX = 0xfff_ffffn;

/** What locks the pages of a queue, an object with a number as every access is; the queue is its user. */
class QueueAccess extends IommufdObject {
  readonly type = 'access';
  private readonly ioas: Ioas;
  private readonly locked: LockedPages;

  /** @throws {SysError} as `lockPages` */
  constructor(id: number, ioas: Ioas, iova: bigint, length: bigint) {
    super(id);
    this.ioas = ioas;
    this.locked = lockPages(ioas, iova, length);
    this.users++;
  }

  get uses(): readonly IommufdObject[] {
    return [this.ioas];
  }

  get frames(): PfnRuns {
    return this.locked.frames;
  }

  destroy(): void {
    this.locked.release();
  }
}

export class HwQueue extends IommufdObject implements HwQueueCore {
  readonly type = 'hw-queue';
  readonly viommu: Viommu;
  readonly queueType: number;
  readonly index: number;
  readonly base: bigint;
  readonly length: bigint;
  private readonly access: QueueAccess;
  /** Queues of the same vIOMMU that stay as long as this one does. */
  private readonly depended: HwQueue[] = [];
  private readonly undo: () => void;

  /** @throws {SysError} as `hwQueueAlloc` */
  constructor(id: number, viommu: Viommu, { type, index, iova, length }: HwQueueAllocOptions) {
    super(id);
    this.viommu = viommu;
    this.queueType = type;
    this.index = index;
    this.base = iova;
    this.length = length;
    this.access = lockQueue(viommu, iova, length);
    viommu.users++;
    try {
      const pfn = this.access.frames.at(0);
      this.undo = viommu.ops.hwQueues!.init(this, index, BigInt(pfn) * PAGE + (iova % PAGE));
    } catch (error) {
      this.letGo();
      throw error;
    }
  }

  get uses(): readonly IommufdObject[] {
    return [this.viommu, this.access, ...this.depended];
  }

  override details(): ObjectDetails {
    const { queueType, index, base, length } = this;
    return { queueType: hex(queueType), index, base: hex(base), length: hex(length) };
  }

  depend(other: HwQueueCore): void {
    if (!(other instanceof HwQueue) || other === this || other.viommu !== this.viommu) {
      throw new SysError('EINVAL', 'iommufd_hw_queue_depend', `queue ${this.id} on what is no other of its vIOMMU`);
    }
    other.users++;
    this.depended.push(other);
  }

  destroy(): void {
    this.undo();
    this.letGo();
  }

  private letGo(): void {
    const { viommu, access } = this;
    for (const other of this.depended) other.users--;
    viommu.context.objects.putAndTryDestroy(access);
    viommu.users--;
  }
}

/** Locks the whole pages of a queue, which must adjoin. @throws {SysError} ERANGE; ENOMEM; EFAULT; and as `lockPages` */
function lockQueue(viommu: Viommu, iova: bigint, length: bigint): QueueAccess {
  const { kernel, objects } = viommu.context;
  const offset = iova % PAGE;
  if (offset + length + PAGE - 1n > U64_MAX) {
    throw new SysError('ERANGE', CALL, `the pages of ${hex(length)} bytes at ${hex(iova)} are too many to be counted`);
  }
  const pages = (offset + length + PAGE - 1n) / PAGE;
  if (pages > PAGES_MAX) throw new SysError('ENOMEM', CALL, `a list of ${hex(pages)} pages`);
  kernel.checkpoint('iommufd_hw_queue_pages');
  const access = objects.create((id) => new QueueAccess(id, viommu.hwpt.ioas, iova - offset, pages * PAGE));
  if (access.frames.count === 1) return access;
  objects.putAndTryDestroy(access);
  throw new SysError('EFAULT', CALL, `the pages of ${hex(length)} bytes at ${hex(iova)} do not adjoin in memory`);
}

export type HwQueueAllocOptions = {
  flags: number;
  viommuId: number;
  /** Of enum iommu_hw_queue_type. */
  type: number;
  /** Which of the vIOMMU's queues: for the driver to say. */
  index: number;
  /** Guest-physical address, which need not be page-aligned. */
  iova: bigint;
  /** Bytes. */
  length: bigint;
};

/**
 * Gives hardware a queue in guest memory, whose areas cannot be unmapped from then on.
 * @throws {SysError} EOPNOTSUPP flags, type 0, or a vIOMMU without queues of the type; EINVAL length 0; EOVERFLOW; ENOENT
 * no vIOMMU, or a part that is not mapped; ERANGE; EPERM areas that cannot be read; EFAULT pages that do not adjoin;
 * ENOMEM; and the driver's errors
 */
export function hwQueueAlloc(context: IommufdContext, options: HwQueueAllocOptions): HwQueue {
  const { flags, viommuId, type, iova, length } = options;
  if (flags !== 0 || type === IOMMU_HW_QUEUE_TYPE_DEFAULT) {
    throw new SysError('EOPNOTSUPP', CALL, `type ${hex(type)} with flags ${hex(flags)}`);
  }
  if (length === 0n) throw new SysError('EINVAL', CALL, 'length 0');
  if (iova + length - 1n > U64_MAX) throw new SysError('EOVERFLOW', CALL, `${hex(length)} bytes from ${hex(iova)}`);
  const viommu = context.objects.get(viommuId, Viommu);
  if (viommu.ops.hwQueues?.supports(type) !== true) {
    throw new SysError('EOPNOTSUPP', CALL, `vIOMMU ${viommuId} has no queues of type ${hex(type)}`);
  }
  return context.objects.create((id) => new HwQueue(id, viommu, options));
}
