/** Devices in a virtual IOMMU: the VDEVICE object (Linux: drivers/iommu/iommufd/viommu.c). */

import { hex } from '@iommukit/hw';
import { type Device, SysError, type VdeviceCore } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import { IommufdDevice } from './device.ts';
import { IommufdObject, type ObjectDetails } from './object-table.ts';
import { Viommu } from './viommu.ts';

export class Vdevice extends IommufdObject implements VdeviceCore {
  readonly type = 'vdevice';
  readonly viommu: Viommu;
  readonly bound: IommufdDevice;
  readonly virtId: bigint;
  private readonly undo: (() => void) | null;

  /** @throws {SysError} what the driver refuses with */
  constructor(id: number, viommu: Viommu, bound: IommufdDevice, virtId: bigint) {
    super(id);
    this.viommu = viommu;
    this.bound = bound;
    this.virtId = virtId;
    this.undo = viommu.ops.initVdevice?.(this) ?? null;
    viommu.users++;
    viommu.vdevices.set(virtId, this);
    bound.vdevice = this;
  }

  get device(): Device {
    return this.bound.device;
  }

  get uses(): readonly IommufdObject[] {
    return [this.viommu];
  }

  override details(): ObjectDetails {
    return { device: this.bound.id, virtId: hex(this.virtId) };
  }

  destroy(): void {
    this.undo?.();
    this.bound.vdevice = null;
    this.viommu.vdevices.delete(this.virtId);
    this.viommu.users--;
  }
}

export type VdeviceAllocOptions = {
  viommuId: number;
  deviceId: number;
  /** What the guest knows the device by. */
  virtId: bigint;
};

/**
 * Puts a device into a vIOMMU.
 * @throws {SysError} ENOENT no vIOMMU, no device, or it is being unbound; EINVAL the device is behind another IOMMU;
 * EEXIST the device is in a vIOMMU, or the number is taken in this one; ENOMEM; and the driver's errors
 */
export function vdeviceAlloc(context: IommufdContext, options: VdeviceAllocOptions): Vdevice {
  const call = 'IOMMU_VDEVICE_ALLOC';
  const { virtId } = options;
  const viommu = context.objects.get(options.viommuId, Viommu);
  const bound = context.objects.get(options.deviceId, IommufdDevice);
  if (viommu.driver !== bound.device.driver) {
    throw new SysError('EINVAL', call, `device ${bound.id} is not behind the IOMMU of ${viommu.id}`);
  }
  if (bound.unbinding) throw new SysError('ENOENT', call, `device ${bound.id} is being unbound`);
  if (bound.vdevice !== null) throw new SysError('EEXIST', call, `device ${bound.id} is vDEVICE ${bound.vdevice.id}`);
  return context.objects.create((id) => {
    context.kernel.checkpoint('iommufd_vdevice_slot');
    const present = viommu.vdevices.get(virtId);
    if (present === undefined) return new Vdevice(id, viommu, bound, virtId);
    throw new SysError('EEXIST', call, `vIOMMU ${viommu.id} has vDEVICE ${present.id} at ${hex(virtId)}`);
  });
}
