/** Operations that look into the mock IOMMU's domains, and one that writes through one as a device would. */

import { hex } from '@iommukit/hw';
import { type AddressSpace, copyFromUser, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import { HwptNested, HwptPaging } from '../hwpt.ts';
import { MockNestedDomain } from './mock-nested-domain.ts';
import { MockPagingDomain } from './mock-paging-domain.ts';
import { type Operation, operation } from './test-cmd.ts';
import * as uapi from './uapi.ts';
import { checkMap, checkRefs } from './user-frames.ts';

const CALL = 'IOMMU_TEST_CMD';
/** Most pages that one operation writes to: bits of 16 MiB. */
const DIRTY_MAX = 2n ** 27n;

export const domainOperations: readonly [number, Operation][] = [
  [
    uapi.IOMMU_TEST_OP_MD_CHECK_MAP,
    operation('checkMap', ({ context, process }, id, cmd) => {
      checkMap(pagingDomain(context, id), process.addressSpace, cmd);
      return undefined;
    }),
  ],
  [
    uapi.IOMMU_TEST_OP_MD_CHECK_REFS,
    operation('checkRefs', ({ process }, _id, { uptr, length, refs }) => {
      checkRefs(process.addressSpace, uptr, length, refs);
      return undefined;
    }),
  ],
  [
    uapi.IOMMU_TEST_OP_DIRTY,
    operation('dirty', ({ context, process }, id, cmd) => {
      cmd.outNrDirty = BigInt(writePages(context, process.addressSpace, id, cmd));
      return {};
    }),
  ],
  [
    uapi.IOMMU_TEST_OP_MD_CHECK_IOTLB,
    operation('checkIotlb', ({ context }, hwptId, { id, iotlb }) => {
      const { domain } = context.objects.get(hwptId, HwptNested);
      if (domain instanceof MockNestedDomain && id < domain.iotlb.length && domain.iotlb[id] === iotlb)
        return undefined;
      throw new SysError('EINVAL', CALL, `word ${id} of the IOTLB is not ${hex(iotlb)}`);
    }),
  ],
];

/** @throws {SysError} ENOENT no paging table; EINVAL it is of another IOMMU */
function pagingDomain(context: IommufdContext, id: number): MockPagingDomain {
  const { domain } = context.objects.get(id, HwptPaging);
  if (domain instanceof MockPagingDomain) return domain;
  throw new SysError('EINVAL', CALL, `table ${id} is none of the mock IOMMU`);
}

type WriteRequest = { iova: bigint; length: bigint; pageSize: bigint; uptr: bigint };

/**
 * Writes to the first address of each page whose bit is set in the bitmap at `uptr`. @returns how many these are
 * @throws {SysError} EINVAL empty, misaligned, or tracking is off; EOVERFLOW; ENOENT; EFAULT; ENOMEM
 */
function writePages(
  context: IommufdContext,
  space: AddressSpace,
  id: number,
  { iova, length, pageSize, uptr }: WriteRequest,
): number {
  if (pageSize === 0n || length === 0n || iova % pageSize !== 0n || length % pageSize !== 0n || uptr === 0n) {
    throw new SysError('EINVAL', CALL, `${hex(length)} bytes at ${hex(iova)} in pages of ${hex(pageSize)}`);
  }
  const pages = length / pageSize;
  if (pages > DIRTY_MAX) throw new SysError('EOVERFLOW', CALL, `${hex(pages)} pages`);
  const domain = pagingDomain(context, id);
  if (domain.dirty?.enabled !== true) throw new SysError('EINVAL', CALL, `table ${id} does not track what is written`);
  context.kernel.checkpoint('iommufd_test_dirty');
  const bits = copyFromUser(space, uptr, Number((pages + 7n) / 8n));
  let count = 0;
  for (let page = 0; page < Number(pages); page++) {
    if (((bits[page >> 3]! >> (page & 7)) & 1) === 0) continue;
    domain.write(BigInt.asUintN(64, iova + BigInt(page) * pageSize));
    count++;
  }
  return count;
}
