/**
 * One open /dev/vfio/devices/vfioN (Linux: drivers/vfio/device_cdev.c). Until it is bound to a /dev/iommu the file gives
 * no access to anything; closing it detaches, unbinds and resets.
 */

import { NO_PASID } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import type { Caller, File, IommufdContext, Mapping } from '@iommukit/iommufd';
import type { DeviceUser } from './device-user.ts';
import type { DmaBinding } from './dma-binding.ts';
import type { VfioGroup } from './group/group.ts';
import { vfioDeviceIoctl } from './ioctl.ts';
import type { IommufdBinding, OfferedDevice } from './offered-device.ts';
import type { VfToken } from './vf-token.ts';

export type BindRequest = {
  /** Gives the /dev/iommu to bind to. */
  context: () => IommufdContext;
  /** Gives the VF token, or null. */
  token: () => Uint8Array | null;
};

type Bound = {
  readonly dma: DmaBinding;
  readonly user: DeviceUser;
  /** The PF's token, held while a VF is in use. */
  readonly token: VfToken | null;
};

/** DMA in the hands of a /dev/iommu. */
class IommufdDma implements DmaBinding {
  readonly kind = '/dev/iommu';
  readonly device: IommufdBinding;

  constructor(device: IommufdBinding) {
    this.device = device;
  }

  unbind(): void {
    this.device.unbind();
  }
}

export class VfioDeviceFile implements File {
  readonly name: string;
  readonly entry: OfferedDevice;
  private readonly group: VfioGroup | null;
  private bound: Bound | null = null;
  /** File offset of read(2) and write(2). */
  private position = 0n;

  /** `group` is given when the file is got through it, and not opened by the device's own path. */
  constructor(entry: OfferedDevice, group: VfioGroup | null = null) {
    this.entry = entry;
    this.group = group;
    this.name = entry.path;
  }

  /** What the file gives access to. @throws {SysError} EINVAL not bound */
  get user(): DeviceUser {
    return this.require('vfio_device').user;
  }

  /**
   * Binds the device to a /dev/iommu. Its DMA is blocked, bus mastering is off, and it has been reset.
   * @returns id of the device there
   * @throws {SysError} EINVAL it is bound; EBUSY its group is open; EACCES the token; EBADF, EBADFD from `context`; and
   * the errors of bindDevice
   */
  bind({ context, token }: BindRequest): number {
    const { entry } = this;
    const call = 'VFIO_DEVICE_BIND_IOMMUFD';
    return this.take(call, token, context, (target) => new IommufdDma(entry.bindIommufd(target))).device.id;
  }

  /**
   * Takes the device over: `bind` binds its DMA to what `target` gives, then the file gives access to it until it is
   * closed. @returns the binding
   * @throws {SysError} EINVAL the file is bound, or the device is in use through another; EBUSY its group is open and
   * the file is not from there; EACCES the token; and the errors of `target` and `bind`
   */
  take<Target, Dma extends DmaBinding>(
    call: string,
    token: () => Uint8Array | null,
    target: () => Target,
    bind: (target: Target) => Dma,
  ): Dma {
    const { entry } = this;
    if (this.bound !== null) throw new SysError('EINVAL', call, `${this.name} is bound`);
    if (this.group === null) entry.group?.checkClosed(call);
    entry.checkToken(token());
    const to = target();
    if (entry.user !== null) throw new SysError('EINVAL', call, `${this.name} is in use through another open file`);
    const dma = bind(to);
    let user: DeviceUser;
    try {
      user = entry.takeOver();
      if (dma.extend !== undefined) user = dma.extend(user);
    } catch (error) {
      dma.unbind();
      throw error;
    }
    entry.user = user;
    const held = entry.physicalToken;
    held?.hold();
    this.bound = { dma, user, token: held };
    return dma;
  }

  /** The binding, which is of class `type`. @throws {SysError} EINVAL the file is not bound, or in another way */
  dma<T extends DmaBinding>(call: string, type: abstract new (...args: never[]) => T): T {
    const { dma } = this.require(call);
    if (dma instanceof type) return dma;
    throw new SysError('EINVAL', call, `${this.name} is bound to a ${dma.kind}`);
  }

  /**
   * Attaches the device, or one of its PASIDs, to a page table or IOAS; what is attached already is replaced without a
   * moment of neither. @returns id of the hardware page table
   * @throws {SysError} the errors of IommufdDevice.attach and replace; what was attached stays then
   */
  attach(ptId: number, pasid: number | null): number {
    const { device } = this.dma('VFIO_DEVICE_ATTACH_IOMMUFD_PT', IommufdDma);
    const key = pasid ?? NO_PASID;
    return device.attached(key) === null ? device.attach(ptId, key) : device.replace(ptId, key);
  }

  /** DMA, or that of one PASID, is blocked on return. Nothing happens when it was not attached. */
  detach(pasid: number | null): void {
    this.dma('VFIO_DEVICE_DETACH_IOMMUFD_PT', IommufdDma).device.detach(pasid ?? NO_PASID);
  }

  ioctl(caller: Caller, request: number, argument: bigint): number {
    return vfioDeviceIoctl(this, caller, request, argument);
  }

  read(_caller: Caller, into: Uint8Array, position: bigint | null): number {
    const { user } = this.require('read');
    if (into.length === 0) return 0;
    const count = user.read(position ?? this.position, into);
    if (position === null) this.position += BigInt(count);
    return count;
  }

  write(_caller: Caller, from: Uint8Array, position: bigint | null): number {
    const { user } = this.require('write');
    if (from.length === 0) return 0;
    const count = user.write(position ?? this.position, from);
    if (position === null) this.position += BigInt(count);
    return count;
  }

  mmap(_caller: Caller, length: bigint, _protection: number, shared: boolean, offset: bigint): Mapping {
    return this.require('mmap').user.mmap(offset, length, shared);
  }

  release(): void {
    const { bound, entry } = this;
    if (bound === null) return;
    this.bound = null;
    bound.user.close();
    bound.dma.unbind();
    bound.token?.release();
    entry.user = null;
  }

  private require(call: string): Bound {
    if (this.bound === null) throw new SysError('EINVAL', call, `${this.name} is not bound`);
    return this.bound;
  }
}
