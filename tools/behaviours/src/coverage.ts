/** What `behaviours` reads of vitest's JSON report. */
export type Report = {
  startTime: number;
  testResults: { name: string; assertionResults: { title: string; status: string }[] }[];
};

export type Coverage = {
  /** Behaviours with at least one passed test, in the order of the catalogue. */
  covered: { id: string; tests: string[] }[];
  missing: string[];
  /** Titles that start with an id that the catalogue does not have. */
  unknown: { id: string; title: string }[];
};

/** What @fast-check/vitest puts behind a title, different in each run. */
const SEED = / \(with seed=-?\d+\)$/;
const LEADING_IDS = /^[A-FVX]\d+(?:(?:[,/\s]|and\s)+[A-FVX]\d+)*(?=[\s:,]|$)/;

/** The behaviours that a test title names: the ids at its start. */
export function leadingIds(title: string): string[] {
  return LEADING_IDS.exec(title)?.[0].match(/[A-Z]\d+/g) ?? [];
}

export function coverage(report: Report, catalogue: Readonly<Record<string, string>>): Coverage {
  const passed = new Map<string, Set<string>>();
  const unknown: Coverage['unknown'] = [];
  for (const { title: full, status } of report.testResults.flatMap((file) => file.assertionResults)) {
    const title = full.replace(SEED, '');
    for (const id of leadingIds(title)) {
      if (!Object.hasOwn(catalogue, id)) unknown.push({ id, title });
      else if (status === 'passed') passed.set(id, (passed.get(id) ?? new Set()).add(title));
    }
  }
  const ids = Object.keys(catalogue);
  return {
    covered: ids.flatMap((id) => (passed.has(id) ? [{ id, tests: [...passed.get(id)!] }] : [])),
    missing: ids.filter((id) => !passed.has(id)),
    unknown,
  };
}
