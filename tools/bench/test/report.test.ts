import { describe, expect, test } from 'vitest';
import { drawCurve } from '../src/curve-picture.ts';
import type { Sample } from '../src/measure.ts';
import { formatReport, makeReport } from '../src/report.ts';
import type { Sides } from '../src/samples.ts';
import { AREA_COUNTS, growing, suites } from '../src/suites.ts';

type Cost = (name: string) => number;

/** Three rounds, of which the middle one is the median, of all jobs of a suite. */
function samples(suite: number, ns: Cost): Sample[] {
  const names = new Set(suites[suite]!.jobs.flatMap((job) => job.names));
  if (suite === 1) for (const { name } of growing) for (const areas of AREA_COUNTS) names.add(`${name}@${areas}`);
  return [...names].flatMap((name) =>
    [0.5, 1, 9].map((factor) => ({ name, ns: ns(name) * factor, checksum: 7, bytes: 0 })),
  );
}

const guest: Sample[] = [{ name: 'guest', ns: 10, checksum: 0, bytes: 0 }];

function sides(ts: Cost, c: Cost | null): Sides[] {
  return suites.map((_, suite) => ({
    ts: [...samples(suite, ts), ...(suite === 0 ? guest : [])],
    c: c === null ? [] : samples(suite, c),
  }));
}

describe('report', () => {
  test('compares the medians of both sides with the budget', () => {
    const ts: Cost = (name) => (name === 'walk' ? 21 : 5);
    const report = makeReport(
      sides(ts, (name) => (name === 'walk' ? 10 : 4)),
      3,
      'cc 1.0',
    );
    const rows = report.suites.flatMap((suite) => suite.rows);
    const row = (name: string) => rows.find((each) => each.name === name);
    expect(row('walk')).toMatchObject({ ts: 21, c: 10, ratio: 2.1, budget: 2, met: false });
    expect(row('iotlb')).toMatchObject({ ratio: 1.25, met: true });
    expect(row('map-2m')).toMatchObject({ ratio: 1.25, budget: null, met: null });
    expect(report.guest).toEqual({ mips: 100, budget: 60, met: true });
    expect(formatReport(report)).toMatch(/4-level first-stage walk +21\.00 +10\.00 +2\.10 +2\.00 +MISSED +0/);
  });

  test('adds up the jobs of a row', () => {
    const c: Cost = (name) => (name === 'map-64g' ? 3 : 1);
    const report = makeReport(
      sides((name) => (name === 'map-64g' ? 6 : 1), c),
      3,
      'cc',
    );
    expect(report.suites[1]!.rows[0]).toMatchObject({ name: 'map-64g+unmap-64g', ts: 7, c: 4, ratio: 1.75, met: true });
  });

  test('holds a budget of nanoseconds against the TypeScript side alone', () => {
    const slow: Cost = (name) => (name === 'first-fit@1000000' ? 1001 : 1000);
    const rows = makeReport(sides(slow, null), 3, null).suites[1]!.rows;
    const met = (name: string) => rows.find((row) => row.name === name)?.met;
    expect([met('first-fit@100000'), met('first-fit@1000000')]).toEqual([true, false]);
  });

  test('says nothing of ratios where there is no compiler', () => {
    const report = makeReport(
      sides(() => 5, null),
      3,
      null,
    );
    const rows = report.suites.flatMap((suite) => suite.rows);
    expect(rows.every((row) => row.c === null && row.ratio === null)).toBe(true);
    expect(rows.filter((row) => row.met !== null).map((row) => row.nsBudget)).toEqual([1000, 1000]);
    expect(formatReport(report)).toContain('no C compiler found');
    expect(drawCurve(report.curve)).not.toContain('path class="c"');
  });

  test('refuses to compare sides that did different work', () => {
    const all = sides(
      () => 5,
      () => 4,
    );
    const other = { ...all[1]!, c: all[1]!.c.map((sample) => ({ ...sample, checksum: 8 })) };
    expect(() => makeReport([all[0]!, other, all[2]!], 3, 'cc')).toThrow(/checksums differ/);
  });

  test('leaves out what could not be run', () => {
    const all = sides(
      () => 5,
      () => 4,
    );
    const report = makeReport([all[0]!, all[1]!, { ts: [], c: [] }], 3, 'cc');
    expect(report.suites.map(({ title }) => title)).toEqual(suites.slice(0, 2).map(({ title }) => title));
  });
});

describe('curve', () => {
  const costs: Cost = (name) => (name.includes('@') ? Number(name.split('@')[1]) : 1);
  const report = makeReport(
    sides(costs, () => 100),
    3,
    'cc',
  );

  test('has a line of the table for each number of areas', () => {
    expect(formatReport(report)).toMatch(/\n100,000( +100000 +100){4}\n/);
  });

  test('is drawn with more cost further up and more areas further right', () => {
    const line = /path class="ts" d="M([^"]*)"/.exec(drawCurve(report.curve))![1]!;
    const points = line.split('L').map((point) => point.split(' ').map(Number));
    expect(points).toHaveLength(AREA_COUNTS.length);
    for (let at = 1; at < points.length; at++) {
      expect(points[at]![0]).toBeGreaterThan(points[at - 1]![0]!);
      expect(points[at]![1]).toBeLessThan(points[at - 1]![1]!);
    }
  });
});
