import { describe, expect, test } from 'vitest';
import { budgets } from '../src/budgets.ts';
import type { Sample } from '../src/measure.ts';
import { formatReport, makeReport } from '../src/report.ts';

/** Three rounds, of which the middle one is the median. */
function samples(ns: (name: string) => number): Sample[] {
  return budgets.flatMap(({ name }) =>
    [0.5, 1, 9].map((factor) => ({ name, ns: ns(name) * factor, checksum: 7, bytes: 0 })),
  );
}

const guest: Sample[] = [{ name: 'guest', ns: 10, checksum: 0, bytes: 0 }];

describe('report', () => {
  test('compares the medians of both sides with the budget', () => {
    const ts = [...samples((name) => (name === 'walk' ? 21 : 5)), ...guest];
    const c = samples((name) => (name === 'walk' ? 10 : 4));
    const report = makeReport(ts, c, 3, 'cc 1.0');
    const row = (name: string) => report.rows.find((each) => each.name === name);
    expect(row('walk')).toMatchObject({ ts: 21, c: 10, ratio: 2.1, budget: 2, met: false });
    expect(row('iotlb')).toMatchObject({ ratio: 1.25, met: true });
    expect(row('map-2m')).toMatchObject({ ratio: 1.25, budget: null, met: null });
    expect(report.guest).toEqual({ mips: 100, budget: 60, met: true });
    expect(formatReport(report)).toMatch(/4-level first-stage walk +21\.00 +10\.00 +2\.10 +2\.00 +MISSED +0/);
  });

  test('says nothing of ratios where there is no compiler', () => {
    const report = makeReport([...samples(() => 5), ...guest], [], 3, null);
    expect(report.rows.every((row) => row.c === null && row.ratio === null && row.met === null)).toBe(true);
    expect(formatReport(report)).toContain('no C compiler found');
  });

  test('refuses to compare sides that did different work', () => {
    const c = samples(() => 4).map((sample) => ({ ...sample, checksum: 8 }));
    expect(() => makeReport([...samples(() => 5), ...guest], c, 3, 'cc')).toThrow(/checksums differ/);
  });
});
