/** The eventfd of an interrupt that is alone at its index (Linux: vfio_pci_set_ctx_trigger_single, vfio_pci_intrs.c). */

import { SysError } from '@iommukit/iommu-core';
import type { EventFd } from '@iommukit/iommufd';
import type { IrqRequest } from './device-user.ts';

/**
 * Carries a request out on `trigger`, which it may signal. @returns the trigger from now on
 * @throws {SysError} EINVAL there is no trigger to raise or to take away, or no interrupt is named
 */
export function setSingleTrigger({ count, data }: IrqRequest, trigger: EventFd | null): EventFd | null {
  const call = 'VFIO_DEVICE_SET_IRQS';
  if (data.kind === 'none') {
    if (trigger === null) throw new SysError('EINVAL', call, 'the interrupt has no trigger');
    if (count === 0) return null;
    trigger.signal();
    return trigger;
  }
  if (count === 0) throw new SysError('EINVAL', call, 'no interrupt is named');
  if (data.kind === 'eventfd') return data.values[0] === undefined ? trigger : data.values[0];
  if (data.values[0] === true) trigger?.signal();
  return trigger;
}
