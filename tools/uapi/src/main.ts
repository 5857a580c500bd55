/**
 * `npm run uapi -- --source DIR`: measures the headers of a Linux source tree and writes the tables that the tests
 * compare with; with `--check`, says instead what has changed against them.
 */

import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { changes } from './changes.ts';
import { installedHeaders, kernelVersion } from './linux-tree.ts';
import { measure } from './measure.ts';
import { formatTable, readTable, type TableName, tableFile, type UapiTable } from './table.ts';

const HELP = `Usage: npm run uapi -- --source DIR [--check]

  --source DIR  a Linux source tree; its headers are made when they are not there
  --check       write nothing; exit with 1 when a table differs from what the headers say
  --help        this text`;

/** Headers by their path in the kernel's tree, with the tables made of them. */
const TABLES: { readonly [header: string]: TableName } = {
  'include/uapi/linux/iommufd.h': 'iommufd',
  'drivers/iommu/iommufd/iommufd_test.h': 'iommufd-test',
  'include/uapi/linux/vfio.h': 'vfio',
};

function tableOf(source: string, header: string): UapiTable {
  const include = installedHeaders(source);
  const file = header.startsWith('include/uapi/')
    ? join(include, header.slice('include/uapi/'.length))
    : join(source, header);
  return { linux: kernelVersion(source), header, ...measure(file, include) };
}

function main(source: string, check: boolean): number {
  let different = 0;
  for (const [header, name] of Object.entries(TABLES)) {
    const table = tableOf(source, header);
    const count = `${Object.keys(table.structures).length} structures, ${Object.keys(table.requests).length} requests, ${Object.keys(table.constants).length} constants`;
    if (!check) {
      writeFileSync(tableFile(name), formatTable(table));
      console.log(`${name}.json: ${count} of Linux ${table.linux}`);
      continue;
    }
    const recorded = readTable(name);
    const found = changes(recorded, table);
    console.log(
      `${header}: ${count} of Linux ${table.linux}, ${found.length} different from the table of ${recorded.linux}`,
    );
    for (const change of found) console.log(`  ${change}`);
    different += found.length;
  }
  return different > 0 ? 1 : 0;
}

const { values } = parseArgs({
  options: {
    source: { type: 'string' },
    check: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
if (values.help || values.source === undefined) {
  console.log(HELP);
  process.exitCode = values.help ? 0 : 2;
} else process.exitCode = main(resolve(values.source), values.check);
