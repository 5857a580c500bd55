/** A process's mappings, as /proc/PID/maps shows them (proc(5)). */

import { ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';

/** Pages [start, end) of an address space, in page numbers. */
export type Mapping = {
  readonly start: number;
  readonly end: number;
  /** hw's ACCESS_ bits for reading and writing. */
  readonly access: number;
  readonly shared: boolean;
  /** Names the file behind it; null for anonymous memory. */
  readonly file: string | null;
  /** Page of the file at `start`. */
  readonly filePage: number;
  /** START-END in hexadecimal: the name of its entry in /proc/PID/map_files. */
  readonly range: string;
};

/** Mappings in ascending order. */
export function parseMappings(text: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const [range = '', permissions = '', offset = '', device = '', inode = ''] = line.split(' ', 5);
    const dash = range.indexOf('-');
    mappings.push({
      start: Number.parseInt(range.slice(0, dash), 16) / 4096,
      end: Number.parseInt(range.slice(dash + 1), 16) / 4096,
      access: (permissions[0] === 'r' ? ACCESS_READ : 0) | (permissions[1] === 'w' ? ACCESS_WRITE : 0),
      shared: permissions[3] === 's',
      file: inode === '0' ? null : `${device}:${inode}`,
      filePage: Number.parseInt(offset, 16) / 4096,
      range,
    });
  }
  return mappings;
}

/** The name that `Mapping.file` gives a file, from what stat(2) says of it. */
export function fileName(device: number, inode: number): string {
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  return `${hex2(major)}:${hex2(minor)}:${inode}`;
}

function hex2(value: number): string {
  return value.toString(16).padStart(2, '0');
}

/** The mapping that holds page `vpn`, or null. */
export function findMapping(mappings: readonly Mapping[], vpn: number): Mapping | null {
  let low = 0;
  let high = mappings.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (mappings[middle]!.end <= vpn) low = middle + 1;
    else high = middle;
  }
  const mapping = mappings[low];
  return mapping !== undefined && mapping.start <= vpn ? mapping : null;
}
