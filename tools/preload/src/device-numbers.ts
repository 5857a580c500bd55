/**
 * Numbers of device nodes (Documentation/admin-guide/devices.txt). Linux chooses the majors of VFIO's devices and groups
 * and the minor of /dev/iommu as it boots; here they are fixed.
 */

export type DeviceNumber = { readonly major: number; readonly minor: number };

const MISC_MAJOR = 10;
const VFIO_MINOR = 196;
const IOMMU_MINOR = 125;
const DEVICE_MAJOR = 511;
const GROUP_MAJOR = 510;

/** The number of the node at `path`; null when it is none. */
export function deviceNumber(path: string): DeviceNumber | null {
  if (path === '/dev/iommu') return { major: MISC_MAJOR, minor: IOMMU_MINOR };
  if (path === '/dev/vfio/vfio') return { major: MISC_MAJOR, minor: VFIO_MINOR };
  const [, device, minor] = /^\/dev\/vfio\/(devices\/vfio)?(\d+)$/.exec(path) ?? [];
  if (minor === undefined) return null;
  return { major: device === undefined ? GROUP_MAJOR : DEVICE_MAJOR, minor: Number(minor) };
}
