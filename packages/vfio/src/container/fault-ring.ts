/**
 * The DMA_FAULT region of a device whose second stage alone is the host's: a ring of struct iommu_fault that the kernel
 * fills and the user empties, and the interrupt that tells of a new record (D.3 of the systems specification; nesting
 * series, version 13: vfio_pci_dma_fault_rw and vfio_pci_iommu_dev_fault_handler).
 *
 * The header takes the first page, the ring the following ones. The user may write nothing but `tail`, alone. As in any
 * ring with two indices one entry stays empty.
 */

import { PAGE_SIZE } from '@iommukit/hw';
import { IOMMU_FAULT_SIZE, type Kernel, SysError } from '@iommukit/iommu-core';
import { type DeviceSpecificType, ExtraInterrupt, type ExtraRegion } from '../extended-user.ts';
import type { InfoCapability } from '../info-capability.ts';
import {
  VFIO_IRQ_SUBTYPE_DMA_FAULT,
  VFIO_IRQ_TYPE_NESTED,
  VFIO_REGION_INFO_CAP_DMA_FAULT,
  VFIO_REGION_SUBTYPE_NESTED_DMA_FAULT,
  VFIO_REGION_TYPE_NESTED,
  vfioRegionDmaFault,
  vfioRegionFaultVersion,
} from '../uapi/nesting.ts';
import { VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE } from '../uapi/vfio.ts';

/** Entries of the ring. */
export const DMA_FAULT_RING_LENGTH = 512;
/** Version of the records, as the region's capability tells it. */
const RECORD_VERSION = 1;

export class FaultRing implements ExtraRegion {
  readonly type: DeviceSpecificType = {
    type: VFIO_REGION_TYPE_NESTED,
    subtype: VFIO_REGION_SUBTYPE_NESTED_DMA_FAULT,
  };
  readonly flags: number = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
  readonly size: number = PAGE_SIZE + DMA_FAULT_RING_LENGTH * IOMMU_FAULT_SIZE;
  readonly capabilities: readonly InfoCapability[];
  readonly interrupt: ExtraInterrupt = new ExtraInterrupt({
    type: VFIO_IRQ_TYPE_NESTED,
    subtype: VFIO_IRQ_SUBTYPE_DMA_FAULT,
  });
  private readonly bytes: Uint8Array;
  private droppedRecords = 0;
  private head = 0;
  private tail = 0;

  /** @throws {SysError} ENOMEM */
  constructor(kernel: Kernel) {
    kernel.checkpoint('vfio_dma_fault');
    this.bytes = new Uint8Array(this.size);
    const version = new Uint8Array(vfioRegionFaultVersion.size);
    vfioRegionFaultVersion.write({ version: RECORD_VERSION }, version);
    this.capabilities = [{ id: VFIO_REGION_INFO_CAP_DMA_FAULT, version: 1, data: version }];
    this.storeHeader();
  }

  /** Records that found no place. */
  get dropped(): number {
    return this.droppedRecords;
  }

  /** Puts a record into the ring and raises the interrupt. @throws {SysError} ENOSPC the ring is full: the record is dropped */
  push(record: Uint8Array): void {
    const next = (this.head + 1) % DMA_FAULT_RING_LENGTH;
    if (next === this.tail) {
      this.droppedRecords++;
      throw new SysError('ENOSPC', 'vfio_dma_fault', `${DMA_FAULT_RING_LENGTH - 1} faults wait for the user`);
    }
    this.bytes.set(record, PAGE_SIZE + this.head * IOMMU_FAULT_SIZE);
    this.head = next;
    this.storeHeader();
    this.interrupt.raise();
  }

  read(offset: number, into: Uint8Array): number {
    into.set(this.bytes.subarray(offset, offset + into.length));
    return into.length;
  }

  /** @throws {SysError} EINVAL anything but an index of the ring written to `tail` */
  write(offset: number, from: Uint8Array): number {
    if (offset !== vfioRegionDmaFault.offset('tail') || from.length !== 4) {
      throw new SysError('EINVAL', 'write', `${from.length} bytes at ${offset}: the tail alone can be written`);
    }
    const tail = new DataView(from.buffer, from.byteOffset, 4).getUint32(0, true);
    if (tail >= DMA_FAULT_RING_LENGTH) {
      throw new SysError('EINVAL', 'write', `tail ${tail} of a ring of ${DMA_FAULT_RING_LENGTH}`);
    }
    this.tail = tail;
    this.storeHeader();
    return from.length;
  }

  private storeHeader(): void {
    const { head, tail } = this;
    const layout = { entrySize: IOMMU_FAULT_SIZE, nbEntries: DMA_FAULT_RING_LENGTH, offset: PAGE_SIZE };
    vfioRegionDmaFault.write({ tail, ...layout, head }, this.bytes);
  }
}
