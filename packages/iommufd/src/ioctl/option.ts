/** IOMMU_OPTION on bytes: a setting of the context or of an IOAS, asked for or changed. What it does is in options.ts. */

import { hex } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import { hugePagesOption, type OptionAccess, rlimitModeOption } from '../options.ts';
import * as uapi from '../uapi/iommufd.ts';
import { type Command, checkReserved, command, type IommufdCaller, type Outcome, type StructOf } from './command.ts';

const CALL = 'IOMMU_OPTION';

export const optionCommands: readonly Command[] = [command(uapi.IOMMU_OPTION, uapi.iommuOption, 'val64', option)];

function option({ context, process }: IommufdCaller, cmd: StructOf<typeof uapi.iommuOption>): Outcome {
  checkReserved(CALL, cmd.reserved);
  switch (cmd.optionId) {
    case uapi.IOMMU_OPTION_RLIMIT_MODE: {
      if (cmd.objectId !== 0) throw new SysError('EOPNOTSUPP', CALL, `the whole context has no object ${cmd.objectId}`);
      apply(cmd, rlimitModeOption(context, process));
      break;
    }
    case uapi.IOMMU_OPTION_HUGE_PAGES:
      apply(cmd, hugePagesOption(context, cmd.objectId));
      break;
    default:
      throw new SysError('EOPNOTSUPP', CALL, `option ${hex(cmd.optionId)}`);
  }
  return { answersFrom: uapi.iommuOption.offset('val64') };
}

function apply(cmd: StructOf<typeof uapi.iommuOption>, { get, set }: OptionAccess): void {
  if (cmd.op === uapi.IOMMU_OPTION_OP_GET) cmd.val64 = get();
  else if (cmd.op === uapi.IOMMU_OPTION_OP_SET) set(cmd.val64);
  else throw new SysError('EOPNOTSUPP', CALL, `operation ${cmd.op}`);
}
