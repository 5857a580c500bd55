/** Whole ioctls on structures in the program's memory, as an unmodified program makes them. */

import { PAGE_SIZE } from '@iommukit/hw';
import {
  type Fields,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  IOMMU_IOAS_UNMAP,
  iommuIoasIovaRanges,
  iommuIoasMap,
  iommuIoasUnmap,
  type Struct,
  type StructValues,
} from '@iommukit/iommufd';
import { measure, type Sample } from '../measure.ts';
import { IOVA, PAGE, program } from './host.ts';

const CALLS = 8192;
const FLAGS = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;

/** `va` is memory of at least a page. The table is attached to the function, so that unmapping flushes. */
export function measureSystemCalls(va: bigint): Sample[] {
  const { system, client, process, device } = program;
  const { fd } = client;
  const { id: ioasId } = program.ioas(1);
  program.inKernel(() => device.attach(ioasId));
  const arguments_ = system.mmap({ length: PAGE_SIZE });
  const ranges = arguments_ + 1024n;
  let next = arguments_;
  const put = <F extends Fields>(layout: Struct<F>, values: StructValues<F>): bigint => {
    const bytes = new Uint8Array(layout.size);
    layout.write(values, bytes);
    const at = next;
    process.addressSpace.write(at, bytes);
    next += 64n;
    return at;
  };
  const query = put(iommuIoasIovaRanges, {
    size: iommuIoasIovaRanges.size,
    ioasId,
    numIovas: 8,
    reserved: 0,
    allowedIovas: ranges,
    outIovaAlignment: 0n,
  });
  const map = put(iommuIoasMap, {
    size: iommuIoasMap.size,
    flags: FLAGS,
    ioasId,
    reserved: 0,
    userVa: va,
    length: PAGE,
    iova: IOVA,
  });
  const unmap = put(iommuIoasUnmap, { size: iommuIoasUnmap.size, ioasId, iova: IOVA, length: PAGE });
  return [
    measure('ioctl-query', CALLS, () => {
      let served = 0;
      for (let i = 0; i < CALLS; i++) if (system.ioctl(fd, IOMMU_IOAS_IOVA_RANGES, query) === 0) served++;
      return served;
    }),
    measure('ioctl-map', CALLS, () => {
      let served = 0;
      for (let i = 0; i < CALLS; i++) {
        const mapped = system.ioctl(fd, IOMMU_IOAS_MAP, map);
        if (system.ioctl(fd, IOMMU_IOAS_UNMAP, unmap) === 0 && mapped === 0) served++;
      }
      return served;
    }),
  ];
}
