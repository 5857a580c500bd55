/** What `--trace` shows: the events of every layer, and each call of the program with what it came to and why. */

import { hex, type Trace } from '@iommukit/hw';
import type { SysError } from '@iommukit/iommu-core';
import type { Model } from './machine.ts';
import { requestName } from './request-names.ts';
import type { Call } from './server/call.ts';

/** Writes a line for every event of the model from now on. */
export function traceModel({ host, iommufdTrace }: Model, write: (line: string) => void): void {
  listen('hw', host.machine.trace, write);
  listen('iommu', host.trace, write);
  listen('iommufd', iommufdTrace, write);
}

/** A call of a process, as strace(1) would show it, with the reason when it was refused. */
export function formatCall(pid: number, call: Call, file: string, result: number, refusal: SysError | null): string {
  const end = refusal === null ? `${result}` : `-1 ${refusal.message}`;
  return `${''.padStart(12)} call     [${pid}] ${call.kind}(${[file, ...argumentsOf(call, file)].join(', ')}) = ${end}`;
}

function argumentsOf(call: Call, file: string): string[] {
  switch (call.kind) {
    case 'open':
      return [];
    case 'ioctl':
      return [requestName(file, call.request), hex(call.argument)];
    case 'read':
    case 'write':
      return [hex(call.buffer), hex(call.bytes), ...(call.position === null ? [] : [hex(call.position)])];
    case 'mmap':
      return [hex(call.length), hex(call.protection), hex(call.offset)];
    case 'status':
      return [`${call.pid}`];
    case 'mappings':
    case 'node':
    case 'node-of':
      return [];
  }
}

function listen<Event extends { readonly name: string }>(
  layer: string,
  trace: Trace<Event>,
  write: (line: string) => void,
): void {
  trace.listen(({ name, ...fields }, time) => {
    const words = Object.entries(fields).map(([key, value]) => `${key}=${text(value)}`);
    write([(time / 1000).toFixed(3).padStart(12), layer.padEnd(8), name, ...words].join(' '));
  });
}

function text(value: unknown): string {
  if (typeof value === 'bigint') return hex(value);
  if (typeof value !== 'object' || value === null) return `${value}`;
  if (Array.isArray(value) || ArrayBuffer.isView(value)) return `[${Array.from(value as number[], text).join(' ')}]`;
  const fields = Object.entries(value).map(([key, inner]) => `${key}=${text(inner)}`);
  return `{${fields.join(' ')}}`;
}
