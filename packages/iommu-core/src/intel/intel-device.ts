/** What the driver keeps of a device behind its unit. */

import type { Device } from '../device.ts';
import type { DeviceTlb } from './descriptors.ts';
import type { PasidTable } from './pasid-table.ts';

export type IntelDevice = {
  readonly device: Device;
  readonly pasidTable: PasidTable;
  /** The device's address translation service is on. */
  readonly ats: boolean;
  /** The device may use what it has cached: with ATS, and until it leaves an invalidation unanswered. */
  deviceTlb: boolean;
  /** The device may send page requests: PRI is on. */
  readonly pageRequests: boolean;
  readonly tlb: DeviceTlb;
};
