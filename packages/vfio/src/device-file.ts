/**
 * One open /dev/vfio/devices/vfioN (Linux: drivers/vfio/device_cdev.c). Until it is bound to a /dev/iommu the file gives
 * no access to anything; closing it detaches, unbinds and resets.
 */

import { NO_PASID } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import { bindDevice, type Caller, type File, type IommufdContext, type IommufdDevice } from '@iommukit/iommufd';
import { vfioDeviceIoctl } from './ioctl.ts';
import { PciUser } from './pci/pci-user.ts';
import type { VfToken } from './vf-token.ts';
import type { VfioDevice } from './vfio-device.ts';

export type BindRequest = {
  /** Gives the /dev/iommu to bind to. */
  context: () => IommufdContext;
  /** Gives the VF token, or null. */
  token: () => Uint8Array | null;
};

type Bound = {
  readonly iommufd: IommufdDevice;
  readonly user: PciUser;
  /** The PF's token, held while a VF is in use. */
  readonly token: VfToken | null;
};

export class VfioDeviceFile implements File {
  readonly name: string;
  readonly entry: VfioDevice;
  private bound: Bound | null = null;
  /** File offset of read(2) and write(2). */
  private position = 0n;

  constructor(entry: VfioDevice) {
    this.entry = entry;
    this.name = entry.path;
  }

  /** The function. @throws {SysError} EINVAL not bound */
  get user(): PciUser {
    return this.require('vfio_device').user;
  }

  /**
   * Binds the device to a /dev/iommu. Its DMA is blocked, bus mastering is off, and it has been reset.
   * @returns id of the device there
   * @throws {SysError} EINVAL it is bound; EACCES the token; EBADF, EBADFD from `context`; and the errors of bindDevice
   */
  bind(request: BindRequest): number {
    const { entry } = this;
    const call = 'VFIO_DEVICE_BIND_IOMMUFD';
    if (this.bound !== null) throw new SysError('EINVAL', call, `${this.name} is bound`);
    entry.checkToken(request.token());
    const context = request.context();
    if (entry.user !== null) throw new SysError('EINVAL', call, `${this.name} is in use through another open file`);
    const iommufd = bindDevice(context, entry.device);
    let user: PciUser;
    try {
      user = new PciUser(entry.device, entry.msixTable);
    } catch (error) {
      iommufd.unbind();
      throw error;
    }
    entry.user = user;
    const token = entry.physicalToken;
    token?.hold();
    this.bound = { iommufd, user, token };
    return iommufd.id;
  }

  /**
   * Attaches the device, or one of its PASIDs, to a page table or IOAS; what is attached already is replaced without a
   * moment of neither. @returns id of the hardware page table
   * @throws {SysError} the errors of IommufdDevice.attach and replace; what was attached stays then
   */
  attach(ptId: number, pasid: number | null): number {
    const { iommufd } = this.require('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
    const key = pasid ?? NO_PASID;
    return iommufd.attached(key) === null ? iommufd.attach(ptId, key) : iommufd.replace(ptId, key);
  }

  /** DMA, or that of one PASID, is blocked on return. Nothing happens when it was not attached. */
  detach(pasid: number | null): void {
    this.require('VFIO_DEVICE_DETACH_IOMMUFD_PT').iommufd.detach(pasid ?? NO_PASID);
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

  mmap(caller: Caller, length: bigint, protection: number, shared: boolean, offset: bigint): bigint {
    return this.require('mmap').user.map(caller.process, offset, length, protection, shared);
  }

  release(): void {
    const { bound, entry } = this;
    if (bound === null) return;
    this.bound = null;
    bound.user.close();
    bound.iommufd.unbind();
    bound.token?.release();
    entry.user = null;
  }

  private require(call: string): Bound {
    if (this.bound === null) throw new SysError('EINVAL', call, `${this.name} is not bound to a /dev/iommu`);
    return this.bound;
  }
}
