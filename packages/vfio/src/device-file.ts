/**
 * One open /dev/vfio/devices/vfioN (Linux: drivers/vfio/device_cdev.c). Until it is bound to a /dev/iommu the file gives
 * no access to anything; closing it detaches, unbinds and resets.
 */

import { NO_PASID } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import type { Caller, File, IommufdContext, Mapping } from '@iommukit/iommufd';
import { DeviceUse } from './device-use.ts';
import type { DeviceUser } from './device-user.ts';
import type { DmaBinding } from './dma-binding.ts';
import { vfioDeviceIoctl } from './ioctl.ts';
import type { IommufdBinding, OfferedDevice } from './offered-device.ts';

export type BindRequest = {
  /** Gives the /dev/iommu to bind to. */
  context: () => IommufdContext;
  /** Gives the VF token, or null. */
  token: () => Uint8Array | null;
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
  /** Got from the device's group, and so in use from the start. */
  private readonly fromGroup: boolean;
  private use: DeviceUse | null;
  /** File offset of read(2) and write(2). */
  private position = 0n;

  /** `use` is given, and taken over, when the file is got from the device's group and not opened by its own path. */
  constructor(entry: OfferedDevice, use: DeviceUse | null = null) {
    this.entry = entry;
    this.use = use;
    this.fromGroup = use !== null;
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
   * @throws {SysError} EINVAL the file is bound, or the device is in use through another; EBUSY its group is open;
   * EACCES the token; and the errors of `target` and `bind`
   */
  take<Target, Dma extends DmaBinding>(
    call: string,
    token: () => Uint8Array | null,
    target: () => Target,
    bind: (target: Target) => Dma,
  ): Dma {
    const { entry } = this;
    if (this.use !== null) throw new SysError('EINVAL', call, `${this.name} is bound`);
    entry.group?.checkClosed(call);
    entry.checkToken(token());
    const to = target();
    if (entry.user !== null) throw new SysError('EINVAL', call, `${this.name} is in use through another open file`);
    const dma = bind(to);
    this.use = new DeviceUse(entry, dma, () => entry.group?.unblock());
    entry.group?.block();
    return dma;
  }

  /** The binding, which is of class `type`. @throws {SysError} EINVAL the file is not bound, or in another way */
  dma<T extends DmaBinding>(call: string, type: abstract new (...args: never[]) => T): T {
    const { dma } = this.require(call);
    if (dma instanceof type) return dma;
    throw new SysError('EINVAL', call, `${this.name} is bound to a ${dma.kind}`);
  }

  /** A request for files of the device's own alone is made. @throws {SysError} ENOTTY the file is got from the group */
  checkOwn(call: string): void {
    if (this.fromGroup) throw new SysError('ENOTTY', call, `${this.name} is got from its group`);
  }

  /**
   * Attaches the device, or one of its PASIDs, to a page table or IOAS; what is attached already is replaced without a
   * moment of neither. @returns id of the hardware page table
   * @throws {SysError} ENOTTY the file is got from the group; the errors of IommufdDevice.attach and replace; what was
   * attached stays then
   */
  attach(ptId: number, pasid: number | null): number {
    this.checkOwn('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    const { device } = this.dma('VFIO_DEVICE_ATTACH_IOMMUFD_PT', IommufdDma);
    const key = pasid ?? NO_PASID;
    return device.attached(key) === null ? device.attach(ptId, key) : device.replace(ptId, key);
  }

  /**
   * DMA, or that of one PASID, is blocked on return. Nothing happens when it was not attached.
   * @throws {SysError} ENOTTY the file is got from the group
   */
  detach(pasid: number | null): void {
    this.checkOwn('VFIO_DEVICE_DETACH_IOMMUFD_PT');
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
    const { use } = this;
    this.use = null;
    use?.release();
  }

  private require(call: string): DeviceUse {
    if (this.use === null) throw new SysError('EINVAL', call, `${this.name} is not bound`);
    return this.use;
  }
}
