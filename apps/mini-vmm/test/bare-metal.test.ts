/** The guest image on hardware models alone: it needs nothing of a VMM that real hardware would not give it. */

import { vtdFault } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  BREAK_PASID_CACHE_FLUSH,
  BREAK_PASID_ENTRY_RESERVED,
  BREAK_UNMAP_INVALIDATION,
  GUEST_BAD_REQUESTS,
  GUEST_EXIT_FAILED,
  GUEST_EXIT_OK,
  GUEST_EXIT_PANIC,
} from '../src/vmm/boot-info.ts';
import type { GuestFact } from '../src/vmm/guest-report.ts';
import { BareMetal, type BareMetalOptions, type GuestRun, type HardwareEvent } from './support/bare-metal.ts';

type Timed<Event> = Event & { readonly time: number };

/** Runs the guest and keeps the events with the names asked for. */
function record<Name extends HardwareEvent['name']>(options: BareMetalOptions, ...names: Name[]) {
  const machine = new BareMetal(options);
  const events: Timed<Extract<HardwareEvent, { name: Name }>>[] = [];
  machine.trace.listen((event, time) => {
    if ((names as string[]).includes(event.name)) {
      events.push({ ...(event as Extract<HardwareEvent, { name: Name }>), time });
    }
  });
  return { machine, events, run: machine.run() };
}

function facts(run: GuestRun, word: string): GuestFact[] {
  return run.facts.filter((fact) => fact.word === word);
}

function done(run: GuestRun): GuestFact {
  const [fact] = facts(run, 'done');
  if (fact === undefined) throw new Error(`the guest did not finish:\n${run.console}`);
  return fact;
}

/** Every process moved and verified all its bytes, and every bad request ended as it must. */
function expectAllGood(run: GuestRun, processes: number, bytes: number): void {
  expect(run.status, run.console).toBe(GUEST_EXIT_OK);
  const ended = facts(run, 'process');
  expect(ended.map((fact) => fact.number('pid')).sort((a, b) => a - b)).toEqual(
    Array.from({ length: processes }, (_, index) => index + 1),
  );
  expect(new Set(ended.map((fact) => fact.number('pasid'))).size).toBe(processes);
  for (const fact of ended) {
    expect(fact.number('bytes')).toBe(bytes);
    expect(fact.number('verified')).toBe(bytes);
    expect(fact.number('page_requests')).toBeGreaterThan(0);
    expect(fact.number('faults_reported')).toBe(GUEST_BAD_REQUESTS);
    for (const key of ['timeouts', 'stale', 'mismatches']) expect(fact.number(key), key).toBe(0);
  }
  expect(done(run).number('ok')).toBe(1);
  expect(done(run).number('poison')).toBe(0);
}

describe('the guest on bare metal', () => {
  test('moves, checks and misbehaves in two processes at once', () => {
    const { machine, run } = record({ boot: { bytesPerProcess: 2 << 20 } });
    expectAllGood(run, 2, 2 << 20);
    const { counters } = machine.unit;
    expect(done(run).number('page_requests')).toBe(counters.pageRequests);
    expect(counters.pageResponses).toBe(counters.pageRequests);
    expect(counters.invalidations['device-tlb']).toBeGreaterThan(0);
    expect(machine.device.pri?.outstanding).toBe(0);
    expect(run.console.split('\n').length).toBeLessThan(14);
  });

  test('runs sixteen processes that share seven dedicated queues', () => {
    expectAllGood(record({ boot: { processes: 16 } }).run, 16, 65536);
  });

  test('says and does the same in every run', () => {
    const [first, second] = [record({}).run, record({}).run];
    expect(second.instructions).toBe(first.instructions);
    expect(second.console).toBe(first.console);
    expect(record({ boot: { seed: 2 } }).run.instructions).not.toBe(first.instructions);
  });

  test('submits with ENQCMD to the shared queue only, with the PASID of the running process', () => {
    const { run, events } = record({ boot: { processes: 3, submit: 'enqcmd' } }, 'dsa_submit');
    expectAllGood(run, 3, 65536);
    expect(new Set(events.map((event) => event.queue))).toEqual(new Set([0]));
    expect(new Set(events.map((event) => event.pasid))).toEqual(new Set([1, 2, 3]));
    expect(events.some((event) => event.outcome === 'dropped')).toBe(false);
  });

  test('submits with MOVDIR64B to dedicated queues only, none of them ever full', () => {
    const { run, events } = record({ boot: { processes: 3, submit: 'movdir64b' } }, 'dsa_submit');
    expectAllGood(run, 3, 65536);
    expect(events.every((event) => event.queue > 0 && event.outcome === 'queued')).toBe(true);
  });

  test('finds the accelerator below a root port', () => {
    const { run } = record({ rootPort: true });
    expectAllGood(run, 2, 65536);
    expect(run.console).toContain('pci 1:0.0: accelerator');
  });

  test('gets by with a unit that has caching mode, narrow PASIDs, and neither pass-through nor execute requests', () => {
    const features = { cachingMode: true, pasidBits: 6, passThrough: false, executeRequests: false };
    const { run } = record({ features });
    expectAllGood(run, 2, 65536);
    expect(run.console).toContain('6-bit PASIDs, caching mode');
  });

  test.each([
    ['scalable mode', { scalableMode: false }],
    ['first-stage translation', { firstStage: false }],
    ['PASID support', { pasid: false }],
    ['page requests', { pageRequests: false }],
    ['queued invalidation', { queuedInvalidation: false }],
  ])('refuses a unit without %s', (what, features) => {
    const { run } = record({ features });
    expect(run.status).toBe(GUEST_EXIT_PANIC);
    expect(run.console).toContain(`kernel panic: the remapping unit has no ${what}`);
    expect(facts(run, 'panic')).toHaveLength(1);
  });

  test('lets a process exit with work in flight: later accesses are faults, and its memory stays untouched', () => {
    const { run, events } = record({}, 'dsa_submit', 'dsa_complete', 'io_page_fault', 'dsa_command');
    expectAllGood(run, 2, 65536);
    const [exit] = facts(run, 'exit').filter((fact) => fact.number('submitted') > fact.number('completed'));
    if (exit === undefined) throw new Error('no process exited with work in flight');
    const pasid = exit.number('pasid');
    const mine = events.filter((event) => 'pasid' in event && event.pasid === pasid);
    const late = mine.filter((event) => event.name === 'io_page_fault' && event.reason === vtdFault.SPT_2);
    expect(late.length).toBeGreaterThan(0);
    // Each accepted descriptor comes to its end before the drain of the PASID does, and none comes after that.
    const queued = mine.filter((event) => event.name === 'dsa_submit' && event.outcome === 'queued');
    const ended = mine.filter((event) => event.name === 'dsa_complete');
    expect(ended).toHaveLength(queued.length);
    const drain = events.find(
      (event) => event.name === 'dsa_command' && event.command === 11 && event.operand === pasid,
    );
    expect(ended.every((event) => event.time <= (drain?.time ?? 0))).toBe(true);
    expect(queued.every((event) => event.time <= (drain?.time ?? 0))).toBe(true);
  });
});

describe('the guest with one thing broken', () => {
  test('no PASID-cache flush: a unit without caching mode never cached the absent entry, so nothing is missing', () => {
    expectAllGood(record({ boot: { breakage: BREAK_PASID_CACHE_FLUSH } }).run, 2, 65536);
  });

  test('no invalidation in munmap: the device still writes to the frames, and their poison shows it', () => {
    const { run } = record({ boot: { breakage: BREAK_UNMAP_INVALIDATION } });
    expect(run.status).toBe(GUEST_EXIT_FAILED);
    for (const fact of facts(run, 'process')) expect(fact.number('stale')).toBeGreaterThan(0);
    expect(done(run).number('poison')).toBeGreaterThan(0);
  });

  test('a reserved bit in the PASID entry: every access is fault SPT.3, and the missing completion is reported', () => {
    const { run, events } = record({ boot: { breakage: BREAK_PASID_ENTRY_RESERVED } }, 'io_page_fault');
    expect(run.status).toBe(GUEST_EXIT_FAILED);
    for (const fact of facts(run, 'process')) {
      expect(fact.number('verified')).toBe(0);
      expect(fact.number('timeouts')).toBe(1);
    }
    expect(events.length).toBeGreaterThan(0);
    expect(new Set(facts(run, 'fault').map((fact) => fact.number('reason')))).toEqual(new Set([vtdFault.SPT_3]));
    expect(done(run).number('dma_faults')).toBe(facts(run, 'fault').length);
  });

  test('a device that answers no invalidation: the waits end, and the frames that it still reaches are found', () => {
    const machine = new BareMetal();
    machine.device.answersInvalidations = false;
    const run = machine.run();
    expect(run.status).toBe(GUEST_EXIT_FAILED);
    expect(run.console).toContain('vt-d: the device does not answer invalidations');
    for (const fact of facts(run, 'process')) expect(fact.number('stale')).toBe(1);
    expect(done(run).number('poison')).toBeGreaterThan(0);
  });
});
