/**
 * The virtual IOMMUs of /dev/iommu for programs written in TypeScript, as `IommufdClient` has the rest: each method is
 * one system call on an open descriptor. Tables on a vIOMMU are made, and invalidations sent, as on a nest parent.
 */

import { toU64, type U64 } from '@iommukit/hw';
import type { UserReply } from '@iommukit/iommu-core';
import { veventqAlloc } from '../event-queue.ts';
import { hwQueueAlloc } from '../hw-queue.ts';
import * as uapi from '../uapi/viommu.ts';
import { vdeviceAlloc } from '../vdevice.ts';
import { viommuAlloc } from '../viommu.ts';
import { ContextClient } from './context-client.ts';

export type ViommuRequest = {
  deviceId: number;
  parentId: number;
  /** Of enum iommu_viommu_type. */
  type: number;
  /** The type's structure, if it has one; the driver answers in it. */
  data?: Uint8Array;
};

export type HwQueueRequest = {
  viommuId: number;
  /** Of enum iommu_hw_queue_type. */
  type: number;
  index: number;
  /** Where it lies in the nest parent's address space. */
  iova: U64;
  /** Bytes. */
  length: U64;
};

/** An event of a vIOMMU, as read from its queue. */
export type VeventRecord = {
  readonly sequence: number;
  /** Null: events up to this number were lost. */
  readonly data: Uint8Array | null;
};

export class ViommuClient extends ContextClient {
  /** A virtual IOMMU on a nest parent. @returns its id. @throws {SysError} as `viommuAlloc` */
  viommuAlloc({ deviceId, parentId, type, data }: ViommuRequest): number {
    const reply = data === undefined ? null : replyIn(type, data);
    const options = { flags: 0, type, deviceId, hwptId: parentId, data: reply };
    return this.call('IOMMU_VIOMMU_ALLOC', ({ context }) => viommuAlloc(context, options).id);
  }

  /** Puts a device into a vIOMMU. @returns the id of the vDEVICE. @throws {SysError} as `vdeviceAlloc` */
  vdeviceAlloc(viommuId: number, deviceId: number, virtId: U64): number {
    const options = { viommuId, deviceId, virtId: toU64(virtId) };
    return this.call('IOMMU_VDEVICE_ALLOC', ({ context }) => vdeviceAlloc(context, options).id);
  }

  /** A queue for events of one type of a vIOMMU, and its descriptor. @throws {SysError} as `veventqAlloc` */
  veventqAlloc(viommuId: number, type: number, depth: number): { readonly id: number; readonly fd: number } {
    const options = { flags: 0, viommuId, type, depth };
    return this.call('IOMMU_VEVENTQ_ALLOC', ({ context, descriptors }) => veventqAlloc(context, descriptors, options));
  }

  /** A queue in guest memory that hardware reads. @returns its id. @throws {SysError} as `hwQueueAlloc` */
  hwQueueAlloc({ viommuId, type, index, iova, length }: HwQueueRequest): number {
    const options = { flags: 0, viommuId, type, index, iova: toU64(iova), length: toU64(length) };
    return this.call('IOMMU_HW_QUEUE_ALLOC', ({ context }) => hwQueueAlloc(context, options).id);
  }

  /** At most `room` events, of `length` bytes each behind their headers. @throws {SysError} EINVAL the first is longer */
  readVevents(fd: number, length: number, room = 512): VeventRecord[] {
    const layout = uapi.iommufdVeventHeader;
    const bytes = new Uint8Array(room * (layout.size + length));
    const filled = this.system.read(fd, bytes);
    const records: VeventRecord[] = [];
    for (let at = 0; at < filled; ) {
      const { flags, sequence } = layout.read(bytes, at);
      const lost = (flags & uapi.IOMMU_VEVENTQ_FLAG_LOST_EVENTS) !== 0;
      const end = at + layout.size + (lost ? 0 : length);
      records.push({ sequence, data: lost ? null : bytes.subarray(at + layout.size, end) });
      at = end;
    }
    return records;
  }
}

/** A structure of the program, for the driver to read and to answer in. */
function replyIn(type: number, data: Uint8Array): UserReply {
  return { type, length: data.length, read: () => data.slice(), write: (bytes) => data.set(bytes) };
}
