/** The commands on objects of any type, and on event queues, on bytes. */

import { closeEventFile } from '../event-file.ts';
import { openFaultQueue } from '../fault-queue.ts';
import * as uapi from '../uapi/iommufd.ts';
import { type Command, command, type IommufdCaller, type Outcome, type StructOf } from './command.ts';

export const objectCommands: readonly Command[] = [
  command(uapi.IOMMU_DESTROY, uapi.iommuDestroy, 'id', ({ context }, cmd) => {
    context.objects.destroy(cmd.id);
    return { answers: false };
  }),
  command(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommuFaultAlloc, 'outFaultFd', allocFaultQueue),
];

function allocFaultQueue(caller: IommufdCaller, cmd: StructOf<typeof uapi.iommuFaultAlloc>): Outcome {
  const { context, descriptors } = caller;
  const { id, fd } = openFaultQueue(context, descriptors, cmd.flags);
  cmd.outFaultId = id;
  cmd.outFaultFd = fd;
  return { undo: () => closeEventFile(context, descriptors, id, fd) };
}
