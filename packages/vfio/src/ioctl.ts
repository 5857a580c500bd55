/**
 * The ioctls of a device file: structures in the caller's memory, decoded, carried out and answered (Linux:
 * vfio_device_fops_unl_ioctl, drivers/vfio/vfio_main.c). Memory that an answer needs is written once before anything is
 * done, so that a call that is refused has done nothing.
 */

import { hex } from '@iommukit/hw';
import { type AddressSpace, SysError } from '@iommukit/iommu-core';
import {
  type Caller,
  copyFromUser,
  copyToUser,
  EventFd,
  type Fields,
  iommufdContextOf,
  isUserZero,
  type Struct,
  type StructValues,
} from '@iommukit/iommufd';
import { fetch, storeStruct, storeU32 } from './argument.ts';
import { ContainerDma } from './container/container-dma.ts';
import type { VfioDeviceFile } from './device-file.ts';
import type { IrqData, RegionInfo } from './device-user.ts';
import { type InfoCapability, storeCapabilities } from './info-capability.ts';
import { vfioIoasidIoctl } from './ioasid/ioctl.ts';
import { checkIrqRange } from './irq-range.ts';
import { VFIO_DEVICE_PAGE_RESPONSE } from './uapi/nesting.ts';
import * as uapi from './uapi/vfio.ts';
import { VF_TOKEN_BYTES } from './vf-token.ts';

/**
 * Carries out one ioctl. @returns 0
 * @throws {SysError} EINVAL the file is not bound, or the structure is too short; EFAULT it cannot be read or answered;
 * ENOTTY no such command; and the command's own
 */
export function vfioDeviceIoctl(file: VfioDeviceFile, caller: Caller, request: number, argument: bigint): number {
  const memory = caller.process.addressSpace;
  if (request >>> 0 === uapi.VFIO_DEVICE_BIND_IOMMUFD) {
    bind(file, caller, argument);
    return 0;
  }
  if (vfioIoasidIoctl(file, caller, request, argument)) return 0;
  const { user } = file;
  switch (request >>> 0) {
    case uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT:
      file.checkOwn('VFIO_DEVICE_ATTACH_IOMMUFD_PT');
      attach(file, memory, argument);
      return 0;
    case uapi.VFIO_DEVICE_DETACH_IOMMUFD_PT:
      file.checkOwn('VFIO_DEVICE_DETACH_IOMMUFD_PT');
      detach(file, memory, argument);
      return 0;
    case uapi.VFIO_DEVICE_GET_INFO:
      getInfo(file, memory, argument);
      return 0;
    case uapi.VFIO_DEVICE_GET_REGION_INFO:
      getRegionInfo(file, memory, argument);
      return 0;
    case uapi.VFIO_DEVICE_GET_IRQ_INFO:
      getIrqInfo(file, memory, argument);
      return 0;
    case uapi.VFIO_DEVICE_SET_IRQS:
      setIrqs(file, caller, argument);
      return 0;
    case uapi.VFIO_DEVICE_RESET:
      user.reset();
      return 0;
    case VFIO_DEVICE_PAGE_RESPONSE:
      file.dma('VFIO_DEVICE_PAGE_RESPONSE', ContainerDma).pageResponseUser(memory, argument);
      return 0;
    default:
      throw new SysError('ENOTTY', 'ioctl', `${file.name} has no request ${hex(request >>> 0)}`);
  }
}

function bind(file: VfioDeviceFile, caller: Caller, argument: bigint): void {
  const call = 'VFIO_DEVICE_BIND_IOMMUFD';
  const { addressSpace } = caller.process;
  const layout = uapi.vfioDeviceBind;
  const argsz = new DataView(copyFromUser(addressSpace, argument, 4).buffer).getUint32(0, true);
  if (argsz < layout.end('outDevid')) throw new SysError('EINVAL', call, `argsz ${argsz}`);
  const known = Math.min(argsz, layout.size);
  if (!isUserZero(addressSpace, argument + BigInt(known), argsz - known)) {
    throw new SysError('E2BIG', call, `bytes ${layout.size}..${argsz - 1} are not zero`);
  }
  const bytes = new Uint8Array(layout.size);
  bytes.set(copyFromUser(addressSpace, argument, known));
  const values = layout.read(bytes);
  if (values.iommufd < 0 || (values.flags & ~uapi.VFIO_DEVICE_BIND_FLAG_TOKEN) !== 0) {
    throw new SysError('EINVAL', call, `iommufd ${values.iommufd}, flags ${hex(values.flags)}`);
  }
  const outDevid = argument + BigInt(layout.offset('outDevid'));
  storeU32(addressSpace, outDevid, values.outDevid);
  const hasToken = (values.flags & uapi.VFIO_DEVICE_BIND_FLAG_TOKEN) !== 0;
  const id = file.bind({
    context: () => iommufdContextOf(caller.descriptors.get(values.iommufd)),
    token: () => (hasToken ? copyFromUser(addressSpace, values.tokenUuidPtr, VF_TOKEN_BYTES) : null),
  });
  storeU32(addressSpace, outDevid, id);
}

function attach(file: VfioDeviceFile, memory: AddressSpace, argument: bigint): void {
  const call = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';
  const layout = uapi.vfioDeviceAttach;
  const values = fetch(call, memory, argument, layout, 'ptId');
  const pasid = pasidOf(call, memory, argument, layout, values, uapi.VFIO_DEVICE_ATTACH_PASID);
  const ptId = argument + BigInt(layout.offset('ptId'));
  storeU32(memory, ptId, values.ptId);
  storeU32(memory, ptId, file.attach(values.ptId, pasid));
}

function detach(file: VfioDeviceFile, memory: AddressSpace, argument: bigint): void {
  const call = 'VFIO_DEVICE_DETACH_IOMMUFD_PT';
  const layout = uapi.vfioDeviceDetach;
  const values = fetch(call, memory, argument, layout, 'flags');
  file.detach(pasidOf(call, memory, argument, layout, values, uapi.VFIO_DEVICE_DETACH_PASID));
}

/** The PASID that a structure names, or null when its flags say that it names none. */
function pasidOf<F extends Fields & { flags: 'u32'; pasid: 'u32' }>(
  call: string,
  memory: AddressSpace,
  argument: bigint,
  layout: Struct<F>,
  values: StructValues<F>,
  flag: number,
): number | null {
  const flags = values.flags as number;
  if ((flags & ~flag) !== 0) throw new SysError('EINVAL', call, `flags ${hex(flags)}`);
  if ((flags & flag) === 0) return null;
  return fetch(call, memory, argument, layout, 'pasid').pasid as number;
}

function getInfo(file: VfioDeviceFile, memory: AddressSpace, argument: bigint): void {
  const layout = uapi.vfioDeviceInfo;
  const { argsz } = fetch('VFIO_DEVICE_GET_INFO', memory, argument, layout, 'numIrqs');
  const { flags, regions, irqs } = file.user.info;
  const bytes = new Uint8Array(layout.size);
  layout.write({ argsz, flags, numRegions: regions, numIrqs: irqs, capOffset: 0, pad: 0 }, bytes);
  copyToUser(memory, argument, bytes.subarray(0, Math.min(argsz, layout.size)));
}

function getRegionInfo(file: VfioDeviceFile, memory: AddressSpace, argument: bigint): void {
  const layout = uapi.vfioRegionInfo;
  const values = fetch('VFIO_DEVICE_GET_REGION_INFO', memory, argument, layout, 'offset');
  const info = file.user.regionInfo(values.index);
  values.flags = info.flags;
  values.size = info.size;
  values.offset = info.offset;
  const capabilities = regionCapabilities(info);
  if (capabilities.length > 0) {
    const { needed, capOffset } = storeCapabilities(memory, argument, layout.size, values.argsz, capabilities);
    values.flags |= uapi.VFIO_REGION_INFO_FLAG_CAPS;
    values.argsz = Math.max(values.argsz, needed);
    values.capOffset = capOffset;
  }
  storeStruct(memory, argument, layout, values);
}

function regionCapabilities({ msixMappable, sparse, capabilities = [] }: RegionInfo): InfoCapability[] {
  const own: InfoCapability[] = [];
  if (msixMappable) own.push({ id: uapi.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, version: 1, data: new Uint8Array() });
  if (sparse !== null) own.push({ id: uapi.VFIO_REGION_INFO_CAP_SPARSE_MMAP, version: 1, data: sparseMmap(sparse) });
  return [...own, ...capabilities];
}

/** A sparse-mmap capability, from behind its header. */
function sparseMmap(ranges: NonNullable<RegionInfo['sparse']>): Uint8Array {
  const head = uapi.vfioRegionSparseMmap;
  const area = uapi.vfioRegionSparseMmapArea;
  const bytes = new Uint8Array(head.size + ranges.length * area.size);
  head.write({ id: 0, version: 0, next: 0, nrAreas: ranges.length, reserved: 0 }, bytes);
  ranges.forEach((range, i) => {
    area.write(range, bytes, head.size + i * area.size);
  });
  return bytes.subarray(uapi.vfioInfoCapHeader.size);
}

function getIrqInfo(file: VfioDeviceFile, memory: AddressSpace, argument: bigint): void {
  const layout = uapi.vfioIrqInfo;
  const { argsz, index } = fetch('VFIO_DEVICE_GET_IRQ_INFO', memory, argument, layout, 'count');
  const { flags, count, capabilities = [] } = file.user.interrupts.info(index);
  if (capabilities.length === 0) {
    storeStruct(memory, argument, layout, { argsz, flags, index, count });
    return;
  }
  const long = uapi.vfioIrqInfoCaps;
  const { needed, capOffset } = storeCapabilities(memory, argument, long.size, argsz, capabilities);
  const values = {
    argsz: Math.max(argsz, needed),
    flags: flags | uapi.VFIO_IRQ_INFO_FLAG_CAPS,
    index,
    count,
    capOffset,
  };
  storeStruct(memory, argument, long, values, argsz < long.size ? layout.size : long.size);
}

const DATA_TYPES = uapi.VFIO_IRQ_SET_DATA_NONE | uapi.VFIO_IRQ_SET_DATA_BOOL | uapi.VFIO_IRQ_SET_DATA_EVENTFD;
const ACTIONS = uapi.VFIO_IRQ_SET_ACTION_MASK | uapi.VFIO_IRQ_SET_ACTION_UNMASK | uapi.VFIO_IRQ_SET_ACTION_TRIGGER;

function setIrqs(file: VfioDeviceFile, caller: Caller, argument: bigint): void {
  const call = 'VFIO_DEVICE_SET_IRQS';
  const layout = uapi.vfioIrqSet;
  const { argsz, flags, index, start, count } = fetch(call, caller.process.addressSpace, argument, layout, 'count');
  const { interrupts } = file.user;
  if ((flags & ~(DATA_TYPES | ACTIONS)) !== 0 || index >= file.user.info.irqs || count >= 0xffffffff - start) {
    throw new SysError('EINVAL', call, `flags ${hex(flags)}, interrupts ${start}+${count} at index ${index}`);
  }
  checkIrqRange({ index, start, count }, interrupts.info(index).count);
  const type = flags & DATA_TYPES;
  const width = type === uapi.VFIO_IRQ_SET_DATA_EVENTFD ? 4 : type === uapi.VFIO_IRQ_SET_DATA_BOOL ? 1 : 0;
  if ((width === 0 && type !== uapi.VFIO_IRQ_SET_DATA_NONE) || argsz - layout.size < count * width) {
    throw new SysError('EINVAL', call, `data of type ${type} for ${count} interrupts in ${argsz} bytes`);
  }
  const bytes = copyFromUser(caller.process.addressSpace, argument + BigInt(layout.size), count * width);
  const data = decodeIrqData(caller, type, index, bytes);
  interrupts.set({ action: flags & ACTIONS, index, start, count, data });
}

function decodeIrqData(caller: Caller, type: number, index: number, bytes: Uint8Array): IrqData {
  if (type === uapi.VFIO_IRQ_SET_DATA_NONE) return { kind: 'none' };
  if (type === uapi.VFIO_IRQ_SET_DATA_BOOL) return { kind: 'bool', values: [...bytes].map((byte) => byte !== 0) };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const { descriptors } = caller;
  const values: (EventFd | null | undefined)[] = [];
  for (let at = 0; at < bytes.length; at += 4) {
    const fd = view.getInt32(at, true);
    if (fd < 0) {
      // Of the interrupts with one trigger only -1 takes it away.
      values.push(fd === -1 || index === uapi.VFIO_PCI_MSIX_IRQ_INDEX ? null : undefined);
      continue;
    }
    const target = descriptors.get(fd);
    if (!(target instanceof EventFd)) {
      throw new SysError('EINVAL', 'VFIO_DEVICE_SET_IRQS', `${target.name} is not an eventfd`);
    }
    values.push(target);
  }
  return { kind: 'eventfd', values };
}
