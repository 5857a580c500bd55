/** What a C compiler says of one of the kernel's headers, as it is kept for the tests that compare with it. */

import { readFileSync } from 'node:fs';

/** Byte offset and width; the width of an array without length is 0. */
export type FieldPlace = readonly [offset: number, width: number];

export type StructureLayout = {
  /** sizeof. */
  readonly size: number;
  /** By name; a field of a structure within the structure as `outer.inner`. */
  readonly fields: { readonly [name: string]: FieldPlace };
};

export type UapiTable = {
  /** Version of the kernel. */
  readonly linux: string;
  /** Path of the header in the kernel's tree. */
  readonly header: string;
  readonly structures: { readonly [name: string]: StructureLayout };
  /** Request numbers of ioctls. */
  readonly requests: { readonly [name: string]: number };
  /** Macros and enumerators with an integer value. */
  readonly constants: { readonly [name: string]: number };
};

/** The kernel's headers that there are tables of. */
export const TABLE_NAMES = ['iommufd', 'iommufd-test', 'vfio'] as const;

export type TableName = (typeof TABLE_NAMES)[number];

export function tableFile(name: TableName): URL {
  return new URL(`../tables/${name}.json`, import.meta.url);
}

export function readTable(name: TableName): UapiTable {
  return JSON.parse(readFileSync(tableFile(name), 'utf8'));
}

/** As JSON in the repository's formatting: a line for each field and number. */
export function formatTable(table: UapiTable): string {
  const lines = JSON.stringify(table, null, 2);
  return `${lines.replace(/\[\s+(\d+),\s+(\d+)\s+\]/g, '[$1, $2]')}\n`;
}
