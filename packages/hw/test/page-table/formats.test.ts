import { amdv1, amdv1Mock, type PageTableFormat, vtdSecondStage, x86_64 } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';

const formats: [string, PageTableFormat][] = [x86_64, vtdSecondStage, amdv1, amdv1Mock].map((format) => [
  format.name,
  format,
]);

describe.each(formats)('%s', (_name, format) => {
  const flags = ['large', 'snoop', 'global', 'accessed', 'dirty'] as const;

  test('flags lie below the address and do not overlap', () => {
    let seen = 0;
    for (const mask of [...flags.map((flag) => format[flag]), format.software, format.write, format.user]) {
      expect(mask & 0xfffff000).toBe(0);
      expect(mask & seen).toBe(0);
      seen |= mask;
    }
    let seenHigh = 0;
    for (const mask of [format.readHigh, format.writeHigh, format.snoopHigh, format.noExecuteHigh]) {
      expect(mask & 0x000fffff).toBe(0);
      expect(mask & seenHigh).toBe(0);
      seenHigh |= mask;
    }
  });

  test('a table entry is present, is no leaf and restricts nothing', () => {
    expect(format.table & format.present).not.toBe(0);
    expect(format.large & ~format.leafMask).toBe(0);
    for (let level = 1; level < format.levels.at(-1)!; level++) {
      expect((format.table + level * format.tableLevel) & format.leafMask).not.toBe(format.large);
    }
    for (const right of [format.read, format.write, format.user, format.execute]) {
      expect(format.table & right).toBe(right);
    }
    for (const right of [format.readHigh, format.writeHigh]) expect(format.tableHigh & right).toBe(right);
  });

  test('each level multiplies the page size by 512', () => {
    const smallest = format === amdv1Mock ? 11 : 12;
    expect(format.pageSizesLg2).toEqual([0, 9, 18].map((lg2) => smallest + lg2));
  });
});

test('x86-64 has the bits of Intel SDM volume 3, table 5-20', () => {
  expect(x86_64).toMatchObject({
    present: 0x1,
    write: 0x2,
    user: 0x4,
    accessed: 0x20,
    dirty: 0x40,
    large: 0x80,
    global: 0x100,
    noExecuteHigh: 0x8000_0000 | 0,
  });
});

test('the VT-d second stage has the bits of VT-d specification section 9.8', () => {
  expect(vtdSecondStage).toMatchObject({
    read: 0x1,
    write: 0x2,
    execute: 0x4,
    large: 0x80,
    accessed: 0x100,
    dirty: 0x200,
    snoop: 0x800,
  });
});

test('AMDv1 has the bits of the AMD IOMMU specification, section 2.2.3', () => {
  expect(amdv1).toMatchObject({
    present: 0x1,
    accessed: 0x20,
    dirty: 0x40,
    leafMask: 0xe00,
    tableLevel: 0x200,
    snoopHigh: 0x1000_0000,
    readHigh: 0x2000_0000,
    writeHigh: 0x4000_0000,
  });
});
