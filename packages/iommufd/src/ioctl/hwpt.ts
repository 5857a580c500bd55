/** The commands on hardware page tables and devices, on bytes. What they do is in hwpt-commands.ts. */

import { clearUser, copyFromUser, copyToUser, SysError } from '@iommukit/iommu-core';
import { getHwInfo, hwptAlloc, hwptInvalidate } from '../hwpt-commands.ts';
import * as uapi from '../uapi/iommufd.ts';
import {
  type Command,
  checkReserved,
  command,
  type IommufdCaller,
  type Outcome,
  reservedError,
  type StructOf,
  USER_DATA_MAX,
  wrap,
} from './command.ts';

export const hwptCommands: readonly Command[] = [
  command(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, 'reserved', allocHwpt),
  command(uapi.IOMMU_GET_HW_INFO, uapi.iommuHwInfo, 'reserved2', hwInfo),
  command(uapi.IOMMU_HWPT_INVALIDATE, uapi.iommuHwptInvalidate, 'reserved', invalidate),
];

function allocHwpt({ context, process }: IommufdCaller, cmd: StructOf<typeof uapi.iommuHwptAlloc>): Outcome {
  checkReserved('IOMMU_HWPT_ALLOC', cmd.reserved);
  const hwpt = hwptAlloc(context, {
    flags: cmd.flags,
    deviceId: cmd.devId,
    ptId: cmd.ptId,
    data: {
      type: cmd.dataType,
      length: cmd.dataLen,
      read: () => copyFromUser(process.addressSpace, cmd.dataUptr, Math.min(cmd.dataLen, USER_DATA_MAX)),
    },
    faultId: cmd.faultId,
  });
  cmd.outHwptId = hwpt.id;
  return { undo: () => context.objects.destroy(hwpt.id) };
}

function hwInfo({ context, process }: IommufdCaller, cmd: StructOf<typeof uapi.iommuHwInfo>): Outcome {
  checkReserved('IOMMU_GET_HW_INFO', cmd.reserved0 | cmd.reserved1 | cmd.reserved2);
  const info = getHwInfo(context, cmd.devId, cmd.flags, cmd.outDataType);
  const copied = info.data.subarray(0, cmd.dataLen);
  copyToUser(process.addressSpace, cmd.dataUptr, copied);
  clearUser(process.addressSpace, wrap(cmd.dataUptr + BigInt(copied.length)), cmd.dataLen - copied.length);
  cmd.dataLen = info.data.length;
  cmd.outDataType = info.type;
  cmd.outMaxPasidLog2 = info.maxPasidLog2;
  cmd.outCapabilities = BigInt(info.capabilities);
  return {};
}

function invalidate({ context, process }: IommufdCaller, cmd: StructOf<typeof uapi.iommuHwptInvalidate>): Outcome {
  const { entryLen, entryNum, dataUptr } = cmd;
  cmd.entryNum = 0;
  if (cmd.reserved !== 0) return { failure: reservedError('IOMMU_HWPT_INVALIDATE', cmd.reserved) };
  if (entryNum > 0 && dataUptr === 0n) {
    return { failure: new SysError('EINVAL', 'IOMMU_HWPT_INVALIDATE', `${entryNum} entries at address 0`) };
  }
  const { handled, failure } = hwptInvalidate(context, cmd.hwptId, {
    type: cmd.dataType,
    entryLength: entryLen,
    count: entryNum,
    read: (first, count) =>
      copyFromUser(process.addressSpace, wrap(dataUptr + BigInt(first * entryLen)), count * entryLen),
  });
  cmd.entryNum = handled;
  return { failure };
}
