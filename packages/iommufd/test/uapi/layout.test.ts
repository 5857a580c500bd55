import { readFileSync } from 'node:fs';
import { compareWithTable, type UapiTable } from '@iommukit/uapi';
import { describe, expect, test } from 'vitest';
import * as iommufd from '../../src/uapi/iommufd.ts';
import * as requests from '../../src/uapi/request.ts';
import * as viommu from '../../src/uapi/viommu.ts';

const table: UapiTable = JSON.parse(readFileSync(new URL('iommufd.json', import.meta.url), 'utf8'));

describe('numbers and structures of /dev/iommu are those of linux/iommufd.h', () => {
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
