/** What the driver keeps of a device behind its unit. */

import type { Device } from '../device.ts';
import type { DeviceTlb } from './descriptors.ts';
import type { PasidTable } from './pasid-table.ts';

export type IntelDevice = {
  readonly device: Device;
  readonly pasidTable: PasidTable;
  /** The device may cache translations: ATS is on. */
  readonly deviceTlb: boolean;
  /** The device may send page requests: PRI is on. */
  readonly pageRequests: boolean;
  readonly tlb: DeviceTlb;
};
