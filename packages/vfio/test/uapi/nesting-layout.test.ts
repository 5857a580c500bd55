import { expect, test } from 'vitest';
import { iommuNestingInfo, vfioRegionDmaFault } from '../../src/uapi/nesting.ts';

// No kernel's headers have these; the numbers are those of the series.
test('structures of the nesting series lie as the series declares them', () => {
  expect(vfioRegionDmaFault.size).toBe(20);
  expect((['tail', 'entrySize', 'nbEntries', 'offset', 'head'] as const).map(vfioRegionDmaFault.offset)).toEqual([
    0, 4, 8, 12, 16,
  ]);
  expect(iommuNestingInfo.size).toBe(56);
  const fields = ['features', 'addrWidth', 'pasidBits', 'padding0', 'vtdFlags', 'vtdCapReg', 'vtdEcapReg'] as const;
  expect(fields.map(iommuNestingInfo.offset)).toEqual([12, 16, 18, 20, 32, 40, 48]);
});
