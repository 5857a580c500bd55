/**
 * Who may have a VM's CPU send a PASID: whoever shows the file by which the device was given it, as KVM is shown VFIO's
 * files by their descriptors (Linux: virt/kvm/vfio.c). The file is looked at once; what it gives may end at any time,
 * and the device's requests with the PASID are blocked from then on.
 */

import { SysError } from '@iommukit/iommu-core';
import { type BoundDevice, type File, IommufdDevice, type SystemCalls } from '@iommukit/iommufd';
import { IoasidAllocationClient, IoasidFile } from '@iommukit/iommufd/ioasid';
import { VfioDevice, VfioDeviceFile } from '@iommukit/vfio';
import type { PasidAuthority } from './pasid-table.ts';

const CALL = 'KVM_MAP_PASID';

/** For the descriptors of one process. */
export function pasidAuthority(system: SystemCalls): PasidAuthority {
  return {
    checkPasid(fd, pasid): void {
      const file = system.file(fd);
      if (!gives(file, pasid)) throw new SysError('EPERM', CALL, `${file.name} does not give PASID ${pasid}`);
    },
    checkSet(fd): void {
      new IoasidAllocationClient(system, fd).bits();
    },
  };
}

/**
 * True for the VFIO file that has the device, and for the /dev/ioasid that the device is bound to, while the device may
 * issue the PASID. @throws {SysError} EINVAL the VFIO file has no device
 */
function gives(file: File, pasid: number): boolean {
  if (file instanceof IoasidFile) return [...file.context.devices].some(({ bound }) => issues(bound, pasid));
  if (!(file instanceof VfioDeviceFile) || !(file.entry instanceof VfioDevice)) return false;
  const { entry, user } = file;
  return entry.user === user && entry.device.authorizedPasids.has(pasid);
}

/** What the user of a mediated device calls a PASID has another number on the wire, which is the parent's. */
function issues(bound: BoundDevice, pasid: number): boolean {
  return bound instanceof IommufdDevice && bound.device.authorizedPasids.has(pasid);
}
