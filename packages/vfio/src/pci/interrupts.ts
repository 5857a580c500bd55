/**
 * A device's interrupts as eventfds (Linux: drivers/vfio/pci/vfio_pci_intrs.c). The functions here have MSI-X; INTx and
 * MSI are reported with no interrupts. Unlike in Linux, a call that is refused half-way leaves every trigger as it was.
 */

import { type Device, type MsiMessage, SysError } from '@iommukit/iommu-core';
import type { EventFd } from '@iommukit/iommufd';
import type { DeviceInterrupts, IrqInfo, IrqRequest } from '../device-user.ts';
import { checkIrqRange } from '../irq-range.ts';
import { setSingleTrigger } from '../single-trigger.ts';
import * as uapi from '../uapi/vfio.ts';

const CALL = 'VFIO_DEVICE_SET_IRQS';
const ACTIONS = uapi.VFIO_IRQ_SET_ACTION_MASK | uapi.VFIO_IRQ_SET_ACTION_UNMASK | uapi.VFIO_IRQ_SET_ACTION_TRIGGER;

type Vector = { readonly trigger: { eventfd: EventFd }; readonly message: MsiMessage };

export class Interrupts implements DeviceInterrupts {
  private readonly device: Device;
  private readonly withMemory: (action: () => void) => void;
  private readonly vectors = new Map<number, Vector>();
  private msixEnabled = false;
  /** The error and request interrupts have one trigger each and nothing in hardware. */
  private error: EventFd | null = null;
  private request: EventFd | null = null;

  /** `withMemory` runs an action with memory decode on. */
  constructor(device: Device, withMemory: (action: () => void) => void) {
    this.device = device;
    this.withMemory = withMemory;
  }

  /** @throws {SysError} EINVAL no such index */
  info(index: number): IrqInfo {
    const count = this.count(index);
    let flags = uapi.VFIO_IRQ_INFO_EVENTFD;
    if (index === uapi.VFIO_PCI_INTX_IRQ_INDEX) flags |= uapi.VFIO_IRQ_INFO_MASKABLE | uapi.VFIO_IRQ_INFO_AUTOMASKED;
    else if (index !== uapi.VFIO_PCI_MSIX_IRQ_INDEX) flags |= uapi.VFIO_IRQ_INFO_NORESIZE;
    return { flags, count };
  }

  /**
   * Sets, clears or raises triggers.
   * @throws {SysError} EINVAL no such interrupts, or the wrong state; ENOTTY an action that the index does not have;
   * ENOSPC, ENOMEM no interrupt message
   */
  set(request: IrqRequest): void {
    const { action, index } = request;
    checkIrqRange(request, this.count(index));
    if (action !== uapi.VFIO_IRQ_SET_ACTION_TRIGGER) {
      throw new SysError('ENOTTY', CALL, `action ${action & ACTIONS} at index ${index}`);
    }
    if (index === uapi.VFIO_PCI_MSIX_IRQ_INDEX) this.setMsix(request);
    else if (index === uapi.VFIO_PCI_ERR_IRQ_INDEX) this.error = setSingleTrigger(request, this.error);
    else this.request = setSingleTrigger(request, this.request);
  }

  /** Frees every interrupt. Never fails. */
  disable(): void {
    if (this.msixEnabled) this.disableMsix();
    this.error = null;
    this.request = null;
  }

  /** Interrupts that exist at `index`. @throws {SysError} EINVAL no such index */
  private count(index: number): number {
    const { pci } = this.device;
    if (index >= uapi.VFIO_PCI_NUM_IRQS || (index === uapi.VFIO_PCI_ERR_IRQ_INDEX && pci.expressOffset === 0)) {
      throw new SysError('EINVAL', CALL, `no interrupt index ${index}`);
    }
    if (index === uapi.VFIO_PCI_MSIX_IRQ_INDEX) return pci.msix?.vectors ?? 0;
    return index >= uapi.VFIO_PCI_ERR_IRQ_INDEX ? 1 : 0;
  }

  private setMsix({ start, count, data }: IrqRequest): void {
    if (data.kind === 'eventfd') {
      if (count === 0) throw new SysError(this.msixEnabled ? 'EINVAL' : 'ERANGE', CALL, 'no vectors');
      this.setVectors(start, data.values);
      return;
    }
    if (!this.msixEnabled) throw new SysError('EINVAL', CALL, 'MSI-X is not enabled');
    if (data.kind === 'none' && count === 0) this.disableMsix();
    for (let i = 0; i < count; i++) {
      if (data.kind === 'none' || data.values[i] === true) this.vectors.get(start + i)?.trigger.eventfd.signal();
    }
  }

  /** Takes a message for every vector that needs one, and only then changes anything. */
  private setVectors(start: number, eventfds: readonly (EventFd | null | undefined)[]): void {
    const { device } = this;
    const fresh: { number: number; vector: Vector }[] = [];
    try {
      device.kernel.checkpoint('vfio_msi_set_block');
      eventfds.forEach((eventfd, i) => {
        if (eventfd == null || this.vectors.has(start + i)) return;
        const trigger = { eventfd };
        const message = device.allocateMsi(() => trigger.eventfd.signal());
        fresh.push({ number: start + i, vector: { trigger, message } });
      });
    } catch (error) {
      for (const { vector } of fresh) device.freeMsi(vector.message);
      throw error;
    }
    this.withMemory(() => {
      const msix = device.pci.msix!;
      if (!this.msixEnabled) msix.setEnabled(true);
      this.msixEnabled = true;
      eventfds.forEach((eventfd, i) => {
        const vector = this.vectors.get(start + i);
        if (eventfd === null) this.clearVector(start + i);
        else if (vector !== undefined && eventfd !== undefined) vector.trigger.eventfd = eventfd;
      });
      for (const { number, vector } of fresh) {
        this.vectors.set(number, vector);
        msix.program(number, vector.message);
      }
    });
  }

  private clearVector(number: number): void {
    const vector = this.vectors.get(number);
    if (vector === undefined) return;
    this.device.pci.msix!.setMasked(number, true);
    this.device.freeMsi(vector.message);
    this.vectors.delete(number);
  }

  private disableMsix(): void {
    this.withMemory(() => {
      for (const number of [...this.vectors.keys()]) this.clearVector(number);
      this.device.pci.msix!.setEnabled(false);
    });
    this.msixEnabled = false;
  }
}
