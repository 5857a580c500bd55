/**
 * A group: the devices that the bus cannot keep from each other's DMA, which therefore share every attachment (Linux:
 * struct iommu_group, drivers/iommu/iommu.c).
 *
 * Fields are for reading; they are written by attach.ts, pasid-attach.ts, dma-ownership.ts and reset-recovery.ts.
 */

import type { TraceSink } from '@iommukit/hw';
import type { AttachHandle } from './attach-handle.ts';
import type { Device } from './device.ts';
import type { Domain } from './domain.ts';
import { SysError } from './errno.ts';
import type { IommuDriver } from './iommu-driver.ts';
import type { Kernel } from './kernel.ts';
import type { IommuEvent } from './trace.ts';

export class IommuGroup {
  readonly id: number;
  readonly kernel: Kernel;
  readonly trace: TraceSink<IommuEvent>;
  readonly driver: IommuDriver;
  readonly devices: Device[] = [];
  /** Where DMA without PASID goes while no owner has taken the group. */
  defaultDomain: Domain;
  /** Where DMA without PASID goes now. */
  domain: Domain;
  /** The attachment behind `domain`; null while it is the default or the blocking domain. */
  ridHandle: AttachHandle | null = null;
  ridScope: 'rid' | 'all-pasids' = 'rid';
  /** Routes of PASIDs: the map half of an attachment (see authorization.ts for the other). */
  readonly pasidHandles: Map<number, AttachHandle> = new Map();
  /**
   * PASIDs of which a half is coming or going, with how many such changes wait for hardware. What the hardware has of
   * them meanwhile need not be what the halves say.
   */
  readonly changing: Map<number, number> = new Map();
  /** Who owns the DMA of the group: null for kernel drivers, or for nobody when `ownerCount` is 0. */
  owner: object | null = null;
  ownerCount = 0;
  /** Some device has reserved regions that must stay mapped one to one, so the group can never be blocked. */
  requiresDirect = false;

  constructor(id: number, kernel: Kernel, driver: IommuDriver, trace: TraceSink<IommuEvent>) {
    this.id = id;
    this.kernel = kernel;
    this.trace = trace;
    this.driver = driver;
    this.defaultDomain = driver.blockedDomain;
    this.domain = driver.blockedDomain;
  }

  get blockingDomain(): Domain {
    return this.driver.blockedDomain;
  }

  /** A device of the group is being reset. */
  get recovering(): boolean {
    return this.devices.some((device) => device.inReset);
  }

  /** Devices that can issue PASIDs at all. */
  get pasidDevices(): Device[] {
    return this.devices.filter((device) => device.maxPasids > 0);
  }

  /** The handle attached at `pasid`, or without PASID. @throws {SysError} ENOENT */
  handle(pasid: number | null): AttachHandle {
    const handle = pasid === null ? this.ridHandle : (this.pasidHandles.get(pasid) ?? null);
    if (handle === null) throw new SysError('ENOENT', 'iommu_attach_handle_get', `nothing at PASID ${pasid}`);
    return handle;
  }
}
