/** The headers of a Linux source tree that there are tables of. */

import { join } from 'node:path';
import { changes } from './changes.ts';
import { installedHeaders, kernelVersion } from './linux-tree.ts';
import { measure } from './measure.ts';
import { readTable, TABLE_NAMES, type TableName, type UapiTable } from './table.ts';

/** By their path in the tree. */
const HEADERS: { readonly [Name in TableName]: string } = {
  iommufd: 'include/uapi/linux/iommufd.h',
  'iommufd-test': 'drivers/iommu/iommufd/iommufd_test.h',
  vfio: 'include/uapi/linux/vfio.h',
};

const FOR_USER_SPACE = 'include/uapi/';

/** What the compiler says of a header of `source`, whose headers for user space are made when they are not there. */
export function measureTree(source: string, name: TableName): UapiTable {
  const include = installedHeaders(source);
  const header = HEADERS[name];
  const installed = header.startsWith(FOR_USER_SPACE);
  const file = installed ? join(include, header.slice(FOR_USER_SPACE.length)) : join(source, header);
  const table = { linux: kernelVersion(source), header, ...measure(file, include) };
  if (Object.keys(table.structures).length === 0) throw new Error(`${file} declares no structures`);
  return table;
}

export type TreeComparison = {
  readonly header: string;
  /** Version of the tree. */
  readonly linux: string;
  /** How many were compared. */
  readonly structures: number;
  readonly numbers: number;
  /** What is different from the table, a line each. */
  readonly changes: readonly string[];
};

/** The headers of `source` against the tables, one after the other. */
export function compareTree(source: string): TreeComparison[] {
  return TABLE_NAMES.map((name) => {
    const table = measureTree(source, name);
    const { header, linux, structures, requests, constants } = table;
    return {
      header,
      linux,
      structures: Object.keys(structures).length,
      numbers: Object.keys({ ...requests, ...constants }).length,
      changes: changes(readTable(name), table),
    };
  });
}
