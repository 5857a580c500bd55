/** Numbers and layouts of include/uapi/linux/vfio.h (Linux 7.2), as far as device files go. Type letter ';', no direction bits. */

import { type Struct, struct } from '@iommukit/iommufd';

export { vfioInfoCapHeader } from '@iommukit/iommufd';

export const VFIO_DEVICE_GET_INFO = 0x3b6b;
export const VFIO_DEVICE_GET_REGION_INFO = 0x3b6c;
export const VFIO_DEVICE_GET_IRQ_INFO = 0x3b6d;
export const VFIO_DEVICE_SET_IRQS = 0x3b6e;
export const VFIO_DEVICE_RESET = 0x3b6f;
export const VFIO_DEVICE_BIND_IOMMUFD = 0x3b76;
export const VFIO_DEVICE_ATTACH_IOMMUFD_PT = 0x3b77;
export const VFIO_DEVICE_DETACH_IOMMUFD_PT = 0x3b78;

export const VFIO_DEVICE_BIND_FLAG_TOKEN = 1;
export const VFIO_DEVICE_ATTACH_PASID = 1;
export const VFIO_DEVICE_DETACH_PASID = 1;

export const VFIO_DEVICE_FLAGS_RESET = 1;
export const VFIO_DEVICE_FLAGS_PCI = 2;

export const VFIO_PCI_BAR0_REGION_INDEX = 0;
export const VFIO_PCI_BAR5_REGION_INDEX = 5;
export const VFIO_PCI_ROM_REGION_INDEX = 6;
export const VFIO_PCI_CONFIG_REGION_INDEX = 7;
export const VFIO_PCI_VGA_REGION_INDEX = 8;
export const VFIO_PCI_NUM_REGIONS = 9;
/** A region's offset in the device file is its index shifted by this. */
export const VFIO_PCI_OFFSET_SHIFT = 40;

export const VFIO_REGION_INFO_FLAG_READ = 1;
export const VFIO_REGION_INFO_FLAG_WRITE = 2;
export const VFIO_REGION_INFO_FLAG_MMAP = 4;
export const VFIO_REGION_INFO_FLAG_CAPS = 8;
export const VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
export const VFIO_REGION_INFO_CAP_TYPE = 2;
export const VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;

export const VFIO_PCI_INTX_IRQ_INDEX = 0;
export const VFIO_PCI_MSI_IRQ_INDEX = 1;
export const VFIO_PCI_MSIX_IRQ_INDEX = 2;
export const VFIO_PCI_ERR_IRQ_INDEX = 3;
export const VFIO_PCI_REQ_IRQ_INDEX = 4;
export const VFIO_PCI_NUM_IRQS = 5;

export const VFIO_IRQ_INFO_EVENTFD = 1;
export const VFIO_IRQ_INFO_MASKABLE = 2;
export const VFIO_IRQ_INFO_AUTOMASKED = 4;
export const VFIO_IRQ_INFO_NORESIZE = 8;
/** Of the nesting series (version 13), which also put `cap_offset` behind the structure; no release has them. */
export const VFIO_IRQ_INFO_FLAG_CAPS = 16;
export const VFIO_IRQ_INFO_CAP_TYPE = 3;

export const VFIO_IRQ_SET_DATA_NONE = 1;
export const VFIO_IRQ_SET_DATA_BOOL = 2;
export const VFIO_IRQ_SET_DATA_EVENTFD = 4;
export const VFIO_IRQ_SET_ACTION_MASK = 8;
export const VFIO_IRQ_SET_ACTION_UNMASK = 16;
export const VFIO_IRQ_SET_ACTION_TRIGGER = 32;

type U32 = 'u32';
type U64 = 'u64';

export const vfioDeviceBind: Struct<{
  argsz: U32;
  flags: U32;
  iommufd: 's32';
  outDevid: U32;
  tokenUuidPtr: U64;
}> = struct({ argsz: 'u32', flags: 'u32', iommufd: 's32', outDevid: 'u32', tokenUuidPtr: 'u64' });

export const vfioDeviceAttach: Struct<{ argsz: U32; flags: U32; ptId: U32; pasid: U32 }> = struct({
  argsz: 'u32',
  flags: 'u32',
  ptId: 'u32',
  pasid: 'u32',
});

export const vfioDeviceDetach: Struct<{ argsz: U32; flags: U32; pasid: U32 }> = struct({
  argsz: 'u32',
  flags: 'u32',
  pasid: 'u32',
});

export const vfioDeviceInfo: Struct<{
  argsz: U32;
  flags: U32;
  numRegions: U32;
  numIrqs: U32;
  capOffset: U32;
  pad: U32;
}> = struct({ argsz: 'u32', flags: 'u32', numRegions: 'u32', numIrqs: 'u32', capOffset: 'u32', pad: 'u32' });

export const vfioRegionInfo: Struct<{
  argsz: U32;
  flags: U32;
  index: U32;
  capOffset: U32;
  size: U64;
  offset: U64;
}> = struct({ argsz: 'u32', flags: 'u32', index: 'u32', capOffset: 'u32', size: 'u64', offset: 'u64' });

/** The sparse-mmap capability, which is followed by `nrAreas` areas. */
export const vfioRegionSparseMmap: Struct<{
  id: 'u16';
  version: 'u16';
  next: U32;
  nrAreas: U32;
  reserved: U32;
}> = struct({ id: 'u16', version: 'u16', next: 'u32', nrAreas: 'u32', reserved: 'u32' });

export const vfioRegionSparseMmapArea: Struct<{ offset: U64; size: U64 }> = struct({ offset: 'u64', size: 'u64' });

export const vfioIrqInfo: Struct<{ argsz: U32; flags: U32; index: U32; count: U32 }> = struct({
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  count: 'u32',
});

/** The same for an index with capabilities. */
export const vfioIrqInfoCaps: Struct<{ argsz: U32; flags: U32; index: U32; count: U32; capOffset: U32 }> = struct({
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  count: 'u32',
  capOffset: 'u32',
});

/** Followed by data for `count` interrupts. */
export const vfioIrqSet: Struct<{ argsz: U32; flags: U32; index: U32; start: U32; count: U32 }> = struct({
  argsz: 'u32',
  flags: 'u32',
  index: 'u32',
  start: 'u32',
  count: 'u32',
});
