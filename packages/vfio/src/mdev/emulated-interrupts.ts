/**
 * Interrupts of a device that software emulates: a vector is an eventfd, with no message behind it. As the interrupts of
 * a function (pci/interrupts.ts) to the user, who finds MSI-X only.
 */

import { type Kernel, SysError } from '@iommukit/iommu-core';
import type { EventFd } from '@iommukit/iommufd';
import type { DeviceInterrupts, IrqInfo, IrqRequest } from '../device-user.ts';
import { checkIrqRange } from '../irq-range.ts';
import * as uapi from '../uapi/vfio.ts';

const CALL = 'VFIO_DEVICE_SET_IRQS';

export class EmulatedInterrupts implements DeviceInterrupts {
  private readonly kernel: Kernel;
  private readonly vectors: number;
  private readonly triggers = new Map<number, EventFd>();
  private enabled = false;

  constructor(kernel: Kernel, vectors: number) {
    this.kernel = kernel;
    this.vectors = vectors;
  }

  /** The device raises `vector`; without a trigger nothing happens. */
  raise(vector: number): void {
    this.triggers.get(vector)?.signal();
  }

  /** @throws {SysError} EINVAL no such index */
  info(index: number): IrqInfo {
    const msix = index === uapi.VFIO_PCI_MSIX_IRQ_INDEX;
    return { flags: uapi.VFIO_IRQ_INFO_EVENTFD | (msix ? 0 : uapi.VFIO_IRQ_INFO_NORESIZE), count: this.count(index) };
  }

  /** @throws {SysError} EINVAL no such interrupts, or none are enabled; ENOTTY another action than a trigger; ENOMEM */
  set(request: IrqRequest): void {
    const { action, index, start, count, data } = request;
    checkIrqRange(request, this.count(index));
    if (action !== uapi.VFIO_IRQ_SET_ACTION_TRIGGER) throw new SysError('ENOTTY', CALL, `action ${action}`);
    if (data.kind === 'eventfd') {
      if (count === 0) throw new SysError(this.enabled ? 'EINVAL' : 'ERANGE', CALL, 'no vectors');
      this.setTriggers(start, data.values);
      return;
    }
    if (!this.enabled) throw new SysError('EINVAL', CALL, 'MSI-X is not enabled');
    if (data.kind === 'none' && count === 0) this.disable();
    for (let i = 0; i < count; i++) if (data.kind === 'none' || data.values[i] === true) this.raise(start + i);
  }

  /** Takes every trigger away. */
  disable(): void {
    this.triggers.clear();
    this.enabled = false;
  }

  private setTriggers(start: number, eventfds: readonly (EventFd | null | undefined)[]): void {
    this.kernel.checkpoint('vfio_msi_set_block');
    this.enabled = true;
    eventfds.forEach((eventfd, i) => {
      if (eventfd === null) this.triggers.delete(start + i);
      else if (eventfd !== undefined) this.triggers.set(start + i, eventfd);
    });
  }

  private count(index: number): number {
    if (index >= uapi.VFIO_PCI_NUM_IRQS) throw new SysError('EINVAL', CALL, `no interrupt index ${index}`);
    return index === uapi.VFIO_PCI_MSIX_IRQ_INDEX ? this.vectors : 0;
  }
}
