/**
 * The type1 interface of /dev/iommu: what programs written for VFIO's containers do, on the IOAS that was set for it
 * (Linux: drivers/iommu/iommufd/vfio_compat.c).
 */

import { hex } from '@iommukit/hw';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, type Process, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import type { Ioas } from '../ioas/ioas.ts';
import { ioasAlloc, makePages } from '../ioas/ioas-commands.ts';
import * as uapi from '../uapi/type1.ts';

/** Sets a new IOAS for the interface when none is set, as the first group does that joins. @throws {SysError} ENOMEM */
export function type1EnsureIoas(context: IommufdContext): void {
  if (context.compatIoas.find() === null) context.compatIoas.set(ioasAlloc(context, 0));
}

/** What a VFIO_ extension number says: 1 it is there, 0 it is not. @throws {SysError} ENODEV VFIO_DMA_CC_IOMMU without an IOAS */
export function type1CheckExtension({ compatIoas }: IommufdContext, extension: bigint): number {
  switch (extension) {
    case BigInt(uapi.VFIO_TYPE1_IOMMU):
    case BigInt(uapi.VFIO_TYPE1v2_IOMMU):
    case BigInt(uapi.VFIO_UNMAP_ALL):
      return 1;
    case BigInt(uapi.VFIO_DMA_CC_IOMMU):
      return compatIoas.get('VFIO_CHECK_EXTENSION').hwpts.every(({ enforcesCoherency }) => enforcesCoherency) ? 1 : 0;
    default:
      return 0;
  }
}

/**
 * Chooses how areas are unmapped: in version 1 any part of one can be, and domains have small pages only; in version 2
 * only whole ones.
 * @throws {SysError} EINVAL no such type, or version 1 while something is mapped in a domain; ENODEV; EADDRINUSE version
 * 1, and an area is not of whole pages
 */
export function type1SetIommu({ compatIoas }: IommufdContext, type: bigint): void {
  const call = 'VFIO_SET_IOMMU';
  const first = type === BigInt(uapi.VFIO_TYPE1_IOMMU);
  if (!first && type !== BigInt(uapi.VFIO_TYPE1v2_IOMMU))
    throw new SysError('EINVAL', call, `no IOMMU has type ${type}`);
  const { table } = compatIoas.get(call);
  if (first) table.setHugePages(false);
}

/** Of struct vfio_iommu_type1_dma_map. */
export type DmaMap = {
  /** VFIO_DMA_MAP_FLAG_ bits. */
  flags: number;
  /** Address in the caller's memory. */
  vaddr: bigint;
  iova: bigint;
  /** Bytes. */
  size: bigint;
};

/**
 * Maps the caller's memory.
 * @throws {SysError} EINVAL flags, misaligned, size 0, reserved, or neither readable nor writable in a domain; ENODEV;
 * EOVERFLOW; EEXIST; EFAULT; ENOMEM
 */
export function type1Map(context: IommufdContext, caller: Process, request: DmaMap): void {
  const call = 'VFIO_IOMMU_MAP_DMA';
  const { flags, vaddr, iova, size } = request;
  if ((flags & ~(uapi.VFIO_DMA_MAP_FLAG_READ | uapi.VFIO_DMA_MAP_FLAG_WRITE)) !== 0) {
    throw new SysError('EINVAL', call, `flags ${hex(flags)}`);
  }
  const writable = (flags & uapi.VFIO_DMA_MAP_FLAG_WRITE) !== 0;
  let prot = IOMMU_CACHE;
  if (writable) prot |= IOMMU_WRITE;
  if ((flags & uapi.VFIO_DMA_MAP_FLAG_READ) !== 0) prot |= IOMMU_READ;
  const ioas = context.compatIoas.get(call);
  const slice = makePages(context, caller, call, { userVa: vaddr, length: size, writable });
  try {
    for (const area of ioas.table.map([slice], size, iova, prot)) ioas.traceArea('ioas_map', area);
  } catch (error) {
    slice.pages.put();
    throw error;
  }
}

/** Of struct vfio_iommu_type1_dma_unmap. */
export type DmaUnmap = {
  /** VFIO_DMA_UNMAP_FLAG_ALL with `iova` and `size` 0, or 0. */
  flags: number;
  iova: bigint;
  size: bigint;
};

/**
 * Unmaps what is mapped in a range, which may be nothing. In version 1 areas are cut at its ends first, and stay cut also
 * when the call fails then.
 * @returns bytes unmapped; `failure` says why not all
 * @throws {SysError} EINVAL flags, or in version 1 the range is misaligned or accesses use the area at its ends; ENODEV;
 * EBUSY; EOPNOTSUPP; ENOMEM. Nothing is unmapped then
 */
export function type1Unmap(
  { compatIoas }: IommufdContext,
  { flags, iova, size }: DmaUnmap,
): { unmapped: bigint; failure: SysError | null } {
  const call = 'VFIO_IOMMU_UNMAP_DMA';
  if ((flags & ~uapi.VFIO_DMA_UNMAP_FLAG_ALL) !== 0) throw new SysError('EINVAL', call, `flags ${hex(flags)}`);
  const ioas = compatIoas.get(call);
  const all = flags !== 0;
  if (all && (iova !== 0n || size !== 0n)) {
    throw new SysError('EINVAL', call, `all of ${hex(size)} bytes from ${hex(iova)}`);
  }
  if (!all && !ioas.table.hugePages) cutEnds(ioas, iova, size);
  let unmapped = 0n;
  try {
    const gone: Parameters<typeof ioas.table.unmapAll>[0] = (area) => {
      ioas.traceArea('ioas_unmap', area);
      unmapped += area.length;
    };
    if (all) ioas.table.unmapAll(gone);
    else ioas.table.unmap(iova, size, gone);
    return { unmapped, failure: null };
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    return { unmapped, failure: error };
  }
}

/** The end is where 64 bits have it, so that a range past the end is cut before it is refused. */
function cutEnds({ table }: Ioas, iova: bigint, size: bigint): void {
  const end = BigInt.asUintN(64, iova + size);
  if (end !== 0n) table.cutAt(end);
  if (iova !== 0n) table.cutAt(iova);
}
