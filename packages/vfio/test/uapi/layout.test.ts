import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Fields, Struct } from '@iommukit/iommufd';
import { describe, expect, test } from 'vitest';
import * as container from '../../src/uapi/container.ts';
import * as nesting from '../../src/uapi/nesting.ts';
import * as uapi from '../../src/uapi/vfio.ts';

type Layout = { size: number; offsets: number[] };

/** Declared here as a C program would: name, C fields, the layout under test and its fields in the same order. */
const structures: [name: string, fields: [type: string, name: string][], layout: Struct<Fields>][] = [
  [
    'vfio_device_bind_iommufd',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['int', 'iommufd'],
      ['unsigned', 'outDevid'],
      ['unsigned long long', 'tokenUuidPtr'],
    ],
    uapi.vfioDeviceBind as Struct<Fields>,
  ],
  [
    'vfio_device_attach_iommufd_pt',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned', 'ptId'],
      ['unsigned', 'pasid'],
    ],
    uapi.vfioDeviceAttach as Struct<Fields>,
  ],
  [
    'vfio_device_detach_iommufd_pt',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned', 'pasid'],
    ],
    uapi.vfioDeviceDetach as Struct<Fields>,
  ],
  [
    'vfio_device_info',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned', 'numRegions'],
      ['unsigned', 'numIrqs'],
      ['unsigned', 'capOffset'],
      ['unsigned', 'pad'],
    ],
    uapi.vfioDeviceInfo as Struct<Fields>,
  ],
  [
    'vfio_region_info',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned', 'index'],
      ['unsigned', 'capOffset'],
      ['unsigned long long', 'size'],
      ['unsigned long long', 'offset'],
    ],
    uapi.vfioRegionInfo as Struct<Fields>,
  ],
  [
    'vfio_info_cap_header',
    [
      ['unsigned short', 'id'],
      ['unsigned short', 'version'],
      ['unsigned', 'next'],
    ],
    uapi.vfioInfoCapHeader as Struct<Fields>,
  ],
  [
    'vfio_region_info_cap_sparse_mmap',
    [
      ['unsigned short', 'id'],
      ['unsigned short', 'version'],
      ['unsigned', 'next'],
      ['unsigned', 'nrAreas'],
      ['unsigned', 'reserved'],
    ],
    uapi.vfioRegionSparseMmap as Struct<Fields>,
  ],
  [
    'vfio_region_sparse_mmap_area',
    [
      ['unsigned long long', 'offset'],
      ['unsigned long long', 'size'],
    ],
    uapi.vfioRegionSparseMmapArea as Struct<Fields>,
  ],
  [
    'vfio_irq_info',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned', 'index'],
      ['unsigned', 'count'],
    ],
    uapi.vfioIrqInfo as Struct<Fields>,
  ],
  [
    'vfio_irq_set',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned', 'index'],
      ['unsigned', 'start'],
      ['unsigned', 'count'],
    ],
    uapi.vfioIrqSet as Struct<Fields>,
  ],
  [
    'vfio_irq_info_with_caps',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned', 'index'],
      ['unsigned', 'count'],
      ['unsigned', 'capOffset'],
    ],
    uapi.vfioIrqInfoCaps as Struct<Fields>,
  ],
  [
    'vfio_group_status',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
    ],
    container.vfioGroupStatus as Struct<Fields>,
  ],
  [
    'vfio_iommu_type1_info',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned long long', 'iovaPgsizes'],
      ['unsigned', 'capOffset'],
      ['unsigned', 'pad'],
    ],
    container.vfioIommuType1Info as Struct<Fields>,
  ],
  [
    'vfio_iova_range',
    [
      ['unsigned long long', 'start'],
      ['unsigned long long', 'end'],
    ],
    container.vfioIovaRange as Struct<Fields>,
  ],
  [
    'vfio_iommu_type1_dma_map',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned long long', 'vaddr'],
      ['unsigned long long', 'iova'],
      ['unsigned long long', 'size'],
    ],
    container.vfioIommuType1DmaMap as Struct<Fields>,
  ],
  [
    'vfio_iommu_type1_dma_unmap',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned long long', 'iova'],
      ['unsigned long long', 'size'],
    ],
    container.vfioIommuType1DmaUnmap as Struct<Fields>,
  ],
  [
    'vfio_region_dma_fault',
    [
      ['unsigned', 'tail'],
      ['unsigned', 'entrySize'],
      ['unsigned', 'nbEntries'],
      ['unsigned', 'offset'],
      ['unsigned', 'head'],
    ],
    nesting.vfioRegionDmaFault as Struct<Fields>,
  ],
  [
    'iommu_nesting_info',
    [
      ['unsigned', 'argsz'],
      ['unsigned', 'flags'],
      ['unsigned', 'format'],
      ['unsigned', 'features'],
      ['unsigned short', 'addrWidth'],
      ['unsigned short', 'pasidBits'],
      ['unsigned', 'padding0'],
      ['unsigned', 'padding1'],
      ['unsigned', 'padding2'],
      ['unsigned', 'vtdFlags'],
      ['unsigned', 'vtdPadding'],
      ['unsigned long long', 'vtdCapReg'],
      ['unsigned long long', 'vtdEcapReg'],
    ],
    nesting.iommuNestingInfo as Struct<Fields>,
  ],
];

const compiler = ['cc', 'gcc', 'clang'].find((name) => {
  try {
    execFileSync(name, ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
});

/** Compiles and runs a program that prints size and offsets of every structure. */
function measure(): Map<string, Layout> {
  const directory = mkdtempSync(join(tmpdir(), 'vfio-layout-'));
  try {
    const prints = structures.map(([name, fields]) => {
      const members = fields.map(([type, field]) => `${type} ${field};`).join(' ');
      const offsets = fields.map(([, field]) => `(int)offsetof(struct ${name}, ${field})`).join(', ');
      const format = fields.map(() => '%d').join(' ');
      return {
        declaration: `struct ${name} { ${members} };`,
        print: `printf("${name} %d ${format}\\n", (int)sizeof(struct ${name}), ${offsets});`,
      };
    });
    const source = [
      '#include <stddef.h>',
      '#include <stdio.h>',
      ...prints.map(({ declaration }) => declaration),
      `int main(void) { ${prints.map(({ print }) => print).join(' ')} return 0; }`,
    ].join('\n');
    writeFileSync(join(directory, 'layout.c'), source);
    execFileSync(compiler!, ['-o', join(directory, 'layout'), join(directory, 'layout.c')]);
    const output = execFileSync(join(directory, 'layout'), { encoding: 'utf8' });
    return new Map(
      output
        .trim()
        .split('\n')
        .map((line) => {
          const [name, size, ...offsets] = line.split(' ');
          return [name!, { size: Number(size), offsets: offsets.map(Number) }];
        }),
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe('structures', () => {
  test.skipIf(compiler === undefined)(
    'lie in memory as a C compiler lays them out (skipped without a compiler)',
    () => {
      const measured = measure();
      for (const [name, fields, layout] of structures) {
        const ours = { size: layout.size, offsets: fields.map(([, field]) => layout.offset(field)) };
        // The kernel's structure is followed by its data, which the compiler pads up to.
        expect([name, ours]).toEqual([name, measured.get(name)]);
      }
    },
  );

  test('have the sizes of the kernel', () => {
    expect(structures.map(([, , layout]) => layout.size)).toEqual([
      24, 16, 12, 24, 32, 8, 16, 16, 16, 20, 20, 8, 24, 16, 32, 24, 20, 56,
    ]);
  });
});
