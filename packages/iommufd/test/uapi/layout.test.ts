import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Fields, type Struct, struct } from '../../src/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';

/** Every structure as the interface's documentation declares it. */
const DECLARATIONS: { layout: Struct<Fields>; c: string }[] = [
  { layout: uapi.iommuDestroy as unknown as Struct<Fields>, c: '__u32 size; __u32 id;' },
  { layout: uapi.iommuIoasAlloc as unknown as Struct<Fields>, c: '__u32 size; __u32 flags; __u32 outIoasId;' },
  { layout: uapi.iommuIovaRange as unknown as Struct<Fields>, c: '__aligned_u64 start; __aligned_u64 last;' },
  {
    layout: uapi.iommuIoasIovaRanges as unknown as Struct<Fields>,
    c: '__u32 size; __u32 ioasId; __u32 numIovas; __u32 reserved; __aligned_u64 allowedIovas; __aligned_u64 outIovaAlignment;',
  },
  {
    layout: uapi.iommuIoasMap as unknown as Struct<Fields>,
    c: '__u32 size; __u32 flags; __u32 ioasId; __u32 reserved; __aligned_u64 userVa; __aligned_u64 length; __aligned_u64 iova;',
  },
  {
    layout: uapi.iommuIoasCopy as unknown as Struct<Fields>,
    c: '__u32 size; __u32 flags; __u32 dstIoasId; __u32 srcIoasId; __aligned_u64 length; __aligned_u64 dstIova; __aligned_u64 srcIova;',
  },
  {
    layout: uapi.iommuIoasUnmap as unknown as Struct<Fields>,
    c: '__u32 size; __u32 ioasId; __aligned_u64 iova; __aligned_u64 length;',
  },
  {
    layout: uapi.iommuHwptAlloc as unknown as Struct<Fields>,
    c: '__u32 size; __u32 flags; __u32 devId; __u32 ptId; __u32 outHwptId; __u32 reserved; __u32 dataType; __u32 dataLen; __aligned_u64 dataUptr; __u32 faultId; __u32 reserved2;',
  },
  {
    layout: uapi.iommuHwptVtdS1 as unknown as Struct<Fields>,
    c: '__aligned_u64 flags; __aligned_u64 pgtblAddr; __u32 addrWidth; __u32 reserved;',
  },
  {
    layout: uapi.iommuHwInfo as unknown as Struct<Fields>,
    c: '__u32 size; __u32 flags; __u32 devId; __u32 dataLen; __aligned_u64 dataUptr; union { __u32 in_data_type; __u32 outDataType; }; __u8 outMaxPasidLog2; __u8 reserved0; __u8 reserved1; __u8 reserved2; __aligned_u64 outCapabilities;',
  },
  {
    layout: uapi.iommuHwInfoVtd as unknown as Struct<Fields>,
    c: '__u32 flags; __u32 reserved; __aligned_u64 capReg; __aligned_u64 ecapReg;',
  },
  {
    layout: uapi.iommuHwptInvalidate as unknown as Struct<Fields>,
    c: '__u32 size; __u32 hwptId; __aligned_u64 dataUptr; __u32 dataType; __u32 entryLen; __u32 entryNum; __u32 reserved;',
  },
  {
    layout: uapi.iommuHwptVtdS1Invalidate as unknown as Struct<Fields>,
    c: '__aligned_u64 addr; __aligned_u64 npages; __u32 flags; __u32 reserved;',
  },
  {
    layout: uapi.iommuFaultAlloc as unknown as Struct<Fields>,
    c: '__u32 size; __u32 flags; __u32 outFaultId; __u32 outFaultFd;',
  },
  {
    layout: uapi.iommuHwptPgfault as unknown as Struct<Fields>,
    c: '__u32 flags; __u32 devId; __u32 pasid; __u32 grpid; __u32 perm; __u32 reserved; __aligned_u64 addr; __u32 length; __u32 cookie;',
  },
  { layout: uapi.iommuHwptPageResponse as unknown as Struct<Fields>, c: '__u32 cookie; __u32 code;' },
];

/** The numbers of the interface's documentation. */
const SIZES = [8, 12, 16, 32, 40, 40, 24, 48, 24, 40, 24, 32, 24, 16, 40, 8];

/** Requests, with the numbers of their commands. */
const REQUESTS: [number, number][] = [
  [uapi.IOMMU_DESTROY, 0x80],
  [uapi.IOMMU_IOAS_ALLOC, 0x81],
  [uapi.IOMMU_IOAS_COPY, 0x83],
  [uapi.IOMMU_IOAS_IOVA_RANGES, 0x84],
  [uapi.IOMMU_IOAS_MAP, 0x85],
  [uapi.IOMMU_IOAS_UNMAP, 0x86],
  [uapi.IOMMU_HWPT_ALLOC, 0x89],
  [uapi.IOMMU_GET_HW_INFO, 0x8a],
  [uapi.IOMMU_HWPT_INVALIDATE, 0x8d],
  [uapi.IOMMU_FAULT_QUEUE_ALLOC, 0x8e],
];

function compilerIsThere(): boolean {
  try {
    execFileSync('cc', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const compiler = compilerIsThere();

/** Names of the fields of a layout that the declaration also has. */
function fieldNames(c: string): string[] {
  return [...c.matchAll(/(\w+);/g)].map((match) => match[1]!).filter((name) => name !== 'in_data_type');
}

describe('structures of /dev/iommu', () => {
  test('have the documented sizes', () => {
    expect(DECLARATIONS.map(({ layout }) => layout.size)).toEqual(SIZES);
  });

  test.skipIf(!compiler)('lie as the C compiler lays them out (skipped without cc)', () => {
    const program = [
      '#include <stddef.h>\n#include <stdio.h>\n#include <linux/ioctl.h>\n#include <linux/types.h>',
      ...DECLARATIONS.map(({ c }, index) => `struct s${index} { ${c} };`),
      'int main(void) {',
      ...DECLARATIONS.map(({ c }, index) =>
        [
          `printf("s${index} %zu", sizeof(struct s${index}));`,
          ...fieldNames(c).map((name) => `printf(" ${name}=%zu", offsetof(struct s${index}, ${name}));`),
          'printf("\\n");',
        ].join('\n'),
      ),
      ...REQUESTS.map(([, nr]) => `printf("${nr} %u\\n", (unsigned)_IO(';', ${nr}));`),
      'return 0; }',
    ].join('\n');
    const folder = mkdtempSync(join(tmpdir(), 'iommufd-layout-'));
    try {
      writeFileSync(join(folder, 'layout.c'), program);
      execFileSync('cc', ['-o', join(folder, 'layout'), join(folder, 'layout.c')]);
      const lines = execFileSync(join(folder, 'layout')).toString().trim().split('\n');
      const mine = [
        ...DECLARATIONS.map(({ layout, c }, index) => {
          const offsets = fieldNames(c).map((name) => ` ${name}=${layout.offset(name)}`);
          return `s${index} ${layout.size}${offsets.join('')}`;
        }),
        ...REQUESTS.map(([request, nr]) => `${nr} ${request}`),
      ];
      expect(lines).toEqual(mine);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('hold what is written to them, cut to the width of the field', () => {
    const layout = struct({ a: 'u8', b: 'u16', c: 's32', d: 'u64', e: 'u8' });
    expect([layout.size, layout.offset('b'), layout.offset('d'), layout.end('e')]).toEqual([24, 2, 8, 17]);
    const bytes = new Uint8Array(40).fill(0xee);
    layout.write({ a: 0x1ff, b: 0x12345, c: -2, d: 2n ** 64n - 1n, e: 7 }, bytes, 8);
    expect(layout.read(bytes, 8)).toEqual({ a: 0xff, b: 0x2345, c: -2, d: 2n ** 64n - 1n, e: 7 });
    expect([bytes[7], bytes[9], bytes[25], bytes[32]]).toEqual([0xee, 0xee, 0xee, 0xee]);
  });
});
