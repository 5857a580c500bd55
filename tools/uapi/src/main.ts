/**
 * `npm run uapi -- --source DIR`: measures the headers of a Linux source tree and writes the tables that the tests
 * compare with; with `--check`, says instead what has changed against them.
 */

import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable, TABLE_NAMES, tableFile } from './table.ts';
import { compareTree, measureTree } from './tree.ts';

const HELP = `Usage: npm run uapi -- --source DIR [--check]

  --source DIR  a Linux source tree; its headers are made when they are not there
  --check       write nothing; exit with 1 when a table differs from what the headers say
  --help        this text`;

function write(source: string): void {
  for (const name of TABLE_NAMES) {
    const table = measureTree(source, name);
    writeFileSync(tableFile(name), formatTable(table));
    const { structures, requests, constants } = table;
    const numbers = Object.keys({ ...requests, ...constants }).length;
    console.log(
      `${name}.json: ${Object.keys(structures).length} structures and ${numbers} numbers of Linux ${table.linux}`,
    );
  }
}

/** @returns how much is different */
function check(source: string): number {
  const found = compareTree(source);
  for (const { header, linux, structures, numbers, changes } of found) {
    console.log(
      `${header} of Linux ${linux}: ${structures} structures and ${numbers} numbers, ${changes.length} different`,
    );
    for (const change of changes) console.log(`  ${change}`);
  }
  return found.reduce((sum, { changes }) => sum + changes.length, 0);
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
} else if (values.check) process.exitCode = check(resolve(values.source)) > 0 ? 1 : 0;
else write(resolve(values.source));
