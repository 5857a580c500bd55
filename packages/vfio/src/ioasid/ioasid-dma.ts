/**
 * A device file's half of the /dev/ioasid proposal (RFC of 27 May 2021, section 2.2): its DMA in the hands of an open
 * /dev/ioasid.
 */

import { SysError } from '@iommukit/iommu-core';
import type { IoasidContext, IoasidDevice } from '@iommukit/iommufd/ioasid';
import type { VfioDeviceFile } from '../device-file.ts';
import type { DmaBinding } from '../dma-binding.ts';

export class IoasidDma implements DmaBinding {
  readonly kind = '/dev/ioasid';
  readonly device: IoasidDevice;

  constructor(device: IoasidDevice) {
    this.device = device;
  }

  unbind(): void {
    this.device.unbind();
  }
}

export type IoasidBindRequest = {
  /** Gives the /dev/ioasid to bind to. */
  context: () => IoasidContext;
  /** The user's name for the device there. */
  cookie: bigint;
  /** Gives the VF token, or null. */
  token: () => Uint8Array | null;
};

/**
 * Binds the device to a /dev/ioasid. Its DMA is blocked, bus mastering is off, and it has been reset.
 * @throws {SysError} as VfioDeviceFile.take and IoasidContext.adopt
 */
export function bindIoasid(file: VfioDeviceFile, { context, cookie, token }: IoasidBindRequest): void {
  file.take('VFIO_BIND_IOASID_FD', token, context, (target) => {
    return new IoasidDma(target.adopt((iommufd) => file.entry.bindIommufd(iommufd), cookie));
  });
}

/**
 * Gives the device back, as closing the file does; the file can be bound again.
 * @throws {SysError} EINVAL it is not bound to a /dev/ioasid; ENOTTY by the rules of version 2, where only closing unbinds
 */
export function unbindIoasid(file: VfioDeviceFile): void {
  const call = 'VFIO_UNBIND_IOASID_FD';
  const { context } = file.dma(call, IoasidDma).device;
  if (context.rules === 'v2') throw new SysError('ENOTTY', call, `closing ${file.name} unbinds it`);
  file.release();
}

/** @returns the PASID to give to the device, or null. @throws {SysError} EINVAL not bound so; ENOENT; as IoasidDevice.attach */
export function attachIoasid(file: VfioDeviceFile, ioasid: number, userPasid: number | null): number | null {
  const call = 'VFIO_ATTACH_IOASID';
  const { device } = file.dma(call, IoasidDma);
  return device.attach(device.context.get(ioasid, call), userPasid);
}

/** @throws {SysError} EINVAL not bound so; ENOENT; as IoasidDevice.detach */
export function detachIoasid(file: VfioDeviceFile, ioasid: number, userPasid: number | null): void {
  const call = 'VFIO_DETACH_IOASID';
  const { device } = file.dma(call, IoasidDma);
  device.detach(device.context.get(ioasid, call), userPasid);
}

/** Which PASID a device uses for which IOASID, by the holder of both files. */
export type IoasidGrant = {
  /** Gives the /dev/ioasid that the caller holds. */
  context: () => IoasidContext;
  ioasid: number;
  pasid: number;
};

/** @throws {SysError} EINVAL not bound so; EPERM to another /dev/ioasid than the caller's; ENOENT; as IoasidDevice.allow */
export function allowIoasid(file: VfioDeviceFile, { context, ioasid, pasid }: IoasidGrant): void {
  const call = 'VFIO_DEVICE_ALLOW_IOASID';
  const device = shared(file, context, call);
  device.allow(device.context.get(ioasid, call), pasid);
}

/** @throws {SysError} as `allowIoasid`; and as IoasidDevice.disallow */
export function disallowIoasid(file: VfioDeviceFile, { context, ioasid, pasid }: IoasidGrant): void {
  const call = 'VFIO_DEVICE_DISALLOW_IOASID';
  const device = shared(file, context, call);
  device.disallow(device.context.get(ioasid, call), pasid);
}

function shared(file: VfioDeviceFile, context: () => IoasidContext, call: string): IoasidDevice {
  const { device } = file.dma(call, IoasidDma);
  if (device.context === context()) return device;
  throw new SysError('EPERM', call, `${file.name} is bound to another /dev/ioasid`);
}
