/**
 * Compares what a package exports for a header with the header's table. Names are the kernel's in camel case: the
 * structure `iommuIoasMap` is iommu_ioas_map, its field `ioasId` ioas_id or some_member.ioas_id, and `reserved`,
 * `reserved0` and `pad` lie in a reserved field, whatever its underscores. Numbers keep their names.
 */

import type { FieldPlace, StructureLayout, UapiTable } from './table.ts';

/** The layout of a structure as `@iommukit/iommu-core` exports it. */
type Layout = {
  readonly size: number;
  offset(field: string): number;
  end(field: string): number;
  read(bytes: Uint8Array): object;
};

export type Exceptions = {
  /** Structures whose name in C is another one; `from` is the byte of that structure where the exported one begins. */
  readonly renamed?: { readonly [exported: string]: { readonly structure: string; readonly from?: number } };
  /** What the header does not have, with the reason why it is exported nevertheless. */
  readonly absent?: { readonly [exported: string]: string };
};

export type Comparison = {
  /** How many structures and numbers the table has of those exported. */
  readonly structures: number;
  readonly numbers: number;
  /** What differs, and exceptions that are none. */
  readonly differences: string[];
};

/** @param exported a module's namespace; functions and types in it are left out. */
export function compareWithTable(exported: object, table: UapiTable, exceptions: Exceptions = {}): Comparison {
  const { renamed = {}, absent = {} } = exceptions;
  const numbers: { readonly [name: string]: number } = { ...table.requests, ...table.constants };
  const differences: string[] = [];
  const counts = { structures: 0, numbers: 0 };
  for (const [name, value] of Object.entries(exported)) {
    if (typeof value === 'function') continue;
    if (typeof value === 'number') {
      const theirs = numbers[name];
      if (theirs === undefined) {
        if (absent[name] === undefined) differences.push(`${name} is not in ${table.header}`);
        continue;
      }
      counts.numbers += 1;
      // An enumerator or macro of 1 << 31 is negative in C.
      if (value !== theirs && !(theirs < 0 && value === theirs >>> 0))
        differences.push(`${name} is ${value}, not ${theirs}`);
    } else {
      const { structure = snakeCase(name), from = 0 } = renamed[name] ?? {};
      const theirs = table.structures[structure];
      if (theirs === undefined) {
        if (absent[name] === undefined) differences.push(`${name} is not in ${table.header}: no struct ${structure}`);
        continue;
      }
      counts.structures += 1;
      differences.push(...compareStructure(value as Layout, theirs, from).map((text) => `${name}: ${text}`));
    }
    if (absent[name] !== undefined) differences.push(`${name} is in ${table.header}, though listed as absent`);
  }
  for (const name of [...Object.keys(renamed), ...Object.keys(absent)]) {
    if (!(name in exported)) differences.push(`${name} is an exception and not exported`);
  }
  return { ...counts, differences };
}

function compareStructure(ours: Layout, theirs: StructureLayout, from: number): string[] {
  const differences: string[] = [];
  if (ours.size !== theirs.size - from) differences.push(`${ours.size} bytes, not ${theirs.size - from}`);
  const covered = new Set<number>();
  for (const name of Object.keys(ours.read(new Uint8Array(ours.size)))) {
    const offset = ours.offset(name) + from;
    const width = ours.end(name) - ours.offset(name);
    for (let byte = offset; byte < offset + width; byte++) covered.add(byte);
    const places = placesOf(name, theirs);
    if (places.length === 0) differences.push(`there is no field ${name}`);
    else if (!places.some((place) => fits(name, offset, width, place))) {
      const [place] = places;
      differences.push(`${name} has ${width} bytes at ${offset}, not ${place![1]} at ${place![0]}`);
    }
  }
  for (const [name, [offset, width]] of Object.entries(theirs.fields)) {
    for (let byte = Math.max(offset, from); byte < offset + width; byte++) {
      if (covered.has(byte)) continue;
      differences.push(`nothing stands for byte ${byte}, of ${name}`);
      break;
    }
  }
  return differences;
}

const RESERVED = /^_*(reserved|padding|pad)\d*$/;

/** Where the table has a field of that name, in members of the structure too. */
function placesOf(name: string, { fields }: StructureLayout): FieldPlace[] {
  const wanted = snakeCase(name);
  return Object.entries(fields)
    .filter(([path]) => {
      const last = path.slice(path.lastIndexOf('.') + 1);
      return last === wanted || path.replaceAll('.', '_') === wanted || (RESERVED.test(name) && RESERVED.test(last));
    })
    .map(([, place]) => place);
}

/** A reserved field may be one element of the kernel's. */
function fits(name: string, offset: number, width: number, place: FieldPlace): boolean {
  if (RESERVED.test(name)) return place[0] <= offset && offset + width <= place[0] + place[1];
  return place[0] === offset && place[1] === width;
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
