/**
 * Numbers and layouts of the device's half of the /dev/ioasid proposal ([RFC] /dev/ioasid uAPI proposal, 27 May 2021,
 * section 2.2). Requests are the RFC's, VFIO_BASE + 22 to + 25; its second version leaves UNBIND out and would give its
 * number to ATTACH, so files of either version are called by these. The RFC has no layouts: they are this project's, as
 * are the two requests that authorise without attaching, DEVICE_ALLOW_IOASID of the debate before it (March 2021).
 */

import { type Struct, struct } from '@iommukit/iommufd';

export const VFIO_BIND_IOASID_FD = 0x3b7a;
export const VFIO_UNBIND_IOASID_FD = 0x3b7b;
export const VFIO_ATTACH_IOASID = 0x3b7c;
export const VFIO_DETACH_IOASID = 0x3b7d;
export const VFIO_DEVICE_ALLOW_IOASID = 0x3bc8;
export const VFIO_DEVICE_DISALLOW_IOASID = 0x3bc9;

/** The structure names a VF token. */
export const VFIO_BIND_IOASID_FLAG_TOKEN = 1;
/** The structure names a PASID; on the way out of ATTACH, the kernel has chosen it. */
export const IOASID_ATTACH_USER_PASID = 1;

type U32 = 'u32';
type U64 = 'u64';

export const vfioIoasidBind: Struct<{
  argsz: U32;
  flags: U32;
  ioasidFd: 's32';
  reserved: U32;
  /** By which the user knows the device on the IOASID file. */
  cookie: U64;
  tokenUuidPtr: U64;
}> = struct({ argsz: 'u32', flags: 'u32', ioasidFd: 's32', reserved: 'u32', cookie: 'u64', tokenUuidPtr: 'u64' });

/** Of ATTACH and DETACH. */
export const vfioIoasidAttach: Struct<{ argsz: U32; flags: U32; ioasid: U32; userPasid: U32 }> = struct({
  argsz: 'u32',
  flags: 'u32',
  ioasid: 'u32',
  userPasid: 'u32',
});

/** Of ALLOW and DISALLOW: who authorises shows both files. */
export const vfioIoasidAllow: Struct<{ argsz: U32; flags: U32; ioasidFd: 's32'; ioasid: U32; pasid: U32 }> = struct({
  argsz: 'u32',
  flags: 'u32',
  ioasidFd: 's32',
  ioasid: 'u32',
  pasid: 'u32',
});
