/**
 * A device of the tests' own bus (Linux: struct mock_dev, drivers/iommu/iommufd/selftest.c). It makes no requests; what
 * hardware would do, operations of IOMMU_TEST_CMD do. What it has cached are four words.
 */

import { hex } from '@iommukit/hw';
import { type Device, type DmaMaster, SysError, type ViommuCore } from '@iommukit/iommu-core';
import {
  IOMMU_TEST_DEV_CACHE_DEFAULT,
  MOCK_DEV_CACHE_NUM,
  MOCK_FLAGS_DEVICE_NO_DIRTY,
  MOCK_FLAGS_DEVICE_PASID,
} from './uapi.ts';

export class MockDevice implements DmaMaster {
  readonly rid: number;
  readonly pasidFeatures = 0;
  readonly sharesPageRequests = false;
  readonly cache: Uint32Array = new Uint32Array(MOCK_DEV_CACHE_NUM).fill(IOMMU_TEST_DEV_CACHE_DEFAULT);
  /** The next attachment to PASID 1024 fails. */
  failsNext = false;
  /** The vIOMMU that its nested table was made through, and what it is called there; null without. */
  virtual: { readonly viommu: ViommuCore; readonly virtId: bigint } | null = null;
  private readonly flags: number;

  /** `number` is its own on the bus. @throws {SysError} EINVAL unknown flags */
  constructor(number: number, flags: number) {
    if ((flags & ~(MOCK_FLAGS_DEVICE_NO_DIRTY | MOCK_FLAGS_DEVICE_PASID)) !== 0) {
      throw new SysError('EINVAL', 'IOMMU_TEST_CMD', `device flags ${hex(flags)}`);
    }
    this.rid = number;
    this.flags = flags;
  }

  get name(): string {
    return `iommufd_mock${this.rid}`;
  }

  /** Whether it can be attached to a table that tracks what is written. */
  get tracksDirty(): boolean {
    return (this.flags & MOCK_FLAGS_DEVICE_NO_DIRTY) === 0;
  }

  get hasPasids(): boolean {
    return (this.flags & MOCK_FLAGS_DEVICE_PASID) !== 0;
  }

  reset(): void {
    throw new SysError('EINVAL', 'reset', `${this.name} cannot be reset`);
  }
}

/** @throws {SysError} EINVAL the device is on another bus */
export function mockDeviceOf(device: Device): MockDevice {
  const { master } = device;
  if (master instanceof MockDevice) return master;
  throw new SysError('EINVAL', 'IOMMU_TEST_CMD', `${device.name} is no mock device`);
}
