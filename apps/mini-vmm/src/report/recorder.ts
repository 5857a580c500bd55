/** The trace of a run: what every layer emitted, in order, under the name of the layer. */

import { hex, type Trace } from '@iommukit/hw';

/** What all layers' events have in common; the rest is read by name. */
export type TraceEntry = {
  /** Virtual nanoseconds. */
  readonly time: number;
  readonly layer: string;
  readonly event: { readonly name: string } & Readonly<Record<string, unknown>>;
};

/** Calls `hear` for every event that `trace` carries from now on. */
export function record<Event extends { readonly name: string }>(
  layer: string,
  trace: Trace<Event>,
  hear: (entry: TraceEntry) => void,
): void {
  trace.listen((event, time) => hear({ time, layer, event: event as unknown as TraceEntry['event'] }));
}

/** One line: time in microseconds, layer, name, and the fields; addresses in hexadecimal. */
export function formatEntry({ time, layer, event }: TraceEntry): string {
  const fields = Object.entries(event).flatMap(([key, value]) => (key === 'name' ? [] : [`${key}=${text(value)}`]));
  return `${(time / 1000).toFixed(3).padStart(12)} ${layer.padEnd(8)} ${event.name} ${fields.join(' ')}`.trimEnd();
}

function text(value: unknown): string {
  if (typeof value === 'bigint') return hex(value);
  if (Array.isArray(value)) return value.map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('.');
  if (typeof value === 'object' && value !== null) {
    return `{${Object.entries(value)
      .map(([key, inner]) => `${key}=${text(inner)}`)
      .join(' ')}}`;
  }
  return String(value);
}
