/** From samples of many processes to one row for each job, and to text. */

import { type Curve, formatCurve, makeCurve } from './curve.ts';
import { costOf, type Sides } from './samples.ts';
import { GUEST_MIPS, type Job, NO_BYTES, suites } from './suites.ts';
import { formatTable, nanoseconds } from './table.ts';

export type Row = {
  name: string;
  title: string;
  /** Nanoseconds per operation; null where there is no C side. */
  ts: number;
  c: number | null;
  ratio: number | null;
  /** Most that `ratio` may be, or `ts`; null where none is set. */
  budget: number | null;
  nsBudget: number | null;
  /** Null where nothing can be said: no budget, or no C side. */
  met: boolean | null;
  /** Bytes of JavaScript heap per operation. */
  bytes: number;
};

export type Report = {
  rounds: number;
  compiler: string | null;
  suites: { title: string; rows: Row[] }[];
  guest: { mips: number; budget: number; met: boolean };
  curve: Curve;
};

/** @param sides of each suite, in their order; one without samples is left out @throws {Error} when the two sides did not do the same work */
export function makeReport(sides: readonly Sides[], rounds: number, compiler: string | null): Report {
  const [translation, ioas] = sides;
  const mips = 1000 / costOf(translation!, 'guest').ts;
  return {
    rounds,
    compiler,
    suites: suites.flatMap(({ title, jobs }, index) => {
      const side = sides[index]!;
      return side.ts.length === 0 ? [] : [{ title, rows: jobs.map((job) => makeRow(job, side)) }];
    }),
    guest: { mips, budget: GUEST_MIPS, met: mips >= GUEST_MIPS },
    curve: makeCurve(ioas!),
  };
}

function makeRow({ names, title, ratio: budget, ns }: Job, sides: Sides): Row {
  const costs = names.map((name) => costOf(sides, name));
  const ts = costs.reduce((sum, cost) => sum + cost.ts, 0);
  const c = costs.reduce<number | null>((sum, cost) => (sum === null || cost.c === null ? null : sum + cost.c), 0);
  const bytes = costs.reduce((sum, cost) => sum + cost.bytes, 0);
  const ratio = c === null ? null : ts / c;
  let met = ratio === null || budget === null ? null : ratio <= budget;
  if (ns !== undefined) met = ts <= ns;
  return { name: names.join('+'), title, ts, c, ratio, budget, nsBudget: ns ?? null, met, bytes };
}

function verdict(met: boolean | null): string {
  return met === null ? '' : met ? 'met' : 'MISSED';
}

function formatRows(title: string, rows: readonly Row[]): string {
  const table = [[title, 'TS ns', 'C ns', 'ratio', 'budget', '', 'bytes']];
  for (const row of rows) {
    const bytes = row.bytes <= NO_BYTES ? '0' : row.bytes.toFixed(1);
    const budget = row.nsBudget === null ? (row.budget?.toFixed(2) ?? '-') : `${row.nsBudget} ns`;
    const ratio = row.ratio?.toFixed(2) ?? '-';
    table.push([row.title, nanoseconds(row.ts), nanoseconds(row.c), ratio, budget, verdict(row.met), bytes]);
  }
  return formatTable(table);
}

export function formatReport(report: Report): string {
  const { mips, budget, met } = report.guest;
  const against = report.compiler === null ? 'no C compiler found: TypeScript alone' : `C side: ${report.compiler}`;
  const [translation, ...others] = report.suites.map(({ title, rows }) => formatRows(title, rows));
  return [
    translation,
    `\nguest integer loop: ${mips.toFixed(0)} million instructions a second, budget ${budget}: ${verdict(met)}`,
    ...others.map((text) => `\n${text}`),
    `\n${formatCurve(report.curve)}`,
    `\nmedians of CPU time over ${report.rounds} rounds, the two sides in turn; ${against}`,
  ].join('\n');
}
