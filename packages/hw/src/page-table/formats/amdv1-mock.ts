/**
 * AMDv1 with pages of 2 KiB, which no hardware has: the format of the IOMMU that the kernel's own tests of /dev/iommu
 * bring along, so that pages of a table are smaller than those of the CPU (Linux: drivers/iommu/generic_pt/fmt/amdv1.h,
 * AMDV1_IOMMUFD_SELFTEST). 512 entries of a level cover 1 MiB, 512 MiB and so on.
 */

import type { PageTableFormat } from '../format.ts';
import { amdv1 } from './amdv1.ts';

export const amdv1Mock: PageTableFormat = { ...amdv1, name: 'AMDv1 of 2 KiB', pageSizesLg2: [11, 20, 29] };
