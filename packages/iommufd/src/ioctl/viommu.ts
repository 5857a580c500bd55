/** The commands on virtual IOMMUs and what is in them, on bytes. What they do is in the modules of the objects. */

import { copyFromUser, copyToUser, type UserReply } from '@iommukit/iommu-core';
import { closeEventFile } from '../event-file.ts';
import { veventqAlloc } from '../event-queue.ts';
import { hwQueueAlloc } from '../hw-queue.ts';
import * as uapi from '../uapi/viommu.ts';
import { vdeviceAlloc } from '../vdevice.ts';
import { viommuAlloc } from '../viommu.ts';
import {
  type Command,
  checkReserved,
  command,
  type IommufdCaller,
  type Outcome,
  type StructOf,
  USER_DATA_MAX,
} from './command.ts';

export const viommuCommands: readonly Command[] = [
  command(uapi.IOMMU_VIOMMU_ALLOC, uapi.iommuViommuAlloc, 'outViommuId', allocViommu),
  command(uapi.IOMMU_VDEVICE_ALLOC, uapi.iommuVdeviceAlloc, 'virtId', ({ context }, cmd) => {
    const { id } = vdeviceAlloc(context, { viommuId: cmd.viommuId, deviceId: cmd.devId, virtId: cmd.virtId });
    cmd.outVdeviceId = id;
    return { undo: () => context.objects.destroy(id) };
  }),
  command(uapi.IOMMU_VEVENTQ_ALLOC, uapi.iommuVeventqAlloc, 'outVeventqFd', allocVeventq),
  command(uapi.IOMMU_HW_QUEUE_ALLOC, uapi.iommuHwQueueAlloc, 'length', ({ context }, cmd) => {
    const { id } = hwQueueAlloc(context, { ...cmd, iova: cmd.nestingParentIova });
    cmd.outHwQueueId = id;
    return { undo: () => context.objects.destroy(id) };
  }),
];

function allocViommu({ context, process }: IommufdCaller, cmd: StructOf<typeof uapi.iommuViommuAlloc>): Outcome {
  const { flags, type, dataLen, dataUptr } = cmd;
  const { addressSpace } = process;
  const data: UserReply = {
    type,
    length: dataLen,
    read: () => copyFromUser(addressSpace, dataUptr, Math.min(dataLen, USER_DATA_MAX)),
    write: (bytes) => copyToUser(addressSpace, dataUptr, bytes.subarray(0, dataLen)),
  };
  const { id } = viommuAlloc(context, {
    flags,
    type,
    deviceId: cmd.devId,
    hwptId: cmd.hwptId,
    data: dataLen === 0 ? null : data,
  });
  cmd.outViommuId = id;
  return { undo: () => context.objects.destroy(id) };
}

function allocVeventq(caller: IommufdCaller, cmd: StructOf<typeof uapi.iommuVeventqAlloc>): Outcome {
  checkReserved('IOMMU_VEVENTQ_ALLOC', cmd.reserved);
  const { context, descriptors } = caller;
  const { flags, viommuId, type, veventqDepth: depth } = cmd;
  const { id, fd } = veventqAlloc(context, descriptors, { flags, viommuId, type, depth });
  cmd.outVeventqId = id;
  cmd.outVeventqFd = fd;
  return { undo: () => closeEventFile(context, descriptors, id, fd) };
}
