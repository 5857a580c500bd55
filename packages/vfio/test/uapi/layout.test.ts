import { compareWithTable, type Exceptions, readTable } from '@iommukit/uapi';
import { expect, test } from 'vitest';
import * as container from '../../src/uapi/container.ts';
import * as vfio from '../../src/uapi/vfio.ts';

const table = readTable('vfio');

const CAPABILITY_HEADER = table.structures['vfio_info_cap_header']!.size;

const exceptions: { [file: string]: Exceptions } = {
  'vfio.ts': {
    renamed: {
      vfioDeviceBind: { structure: 'vfio_device_bind_iommufd' },
      vfioDeviceAttach: { structure: 'vfio_device_attach_iommufd_pt' },
      vfioDeviceDetach: { structure: 'vfio_device_detach_iommufd_pt' },
      vfioRegionSparseMmap: { structure: 'vfio_region_info_cap_sparse_mmap' },
    },
    absent: {
      VFIO_PCI_OFFSET_SHIFT: 'linux/vfio_pci_core.h, not for user space',
      VFIO_IRQ_INFO_FLAG_CAPS: 'of the nesting series',
      VFIO_IRQ_INFO_CAP_TYPE: 'of the nesting series',
      vfioIrqInfoCaps: 'of the nesting series',
    },
  },
  'container.ts': {
    renamed: {
      vfioIovaRangeHead: { structure: 'vfio_iommu_type1_info_cap_iova_range', from: CAPABILITY_HEADER },
      vfioDmaAvail: { structure: 'vfio_iommu_type1_info_dma_avail', from: CAPABILITY_HEADER },
    },
    absent: { VFIO_TYPE1_NESTING_IOMMU: 'reserved since it was taken out' },
  },
};

test.each([
  ['vfio.ts', vfio],
  ['container.ts', container],
])('numbers and structures of %s are those of linux/vfio.h', (file, exported) => {
  const { structures, numbers, differences } = compareWithTable(exported, table, exceptions[file]);
  expect(differences).toEqual([]);
  expect(structures).toBeGreaterThan(0);
  expect(numbers).toBeGreaterThan(0);
});
