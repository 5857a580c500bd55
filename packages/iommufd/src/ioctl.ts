/**
 * The ioctls of /dev/iommu: structures in the caller's memory, decoded, carried out and answered (Linux:
 * iommufd_fops_ioctl, drivers/iommu/iommufd/main.c). What the commands do is in the modules they call.
 */

import { hex } from '@iommukit/hw';
import {
  clearUser,
  copyFromUser,
  copyToUser,
  type Fields,
  isUserZero,
  type Struct,
  type StructValues,
  SysError,
} from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import { openFaultQueue } from './fault-queue.ts';
import type { Caller } from './files/file.ts';
import { getHwInfo, hwptAlloc, hwptInvalidate } from './hwpt-commands.ts';
import { ioasAlloc, ioasCopy, ioasIovaRanges, ioasMap, ioasUnmap } from './ioas/ioas.ts';
import * as uapi from './uapi/iommufd.ts';

/** Who calls, and what on. */
export type IommufdCaller = Caller & { readonly context: IommufdContext };

/** How a command ends that does not throw. */
type Outcome = {
  /** The structure is stored back, unless this is false. */
  answers?: boolean;
  /** The call fails, though it answers. */
  failure?: SysError | null;
  /** Takes back what was made when the answer cannot be stored. */
  undo?: () => void;
};

type Command = {
  readonly request: number;
  readonly size: number;
  readonly min: number;
  /** Carries the command out on its structure in `bytes`, and answers there. */
  run(caller: IommufdCaller, bytes: Uint8Array): Outcome;
};

/** Longer than any driver's structure; of what is longer still no more is fetched. */
const USER_DATA_MAX = 4096;

/**
 * Carries out one ioctl. @returns 0
 * @throws {SysError} EFAULT the structure cannot be read or answered; ENOTTY no such command; EINVAL it is too short;
 * E2BIG what lies behind the structure this kernel knows is not zero; and the command's own
 */
export function iommufdIoctl(caller: IommufdCaller, request: number, argument: bigint): number {
  const { addressSpace } = caller.process;
  const slot = (request & 0xff) - uapi.IOMMUFD_CMD_BASE;
  if (slot < 0 || slot >= SLOTS) throw notty(request);
  const userSize = new DataView(copyFromUser(addressSpace, argument, 4).buffer).getUint32(0, true);
  const command = COMMANDS.find((candidate) => candidate.request === request >>> 0);
  if (command === undefined) throw notty(request);
  if (userSize < command.min) {
    throw new SysError('EINVAL', 'ioctl', `${hex(request)} with size ${userSize}, which is below ${command.min}`);
  }
  const known = Math.min(userSize, command.size);
  if (!isUserZero(addressSpace, argument + BigInt(known), userSize - known)) {
    throw new SysError('E2BIG', 'ioctl', `${hex(request)} with bytes ${known}..${userSize - 1} not all zero`);
  }
  const bytes = new Uint8Array(command.size);
  bytes.set(copyFromUser(addressSpace, argument, known));
  const { answers = true, failure = null, undo } = command.run(caller, bytes);
  try {
    if (answers) copyToUser(addressSpace, argument, bytes.subarray(0, known));
  } catch (error) {
    undo?.();
    throw error;
  }
  if (failure !== null) throw failure;
  return 0;
}

function command<F extends Fields>(
  request: number,
  layout: Struct<F>,
  last: keyof F,
  run: (caller: IommufdCaller, cmd: StructValues<F>) => Outcome | undefined,
): Command {
  return {
    request,
    size: layout.size,
    min: layout.end(last),
    run(caller, bytes) {
      const cmd = layout.read(bytes);
      const outcome = run(caller, cmd) ?? {};
      layout.write(cmd, bytes);
      return outcome;
    },
  };
}

const COMMANDS: readonly Command[] = [
  command(uapi.IOMMU_DESTROY, uapi.iommuDestroy, 'id', ({ context }, cmd) => {
    context.objects.destroy(cmd.id);
    return { answers: false };
  }),
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
  command(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, 'reserved', allocHwpt),
  command(uapi.IOMMU_GET_HW_INFO, uapi.iommuHwInfo, 'reserved2', hwInfo),
  command(uapi.IOMMU_HWPT_INVALIDATE, uapi.iommuHwptInvalidate, 'reserved', invalidate),
  command(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommuFaultAlloc, 'outFaultFd', allocFaultQueue),
];

/** Slots of the kernel's table of commands: its last production command is HW_QUEUE_ALLOC. */
const SLOTS = 0x94 - uapi.IOMMUFD_CMD_BASE + 1;

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

function allocHwpt({ context, process }: IommufdCaller, cmd: StructOf<typeof uapi.iommuHwptAlloc>): Outcome {
  checkReserved('IOMMU_HWPT_ALLOC', cmd.reserved | cmd.reserved2);
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
  const { handled, failure } = hwptInvalidate(context, {
    hwptId: cmd.hwptId,
    dataType: cmd.dataType,
    entryLength: entryLen,
    entryCount: entryNum,
    entries: (first, count) =>
      copyFromUser(process.addressSpace, wrap(dataUptr + BigInt(first * entryLen)), count * entryLen),
  });
  cmd.entryNum = handled;
  return { failure };
}

function allocFaultQueue(caller: IommufdCaller, cmd: StructOf<typeof uapi.iommuFaultAlloc>): Outcome {
  const { context, descriptors } = caller;
  const { id, fd } = openFaultQueue(context, descriptors, cmd.flags);
  cmd.outFaultId = id;
  cmd.outFaultFd = fd;
  return {
    undo: () => {
      descriptors.close(fd);
      context.objects.destroy(id);
    },
  };
}

type StructOf<S> = S extends Struct<infer F> ? StructValues<F> : never;

function checkReserved(call: string, reserved: number): void {
  if (reserved !== 0) throw reservedError(call, reserved);
}

function reservedError(call: string, reserved: number): SysError {
  return new SysError('EOPNOTSUPP', call, `reserved field holds ${hex(reserved >>> 0)}`);
}

function notty(request: number): SysError {
  return new SysError('ENOTTY', 'ioctl', `/dev/iommu has no request ${hex(request >>> 0)}`);
}

/** A sum of user values as the 64-bit register holds it. */
function wrap(address: bigint): bigint {
  return BigInt.asUintN(64, address);
}
