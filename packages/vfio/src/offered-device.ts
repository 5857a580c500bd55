/** What a device file needs of the device that it opens, be it a PCI function or a mediated device. */

import type { Kernel } from '@iommukit/iommu-core';
import type { BoundDevice, IommufdContext } from '@iommukit/iommufd';
import type { DeviceUser } from './device-user.ts';
import type { VfioGroup } from './group/group.ts';
import type { VfToken } from './vf-token.ts';

/** A device's part of a /dev/iommu context, as VFIO uses it. */
export type IommufdBinding = BoundDevice;

/** One device on offer. Its node can be opened many times; one open file at a time has it bound. */
export type OfferedDevice = {
  readonly kernel: Kernel;
  /** Names the device in messages: `0000:01:00.0`, or a mediated device's UUID. */
  readonly name: string;
  /** `/dev/vfio/devices/vfioN`. */
  readonly path: string;
  /** The device's user while a file has it bound. */
  user: DeviceUser | null;
  /** The group through which the device can be got as well; none by default. */
  readonly group?: VfioGroup;
  /** The token that users of a virtual function share with its physical function's; null elsewhere. */
  readonly physicalToken: VfToken | null;
  /** @throws {SysError} EACCES the token is needed and not the one given; EINVAL there is nothing it could be for */
  checkToken(token: Uint8Array | null): void;
  /** Takes the device for a context, with its DMA blocked. @throws {SysError} the errors of bindDevice */
  bindIommufd(context: IommufdContext): IommufdBinding;
  /** Hands the device, whose DMA is bound, to a user. @throws {SysError} EBUSY it is being reset */
  takeOver(): DeviceUser;
};
