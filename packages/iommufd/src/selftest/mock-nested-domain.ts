/** Nested domains of the mock IOMMU, whose translations are four words that invalidations clear. */

import type {
  FaultGroup,
  InvalidateResult,
  IommuDriver,
  Kernel,
  NestedDomain,
  PagingDomain,
} from '@iommukit/iommu-core';
import { SysError, type ViommuCore } from '@iommukit/iommu-core';
import {
  IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
  IOMMU_TEST_INVALIDATE_FLAG_ALL,
  iommuHwptInvalidateSelftest,
  MOCK_NESTED_DOMAIN_IOTLB_NUM,
} from './uapi.ts';

export type MockNestedOptions = {
  kernel: Kernel;
  driver: IommuDriver;
  id: number;
  parent: PagingDomain;
  /** What it is made through; null when it is made on its parent. */
  viommu: ViommuCore | null;
  /** What its IOTLB holds at first. */
  iotlb: number;
};

export class MockNestedDomain implements NestedDomain {
  readonly id: number;
  readonly kind = 'nested';
  readonly scopes = ['rid', 'pasid'] as const;
  readonly driver: IommuDriver;
  readonly parent: PagingDomain;
  readonly viommu: ViommuCore | null;
  readonly iotlb: Uint32Array;
  faultHandler: ((group: FaultGroup) => void) | null = null;

  /** @throws {SysError} ENOMEM */
  constructor({ kernel, driver, id, parent, viommu, iotlb }: MockNestedOptions) {
    kernel.checkpoint('mock_nested_domain');
    this.id = id;
    this.driver = driver;
    this.parent = parent;
    this.viommu = viommu;
    this.iotlb = new Uint32Array(MOCK_NESTED_DOMAIN_IOTLB_NUM).fill(iotlb);
  }

  /** Type and length come first; then each entry is looked at when those before it are carried out. */
  readonly invalidate = (
    dataType: number,
    entries: Uint8Array,
    entryLength: number,
    count: number,
  ): InvalidateResult => {
    let handled = 0;
    try {
      if (dataType !== IOMMU_HWPT_INVALIDATE_DATA_SELFTEST) throw refusal('EINVAL', `data type ${dataType}`);
      if (entryLength !== 0 && entryLength !== iommuHwptInvalidateSelftest.size) {
        throw refusal('EINVAL', `entries of ${entryLength} bytes`);
      }
      for (; handled < count; handled++) this.invalidateOne(entries, handled * entryLength);
      return { handled, failure: null };
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      return { handled, failure: error };
    }
  };

  free(): void {}

  private invalidateOne(entries: Uint8Array, at: number): void {
    const { iotlb } = this;
    const { flags, iotlbId } = iommuHwptInvalidateSelftest.read(entries, at);
    if ((flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL) !== 0) throw refusal('EOPNOTSUPP', `flags ${flags}`);
    if (iotlbId >= iotlb.length) throw refusal('EINVAL', `word ${iotlbId} of the IOTLB`);
    if ((flags & IOMMU_TEST_INVALIDATE_FLAG_ALL) !== 0) iotlb.fill(0);
    else iotlb[iotlbId] = 0;
  }
}

function refusal(code: 'EINVAL' | 'EOPNOTSUPP', what: string): SysError {
  return new SysError(code, 'IOMMU_HWPT_INVALIDATE', what);
}
