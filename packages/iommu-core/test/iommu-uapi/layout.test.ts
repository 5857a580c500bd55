import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Fields, Struct } from '../../src/index.ts';
import * as uapi from '../../src/iommu-uapi/layout.ts';

/** Every structure as the interface's documentation declares it, those of unions before those that hold them. */
const DECLARATIONS = `
struct unrecoverable { __u32 reason; __u32 flags; __u32 pasid; __u32 perm; __u64 addr; __u64 fetch; };
struct page_request { __u32 flags; __u32 pasid; __u32 grpid; __u32 perm; __u64 addr; __u64 data[2]; };
struct fault {
  __u32 type; __u32 padding;
  union { struct unrecoverable event; struct page_request prm; __u8 room[56]; };
};
struct page_response { __u32 argsz; __u32 version; __u32 flags; __u32 pasid; __u32 grpid; __u32 code; };
struct inv_pasid { __u32 flags; __u32 archid; __u64 pasid; };
struct inv_addr { __u32 flags; __u32 archid; __u64 pasid; __u64 addr; __u64 granule; __u64 granules; };
struct invalidate {
  __u32 argsz; __u32 version; __u8 cache; __u8 granularity; __u8 padding[6];
  union { struct inv_pasid pasid_info; struct inv_addr addr_info; } granu;
};
struct bind_vtd { __u64 flags; __u32 pat; __u32 emt; };
struct bind {
  __u32 argsz; __u32 version; __u32 format; __u32 addr_width;
  __u64 flags; __u64 gpgd; __u64 hpasid; __u64 gpasid; __u8 padding[8];
  union { struct bind_vtd vtd; } vendor;
};`;

type Case = {
  readonly layout: Struct<Fields>;
  readonly c: string;
  /** Bytes that the structure has behind the layout. */
  readonly room?: number;
  /** Fields of the layout by the name of C. */
  readonly fields: { readonly [name: string]: string };
};

function same(names: string, prefix = ''): { [name: string]: string } {
  return Object.fromEntries(names.split(' ').map((name) => [`${prefix}${name}`, name]));
}

const CASES: Case[] = [
  {
    layout: uapi.iommuFaultUnrecoverable as unknown as Struct<Fields>,
    c: 'unrecoverable',
    fields: { ...same('reason flags pasid perm addr'), fetch: 'fetchAddr' },
  },
  {
    layout: uapi.iommuFaultPageRequest as unknown as Struct<Fields>,
    c: 'page_request',
    fields: { ...same('flags pasid grpid perm addr'), 'data[0]': 'privateData0', 'data[1]': 'privateData1' },
  },
  {
    layout: uapi.iommuFaultEvent as unknown as Struct<Fields>,
    c: 'fault',
    room: 24,
    fields: { ...same('type padding'), ...same('reason flags pasid perm addr', 'event.'), 'event.fetch': 'fetchAddr' },
  },
  {
    layout: uapi.iommuFaultPrm as unknown as Struct<Fields>,
    c: 'fault',
    room: 16,
    fields: { ...same('type padding'), ...same('flags pasid grpid perm addr', 'prm.'), 'prm.data[1]': 'privateData1' },
  },
  {
    layout: uapi.iommuPageResponse as unknown as Struct<Fields>,
    c: 'page_response',
    fields: same('argsz version flags pasid grpid code'),
  },
  { layout: uapi.iommuInvPasidInfo as unknown as Struct<Fields>, c: 'inv_pasid', fields: same('flags archid pasid') },
  {
    layout: uapi.iommuInvAddrInfo as unknown as Struct<Fields>,
    c: 'inv_addr',
    fields: { ...same('flags archid pasid addr'), granule: 'granuleSize', granules: 'nbGranules' },
  },
  {
    layout: uapi.iommuCacheInvalidateInfo as unknown as Struct<Fields>,
    c: 'invalidate',
    fields: {
      ...same('argsz version cache granularity'),
      'padding[0]': 'padding0',
      'padding[2]': 'padding1',
      'padding[4]': 'padding2',
      ...same('flags archid pasid', 'granu.pasid_info.'),
      ...same('flags archid pasid addr', 'granu.addr_info.'),
      'granu.addr_info.granule': 'granuleSize',
      'granu.addr_info.granules': 'nbGranules',
    },
  },
  {
    layout: uapi.iommuGpasidBindDataVtd as unknown as Struct<Fields>,
    c: 'bind_vtd',
    fields: same('flags pat emt'),
  },
  {
    layout: uapi.iommuGpasidBindData as unknown as Struct<Fields>,
    c: 'bind',
    fields: {
      ...same('argsz version format flags gpgd hpasid gpasid padding'),
      addr_width: 'addrWidth',
      'vendor.vtd.flags': 'vtdFlags',
      'vendor.vtd.pat': 'vtdPat',
      'vendor.vtd.emt': 'vtdEmt',
    },
  },
];

function compilerIsThere(): boolean {
  try {
    execFileSync('cc', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

describe('structures of linux/iommu.h', () => {
  test('have the documented sizes', () => {
    expect(CASES.map(({ layout, room = 0 }) => layout.size + room)).toEqual([32, 40, 64, 64, 24, 16, 40, 56, 16, 72]);
    expect(uapi.IOMMU_FAULT_SIZE).toBe(64);
  });

  test.skipIf(!compilerIsThere())('lie as the C compiler lays them out (skipped without cc)', () => {
    const program = [
      '#include <stddef.h>\n#include <stdio.h>\n#include <linux/types.h>',
      DECLARATIONS,
      'int main(void) {',
      ...CASES.flatMap(({ c, fields }) => [
        `printf("${c} %zu", sizeof(struct ${c}));`,
        ...Object.entries(fields).map(([at, name]) => `printf(" ${name}=%zu", offsetof(struct ${c}, ${at}));`),
        'printf("\\n");',
      ]),
      'return 0; }',
    ].join('\n');
    const folder = mkdtempSync(join(tmpdir(), 'iommu-layout-'));
    try {
      writeFileSync(join(folder, 'layout.c'), program);
      execFileSync('cc', ['-o', join(folder, 'layout'), join(folder, 'layout.c')]);
      const lines = execFileSync(join(folder, 'layout')).toString().trim().split('\n');
      const mine = CASES.map(({ c, layout, room = 0, fields }) => {
        const offsets = Object.values(fields).map((name) => ` ${name}=${layout.offset(name)}`);
        return `${c} ${layout.size + room}${offsets.join('')}`;
      });
      expect(lines).toEqual(mine);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('memory types are four of the seven flags of a bind', () => {
    expect(uapi.IOMMU_SVA_VTD_GPASID_MTS_MASK).toBe(0x3cn);
    expect(uapi.IOMMU_SVA_VTD_GPASID_LAST).toBe(1n << 7n);
  });
});
