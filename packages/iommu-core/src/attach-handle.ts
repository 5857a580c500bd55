/** One attachment of a domain to a group (Linux: struct iommu_attach_handle). */

import type { Device } from './device.ts';
import type { Domain } from './domain.ts';

/**
 * Made by whoever attaches and found again in the fault groups that hit it; its owner may give it fields of its own.
 * One handle stands for one attachment at a time.
 */
export type AttachHandle = {
  readonly domain: Domain;
  /**
   * Of an auxiliary domain: how often it is attached to each device. While it is attached at a PASID, nothing can be
   * attached to the group as a whole.
   */
  readonly auxiliary?: ReadonlyMap<Device, number>;
};
