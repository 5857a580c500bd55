/**
 * What Enable Device and Enable WQ check (Intel Data Streaming Accelerator Architecture Specification, order number
 * 341204, revision 1.0; the meaning of the error codes as accel-config prints it).
 */

import { fieldGet } from '../bits.ts';
import type { PciFunction } from '../pci/function.ts';
import { ACCESS_PRIVILEGED } from '../pci/transaction.ts';
import { groupEngines, groupQueues } from './group.ts';
import type { RegisterFile } from './register-file.ts';
import {
  DSA_REGISTER,
  DSA_COMMAND_ERROR as ERROR,
  GENCFG_READ_BUFFER_LIMIT,
  GRPCFG_FLAGS,
  GRPCFG_SIZE,
  GRPFLAGS_LO_BUFFERS_ALLOWED,
  GRPFLAGS_LO_BUFFERS_RESERVED,
} from './registers.ts';
import type { WorkQueue } from './work-queue.ts';

/** The error of enabling the device with the configuration of now. */
export function checkDevice(fn: PciFunction, registers: RegisterFile, queues: readonly WorkQueue[]): number {
  const { features } = registers;
  if (!fn.busMaster) return ERROR.busMaster;
  if (fn.pri?.enabled && fn.pri.available + fn.pri.outstanding === 0) return ERROR.pageRequestAllocation;
  let size = 0;
  for (const queue of queues) size += queue.size;
  if (size > features.totalSize) return ERROR.queueSizes;
  let queuesSeen = 0;
  let enginesSeen = 0;
  for (let group = 0; group < features.groups; group++) {
    const inGroup = groupQueues(registers, group);
    const engines = groupEngines(registers, group);
    if ((inGroup === 0) !== (engines === 0)) return ERROR.groupIncomplete;
    if ((inGroup & queuesSeen) !== 0) return ERROR.groupQueues;
    if ((engines & enginesSeen) !== 0) return ERROR.groupEngines;
    queuesSeen |= inGroup;
    enginesSeen |= engines;
  }
  for (const queue of queues) {
    if (queue.size !== 0 && (queuesSeen & (1 << queue.index)) === 0) return ERROR.groupQueues;
  }
  return checkReadBuffers(registers);
}

/** What the groups reserve fits together, and every group with engines may use some beside what others reserve. */
function checkReadBuffers(registers: RegisterFile): number {
  const { groups, readBuffers } = registers.features;
  const flags = (group: number) => registers.get(DSA_REGISTER.grpcfg + group * GRPCFG_SIZE + GRPCFG_FLAGS);
  let reserved = 0;
  for (let group = 0; group < groups; group++) reserved += fieldGet(GRPFLAGS_LO_BUFFERS_RESERVED, flags(group));
  if (reserved > readBuffers) return ERROR.groupReadBuffers;
  if (fieldGet(GENCFG_READ_BUFFER_LIMIT, registers.get(DSA_REGISTER.gencfg)) > readBuffers) return ERROR.configuration;
  for (let group = 0; group < groups; group++) {
    if (groupEngines(registers, group) === 0) continue;
    const own = fieldGet(GRPFLAGS_LO_BUFFERS_RESERVED, flags(group));
    const allowed = fieldGet(GRPFLAGS_LO_BUFFERS_ALLOWED, flags(group));
    if (allowed === 0 || allowed < own || allowed > readBuffers - (reserved - own)) return ERROR.groupReadBuffers;
  }
  return ERROR.none;
}

/** The error of enabling `queue` in an enabled device. */
export function checkQueue(fn: PciFunction, registers: RegisterFile, queue: WorkQueue): number {
  const { features } = registers;
  if (queue.enabled) return ERROR.queueNotDisabled;
  if (queue.size === 0) return ERROR.queueSize;
  if (queue.priority === 0) return ERROR.queuePriority;
  if (queue.blockOnFault && !features.blockOnFault) return ERROR.blockOnFault;
  if (queue.pasidEnabled ? !fn.pasid?.enabled : !queue.dedicated) return ERROR.pasidEnable;
  if (queue.maxBatchLg2 > features.maxBatchLg2) return ERROR.maxBatch;
  if (queue.maxTransferLg2 > features.maxTransferLg2) return ERROR.maxTransfer;
  const privileged = queue.dedicated && queue.pasidEnabled && queue.privileged;
  if (privileged && !fn.pasid?.allows(queue.pasid, ACCESS_PRIVILEGED)) return ERROR.privileged;
  return ERROR.none;
}
