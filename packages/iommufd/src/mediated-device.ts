/**
 * A mediated device under the control of a context: a part of a function whose kernel driver stays and sees to it that
 * the part's DMA is tagged. The driver gives it PASIDs of the function; what its user calls PASIDs, and DMA without one,
 * are names that the driver translates. The DMA of the function itself stays the kernel's.
 *
 * Linux has such devices for software only, by access objects; what comes closest is the proposal of 2021 to bind the
 * parent's function by PASID ([RFC v2] /dev/iommu uAPI proposal).
 */

import { NO_PASID } from '@iommukit/hw';
import { type AttachHandle, type Device, SysError } from '@iommukit/iommu-core';
import { BoundDevice, type UserPasids } from './bound-device.ts';
import type { IommufdContext } from './context.ts';
import { reserveRegions } from './device-group.ts';
import type { FaultSource } from './fault-queue.ts';
import type { Hwpt } from './hwpt.ts';

/** What the parent's driver does for one mediated device. PASIDs are the user's; NO_PASID stands for DMA without one. */
export type MediatedDma = {
  /** The parent: the function whose requests carry the DMA. */
  readonly device: Device;
  /** PASIDs that the user can name are 1..maxPasids-1; 0 when it has the one address space without PASID. */
  readonly maxPasids: number;
  /** @throws {SysError} EINVAL a PASID out of range, or the domain does not fit; EBUSY; EOPNOTSUPP; ENOSPC; ENOMEM */
  attach(pasid: number, handle: AttachHandle): void;
  /** Moves what is attached. On failure nothing changes. @throws {SysError} as `attach` */
  replace(pasid: number, handle: AttachHandle): void;
  /** No DMA with `pasid` reaches memory on return. Never fails. */
  detach(pasid: number): void;
};

type Attachment = { readonly hwpt: Hwpt; readonly handle: AttachHandle };

export class MediatedDevice extends BoundDevice {
  private readonly dma: MediatedDma;
  private readonly attachments = new Map<number, Attachment>();

  constructor(id: number, context: IommufdContext, dma: MediatedDma) {
    super(id, context, dma.device);
    this.dma = dma;
  }

  /** Its requests are never privileged and never for execution, whatever the parent can send. */
  get pasids(): UserPasids {
    return { count: this.dma.maxPasids, features: 0 };
  }

  protected attachedPasids(): number[] {
    return [...this.attachments.keys()];
  }

  protected attachedTo(pasid: number): Hwpt | null {
    return this.attachments.get(pasid)?.hwpt ?? null;
  }

  protected attachTo(hwpt: Hwpt, pasid: number): void {
    const present = this.attachments.get(pasid);
    if (present !== undefined) {
      throw new SysError('EBUSY', 'iommufd_device_attach', `device ${this.id} is attached to ${present.hwpt.id}`);
    }
    this.enter(hwpt, pasid, null);
    this.trace('device_attach', pasid, hwpt);
  }

  protected replaceBy(hwpt: Hwpt, pasid: number): Hwpt | null {
    const old = this.attachments.get(pasid);
    if (old === undefined) throw new SysError('EINVAL', 'iommufd_device_replace', `device ${this.id} is not attached`);
    if (old.hwpt === hwpt) return null;
    this.enter(hwpt, pasid, old);
    old.hwpt.fault?.dismiss(old.handle);
    this.trace('device_replace', pasid, hwpt);
    return old.hwpt;
  }

  override detach(pasid: number = NO_PASID): void {
    this.checkNamed(pasid, 'iommufd_device_detach');
    super.detach(pasid);
  }

  protected detachFrom(pasid: number): Hwpt | null {
    const attachment = this.attachments.get(pasid);
    if (attachment === undefined) return null;
    const { hwpt, handle } = attachment;
    this.dma.detach(pasid);
    this.attachments.delete(pasid);
    hwpt.fault?.dismiss(handle);
    if (pasid === NO_PASID) hwpt.paging.ioas.table.space.unreserve(this);
    this.users--;
    this.trace('device_detach', pasid, hwpt);
    return hwpt;
  }

  /** Puts `hwpt` in the place of `old`, if any, or changes nothing. */
  private enter(hwpt: Hwpt, pasid: number, old: Attachment | null): void {
    const handle = this.makeHandle(hwpt, pasid);
    const { table } = hwpt.paging.ioas;
    const left = old?.hwpt.paging.ioas.table ?? null;
    const reserves = pasid === NO_PASID && table !== left;
    if (reserves) reserveRegions(hwpt.paging, this);
    try {
      if (old === null) this.dma.attach(pasid, handle);
      else this.dma.replace(pasid, handle);
    } catch (error) {
      if (reserves) table.space.unreserve(this);
      throw error;
    }
    if (reserves) left?.space.unreserve(this);
    this.attachments.set(pasid, { hwpt, handle });
    hwpt.users++;
    if (old === null) this.users++;
  }

  private makeHandle(hwpt: Hwpt, pasid: number): FaultSource {
    const call = 'iommufd_device_attach';
    this.checkNamed(pasid, call);
    if (pasid !== NO_PASID && !hwpt.pasidCompatible) {
      throw new SysError('EINVAL', call, `${hwpt.id} was not made for PASIDs`);
    }
    if (pasid === NO_PASID && hwpt.fault !== null) {
      throw new SysError('EOPNOTSUPP', call, `${hwpt.id} has a fault queue, and page requests need a PASID here`);
    }
    this.context.kernel.checkpoint('iommufd_attach_handle');
    return { domain: hwpt.domain, userPasid: pasid, deviceId: () => this.id };
  }

  /** @throws {SysError} EOPNOTSUPP */
  private checkNamed(pasid: number, call: string): void {
    if (pasid === NO_PASID || this.dma.maxPasids > 0) return;
    throw new SysError('EOPNOTSUPP', call, `device ${this.id} has one address space, without PASIDs`);
  }

  private trace(name: 'device_attach' | 'device_replace' | 'device_detach', pasid: number, hwpt: Hwpt): void {
    const { trace, id: context } = this.context;
    if (trace.enabled) trace.emit({ name, context, device: this.id, pasid, hwpt: hwpt.id });
  }
}

/**
 * Takes a mediated device for a context. Its DMA is blocked until it is attached.
 * @throws {SysError} EINVAL DMA is not coherent with CPU caches; ENOMEM
 */
export function bindMediatedDevice(context: IommufdContext, dma: MediatedDma): MediatedDevice {
  const { device } = dma;
  if (!device.capable('cache-coherency')) {
    throw new SysError('EINVAL', 'iommufd_device_bind', `DMA of ${device.name} is not coherent`);
  }
  return context.objects.create((id) => {
    const bound = new MediatedDevice(id, context, dma);
    bound.traceBind();
    return bound;
  });
}
