/**
 * Where a domain's translations may be cached: one attachment per device and PASID that it is behind. All flushing of
 * caches is decided here (Linux: drivers/iommu/intel/cache.c).
 */

import { NO_PASID, PGTT_FIRST_STAGE, PGTT_PASS_THROUGH } from '@iommukit/hw';
import type { UnitCapabilities } from './capabilities.ts';
import * as describe from './descriptors.ts';
import type { IntelDevice } from './intel-device.ts';
import type { InvalidationQueue } from './invalidation-queue.ts';

export type Attachment = {
  readonly device: IntelDevice;
  /** NO_PASID or a PASID. */
  readonly pasid: number;
};

/** PASID-table index and tag of an attachment: requests without PASID use entry 0. */
export function entryIndex(pasid: number): number {
  return pasid === NO_PASID ? 0 : pasid;
}

/** Largest range an invalidation can name. */
export const WHOLE_SPACE_LG2 = 64;

/**
 * The smallest naturally aligned range of 2^n pages that holds pages [first, last], as first page and log2 of bytes.
 */
export function coveringRange(first: number, last: number): { address: bigint; sizeLg2: number } {
  let sizeLg2 = 12;
  for (let low = first, high = last; low !== high && sizeLg2 < WHOLE_SPACE_LG2; sizeLg2++) {
    low = Math.floor(low / 2);
    high = Math.floor(high / 2);
  }
  const bytes = 2 ** (sizeLg2 - 12);
  return { address: BigInt(Math.floor(first / bytes) * bytes) << 12n, sizeLg2 };
}

export class Attachments {
  readonly list: Attachment[] = [];
  private readonly queue: InvalidationQueue;
  private readonly capabilities: UnitCapabilities;
  private readonly domainId: number;
  /** How the unit tags what it caches of this domain: a PGTT value. */
  private readonly translation: number;

  constructor(queue: InvalidationQueue, capabilities: UnitCapabilities, domainId: number, translation: number) {
    this.queue = queue;
    this.capabilities = capabilities;
    this.domainId = domainId;
    this.translation = translation;
  }

  add(device: IntelDevice, pasid: number): void {
    this.list.push({ device, pasid });
  }

  remove(device: IntelDevice, pasid: number): void {
    const index = this.list.findIndex((one) => one.device === device && one.pasid === pasid);
    if (index >= 0) this.list.splice(index, 1);
  }

  /**
   * Collects the flush of a naturally aligned range from the unit's IOTLB, then of the devices' caches, which could
   * otherwise be filled again from what the unit still has. `leaf`: no table was freed.
   */
  addFlush(address: bigint, sizeLg2: number, leaf: boolean): void {
    if (this.list.length === 0) return;
    if (this.translation === PGTT_FIRST_STAGE) this.addStage1Flush(address, sizeLg2, leaf);
    else this.addStage2Flush(address, sizeLg2, leaf);
    this.addDeviceFlush(address, sizeLg2);
  }

  /** Collects the flush of what was made through this domain's tables of an outer stage. */
  addOuterStageFlush(): void {
    if (this.list.length === 0) return;
    this.queue.add(describe.flushIotlbDomain(this.domainId));
    this.addDeviceFlush(0n, WHOLE_SPACE_LG2);
  }

  /** Collects what makes new entries visible to a unit that caches absence. */
  addCachingModeFlush(address: bigint, sizeLg2: number): void {
    if (this.list.length > 0) this.addStage2Flush(address, sizeLg2, true);
  }

  private addStage1Flush(address: bigint, sizeLg2: number, leaf: boolean): void {
    const seen = new Set<number>();
    for (const { pasid } of this.list) {
      const tag = entryIndex(pasid);
      if (seen.has(tag)) continue;
      seen.add(tag);
      this.queue.add(
        sizeLg2 > this.capabilities.maxRangeLg2
          ? describe.flushPasidIotlb(this.domainId, tag)
          : describe.flushPasidIotlbPages(this.domainId, tag, address, sizeLg2, leaf),
      );
    }
  }

  private addStage2Flush(address: bigint, sizeLg2: number, leaf: boolean): void {
    const { pageSelective, maxRangeLg2 } = this.capabilities;
    this.queue.add(
      !pageSelective || sizeLg2 > maxRangeLg2
        ? describe.flushIotlbDomain(this.domainId)
        : describe.flushIotlbPages(this.domainId, address, sizeLg2, leaf),
    );
  }

  private addDeviceFlush(address: bigint, sizeLg2: number): void {
    let fenced = false;
    for (const { device, pasid } of this.list) {
      if (!device.deviceTlb) continue;
      if (!fenced) this.queue.add(describe.fence());
      fenced = true;
      addDeviceTlbFlush(this.queue, device, pasid, address, sizeLg2);
    }
  }
}

/**
 * Collects the flush of everything that was cached through the PASID-table entry of (device, pasid) while it had
 * `domainId` and `translation`: the entry itself, then translations made with it, then the device's.
 */
export function addEntryFlush(
  queue: InvalidationQueue,
  device: IntelDevice,
  pasid: number,
  domainId: number,
  translation: number,
): void {
  const index = entryIndex(pasid);
  queue.add(describe.flushPasid(domainId, index)).add(describe.fence());
  queue.add(
    translation === PGTT_FIRST_STAGE || translation === PGTT_PASS_THROUGH
      ? describe.flushPasidIotlb(domainId, index)
      : describe.flushIotlbDomain(domainId),
  );
  if (!device.deviceTlb) return;
  queue.add(describe.fence());
  addDeviceTlbFlush(queue, device, pasid, 0n, WHOLE_SPACE_LG2);
}

/**
 * Collects the flush of what a device caches of an attachment. A device that can tag its requests reaches the entry of
 * those without PASID with PASID 0 as well, and keeps what it is told there under that tag.
 */
function addDeviceTlbFlush(
  queue: InvalidationQueue,
  { device, tlb }: IntelDevice,
  pasid: number,
  address: bigint,
  sizeLg2: number,
): void {
  queue.add(describe.flushDeviceTlb(tlb, pasid, address, sizeLg2));
  if (pasid === NO_PASID && device.maxPasids > 0) queue.add(describe.flushDeviceTlb(tlb, 0, address, sizeLg2));
}
