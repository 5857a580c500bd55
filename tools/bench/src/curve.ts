/** What grows with the number of areas: the same jobs with a hundred of them and with a million. */

import { costOf, type Sides } from './samples.ts';
import { AREA_COUNTS, growing } from './suites.ts';
import { formatTable, nanoseconds } from './table.ts';

export type Point = {
  areas: number;
  /** Nanoseconds per operation. */
  ts: number;
  c: number | null;
};

export type Curve = { title: string; points: Point[] }[];

/** @throws {Error} when the two sides did not do the same work */
export function makeCurve(sides: Sides): Curve {
  return growing.map(({ name, title }) => ({
    title,
    points: AREA_COUNTS.map((areas) => {
      const { ts, c } = costOf(sides, `${name}@${areas}`);
      return { areas, ts, c };
    }),
  }));
}

export function formatCurve(curve: Curve): string {
  const heads = curve.flatMap(({ title }) => [title, 'C']);
  const rows = AREA_COUNTS.map((areas, index) => {
    const cells = curve.flatMap(({ points }) => [points[index]!.ts, points[index]!.c]);
    return [areas.toLocaleString('en'), ...cells.map(nanoseconds)];
  });
  return formatTable([['areas; ns', ...heads], ...rows]);
}
