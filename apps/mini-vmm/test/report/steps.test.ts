import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { formatEntry, type TraceEntry } from '../../src/report/recorder.ts';
import { formatReport, type Report } from '../../src/report/report.ts';
import { StepMatcher } from '../../src/report/steps.ts';
import { run } from '../../src/run.ts';
import { guestMemoryBytes } from '../../src/vmm/boot-info.ts';

const image = readFileSync(new URL('../../guest/image/guest.elf', import.meta.url));
const trace: TraceEntry[] = [];
let report: Report;

beforeAll(() => {
  const boot = { ramBytes: guestMemoryBytes(1), processes: 1, bytesPerProcess: 65536, seed: 3 };
  report = run({ image, boot, hear: (entry) => trace.push(entry) });
});

function matched(entries: readonly TraceEntry[]): number {
  const matcher = new StepMatcher();
  for (const entry of entries) matcher.feed(entry);
  const { steps } = matcher;
  const missing = steps.findIndex((step) => step.missing !== null);
  const count = missing < 0 ? steps.length : missing;
  expect(steps.slice(count).every((step) => step.observed === null && step.missing !== null)).toBe(true);
  expect(matcher.complete).toBe(count === steps.length);
  return count;
}

describe('the eight steps', () => {
  test('are all in the trace of a run', () => {
    expect(matched(trace)).toBe(8);
  });

  test.each([
    ['vmm', 'guest_pasid_bind', 0],
    ['vmm', 'guest_pasid_entry', 1],
    ['vmm', 'pasid_cache_flush', 2],
    ['iommufd', 'hwpt_alloc', 3],
    ['core', 'pasid_entry_set', 3],
    ['iommufd', 'device_attach', 3],
    ['vmm', 'shadow_set', 3],
    ['vmm', 'portal_write', 4],
    ['hw', 'dsa_submit', 4],
    ['hw', 'ats_request', 4],
    ['hw', 'page_request', 5],
    ['vmm', 'page_request_inject', 5],
    ['vmm', 'page_response_forward', 5],
    ['iommufd', 'fault_response', 5],
    ['hw', 'page_response', 5],
    ['hw', 'dsa_complete', 5],
    ['vmm', 'guest_munmap', 6],
    ['hw', 'invalidate', 6],
    ['hw', 'ats_invalidate', 6],
    ['iommufd', 'hwpt_invalidate', 6],
    ['core', 'prq_drain', 7],
    ['core', 'pasid_entry_clear', 7],
    ['vmm', 'shadow_clear', 7],
    ['host', 'leftovers', 7],
  ])('end where %s %s does not happen', (layer, name, steps) => {
    const without = trace.filter((entry) => entry.layer !== layer || entry.event.name !== name);
    expect(without.length).toBeLessThan(trace.length);
    expect(matched(without)).toBe(steps);
  });

  test('need their order: the entry seen only after the flush is no second step', () => {
    const entry = trace.findIndex(({ event }) => event.name === 'guest_pasid_entry');
    const late = [...trace.slice(0, entry), ...trace.slice(entry + 1), trace[entry]!];
    expect(matched(late)).toBe(2);
  });

  test('need their ids: a response to another cookie is no answer', () => {
    const other = trace.map((item) => {
      const { layer, event } = item;
      return layer === 'iommufd' && event.name === 'fault_response'
        ? { ...item, event: { ...event, cookie: -5 } }
        : item;
    });
    expect(matched(other)).toBe(5);
  });

  test('need nothing left: a pin at the end is no eighth step', () => {
    const leaking = trace.map((item) =>
      item.event.name === 'leftovers' ? { ...item, event: { ...item.event, pins: 1 } } : item,
    );
    expect(matched(leaking)).toBe(7);
  });
});

test('a trace line has the time, the layer, the name and every field', () => {
  const event = { name: 'map', iova: 0x1000n, pages: 3, words: [1, -1], request: { kind: 'iotlb', did: 2 } };
  expect(formatEntry({ time: 1234567, layer: 'core', event })).toBe(
    '    1234.567 core     map iova=0x1000 pages=3 words=00000001.ffffffff request={kind=iotlb did=2}',
  );
});

test('the report for people names what failed', () => {
  const failed = { ...report, ok: false, failures: ['3 pins left over'] };
  expect(formatReport(report)).toContain('Everything checked, nothing left over.');
  expect(formatReport(failed)).toContain('FAILED: 3 pins left over');
  expect(formatReport(failed)).not.toContain('Everything checked');
});
