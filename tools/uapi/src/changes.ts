import type { UapiTable } from './table.ts';

/** What differs between two tables of one header, versions aside; a line for each structure, field and number. */
export function changes(before: UapiTable, after: UapiTable): string[] {
  const old = flatten(before);
  const now = flatten(after);
  return [...new Set([...old.keys(), ...now.keys()])]
    .filter((name) => old.get(name) !== now.get(name))
    .map((name) => `${name}: ${old.get(name) ?? 'not there'} before, ${now.get(name) ?? 'not there'} now`);
}

function flatten({ structures, requests, constants }: UapiTable): Map<string, string> {
  const lines = new Map<string, string>();
  for (const [name, { size, fields }] of Object.entries(structures)) {
    lines.set(`struct ${name}`, `${size} bytes`);
    for (const [field, [offset, width]] of Object.entries(fields)) {
      lines.set(`struct ${name}.${field}`, `${width} bytes at ${offset}`);
    }
  }
  for (const [name, value] of Object.entries({ ...requests, ...constants })) lines.set(name, `0x${value.toString(16)}`);
  return lines;
}
