/** What is expected of the test programs, and how a run differs from it. */

import { type Case, fixtureOf, type Outcome } from './tap.ts';

export type Counts = { readonly [K in Outcome]: number };

/** Of one program. */
export type Expectation = {
  /** Cases that pass, by fixture. */
  readonly pass: { readonly [fixture: string]: number };
  /** Names of the cases that are skipped; every other case passes. */
  readonly skip: readonly string[];
};

export function count(cases: readonly Case[]): Counts {
  const of = (outcome: Outcome): number => cases.filter((each) => each.outcome === outcome).length;
  return { pass: of('pass'), skip: of('skip'), fail: of('fail') };
}

/** Counts by fixture, in the order in which the fixtures ran. */
export function countFixtures(cases: readonly Case[]): Map<string, Counts> {
  const fixtures = new Map<string, Case[]>();
  for (const each of cases) {
    const fixture = fixtureOf(each.name);
    fixtures.set(fixture, [...(fixtures.get(fixture) ?? []), each]);
  }
  return new Map([...fixtures].map(([fixture, of]) => [fixture, count(of)]));
}

/**
 * What differs, in words; nothing when all is as expected. `whole` is true when no case was left out on purpose: only
 * then is one missing that did not run.
 */
export function differences(cases: readonly Case[], expected: Expectation, whole: boolean): string[] {
  const found: string[] = [];
  const skipped = new Set(expected.skip);
  for (const { name, outcome, said } of cases) {
    const wanted: Outcome = skipped.has(name) ? 'skip' : 'pass';
    if (outcome !== wanted) found.push([`${name}: ${outcome}, not ${wanted}`, ...said].join('\n      '));
  }
  if (!whole) return found;
  const ran = new Set(cases.map(({ name }) => name));
  for (const name of expected.skip) if (!ran.has(name)) found.push(`${name}: did not run`);
  const fixtures = countFixtures(cases);
  for (const fixture of new Set([...Object.keys(expected.pass), ...fixtures.keys()])) {
    const wanted = expected.pass[fixture] ?? 0;
    const passed = fixtures.get(fixture)?.pass ?? 0;
    if (passed !== wanted) found.push(`${fixture}: ${passed} pass, not ${wanted}`);
  }
  return found;
}
