/** Functions that a context has taken over, with their groups (Linux: iommufd_device_bind, drivers/iommu/iommufd/device.c). */

import { claimDmaOwner, type Device, releaseDmaOwner, SysError } from '@iommukit/iommu-core';
import { BoundDevice, type UserPasids } from './bound-device.ts';
import type { IommufdContext } from './context.ts';
import { DeviceGroup } from './device-group.ts';
import type { Hwpt } from './hwpt.ts';
import type { Ioas } from './ioas/ioas.ts';
import type { Vdevice } from './vdevice.ts';

/** A function under the control of a context. */
export class IommufdDevice extends BoundDevice {
  readonly group: DeviceGroup;
  /** What stands for the device in a virtual IOMMU, or null; it is no user of the device, and goes with it. */
  vdevice: Vdevice | null = null;
  private leaving = false;

  constructor(id: number, context: IommufdContext, device: Device, group: DeviceGroup, holdsContext = true) {
    super(id, context, device, holdsContext);
    this.group = group;
    group.devices.add(this);
  }

  get pasids(): UserPasids {
    return { count: this.device.maxPasids, features: this.device.master.pasidFeatures };
  }

  /** True from the moment `unbind` has detached it. */
  get unbinding(): boolean {
    return this.leaving;
  }

  override destroy(): void {
    const { context, device, group } = this;
    group.devices.delete(this);
    if (group.devices.size === 0) context.groups.delete(group.group);
    releaseDmaOwner(device);
    super.destroy();
  }

  protected override preDestroy(): void {
    this.leaving = true;
    if (this.vdevice !== null) this.context.objects.tombstone(this.vdevice);
  }

  protected attachedPasids(): number[] {
    return this.group.pasidsOf(this);
  }

  protected attachedTo(pasid: number): Hwpt | null {
    return this.group.attached(this, pasid);
  }

  protected attachTo(hwpt: Hwpt, pasid: number): void {
    this.group.attach(this, pasid, hwpt);
  }

  protected override checkAttachFresh(ioas: Ioas, pasid: number): void {
    this.group.checkAttachFresh(this, pasid, ioas);
  }

  protected replaceBy(hwpt: Hwpt, pasid: number): Hwpt | null {
    return this.group.replace(this, pasid, hwpt);
  }

  protected detachFrom(pasid: number): Hwpt | null {
    return this.group.detach(this, pasid);
  }
}

/**
 * Takes a device for a context. Its DMA is blocked until it is attached. `holdsContext` is false for a device that is
 * itself an object of the context, which unbinds it when it ends.
 * @throws {SysError} EINVAL DMA is not coherent with CPU caches, or a device of its group must stay mapped one to one;
 * EPERM interrupts are not isolated, or its group is in the hands of another owner or of kernel drivers; EBUSY its group
 * is not at its default domain, or PASIDs are attached; ENOMEM
 */
export function bindDevice(context: IommufdContext, device: Device, holdsContext = true): IommufdDevice {
  const call = 'iommufd_device_bind';
  if (!device.capable('cache-coherency')) throw new SysError('EINVAL', call, `DMA of ${device.name} is not coherent`);
  const unsafe = device.group.devices.find((member) => !member.capable('isolated-msi'));
  if (unsafe !== undefined && !context.allowUnsafeInterrupts) {
    throw new SysError('EPERM', call, `${unsafe.name} can raise interrupts that are not its own`);
  }
  if (!context.hasGroup(device.group)) context.kernel.checkpoint('iommufd_group');
  claimDmaOwner(device, context);
  try {
    return context.objects.create((id) => {
      const group = context.groups.get(device.group) ?? new DeviceGroup(context, device.group);
      context.groups.set(device.group, group);
      const bound = new IommufdDevice(id, context, device, group, holdsContext);
      bound.traceBind();
      return bound;
    });
  } catch (error) {
    releaseDmaOwner(device);
    throw error;
  }
}
