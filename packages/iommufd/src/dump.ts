/**
 * What an open /dev/iommu holds, for people and programs that look for a leak: its objects with who uses whom, the areas
 * of its address spaces, and the pin groups behind them.
 */

import { hex } from '@iommukit/hw';
import type { IommufdContext } from './context.ts';
import { Ioas } from './ioas/ioas.ts';
import type { Pages } from './ioas/pages.ts';
import type { DetailValue, ObjectDetails } from './object-table.ts';

/** Plain values, ready for JSON. */
export type ObjectDump = {
  readonly id: number;
  readonly type: string;
  /** Uses by other objects, drivers and open files, and one of the table of objects itself. */
  readonly users: number;
  /** Ids of the objects it uses, one for each use. */
  readonly uses: readonly number[];
  readonly details: ObjectDetails;
};

export type PagesDump = {
  readonly id: number;
  readonly kind: string;
  /** Address in the process's memory, or offset in the file, of page 0. */
  readonly start: string;
  readonly writable: boolean;
  /** Areas, and others that hold the group. */
  readonly users: number;
  /** Pages pinned. */
  readonly pinned: number;
  /** Closed ranges of indexes of pages that something uses. */
  readonly covered: readonly { readonly first: number; readonly last: number }[];
};

export type ContextDump = {
  /** The number of the open file, as in traces. */
  readonly context: number;
  readonly accounting: string;
  readonly objects: readonly ObjectDump[];
  readonly pages: readonly PagesDump[];
};

export function dumpContext(context: IommufdContext): ContextDump {
  const objects = context.objects.all();
  const groups = new Set<Pages>();
  for (const object of objects) {
    if (object instanceof Ioas) object.table.space.forEachArea(({ pages }) => groups.add(pages));
  }
  return {
    context: context.id,
    accounting: context.accounting,
    objects: objects.map((object) => ({
      id: object.id,
      type: object.type,
      users: object.users,
      uses: object.uses.map(({ id }) => id),
      details: object.details(),
    })),
    pages: [...groups].map((pages) => ({
      id: pages.id,
      kind: pages.source.kind,
      start: hex(pages.source.start),
      writable: pages.writable,
      users: pages.users,
      pinned: pages.pinned,
      covered: pages.covered.map(({ first, last }) => ({ first, last })),
    })),
  };
}

/** The dump as a tree: what nobody uses at the left, what it uses below it; then the pin groups. */
export function formatDump(dump: ContextDump): string {
  const { context, accounting, objects, pages } = dump;
  const pinned = pages.reduce((count, group) => count + group.pinned, 0);
  const lines = [`context ${context}: ${objects.length} objects, ${pinned} pages pinned, accounting ${accounting}`];
  const byId = new Map(objects.map((object) => [object.id, object]));
  const used = new Set(objects.flatMap(({ uses }) => uses));
  const shown = new Set<number>();
  const show = (object: ObjectDump, indent: string): void => {
    const head = `${indent}${object.type} ${object.id}, users ${object.users}`;
    if (shown.has(object.id)) {
      lines.push(`${head}, see above`);
      return;
    }
    shown.add(object.id);
    const { line, rows } = split(object.details);
    lines.push(`${head}${line}`);
    for (const row of rows) lines.push(`${indent}  . ${row}`);
    for (const id of object.uses) {
      const below = byId.get(id);
      if (below !== undefined) show(below, `${indent}  `);
    }
  };
  for (const object of objects) if (!used.has(object.id)) show(object, '  ');
  for (const { id, kind, start, writable, users, pinned: count, covered } of pages) {
    const ranges = covered.map(({ first, last }) => `${hex(first)}..${hex(last)}`).join(' ');
    const access = writable ? 'rw' : 'r-';
    lines.push(`  pages ${id}, users ${users}, ${kind} from ${start} ${access}, ${count} pinned ${ranges}`.trimEnd());
  }
  return `${lines.join('\n')}\n`;
}

/** Single values for the object's own line, lists as rows. */
function split(details: ObjectDetails): { line: string; rows: string[] } {
  const rows: string[] = [];
  let line = '';
  for (const [name, value] of Object.entries(details)) {
    if (typeof value === 'object') for (const entry of value) rows.push(`${name} ${words(entry)}`);
    else line += `, ${name} ${value}`;
  }
  return { line, rows };
}

function words(details: ObjectDetails): string {
  const word = ([name, value]: [string, DetailValue]): string => `${name} ${value}`;
  return Object.entries(details).map(word).join(' ');
}
