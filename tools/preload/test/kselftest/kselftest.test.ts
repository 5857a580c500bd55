import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { count, countFixtures, differences, type Expectation } from '../../src/kselftest/expectations.ts';
import { formatPage, formatTable } from '../../src/kselftest/report.ts';
import { TapReader } from '../../src/kselftest/tap.ts';

const OUTPUT = `TAP version 13
1..4
# Starting 4 tests from 2 test cases.
#  RUN           first.one ...
#            OK  first.one
ok 1 first.one
#  RUN           first.two ...
# first.c:136:two:Expected 22 (22) == errno (25)
# two: Test failed
#          FAIL  first.two
not ok 2 first.two
#  RUN           second.plain.three ...
#      SKIP      Skipping test for variant plain
#            OK  second.plain.three
ok 3 second.plain.three # SKIP Skipping test for variant plain
#  RUN           second.plain.four ...
#            OK  second.plain.four
ok 4 second.plain.four
# FAILED: 3 / 4 tests passed.
# Totals: pass:2 fail:1 xfail:0 xpass:0 skip:1 error:0`;

function read(output: string): TapReader {
  const tap = new TapReader();
  for (const line of output.split('\n')) tap.line(line);
  return tap;
}

const { cases } = read(OUTPUT);
const EXPECTED: Expectation = { pass: { first: 2, second: 1 }, skip: ['second.plain.three'] };

describe('output of the kernel test harness', () => {
  test('each case has its name, its outcome, and what it said', () => {
    expect(read(OUTPUT).planned).toBe(4);
    expect(cases).toEqual([
      { name: 'first.one', outcome: 'pass', said: [] },
      {
        name: 'first.two',
        outcome: 'fail',
        said: ['first.c:136:two:Expected 22 (22) == errno (25)', 'two: Test failed'],
      },
      { name: 'second.plain.three', outcome: 'skip', said: [] },
      { name: 'second.plain.four', outcome: 'pass', said: [] },
    ]);
  });

  test('a result is one that has the next number: others are what a case says', () => {
    const tap = read('1..2\nok 7 of 9 turns\nnot ok 1 door.turns\nno key');
    expect(tap.cases).toEqual([{ name: 'door.turns', outcome: 'fail', said: ['ok 7 of 9 turns'] }]);
    expect([tap.planned, tap.rest]).toEqual([2, ['no key']]);
  });

  test('cases are counted by fixture', () => {
    expect(count(cases)).toEqual({ pass: 2, skip: 1, fail: 1 });
    expect([...countFixtures(cases)]).toEqual([
      ['first', { pass: 1, skip: 0, fail: 1 }],
      ['second', { pass: 1, skip: 1, fail: 0 }],
    ]);
    expect(formatTable([{ program: 'iommufd', cases }]).split('\n')).toEqual([
      'program  fixture  pass  skip  fail',
      'iommufd  first       1     0     1',
      'iommufd  second      1     1     0',
      'iommufd  all         2     1     1',
    ]);
    expect(formatPage([{ program: 'iommufd', cases }], '7.2.12')).toContain(
      [
        '| program   | fixture | pass | skip | fail |',
        '| --------- | ------- | ---: | ---: | ---: |',
        '| `iommufd` | first   |    1 |    0 |    1 |',
      ].join('\n'),
    );
  });
});

describe('expectations', () => {
  test('a failure is a difference with its reason, and its fixture has one pass too few', () => {
    expect(differences(cases, EXPECTED, true)).toEqual([
      'first.two: fail, not pass\n      first.c:136:two:Expected 22 (22) == errno (25)\n      two: Test failed',
      'first: 1 pass, not 2',
    ]);
  });

  test('more than expected is a difference too: a case that should skip and passes', () => {
    const passing = cases.map((each) => ({ ...each, outcome: 'pass' as const }));
    expect(differences(passing, EXPECTED, true)).toEqual([
      'second.plain.three: pass, not skip',
      'second: 2 pass, not 1',
    ]);
  });

  test('a case that is gone is missed in a whole run, and not in one of some cases', () => {
    const some = cases.filter(({ name }) => name === 'first.one');
    expect(differences(some, EXPECTED, false)).toEqual([]);
    expect(differences(some, EXPECTED, true)).toEqual([
      'second.plain.three: did not run',
      'first: 1 pass, not 2',
      'second: 0 pass, not 1',
    ]);
  });

  test('the recorded ones are 241 and 5, and 8', () => {
    const path = new URL('../../expectations.json', import.meta.url);
    const recorded: { [program: string]: Expectation } = JSON.parse(readFileSync(path, 'utf8'));
    const totals = Object.entries(recorded).map(([program, { pass, skip }]) => [
      program,
      Object.values(pass).reduce((sum, number) => sum + number, 0),
      skip.length,
    ]);
    expect(totals).toEqual([
      ['iommufd', 241, 5],
      ['iommufd_fail_nth', 8, 0],
    ]);
  });
});
