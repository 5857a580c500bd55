/**
 * What a fault reason of the unit means to the core (Intel VT-d specification, revision 4.1, section 7.1.3). A second
 * stage's entry that allows nothing is an absent one: both are SSS.2.
 */

import { vtdFault } from '@iommukit/hw';
import type { UnrecoverableReason } from '../unrecoverable-fault.ts';

const reasons: ReadonlyMap<number, UnrecoverableReason> = new Map<number, UnrecoverableReason>([
  [vtdFault.SCT_6, 'pasid-invalid'],
  [vtdFault.SCT_7, 'pasid-invalid'],
  [vtdFault.SPD_1, 'pasid-fetch'],
  [vtdFault.SPD_2, 'bad-pasid-entry'],
  [vtdFault.SPD_3, 'bad-pasid-entry'],
  [vtdFault.SPT_1, 'pasid-fetch'],
  [vtdFault.SPT_2, 'bad-pasid-entry'],
  [vtdFault.SPT_3, 'bad-pasid-entry'],
  [vtdFault.SPT_4, 'bad-pasid-entry'],
  [vtdFault.SPT_5, 'permission'],
  [vtdFault.SPT_6, 'permission'],
  [vtdFault.SFS_1, 'walk-abort'],
  [vtdFault.SFS_2, 'not-translated'],
  [vtdFault.SFS_3, 'not-translated'],
  [vtdFault.SFS_4, 'walk-abort'],
  [vtdFault.SFS_5, 'not-translated'],
  [vtdFault.SFS_6, 'not-translated'],
  [vtdFault.SFS_7, 'not-translated'],
  [vtdFault.SFS_8, 'not-translated'],
  [vtdFault.SFS_9, 'walk-abort'],
  [vtdFault.SFS_10, 'walk-abort'],
  [vtdFault.SSS_1, 'walk-abort'],
  [vtdFault.SSS_2, 'not-translated'],
  [vtdFault.SSS_3, 'not-translated'],
  [vtdFault.SSS_4, 'walk-abort'],
  [vtdFault.SSS_5, 'walk-abort'],
  [vtdFault.SSS_6, 'walk-abort'],
  [vtdFault.SGN_1, 'out-of-range'],
  [vtdFault.SGN_2, 'permission'],
  [vtdFault.SGN_3, 'permission'],
  [vtdFault.SGN_4, 'out-of-range'],
  [vtdFault.SGN_5, 'out-of-range'],
  [vtdFault.SGN_6, 'permission'],
  [vtdFault.SGN_7, 'permission'],
]);

/** Null for faults of interrupts, which are not DMA's. */
export function unrecoverableReason(reason: number): UnrecoverableReason | null {
  if (reason >= vtdFault.IR_REQUEST_RESERVED && reason <= vtdFault.IR_SOURCE_ID) return null;
  return reasons.get(reason) ?? 'unknown';
}
