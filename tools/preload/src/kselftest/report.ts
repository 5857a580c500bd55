/** The outcome as a table for people, and as the page of the documentation. */

import { type Counts, count, countFixtures } from './expectations.ts';
import type { ProgramName } from './selftests.ts';
import type { Case } from './tap.ts';

export type Run = { readonly program: ProgramName; readonly cases: readonly Case[] };

type Row = readonly [program: string, fixture: string, counts: Counts];

function rowsOf(runs: readonly Run[]): Row[] {
  return runs.flatMap(({ program, cases }): Row[] => [
    ...[...countFixtures(cases)].map(([fixture, counts]): Row => [program, fixture, counts]),
    [program, 'all', count(cases)],
  ]);
}

/** A head and the rows, with the cells of a column made equally wide: words to the left, numbers to the right. */
function cells(runs: readonly Run[], programCell: (name: string) => string): string[][] {
  const table = [
    ['program', 'fixture', 'pass', 'skip', 'fail'],
    ...rowsOf(runs).map(([program, fixture, { pass, skip, fail }]) => [
      programCell(program),
      fixture,
      ...[pass, skip, fail].map((number) => `${number}`),
    ]),
  ];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  const pad = (cell: string, column: number): string =>
    column < 2 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!);
  return table.map((row) => row.map(pad));
}

export function formatTable(runs: readonly Run[]): string {
  return cells(runs, (name) => name)
    .map((row) => row.join('  ').trimEnd())
    .join('\n');
}

/** As the repository's formatter leaves it. */
function markdownTable(runs: readonly Run[]): string {
  const [head, ...rows] = cells(runs, (name) => `\`${name}\``);
  const rule = head!.map((cell, column) => (column < 2 ? '-'.repeat(cell.length) : `${'-'.repeat(cell.length - 1)}:`));
  return [head!, rule, ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

/** docs/conformance.md. */
export function formatPage(runs: readonly Run[], version: string): string {
  const skipped = runs.flatMap(({ cases }) => cases.filter(({ outcome }) => outcome === 'skip'));
  return `# Conformance

Linux brings programs that test \`/dev/iommu\`: \`tools/testing/selftests/iommu\`. Compiled from the source of Linux ${version} and not changed, they run on this project through [\`iommukit-run\`](../tools/preload/README.md):

\`\`\`sh
npm run kselftest -- --source DIR --write-docs
\`\`\`

DIR is a Linux source tree, outside this repository. The command compiles the programs, runs them, compares each case with what is expected of it (\`tools/preload/expectations.json\`), and wrote this page.

${markdownTable(runs)}

${skipped.length} cases skip themselves, as they do on a kernel: they are variants without a virtual IOMMU of tests that need one.

${skipped.map(({ name }) => `- \`${name}\``).join('\n')}

\`iommufd_fail_nth\` has allocations, pins and maps fail one after the other, each in a run of its own, and looks for what is left behind.

The command also compiles a C program against the tree's headers, and compares sizes, offsets, request numbers and constants with the tables that the tests of the packages use ([tools/uapi](../tools/uapi/README.md)).

## What is not run

- The mock IOMMU that the tests bring along is this project's own, on the same core and page tables as the others ([\`@iommukit/iommufd/selftest\`](../packages/iommufd/README.md)); the tests say nothing about VT-d, for which there are tests of this project.
- Where the system has no huge pages, the tests get ordinary memory at the same alignment.
- Whether the process may exceed its limits is answered for the tests as for root (\`--grant CAP_SYS_RESOURCE\`).
- The kernel's tests of VFIO, \`tools/testing/selftests/vfio\`, are not part of this.
`;
}
