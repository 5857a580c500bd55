import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { formatEntry, type TraceEntry } from '../../src/report/recorder.ts';
import { formatReport, type Report } from '../../src/report/report.ts';
import { StepMatcher } from '../../src/report/steps.ts';
import { run } from '../../src/run.ts';
import { guestMemoryBytes } from '../../src/vmm/boot-info.ts';
import { INTERFACES, type InterfaceKind } from '../../src/vmm/interfaces/open.ts';

const image = readFileSync(new URL('../../guest/image/guest.elf', import.meta.url));
const boot = { ramBytes: guestMemoryBytes(1), processes: 1, bytesPerProcess: 65536, seed: 3 };
type EventName = readonly [layer: string, name: string];

/** Of each step, the events that it needs with every interface. */
const NEEDED: readonly (readonly EventName[])[] = [
  [['vmm', 'guest_pasid_bind']],
  [['vmm', 'guest_pasid_entry']],
  [['vmm', 'pasid_cache_flush']],
  [
    ['core', 'pasid_entry_set'],
    ['vmm', 'shadow_set'],
  ],
  [
    ['vmm', 'portal_write'],
    ['hw', 'dsa_submit'],
    ['hw', 'ats_request'],
  ],
  [
    ['hw', 'page_request'],
    ['vmm', 'page_request_inject'],
    ['vmm', 'page_response_forward'],
    ['hw', 'page_response'],
    ['hw', 'dsa_complete'],
  ],
  [
    ['vmm', 'guest_munmap'],
    ['hw', 'invalidate'],
    ['hw', 'ats_invalidate'],
  ],
  [
    ['core', 'prq_drain'],
    ['core', 'pasid_entry_clear'],
    ['vmm', 'shadow_clear'],
    ['host', 'leftovers'],
  ],
];

const HWPT_EVENTS: readonly (readonly [number, ...EventName])[] = [
  [3, 'iommufd', 'hwpt_alloc'],
  [3, 'iommufd', 'device_attach'],
  [5, 'iommufd', 'fault_response'],
  [6, 'iommufd', 'hwpt_invalidate'],
];

/** What a step needs with one interface, after the number of steps before it. */
const OWN: Readonly<Record<InterfaceKind, readonly (readonly [number, ...EventName])[]>> = {
  iommufd: HWPT_EVENTS,
  ioasid: HWPT_EVENTS,
  gpasid: [
    [3, 'core', 'attach_device_to_domain'],
    [3, 'core', 'ioasid_notify'],
    [5, 'core', 'page_response'],
    [6, 'vmm', 'stage1_invalidate'],
  ],
};

describe.each(INTERFACES)('the eight steps, with %s,', (kind) => {
  const trace: TraceEntry[] = [];
  let report: Report;

  beforeAll(() => {
    report = run({ image, boot, interface: kind, hear: (entry) => trace.push(entry) });
  });

  function matched(entries: readonly TraceEntry[]): number {
    const matcher = new StepMatcher(kind);
    for (const entry of entries) matcher.feed(entry);
    const { steps } = matcher;
    const missing = steps.findIndex((step) => step.missing !== null);
    const count = missing < 0 ? steps.length : missing;
    expect(steps.slice(count).every((step) => step.observed === null && step.missing !== null)).toBe(true);
    expect(matcher.complete).toBe(count === steps.length);
    return count;
  }

  test('are all in the trace of a run', () => {
    expect(report.failures).toEqual([]);
    expect(matched(trace)).toBe(8);
  });

  test.each([...NEEDED.flatMap((events, step) => events.map((event) => [step, ...event] as const)), ...OWN[kind]])(
    'are no more than %i where %s %s does not happen',
    (steps, layer, name) => {
      const without = trace.filter((entry) => entry.layer !== layer || entry.event.name !== name);
      expect(without.length).toBeLessThan(trace.length);
      expect(matched(without)).toBe(steps);
    },
  );

  test('need their order: the entry seen only after the flush is no second step', () => {
    const entry = trace.findIndex(({ event }) => event.name === 'guest_pasid_entry');
    const late = [...trace.slice(0, entry), ...trace.slice(entry + 1), trace[entry]!];
    expect(matched(late)).toBe(2);
  });

  test.each(kind === 'gpasid' ? ['page_response_forward'] : ['page_response_forward', 'fault_response'])(
    'need their ids: a %s to another cookie is no answer',
    (name) => {
      const other = trace.map((item) =>
        item.event.name === name ? { ...item, event: { ...item.event, cookie: -5 } } : item,
      );
      expect(matched(other)).toBe(5);
    },
  );

  test("need their ids: a table that is not the process's is not nested for it", () => {
    const other = trace.map((item) =>
      item.event.name === 'shadow_set' ? { ...item, event: { ...item.event, table: 0x1000n } } : item,
    );
    expect(matched(other)).toBe(3);
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
  const report = run({ image, boot });
  const failed = { ...report, ok: false, failures: ['3 pins left over'] };
  expect(formatReport(report)).toContain('Everything checked, nothing left over.');
  expect(formatReport(failed)).toContain('FAILED: 3 pins left over');
  expect(formatReport(failed)).not.toContain('Everything checked');
});
