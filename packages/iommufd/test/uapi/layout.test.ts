import { compareWithTable, readTable } from '@iommukit/uapi';
import { describe, expect, test } from 'vitest';
import * as iommufd from '../../src/uapi/iommufd.ts';
import * as requests from '../../src/uapi/request.ts';
import * as type1 from '../../src/uapi/type1.ts';
import * as viommu from '../../src/uapi/viommu.ts';

describe('numbers and structures of /dev/iommu are those of linux/iommufd.h', () => {
  const table = readTable('iommufd');

  test.each([
    ['iommufd.ts', iommufd, { INVALIDATE_ENTRY_MAX: 'PAGE_SIZE', INVALIDATE_COUNT_MAX: 'a limit in the command' }],
    ['viommu.ts', viommu, { VEVENTQ_DEPTH_MAX: 'a limit in the command' }],
  ])('%s', (_, exported, absent) => {
    const { structures, numbers, differences } = compareWithTable(exported, table, { absent });
    expect(differences).toEqual([]);
    expect(structures).toBeGreaterThan(0);
    expect(numbers).toBeGreaterThan(0);
  });

  test('request.ts', () => {
    const { numbers, differences } = compareWithTable(requests, table);
    expect(differences).toEqual([]);
    expect(numbers).toBe(1);
  });

  test('every request has its number here', () => {
    const exported = { ...iommufd, ...viommu };
    expect(Object.keys(table.requests).filter((name) => !(name in exported))).toEqual([]);
  });
});

test('numbers and structures of the type1 interface are those of linux/vfio.h', () => {
  const table = readTable('vfio');
  const from = table.structures['vfio_info_cap_header']!.size;
  const { structures, numbers, differences } = compareWithTable(type1, table, {
    renamed: {
      vfioIovaRangeHead: { structure: 'vfio_iommu_type1_info_cap_iova_range', from },
      vfioDmaAvail: { structure: 'vfio_iommu_type1_info_dma_avail', from },
    },
    absent: { VFIO_TYPE1_NESTING_IOMMU: 'reserved since it was taken out' },
  });
  expect(differences).toEqual([]);
  expect(structures).toBeGreaterThan(0);
  expect(numbers).toBeGreaterThan(0);
});
