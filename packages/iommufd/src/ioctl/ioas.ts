/** The commands on I/O address spaces, on bytes. What they do is in ioas/. */

import { copyToUser, SysError } from '@iommukit/iommu-core';
import { ioasAlloc, ioasCopy, ioasIovaRanges, ioasMap, ioasUnmap } from '../ioas/ioas.ts';
import * as uapi from '../uapi/iommufd.ts';
import {
  type Command,
  checkReserved,
  command,
  type IommufdCaller,
  type Outcome,
  type StructOf,
  wrap,
} from './command.ts';

export const ioasCommands: readonly Command[] = [
  command(uapi.IOMMU_IOAS_ALLOC, uapi.iommuIoasAlloc, 'outIoasId', ({ context }, cmd) => {
    const { id } = ioasAlloc(context, cmd.flags);
    cmd.outIoasId = id;
    return { undo: () => context.objects.destroy(id) };
  }),
  command(uapi.IOMMU_IOAS_IOVA_RANGES, uapi.iommuIoasIovaRanges, 'outIovaAlignment', iovaRanges),
  command(uapi.IOMMU_IOAS_MAP, uapi.iommuIoasMap, 'iova', ({ context, process }, cmd) => {
    checkReserved('IOMMU_IOAS_MAP', cmd.reserved);
    cmd.iova = ioasMap(context, process, cmd);
    return undefined;
  }),
  command(uapi.IOMMU_IOAS_COPY, uapi.iommuIoasCopy, 'srcIova', ({ context }, cmd) => {
    cmd.dstIova = ioasCopy(context, cmd);
    return undefined;
  }),
  command(uapi.IOMMU_IOAS_UNMAP, uapi.iommuIoasUnmap, 'length', ({ context }, cmd) => {
    cmd.length = ioasUnmap(context, cmd.ioasId, cmd.iova, cmd.length);
    return undefined;
  }),
];

function iovaRanges({ context, process }: IommufdCaller, cmd: StructOf<typeof uapi.iommuIoasIovaRanges>): Outcome {
  checkReserved('IOMMU_IOAS_IOVA_RANGES', cmd.reserved);
  const { ranges, alignment } = ioasIovaRanges(context, cmd.ioasId);
  const room = cmd.numIovas;
  const { size } = uapi.iommuIovaRange;
  ranges.slice(0, room).forEach((range, index) => {
    const bytes = new Uint8Array(size);
    uapi.iommuIovaRange.write(range, bytes);
    copyToUser(process.addressSpace, wrap(cmd.allowedIovas + BigInt(index * size)), bytes);
  });
  cmd.numIovas = ranges.length;
  cmd.outIovaAlignment = BigInt(alignment);
  if (ranges.length <= room) return {};
  return { failure: new SysError('EMSGSIZE', 'IOMMU_IOAS_IOVA_RANGES', `${ranges.length} ranges, room for ${room}`) };
}
