/**
 * Guests' page tables in a container of the nesting type: each bound to a PASID of every device that is open (B.7 and
 * D.2 of the systems specification; vfio_iommu_type1_nesting_op of "vfio: expose virtual Shared Virtual Addressing to
 * VMs", version 7). A device that is opened later has none of those that are bound.
 */

import {
  cacheInvalidate,
  cacheInvalidateUser,
  type Device,
  type GpasidBindData,
  type IommuCacheInvalidateInfo,
  type IommuCore,
  type Process,
  SysError,
} from '@iommukit/iommu-core';

/** What of the iommu core a container of the nesting type is a façade on. */
export type NestingCore = Pick<IommuCore, 'deviceFaults' | 'guestPasids'>;

const BIND = 'VFIO_IOMMU_BIND_GPASID';
const UNBIND = 'VFIO_IOMMU_UNBIND_GPASID';
const INVALIDATE = 'VFIO_IOMMU_CACHE_INVALIDATE';

export class GuestTables {
  private readonly core: NestingCore;
  private readonly devices: readonly Device[];

  constructor(core: NestingCore, devices: readonly Device[]) {
    this.core = core;
    this.devices = devices;
  }

  /**
   * Puts the page table at guest-physical `data.gpgd` behind PASID `data.hpasid` of every device, or of none.
   * @throws {SysError} ENODEV no device is open; and as GuestPasids.bind
   */
  bind({ addressSpace }: Process, data: GpasidBindData): void {
    const { guestPasids } = this.core;
    const done: Device[] = [];
    try {
      for (const device of this.openDevices(BIND)) {
        guestPasids.bind(device, addressSpace, data);
        done.push(device);
      }
    } catch (error) {
      for (const device of done.reverse()) guestPasids.unbind(device, addressSpace, Number(data.hpasid));
      throw error;
    }
  }

  /** Undoes a bind on every device that has it. @throws {SysError} ENODEV no device is open; and as GuestPasids.unbind */
  unbind({ addressSpace }: Process, hostPasid: number): void {
    const { guestPasids } = this.core;
    this.onHolders(UNBIND, (device) => guestPasids.unbind(device, addressSpace, hostPasid));
  }

  /** `unbind` of the PASID in a struct iommu_gpasid_bind_data at `pointer`. @throws {SysError} EFAULT; and as `unbind` */
  unbindUser({ addressSpace }: Process, pointer: bigint): void {
    const { guestPasids } = this.core;
    this.onHolders(UNBIND, (device) => guestPasids.unbindUser(device, addressSpace, pointer));
  }

  /**
   * Invalidates what was cached of a guest's page table, on every device that has it. Where one refuses, those before
   * it have been served.
   * @throws {SysError} ENODEV no device is open; EPERM another process bound it; and as `cacheInvalidate`
   */
  invalidate({ addressSpace }: Process, info: IommuCacheInvalidateInfo): void {
    const { guestPasids } = this.core;
    this.onHolders(INVALIDATE, (device) => {
      const bind = guestPasids.find(device, Number(info.pasid));
      if (bind !== null && bind.mm !== addressSpace) throw new SysError('EPERM', INVALIDATE, `PASID ${info.pasid}`);
      cacheInvalidate(guestPasids, device, info);
    });
  }

  /** `invalidate` with a struct iommu_cache_invalidate_info at `pointer`. @throws {SysError} EFAULT; and as `invalidate` */
  invalidateUser({ addressSpace }: Process, pointer: bigint): void {
    const { guestPasids } = this.core;
    this.onHolders(INVALIDATE, (device) => cacheInvalidateUser(guestPasids, device, addressSpace, pointer));
  }

  /** That a device does not have the PASID is refused only when none has it. */
  private onHolders(call: string, action: (device: Device) => void): void {
    let missing: SysError | null = null;
    let holders = 0;
    for (const device of this.openDevices(call)) {
      try {
        action(device);
        holders++;
      } catch (error) {
        if (!(error instanceof SysError) || error.code !== 'ENOENT') throw error;
        missing = error;
      }
    }
    if (holders === 0 && missing !== null) throw missing;
  }

  private openDevices(call: string): readonly Device[] {
    if (this.devices.length > 0) return this.devices;
    throw new SysError('ENODEV', call, 'no device of the container is open');
  }
}
