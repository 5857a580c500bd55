/** What the type1 interface says of an I/O address space. */

import { PAGE_SIZE } from '@iommukit/hw';
import type { Ioas } from '../ioas/ioas.ts';
import type { IovaRange } from '../ioas/reserved.ts';
import * as uapi from '../uapi/type1.ts';

export type Type1Info = {
  /** Bit n: pages of 2^n bytes. */
  readonly pageSizes: bigint;
  /** What can be mapped. */
  readonly ranges: readonly IovaRange[];
};

/** An entry of the chain behind struct vfio_iommu_type1_info. */
export type Type1Capability = {
  /** VFIO_IOMMU_TYPE1_INFO_ number. */
  readonly id: number;
  readonly version: number;
  /** What follows the header. */
  readonly data: Uint8Array;
  /** Bytes that are stored together, from the header on, where there is no room for all. */
  readonly pieceSize: number;
};

/** Mappings that can still be made when there is no limit. */
const UNLIMITED = 0xffff_ffff;

export function type1Info({ table }: Ioas): Type1Info {
  return { pageSizes: pageSizes(table), ranges: table.space.holes() };
}

/** `mappingsLeft`: mappings that can still be made. */
export function type1Capabilities(
  { ranges }: Pick<Type1Info, 'ranges'>,
  mappingsLeft: number = UNLIMITED,
): Type1Capability[] {
  const avail = new Uint8Array(uapi.vfioDmaAvail.size);
  uapi.vfioDmaAvail.write({ avail: mappingsLeft }, avail);
  const whole = uapi.vfioInfoCapHeader.size + avail.length;
  return [
    { id: uapi.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, version: 1, data: avail, pieceSize: whole },
    {
      id: uapi.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
      version: 1,
      data: encodeRanges(ranges),
      // Both what precedes the ranges and a range.
      pieceSize: uapi.vfioIovaRange.size,
    },
  ];
}

/** What all domains have, with sizes below a page shown as the page, and no size below the alignment alone. */
function pageSizes({ domains, iovaAlignment }: Ioas['table']): bigint {
  const below = BigInt(PAGE_SIZE - 1);
  let sizes = 2n ** 64n - 1n;
  for (const { pageSizesLg2 } of domains) {
    sizes &= pageSizesLg2.reduce((own, lg2) => own | (1n << BigInt(lg2)), 0n);
  }
  if ((sizes & below) !== 0n) sizes = (sizes & ~below) | BigInt(PAGE_SIZE);
  const alignment = BigInt(iovaAlignment);
  return sizes > alignment ? sizes : alignment;
}

function encodeRanges(ranges: readonly IovaRange[]): Uint8Array {
  const head = uapi.vfioIovaRangeHead;
  const { size } = uapi.vfioIovaRange;
  const bytes = new Uint8Array(head.size + ranges.length * size);
  head.write({ nrIovas: ranges.length, reserved: 0 }, bytes);
  ranges.forEach(({ start, last }, index) => {
    uapi.vfioIovaRange.write({ start, end: last }, bytes, head.size + index * size);
  });
  return bytes;
}
