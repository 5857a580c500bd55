/** Which interrupts a call may name (Linux: vfio_set_irqs_validate_and_prepare, drivers/vfio/vfio_main.c). */

import { SysError } from '@iommukit/iommu-core';
import type { IrqRequest } from './device-user.ts';

/** `available` is how many interrupts there are at the index. @throws {SysError} EINVAL the call names others */
export function checkIrqRange({ index, start, count }: Omit<IrqRequest, 'action' | 'data'>, available: number): void {
  if (start < available && start + count <= available) return;
  throw new SysError(
    'EINVAL',
    'VFIO_DEVICE_SET_IRQS',
    `interrupts ${start}+${count} of ${available} at index ${index}`,
  );
}
