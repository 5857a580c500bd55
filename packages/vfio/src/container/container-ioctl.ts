/**
 * The ioctls of /dev/vfio/vfio: structures in the caller's memory, decoded, carried out and answered (Linux:
 * drivers/vfio/container.c, vfio_iommu_type1.c). Memory that an answer needs is written once before anything is done.
 */

import { hex } from '@iommukit/hw';
import {
  type AddressSpace,
  copyStruct,
  type GpasidBindData,
  iommuGpasidBindData,
  type Process,
  SysError,
} from '@iommukit/iommu-core';
import { fetch, storeStruct } from '../argument.ts';
import { storeCapabilities } from '../info-capability.ts';
import * as uapi from '../uapi/container.ts';
import * as nesting from '../uapi/nesting.ts';
import type { VfioContainer } from './container.ts';
import { containerInfo, infoCapabilities } from './container-info.ts';
import type { ContainerIommu } from './container-iommu.ts';

/**
 * Carries out one ioctl. @returns 0, or what the request asks for
 * @throws {SysError} EINVAL no IOMMU is set, whatever is asked of it; EFAULT the structure cannot be read or answered;
 * EINVAL it is too short; ENOTTY no such command; and the command's own
 */
export function containerIoctl(container: VfioContainer, caller: Process, request: number, argument: bigint): number {
  switch (request >>> 0) {
    case uapi.VFIO_GET_API_VERSION:
      return uapi.VFIO_API_VERSION;
    case uapi.VFIO_CHECK_EXTENSION:
      return container.checkExtension(argument);
    case uapi.VFIO_SET_IOMMU:
      container.setIommu(argument);
      return 0;
    default:
      iommuIoctl(container, container.iommu, caller, request, argument);
      return 0;
  }
}

function iommuIoctl(
  container: VfioContainer,
  iommu: ContainerIommu,
  caller: Process,
  request: number,
  argument: bigint,
): void {
  const memory = caller.addressSpace;
  switch (request >>> 0) {
    case uapi.VFIO_IOMMU_GET_INFO:
      getInfo(container, memory, argument);
      break;
    case uapi.VFIO_IOMMU_MAP_DMA:
      iommu.map(caller, fetch('VFIO_IOMMU_MAP_DMA', memory, argument, uapi.vfioIommuType1DmaMap, 'size'));
      break;
    case uapi.VFIO_IOMMU_UNMAP_DMA:
      unmapDma(iommu, memory, argument);
      break;
    case nesting.VFIO_IOMMU_CACHE_INVALIDATE: {
      const info = payload('VFIO_IOMMU_CACHE_INVALIDATE', memory, argument);
      container.nesting('VFIO_IOMMU_CACHE_INVALIDATE').invalidateUser(caller, info);
      break;
    }
    case nesting.VFIO_IOMMU_BIND_GPASID: {
      const data = payload('VFIO_IOMMU_BIND_GPASID', memory, argument);
      container.nesting('VFIO_IOMMU_BIND_GPASID').bind(caller, copyBindData(memory, data));
      break;
    }
    case nesting.VFIO_IOMMU_UNBIND_GPASID: {
      const data = payload('VFIO_IOMMU_UNBIND_GPASID', memory, argument);
      container.nesting('VFIO_IOMMU_UNBIND_GPASID').unbindUser(caller, data);
      break;
    }
    default:
      throw new SysError('ENOTTY', 'ioctl', `a container has no request ${hex(request >>> 0)}`);
  }
}

function getInfo(container: VfioContainer, memory: AddressSpace, argument: bigint): void {
  const layout = uapi.vfioIommuType1Info;
  const { argsz } = fetch('VFIO_IOMMU_GET_INFO', memory, argument, layout, 'iovaPgsizes');
  const info = containerInfo(container);
  const capabilities = infoCapabilities(info);
  const { needed, capOffset } = storeCapabilities(memory, argument, layout.size, argsz, capabilities);
  const flags = uapi.VFIO_IOMMU_INFO_PGSIZES | uapi.VFIO_IOMMU_INFO_CAPS;
  const values = { argsz: Math.max(argsz, needed), flags, iovaPgsizes: info.pageSizes, capOffset, pad: 0 };
  storeStruct(memory, argument, layout, values, Math.min(argsz, layout.size));
}

function unmapDma(iommu: ContainerIommu, memory: AddressSpace, argument: bigint): void {
  const call = 'VFIO_IOMMU_UNMAP_DMA';
  const layout = uapi.vfioIommuType1DmaUnmap;
  const values = fetch(call, memory, argument, layout, 'size');
  const { flags, iova, size } = values;
  const all = flags === uapi.VFIO_DMA_UNMAP_FLAG_ALL;
  if ((flags & ~uapi.VFIO_DMA_UNMAP_FLAG_ALL) !== 0 || (all && (iova !== 0n || size !== 0n))) {
    throw new SysError('EINVAL', call, `flags ${hex(flags)} for ${hex(size)} bytes from ${hex(iova)}`);
  }
  storeStruct(memory, argument, layout, values);
  const unmapped = all ? iommu.unmapAll() : iommu.unmap(iova, size);
  storeStruct(memory, argument, layout, { ...values, size: unmapped });
}

/** Where the structure behind argsz and flags lies. @throws {SysError} EFAULT; EINVAL flags, or no room for it */
function payload(call: string, memory: AddressSpace, argument: bigint): bigint {
  const head = nesting.vfioIommuNestingHead;
  const { argsz, flags } = fetch(call, memory, argument, head, 'flags');
  if (flags === 0 && argsz > head.size) return argument + BigInt(head.size);
  throw new SysError('EINVAL', call, `flags ${hex(flags)}, argsz ${argsz}`);
}

/** The vendor's part comes last, and is checked by who knows the format. @throws {SysError} EFAULT, EINVAL */
function copyBindData(memory: AddressSpace, pointer: bigint): GpasidBindData {
  const layout = iommuGpasidBindData;
  return copyStruct('VFIO_IOMMU_BIND_GPASID', memory, pointer, layout, layout.offset('vtdFlags'));
}
