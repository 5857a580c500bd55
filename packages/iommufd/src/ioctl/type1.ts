/** The type1 interface of /dev/iommu, and which IOAS it works on, on bytes. What it does is in type1/. */

import { hex } from '@iommukit/hw';
import { copyStruct, copyToUser, SysError } from '@iommukit/iommu-core';
import { Ioas } from '../ioas/ioas.ts';
import { type1CheckExtension, type1Map, type1SetIommu, type1Unmap } from '../type1/type1.ts';
import {
  IOMMU_VFIO_IOAS,
  IOMMU_VFIO_IOAS_CLEAR,
  IOMMU_VFIO_IOAS_GET,
  IOMMU_VFIO_IOAS_SET,
  iommuVfioIoas,
} from '../uapi/iommufd.ts';
import * as uapi from '../uapi/type1.ts';
import { type Command, checkReserved, command, type IommufdCaller, type Outcome, type StructOf } from './command.ts';
import { type1GetInfo } from './type1-info.ts';

export const type1Commands: readonly Command[] = [command(IOMMU_VFIO_IOAS, iommuVfioIoas, 'reserved', vfioIoas)];

function vfioIoas({ context }: IommufdCaller, cmd: StructOf<typeof iommuVfioIoas>): Outcome {
  const call = 'IOMMU_VFIO_IOAS';
  checkReserved(call, cmd.reserved);
  switch (cmd.op) {
    case IOMMU_VFIO_IOAS_GET:
      cmd.ioasId = context.compatIoas.get(call).id;
      return {};
    case IOMMU_VFIO_IOAS_SET:
      context.compatIoas.set(context.objects.get(cmd.ioasId, Ioas));
      return { answers: false };
    case IOMMU_VFIO_IOAS_CLEAR:
      context.compatIoas.set(null);
      return { answers: false };
    default:
      throw new SysError('EOPNOTSUPP', call, `operation ${cmd.op}`);
  }
}

/**
 * Carries out a request whose number is none of /dev/iommu's own. @returns the result, >= 0
 * @throws {SysError} ENOTTY no such request; EFAULT its structure cannot be read or answered; EINVAL it is too short;
 * ENODEV no IOAS is set; and the request's own
 */
export function type1Ioctl({ context, process }: IommufdCaller, request: number, argument: bigint): number {
  const memory = process.addressSpace;
  switch (request >>> 0) {
    case uapi.VFIO_GET_API_VERSION:
      return uapi.VFIO_API_VERSION;
    case uapi.VFIO_CHECK_EXTENSION:
      return type1CheckExtension(context, argument);
    case uapi.VFIO_SET_IOMMU:
      type1SetIommu(context, argument);
      return 0;
    case uapi.VFIO_IOMMU_GET_INFO:
      type1GetInfo(context, memory, argument);
      return 0;
    case uapi.VFIO_IOMMU_MAP_DMA: {
      const layout = uapi.vfioIommuType1DmaMap;
      type1Map(context, process, copyStruct('VFIO_IOMMU_MAP_DMA', memory, argument, layout, layout.size));
      return 0;
    }
    case uapi.VFIO_IOMMU_UNMAP_DMA: {
      const layout = uapi.vfioIommuType1DmaUnmap;
      const cmd = copyStruct('VFIO_IOMMU_UNMAP_DMA', memory, argument, layout, layout.size);
      const { unmapped, failure } = type1Unmap(context, cmd);
      const bytes = new Uint8Array(layout.size);
      layout.write({ ...cmd, size: BigInt.asUintN(64, unmapped) }, bytes);
      copyToUser(memory, argument, bytes);
      if (failure !== null) throw failure;
      return 0;
    }
    default:
      throw new SysError('ENOTTY', 'ioctl', `/dev/iommu has no request ${hex(request >>> 0)}`);
  }
}
