/** Samples of many processes as one number for each job. */

import type { Sample } from './measure.ts';

/** What each side printed in all rounds; none of C where there is no compiler. */
export type Sides = { readonly ts: readonly Sample[]; readonly c: readonly Sample[] };

export type Cost = {
  /** Nanoseconds per operation; null where there is no C side. */
  ts: number;
  c: number | null;
  /** Bytes of JavaScript heap per operation. */
  bytes: number;
};

/** Medians over the rounds. @throws {Error} when the two sides did not do the same work */
export function costOf(sides: Sides, name: string): Cost {
  const [ts, c] = [named(sides.ts, name), named(sides.c, name)];
  const checksums = new Set([...ts, ...c].map((sample) => sample.checksum));
  if (checksums.size !== 1) throw new Error(`${name}: checksums differ: ${[...checksums].join(', ')}`);
  return {
    ts: median(ts.map((sample) => sample.ns)),
    c: c.length === 0 ? null : median(c.map((sample) => sample.ns)),
    bytes: median(ts.map((sample) => sample.bytes)),
  };
}

function named(samples: readonly Sample[], name: string): Sample[] {
  return samples.filter((sample) => sample.name === name);
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}
