/** The commands on I/O address spaces, on bytes. What they do is in ioas/. */

import { copyFromUser, copyToUser, SysError } from '@iommukit/iommu-core';
import { AllowedRanges } from '../ioas/allowed-ranges.ts';
import { ioasChangeProcess } from '../ioas/change-process.ts';
import { Ioas } from '../ioas/ioas.ts';
import { ioasAlloc, ioasCopy, ioasIovaRanges, ioasMap, ioasMapFile, ioasUnmap } from '../ioas/ioas-commands.ts';
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
  command(uapi.IOMMU_IOAS_ALLOW_IOVAS, uapi.iommuIoasAllowIovas, 'allowedIovas', allowIovas),
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
  command(uapi.IOMMU_IOAS_MAP_FILE, uapi.iommuIoasMapFile, 'iova', ({ context, process, descriptors }, cmd) => {
    cmd.iova = ioasMapFile(context, process, { ...cmd, file: () => descriptors.get(cmd.fd) });
    return undefined;
  }),
  command(uapi.IOMMU_IOAS_CHANGE_PROCESS, uapi.iommuIoasChangeProcess, 'reserved', ({ context, process }, cmd) => {
    checkReserved('IOMMU_IOAS_CHANGE_PROCESS', cmd.reserved);
    ioasChangeProcess(context, process);
    return { answers: false };
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

/** Maps at fixed addresses are not restricted. A bad range is refused before those behind it are read. */
function allowIovas({ context, process }: IommufdCaller, cmd: StructOf<typeof uapi.iommuIoasAllowIovas>): Outcome {
  checkReserved('IOMMU_IOAS_ALLOW_IOVAS', cmd.reserved);
  const { table } = context.objects.get(cmd.ioasId, Ioas);
  const { size, read } = uapi.iommuIovaRange;
  const ranges = new AllowedRanges(context.kernel);
  for (let index = 0; index < cmd.numIovas; index++) {
    ranges.add(read(copyFromUser(process.addressSpace, wrap(cmd.allowedIovas + BigInt(index * size)), size)));
  }
  table.space.allow(ranges.joined());
  return { answers: false };
}
