/** Names of ioctl requests, by the file that they are made on (include/uapi/linux/iommufd.h and vfio.h of Linux 7.2). */

import { hex } from '@iommukit/hw';

/** _IO(';', 0): no direction, no size. */
const BASE = 0x3b00;

/** Names of consecutive requests from `first` on. */
function requests(first: number, prefix: string, names: readonly string[]): [number, string][] {
  return names.map((name, index) => [BASE + first + index, prefix + name]);
}

const IOMMUFD = new Map(
  requests(0x80, 'IOMMU_', [
    'DESTROY',
    'IOAS_ALLOC',
    'IOAS_ALLOW_IOVAS',
    'IOAS_COPY',
    'IOAS_IOVA_RANGES',
    'IOAS_MAP',
    'IOAS_UNMAP',
    'OPTION',
    'VFIO_IOAS',
    'HWPT_ALLOC',
    'GET_HW_INFO',
    'HWPT_SET_DIRTY_TRACKING',
    'HWPT_GET_DIRTY_BITMAP',
    'HWPT_INVALIDATE',
    'FAULT_QUEUE_ALLOC',
    'IOAS_MAP_FILE',
    'VIOMMU_ALLOC',
    'VDEVICE_ALLOC',
    'IOAS_CHANGE_PROCESS',
    'VEVENTQ_ALLOC',
    'HW_QUEUE_ALLOC',
  ]),
);

const CONTAINER = new Map([
  ...requests(100, 'VFIO_', ['GET_API_VERSION', 'CHECK_EXTENSION', 'SET_IOMMU']),
  ...requests(112, 'VFIO_IOMMU_', ['GET_INFO', 'MAP_DMA', 'UNMAP_DMA', 'ENABLE', 'DISABLE', 'DIRTY_PAGES']),
]);

const GROUP = new Map(
  requests(103, 'VFIO_GROUP_', ['GET_STATUS', 'SET_CONTAINER', 'UNSET_CONTAINER', 'GET_DEVICE_FD']),
);

const DEVICE = new Map(
  requests(107, 'VFIO_DEVICE_', [
    'GET_INFO',
    'GET_REGION_INFO',
    'GET_IRQ_INFO',
    'SET_IRQS',
    'RESET',
    'GET_PCI_HOT_RESET_INFO',
    'PCI_HOT_RESET',
    'QUERY_GFX_PLANE',
    'GET_GFX_DMABUF',
    'IOEVENTFD',
    'FEATURE',
    'BIND_IOMMUFD',
    'ATTACH_IOMMUFD_PT',
    'DETACH_IOMMUFD_PT',
  ]),
);

/** The request's name on a file, as `VFIO_DEVICE_RESET`; its number in hexadecimal where Linux has none. */
export function requestName(file: string, request: number): string {
  return (
    namesOn(file)
      .find((names) => names.has(request))
      ?.get(request) ?? hex(request)
  );
}

/** A /dev/iommu answers type1's requests too. */
function namesOn(file: string): readonly ReadonlyMap<number, string>[] {
  if (file === '/dev/iommu') return [IOMMUFD, CONTAINER];
  if (file === '/dev/vfio/vfio') return [CONTAINER];
  if (file.startsWith('/dev/vfio/devices/')) return [DEVICE];
  return file.startsWith('/dev/vfio/') ? [GROUP] : [];
}
