import { type PageTableFormat, vtdSecondStage, x86_64 } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';

const formats: [string, PageTableFormat][] = [x86_64, vtdSecondStage].map((format) => [format.name, format]);

describe.each(formats)('%s', (_name, format) => {
  const flags = ['large', 'snoop', 'global', 'accessed', 'dirty'] as const;

  test('flags lie below the address and do not overlap', () => {
    let seen = 0;
    for (const mask of [...flags.map((flag) => format[flag]), format.software, format.write, format.user]) {
      expect(mask & 0xfffff000).toBe(0);
      expect(mask & seen).toBe(0);
      seen |= mask;
    }
    expect(format.noExecuteHigh & 0x000fffff).toBe(0);
  });

  test('a table entry is present, is no leaf and restricts nothing', () => {
    expect(format.table & format.present).not.toBe(0);
    expect(format.table & format.large).toBe(0);
    for (const right of [format.read, format.write, format.user, format.execute]) {
      expect(format.table & right).toBe(right);
    }
  });

  test('each level multiplies the page size by 512', () => {
    expect(format.pageSizesLg2).toEqual([12, 21, 30]);
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
