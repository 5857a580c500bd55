/**
 * A device in a user's hands: from when its DMA is bound until the last file is closed that gives access to it. A file of
 * the device's own is the only one; of those got from its group there can be several (Linux: open_count of struct
 * vfio_device).
 */

import type { DeviceUser } from './device-user.ts';
import type { DmaBinding } from './dma-binding.ts';
import type { OfferedDevice } from './offered-device.ts';
import type { VfToken } from './vf-token.ts';

export class DeviceUse {
  readonly dma: DmaBinding;
  readonly user: DeviceUser;
  private readonly entry: OfferedDevice;
  /** The PF's token, held while a VF is in use. */
  private readonly token: VfToken | null;
  private readonly onEnd: () => void;
  private files = 1;

  /**
   * Takes over a device that nobody uses and whose DMA is bound, for one file; when that fails the binding is given up.
   * `onEnd` runs when the device has been given up. @throws {SysError} as OfferedDevice.takeOver
   */
  constructor(entry: OfferedDevice, dma: DmaBinding, onEnd: () => void) {
    this.entry = entry;
    this.dma = dma;
    this.onEnd = onEnd;
    try {
      const user = entry.takeOver();
      this.user = dma.extend?.(user) ?? user;
    } catch (error) {
      dma.unbind();
      throw error;
    }
    this.token = entry.physicalToken;
    this.token?.hold();
    entry.user = this.user;
  }

  /** One more file gives access to the device. */
  hold(): void {
    this.files++;
  }

  /** A file is closed; with the last one the device is reset, detached and unbound. Never fails. */
  release(): void {
    if (--this.files > 0) return;
    this.user.close();
    this.dma.unbind();
    this.token?.release();
    this.entry.user = null;
    this.onEnd();
  }
}
