/** From samples of many processes to one row for each measurement, and to text. */

import { budgets, GUEST_MIPS, NO_BYTES } from './budgets.ts';
import type { Sample } from './measure.ts';

export type Row = {
  name: string;
  title: string;
  /** Nanoseconds per operation; null where there is no C side. */
  ts: number;
  c: number | null;
  ratio: number | null;
  budget: number | null;
  /** Null where nothing can be said: no budget, or no C side. */
  met: boolean | null;
  /** Bytes of JavaScript heap per operation. */
  bytes: number;
};

export type Report = {
  rounds: number;
  compiler: string | null;
  rows: Row[];
  guest: { mips: number; budget: number; met: boolean };
};

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

/** @throws {Error} when the two sides did not do the same work */
export function makeReport(
  ts: readonly Sample[],
  c: readonly Sample[],
  rounds: number,
  compiler: string | null,
): Report {
  const of = (samples: readonly Sample[], name: string): Sample[] => samples.filter((sample) => sample.name === name);
  const rows = budgets.map(({ name, title, ratio: budget }) => {
    const [ours, theirs] = [of(ts, name), of(c, name)];
    const checksums = new Set([...ours, ...theirs].map((sample) => sample.checksum));
    if (checksums.size !== 1) throw new Error(`${name}: checksums differ: ${[...checksums].join(', ')}`);
    const tsNs = median(ours.map((sample) => sample.ns));
    const cNs = theirs.length === 0 ? null : median(theirs.map((sample) => sample.ns));
    const ratio = cNs === null ? null : tsNs / cNs;
    const met = ratio === null || budget === null ? null : ratio <= budget;
    const bytes = median(ours.map((sample) => sample.bytes));
    return { name, title, ts: tsNs, c: cNs, ratio, budget, met, bytes };
  });
  const mips = 1000 / median(of(ts, 'guest').map((sample) => sample.ns));
  return { rounds, compiler, rows, guest: { mips, budget: GUEST_MIPS, met: mips >= GUEST_MIPS } };
}

function verdict(met: boolean | null): string {
  return met === null ? '' : met ? 'met' : 'MISSED';
}

export function formatReport(report: Report): string {
  const number = (value: number | null, digits: number): string => (value === null ? '-' : value.toFixed(digits));
  const table = [['', 'TS ns', 'C ns', 'ratio', 'budget', '', 'bytes']];
  for (const row of report.rows) {
    const bytes = row.bytes <= NO_BYTES ? '0' : row.bytes.toFixed(1);
    const ratios = [number(row.ratio, 2), number(row.budget, 2)];
    table.push([row.title, number(row.ts, 2), number(row.c, 2), ...ratios, verdict(row.met), bytes]);
  }
  const widths = table[0]!.map((_, column) => Math.max(...table.map((cells) => cells[column]!.length)));
  const lines = table.map((cells) =>
    cells.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!))).join('  '),
  );
  const { mips, budget, met } = report.guest;
  const against = report.compiler === null ? 'no C compiler found: TypeScript alone' : `C side: ${report.compiler}`;
  return [
    ...lines.map((line) => line.trimEnd()),
    '',
    `guest integer loop: ${mips.toFixed(0)} million instructions a second, budget ${budget}: ${verdict(met)}`,
    `medians of CPU time over ${report.rounds} rounds, the two sides in turn; ${against}`,
  ].join('\n');
}
