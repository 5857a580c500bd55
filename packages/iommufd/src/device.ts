/**
 * What VFIO drivers use of /dev/iommu: binding a device to a context and attaching it to page tables (Linux:
 * iommufd_device_bind and relatives, drivers/iommu/iommufd/device.c).
 */

import { formatRid, NO_PASID } from '@iommukit/hw';
import { claimDmaOwner, type Device, releaseDmaOwner, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import { DeviceGroup } from './device-group.ts';
import { allocPaging, type Hwpt, HwptNested, HwptPaging, NO_USER_DATA } from './hwpt.ts';
import { Ioas } from './ioas/ioas.ts';
import { IommufdObject } from './object-table.ts';

/** A device under the control of a context. Only the driver that bound it makes it go, with `unbind`. */
export class IommufdDevice extends IommufdObject {
  readonly type = 'device';
  readonly context: IommufdContext;
  readonly device: Device;
  readonly group: DeviceGroup;

  constructor(id: number, context: IommufdContext, device: Device, group: DeviceGroup) {
    super(id);
    this.context = context;
    this.device = device;
    this.group = group;
    this.users++;
    group.devices.add(this);
    context.hold();
  }

  /** Id of the hardware page table attached at `pasid`, or null. */
  attached(pasid: number = NO_PASID): number | null {
    return this.group.attached(this, pasid)?.id ?? null;
  }

  /**
   * Attaches the device: to a hardware page table, or to one that is found or made for an IOAS.
   * `pasid` is NO_PASID for requests without PASID.
   * @returns id of the hardware page table
   * @throws {SysError} ENOENT no object `ptId`; EINVAL it is of another type, does not fit the device, its group or
   * its PASIDs; EBUSY attached already; EADDRINUSE areas are where the device reserves regions; EOPNOTSUPP no PASIDs
   * or none for such a table; EFAULT, ENOMEM from filling; and the driver's errors
   */
  attach(ptId: number, pasid: number = NO_PASID): number {
    return this.change(ptId, (hwpt) => {
      this.group.attach(this, pasid, hwpt);
      return null;
    });
  }

  /**
   * Moves the device, and all of its group that is attached at `pasid`, to another table without a moment of neither.
   * On failure nothing changes.
   * @returns id of the hardware page table
   * @throws {SysError} EINVAL not attached; and as `attach`
   */
  replace(ptId: number, pasid: number = NO_PASID): number {
    return this.change(ptId, (hwpt) => this.group.replace(this, pasid, hwpt));
  }

  /** DMA with `pasid` is blocked, and page requests are answered, on return. Nothing happens when it was not attached. */
  detach(pasid: number = NO_PASID): void {
    this.put(this.group.detach(this, pasid));
  }

  /** Gives the device up: detaches it everywhere and lets its group return to the kernel. Never fails. */
  unbind(): void {
    for (const pasid of this.group.pasidsOf(this)) this.detach(pasid);
    this.context.objects.putAndTryDestroy(this);
  }

  destroy(): void {
    const { context, device, group } = this;
    group.devices.delete(this);
    if (group.devices.size === 0) context.groups.delete(group.group);
    releaseDmaOwner(device);
    if (context.trace.enabled) {
      context.trace.emit({ name: 'device_unbind', context: context.id, device: this.id, rid: device.rid });
    }
    context.release();
  }

  private change(ptId: number, move: (hwpt: Hwpt) => Hwpt | null): number {
    const table = this.context.objects.get(ptId, IommufdObject);
    if (table instanceof HwptPaging || table instanceof HwptNested) {
      this.put(move(table));
      return table.id;
    }
    if (table instanceof Ioas) return this.changeToIoas(table, move);
    throw new SysError('EINVAL', 'iommufd_device_attach', `a ${table.type} is no page table`);
  }

  /** Tries the tables that were made for this purpose, in order; makes one when none fits. */
  private changeToIoas(ioas: Ioas, move: (hwpt: Hwpt) => Hwpt | null): number {
    for (const hwpt of ioas.hwpts) {
      if (!hwpt.auto) continue;
      try {
        this.put(move(hwpt));
        return hwpt.id;
      } catch (error) {
        if (!(error instanceof SysError) || error.code !== 'EINVAL') throw error;
      }
    }
    const fresh = allocPaging(this.context, ioas, this.device, 0, NO_USER_DATA, true);
    try {
      this.put(move(fresh));
    } catch (error) {
      this.context.objects.destroy(fresh.id);
      throw error;
    }
    return fresh.id;
  }

  /** Gives up the use of a table that an attachment had. */
  private put(hwpt: Hwpt | null): void {
    if (hwpt === null) return;
    if (hwpt instanceof HwptPaging && hwpt.auto) this.context.objects.putAndTryDestroy(hwpt);
    else hwpt.users--;
  }
}

/**
 * Takes a device for a context. Its DMA is blocked until it is attached.
 * @throws {SysError} EINVAL DMA is not coherent with CPU caches, or a device of its group must stay mapped one to one;
 * EPERM interrupts are not isolated, or its group is in the hands of another owner or of kernel drivers; EBUSY its group
 * is not at its default domain, or PASIDs are attached; ENOMEM
 */
export function bindDevice(context: IommufdContext, device: Device): IommufdDevice {
  const call = 'iommufd_device_bind';
  if (!device.capable('cache-coherency')) throw new SysError('EINVAL', call, `DMA of ${device.name} is not coherent`);
  const unsafe = device.group.devices.find((member) => !member.capable('isolated-msi'));
  if (unsafe !== undefined && !context.allowUnsafeInterrupts) {
    throw new SysError('EPERM', call, `${formatRid(unsafe.rid)} can raise interrupts that are not its own`);
  }
  claimDmaOwner(device, context);
  try {
    return context.objects.create((id) => {
      const group = context.groups.get(device.group) ?? new DeviceGroup(context, device.group);
      context.groups.set(device.group, group);
      const bound = new IommufdDevice(id, context, device, group);
      if (context.trace.enabled) {
        context.trace.emit({ name: 'device_bind', context: context.id, device: id, rid: device.rid });
      }
      return bound;
    });
  } catch (error) {
    releaseDmaOwner(device);
    throw error;
  }
}
