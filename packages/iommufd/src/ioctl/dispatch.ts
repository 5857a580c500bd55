/**
 * ioctl(2) of /dev/iommu: the structure in the caller's memory is fetched, its command carried out, and the structure
 * stored back (Linux: iommufd_fops_ioctl, drivers/iommu/iommufd/main.c).
 */

import { hex } from '@iommukit/hw';
import { copyFromUser, copyToUser, isUserZero, SysError } from '@iommukit/iommu-core';
import { IOMMUFD_CMD_BASE } from '../uapi/request.ts';
import type { Command, IommufdCaller } from './command.ts';
import { dirtyCommands } from './dirty.ts';
import { hwptCommands } from './hwpt.ts';
import { ioasCommands } from './ioas.ts';
import { objectCommands } from './objects.ts';
import { optionCommands } from './option.ts';
import { type1Commands, type1Ioctl } from './type1.ts';
import { viommuCommands } from './viommu.ts';

/** The commands that an open file answers to. */
export class CommandTable {
  /** Numbers below IOMMUFD_CMD_BASE + slots are the table's, holes included; others are of the type1 interface. */
  readonly slots: number;
  private readonly byRequest: ReadonlyMap<number, Command>;

  constructor(commands: readonly Command[]) {
    this.byRequest = new Map(commands.map((command) => [command.request, command]));
    const last = Math.max(LAST_COMMAND, ...commands.map(({ request }) => request & 0xff));
    this.slots = last - IOMMUFD_CMD_BASE + 1;
  }

  find(request: number): Command | undefined {
    return this.byRequest.get(request >>> 0);
  }
}

/** Number of HW_QUEUE_ALLOC, the kernel's last production command. */
const LAST_COMMAND = 0x94;

export const productionCommands: readonly Command[] = [
  objectCommands,
  ioasCommands,
  hwptCommands,
  dirtyCommands,
  optionCommands,
  type1Commands,
  viommuCommands,
].flat();

/**
 * Carries out one ioctl. @returns the result, >= 0
 * @throws {SysError} EFAULT the structure cannot be read or answered; ENOTTY no such command; EINVAL it is too short;
 * E2BIG what lies behind the structure this kernel knows is not zero; and the command's own
 */
export function iommufdIoctl(commands: CommandTable, caller: IommufdCaller, request: number, argument: bigint): number {
  const { addressSpace } = caller.process;
  const slot = (request & 0xff) - IOMMUFD_CMD_BASE;
  if (slot < 0 || slot >= commands.slots) return type1Ioctl(caller, request, argument);
  const userSize = new DataView(copyFromUser(addressSpace, argument, 4).buffer).getUint32(0, true);
  const command = commands.find(request);
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
  const { answers = true, answersFrom = 0, failure = null, result = 0, undo } = command.run(caller, bytes);
  try {
    if (answers) copyToUser(addressSpace, argument + BigInt(answersFrom), bytes.subarray(answersFrom, known));
  } catch (error) {
    undo?.();
    throw error;
  }
  if (failure !== null) throw failure;
  return result;
}

function notty(request: number): SysError {
  return new SysError('ENOTTY', 'ioctl', `/dev/iommu has no request ${hex(request >>> 0)}`);
}
