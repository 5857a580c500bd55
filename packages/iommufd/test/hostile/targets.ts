/** What a program can ask of /dev/iommu: every request with its structure, and each operation of the kernel's tests. */

// @boundaries-ignore the generator of the lowest layer's tests
import type { Random } from '../../../hw/test/support/random.ts';
import { type Fields, type FieldType, type Struct, struct } from '../../src/index.ts';
import { TEST_CMD_SIZE, testCmdMembers } from '../../src/selftest/test-cmd.ts';
import * as selftest from '../../src/selftest/uapi.ts';
import * as iommufd from '../../src/uapi/iommufd.ts';
import * as type1 from '../../src/uapi/type1.ts';
import * as viommu from '../../src/uapi/viommu.ts';

export type Target = {
  readonly name: string;
  readonly request: number;
  readonly layout: Struct<Fields>;
  /** Of the fields, in order. The first one says how long the structure is. */
  readonly types: Fields;
  /** Bytes that the kernel knows. */
  readonly size: number;
  /** Of IOMMU_TEST_CMD. */
  readonly operation?: number;
};

/** Structures that are not called after their request or operation. */
const OTHER_NAMES: { readonly [name: string]: string } = {
  IOMMU_GET_HW_INFO: 'iommuHwInfo',
  IOMMU_FAULT_QUEUE_ALLOC: 'iommuFaultAlloc',
  VFIO_IOMMU_GET_INFO: 'vfioIommuType1Info',
  VFIO_IOMMU_MAP_DMA: 'vfioIommuType1DmaMap',
  VFIO_IOMMU_UNMAP_DMA: 'vfioIommuType1DmaUnmap',
  IOMMU_TEST_OP_MD_CHECK_MAP: 'checkMap',
  IOMMU_TEST_OP_MD_CHECK_REFS: 'checkRefs',
  IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT: 'memoryLimit',
  IOMMU_TEST_OP_MD_CHECK_IOTLB: 'checkIotlb',
  IOMMU_TEST_OP_DEV_CHECK_CACHE: 'checkDevCache',
  IOMMU_TEST_OP_PASID_CHECK_HWPT: 'pasidCheck',
};

const exported: { readonly [name: string]: unknown } = { ...iommufd, ...viommu, ...type1 };

const HEAD = { size: 'u32', op: 'u32', id: 'u32', reserved: 'u32' } as const;

/** Targets, those more often that leave something for others to work on. */
export class Targets {
  private readonly all: readonly Target[];
  private readonly makers: readonly Target[];

  constructor(all: readonly Target[]) {
    this.all = all;
    this.makers = all.filter(({ name }) => /ALLOC$|_MAP|_COPY$|MOCK_DOMAIN|CREATE_ACCESS|ATTACH/.test(name));
  }

  pick(random: Random): Target {
    return random.pick(random.chance(50) ? this.makers : this.all);
  }
}

/** Requests whose argument points to a structure. */
export function requests(): Target[] {
  return numbers(exported, /./)
    .filter(([, value]) => value >> 8 === 0x3b)
    .flatMap(([name, request]) => {
      const layout = exported[OTHER_NAMES[name] ?? camelCase(name)] as Struct<Fields> | undefined;
      return layout === undefined ? [] : [{ name, request, layout, types: typesOf(layout), size: layout.size }];
    });
}

/** The operations of IOMMU_TEST_CMD. */
export function operations(): Target[] {
  return numbers(selftest, /^IOMMU_TEST_OP_/).map(([name, operation]) => {
    const member = OTHER_NAMES[name] ?? camelCase(name.slice('IOMMU_TEST_OP_'.length));
    const members: { readonly [name: string]: Struct<Fields> } = testCmdMembers as never;
    const { id, ...fields } = typesOf(members[member]!);
    // Both the head and two of the members have an id.
    const types = { ...HEAD, ...(id === undefined ? {} : { index: id }), ...fields };
    return { name, request: selftest.IOMMU_TEST_CMD, layout: struct(types), types, size: TEST_CMD_SIZE, operation };
  });
}

/** In the order of the numbers, as modules do not list what they export in one order everywhere. */
function numbers(module: object, names: RegExp): [string, number][] {
  return Object.entries(module)
    .filter((entry): entry is [string, number] => typeof entry[1] === 'number' && names.test(entry[0]))
    .sort((a, b) => a[1] - b[1]);
}

function typesOf(layout: Struct<Fields>): Fields {
  const fields = Object.keys(layout.read(new Uint8Array(layout.size)));
  return Object.fromEntries(fields.map((field) => [field, typeOf(layout, field)]));
}

function typeOf(layout: Struct<Fields>, field: string): FieldType {
  return ({ 1: 'u8', 2: 'u16', 4: 'u32', 8: 'u64' } as const)[layout.end(field) - layout.offset(field)]!;
}

function camelCase(name: string): string {
  return name.toLowerCase().replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
