/** Who has a bound device's DMA: a /dev/iommu, or another file that owns address spaces. */

import type { DeviceUser } from './device-user.ts';

export type DmaBinding = {
  /** The kind of file, for messages. */
  readonly kind: string;
  /** What the file gives access to with this binding, when that is more than the device itself. */
  extend?(user: DeviceUser): DeviceUser;
  /** Detaches the device everywhere and gives it up: its DMA is blocked on return. Never fails. */
  unbind(): void;
};
