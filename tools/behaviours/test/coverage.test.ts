import { describe, expect, test } from 'vitest';
import { catalogue } from '../src/catalogue.ts';
import { coverage, leadingIds } from '../src/coverage.ts';

const report = (...tests: [title: string, status: string][]) => ({
  startTime: 0,
  testResults: [{ name: 'file', assertionResults: tests.map(([title, status]) => ({ title, status })) }],
});

describe('leading ids', () => {
  test.each([
    ['A5 two aux domains', ['A5']],
    ['D15 D16 answers', ['D15', 'D16']],
    ['A19, A20: PASIDs', ['A19', 'A20']],
    ['C3 and C4', ['C3', 'C4']],
    ['X1', ['X1']],
    ['maps what A5 maps', []],
    ['A page', []],
    ['D3hot and D0', []],
    ['H28 is a decision', []],
  ])('of "%s"', (title, ids) => expect(leadingIds(title)).toEqual(ids));
});

test('the catalogue has 100 behaviours and 6 properties', () => {
  const ids = Object.keys(catalogue);
  expect(ids.filter((id) => !id.startsWith('X'))).toHaveLength(100);
  expect(ids.filter((id) => id.startsWith('X'))).toHaveLength(6);
});

test('covered means passed, each title counts once', () => {
  const { covered, missing } = coverage(
    report(['A1 A2 both', 'passed'], ['A1 A2 both', 'passed'], ['A3 fails', 'failed'], ['A4 later', 'skipped']),
    { A1: '', A2: '', A3: '', A4: '' },
  );
  expect(covered).toEqual([
    { id: 'A1', tests: ['A1 A2 both'] },
    { id: 'A2', tests: ['A1 A2 both'] },
  ]);
  expect(missing).toEqual(['A3', 'A4']);
});

test('a property is named without the seed of its run', () => {
  const { covered } = coverage(report(['A1 holds (with seed=-12)', 'passed']), { A1: '' });
  expect(covered).toEqual([{ id: 'A1', tests: ['A1 holds'] }]);
});

test('an id that the catalogue lacks is reported', () => {
  expect(coverage(report(['A99 nothing', 'passed']), { A1: '' }).unknown).toEqual([
    { id: 'A99', title: 'A99 nothing' },
  ]);
});
