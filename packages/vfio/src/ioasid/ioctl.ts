/** The requests of the /dev/ioasid proposal on a device file: structures in the caller's memory. */

import { hex } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import { type Caller, copyFromUser, type StructValues } from '@iommukit/iommufd';
import { ioasidContextOf } from '@iommukit/iommufd/ioasid';
import { fetch, storeStruct } from '../argument.ts';
import type { VfioDeviceFile } from '../device-file.ts';
import * as uapi from '../uapi/ioasid.ts';
import { VF_TOKEN_BYTES } from '../vf-token.ts';
import { allowIoasid, attachIoasid, bindIoasid, detachIoasid, disallowIoasid, unbindIoasid } from './ioasid-dma.ts';

type Request = (file: VfioDeviceFile, caller: Caller, argument: bigint) => void;

const REQUESTS: ReadonlyMap<number, Request> = new Map<number, Request>([
  [uapi.VFIO_BIND_IOASID_FD, bind],
  [uapi.VFIO_UNBIND_IOASID_FD, (file) => unbindIoasid(file)],
  [uapi.VFIO_ATTACH_IOASID, attach],
  [uapi.VFIO_DETACH_IOASID, detach],
  [uapi.VFIO_DEVICE_ALLOW_IOASID, (file, caller, argument) => allowIoasid(file, grantOf(caller, argument))],
  [uapi.VFIO_DEVICE_DISALLOW_IOASID, (file, caller, argument) => disallowIoasid(file, grantOf(caller, argument))],
]);

/** Carries out one ioctl. False: the request is not of the proposal. @throws {SysError} EFAULT; EINVAL; and the request's own */
export function vfioIoasidIoctl(file: VfioDeviceFile, caller: Caller, request: number, argument: bigint): boolean {
  const run = REQUESTS.get(request >>> 0);
  run?.(file, caller, argument);
  return run !== undefined;
}

function bind(file: VfioDeviceFile, { process, descriptors }: Caller, argument: bigint): void {
  const call = 'VFIO_BIND_IOASID_FD';
  const { addressSpace } = process;
  const { flags, ioasidFd, cookie } = fetch(call, addressSpace, argument, uapi.vfioIoasidBind, 'cookie');
  checkFlags(call, flags, uapi.VFIO_BIND_IOASID_FLAG_TOKEN);
  let token: bigint | null = null;
  if (flags !== 0) token = fetch(call, addressSpace, argument, uapi.vfioIoasidBind, 'tokenUuidPtr').tokenUuidPtr;
  bindIoasid(file, {
    context: () => ioasidContextOf(descriptors.get(ioasidFd)),
    cookie,
    token: () => (token === null ? null : copyFromUser(addressSpace, token, VF_TOKEN_BYTES)),
  });
}

/** The answer is stored once before anything is done, so that a call that is refused has done nothing. */
function attach(file: VfioDeviceFile, { process }: Caller, argument: bigint): void {
  const call = 'VFIO_ATTACH_IOASID';
  const layout = uapi.vfioIoasidAttach;
  const values = fetch(call, process.addressSpace, argument, layout, 'userPasid');
  const userPasid = userPasidOf(call, values);
  storeStruct(process.addressSpace, argument, layout, values);
  const pasid = attachIoasid(file, values.ioasid, userPasid);
  if (pasid === userPasid) return;
  const flags = uapi.IOASID_ATTACH_USER_PASID;
  storeStruct(process.addressSpace, argument, layout, { ...values, flags, userPasid: pasid! });
}

function detach(file: VfioDeviceFile, { process }: Caller, argument: bigint): void {
  const call = 'VFIO_DETACH_IOASID';
  const values = fetch(call, process.addressSpace, argument, uapi.vfioIoasidAttach, 'userPasid');
  detachIoasid(file, values.ioasid, userPasidOf(call, values));
}

function userPasidOf(
  call: string,
  values: Pick<StructValues<{ flags: 'u32'; userPasid: 'u32' }>, 'flags' | 'userPasid'>,
) {
  checkFlags(call, values.flags, uapi.IOASID_ATTACH_USER_PASID);
  return values.flags === 0 ? null : values.userPasid;
}

function grantOf({ process, descriptors }: Caller, argument: bigint): Parameters<typeof allowIoasid>[1] {
  const call = 'VFIO_DEVICE_ALLOW_IOASID';
  const { flags, ioasidFd, ioasid, pasid } = fetch(call, process.addressSpace, argument, uapi.vfioIoasidAllow, 'pasid');
  checkFlags(call, flags, 0);
  return { context: () => ioasidContextOf(descriptors.get(ioasidFd)), ioasid, pasid };
}

function checkFlags(call: string, flags: number, known: number): void {
  if ((flags & ~known) !== 0) throw new SysError('EINVAL', call, `flags ${hex(flags >>> 0)}`);
}
