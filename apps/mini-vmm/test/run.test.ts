import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { TraceEntry } from '../src/report/recorder.ts';
import type { Report } from '../src/report/report.ts';
import { type RunOptions, run } from '../src/run.ts';
import {
  BREAK_PASID_CACHE_FLUSH,
  BREAK_PASID_ENTRY_RESERVED,
  BREAK_UNMAP_INVALIDATION,
  GUEST_EXIT_OK,
  guestMemoryBytes,
  SUBMIT_MODES,
  type SubmitMode,
} from '../src/vmm/boot-info.ts';
import { INTERFACES, type InterfaceKind } from '../src/vmm/interfaces/open.ts';

const image = readFileSync(new URL('../guest/image/guest.elf', import.meta.url));
const NOTHING = { pins: 0, pasids: 0, objects: 0, mappings: 0, frames: 0 };

type Options = { processes?: number; bytes?: number; seed?: number; submit?: SubmitMode; breakage?: number };

function startWith(kind: InterfaceKind, options: Options = {}, more: Partial<RunOptions> = {}): Report {
  const { processes = 2, bytes = 64 << 10, seed = 1, ...rest } = options;
  const boot = { ramBytes: guestMemoryBytes(processes), processes, bytesPerProcess: bytes, seed, ...rest };
  return run({ image, interface: kind, boot, ...more });
}

type Outcome = { console: string; instructions: ReadonlySet<unknown>; report: Report };

/** A run, what its guest printed, and the instructions that its processes submitted with. */
function observe(kind: InterfaceKind, submit: SubmitMode): Outcome {
  let text = '';
  const instructions = new Set<unknown>();
  const report = startWith(
    kind,
    { submit },
    {
      console: (byte) => (text += String.fromCharCode(byte)),
      hear: ({ event }) => event.name === 'portal_write' && instructions.add(event['instruction']),
    },
  );
  return { console: text, instructions, report };
}

describe.each(SUBMIT_MODES)('submitting by %s', (submit) => {
  const outcomes = new Map<InterfaceKind, Outcome>();

  test.each(INTERFACES)('works with %s: all eight steps, nothing left over, and no other instruction', (kind) => {
    const outcome = observe(kind, submit);
    outcomes.set(kind, outcome);
    expect(outcome.report.failures).toEqual([]);
    expect(outcome.report).toMatchObject({ ok: true, interface: kind, submit, leftovers: NOTHING });
    expect(outcome.report.steps.map(({ missing }) => missing)).toEqual(new Array(8).fill(null));
    expect([...outcome.instructions].sort()).toEqual(submit === 'both' ? ['enqcmd', 'movdir64b'] : [submit]);
  });

  test('is the same to the guest with every interface', () => {
    const [first, ...others] = INTERFACES.map((kind) => outcomes.get(kind) ?? observe(kind, submit));
    for (const { console, report } of others) {
      expect(console).toBe(first!.console);
      expect(report.guest).toEqual(first!.report.guest);
      expect(Object.keys(report)).toEqual(Object.keys(first!.report));
      expect(report.steps.map(({ title }) => title)).toEqual(first!.report.steps.map(({ title }) => title));
    }
  });
});

describe.each(INTERFACES)('a run with %s', (kind) => {
  const start = (options: Options = {}, more: Partial<RunOptions> = {}) => startWith(kind, options, more);

  test('goes through both stages, and answers every page request', () => {
    const { iommu } = start();
    expect(iommu.pageRequests).toBeGreaterThan(0);
    expect(iommu.pageResponses).toBe(iommu.pageRequests);
    expect(iommu.nestedWalks).toBeGreaterThan(0);
  });

  test('gives each of four processes a PASID of its own and verifies every byte', () => {
    const { guest } = start({ processes: 4, bytes: 128 << 10 });
    expect(new Set(guest.processes.map(({ pasid }) => pasid)).size).toBe(4);
    for (const process of guest.processes) {
      expect(process.verified).toBe(128 << 10);
      expect(process.pageRequests).toBeGreaterThan(0);
      expect(process.faultsReported).toBeGreaterThan(0);
    }
  });

  test('is a function of its seed', () => {
    const traceOf = (seed: number): string[] => {
      const lines: string[] = [];
      start({ processes: 1, seed }, { hear: ({ time, layer, event }) => lines.push(`${time} ${layer} ${event.name}`) });
      return lines;
    };
    expect(traceOf(7)).toEqual(traceOf(7));
    expect(traceOf(8)).not.toEqual(traceOf(7));
  });

  test('V5 when the guest clears an entry and flushes, its PASIDs are drained and nothing moves with them any more', () => {
    const cleared = new Set<unknown>();
    const drained = new Set<unknown>();
    const waiting = new Map<unknown, unknown>();
    let succeeded = 0;
    const report = start(
      { processes: 3 },
      {
        hear: ({ layer, event }) => {
          const { name } = event;
          const pasid = event['pasid'];
          if (layer === 'hw' && name === 'page_request') waiting.set(event['group'], pasid);
          if (layer === 'hw' && name === 'page_response') waiting.delete(event['group']);
          if (layer === 'core' && name === 'prq_drain') drained.add(pasid);
          if (name === 'shadow_clear') {
            for (const gone of [pasid, event['hostPasid']]) {
              expect(drained).toContain(gone);
              expect([...waiting.values()]).not.toContain(gone);
              cleared.add(gone);
            }
          }
          if (layer === 'hw' && name === 'ats_request' && cleared.has(pasid)) expect(event['granted']).toBe(0);
          if (layer === 'hw' && name === 'dsa_complete' && cleared.has(pasid) && event['status'] === 1) succeeded++;
        },
      },
    );
    expect(report.failures).toEqual([]);
    expect(cleared.size).toBe(6);
    expect(report.iommu.pageResponses).toBe(report.iommu.pageRequests);
    expect(succeeded).toBe(0);
  });

  test('V12 ENQCMD carries the host PASID, never the guest one', () => {
    const portals: TraceEntry['event'][] = [];
    const submits = new Set<unknown>();
    start(
      { submit: 'enqcmd' },
      {
        hear: ({ layer, event }) => {
          if (event.name === 'portal_write') portals.push(event);
          if (layer === 'hw' && event.name === 'dsa_submit') submits.add(event['pasid']);
        },
      },
    );
    expect(portals.length).toBeGreaterThan(0);
    expect(portals.every((event) => (event['pasid'] as number) >= 2 ** 15)).toBe(true);
    expect([...submits].every((pasid) => (pasid as number) >= 2 ** 15)).toBe(true);
  });
});

describe.each(INTERFACES)('one thing broken with %s', (kind) => {
  const start = (options: Options = {}, more: Partial<RunOptions> = {}) => startWith(kind, options, more);

  test('V1 without the PASID-cache flush the host never learns of the entry and the DMA is blocked', () => {
    const names: string[] = [];
    const report = start({ breakage: BREAK_PASID_CACHE_FLUSH }, { hear: ({ event }) => names.push(event.name) });
    expect(names).toContain('guest_pasid_entry');
    expect(names).not.toContain('shadow_set');
    expect(report.steps.findIndex(({ missing }) => missing !== null)).toBe(2);
    expect(report.ok).toBe(false);
    expect(report.guest.processes.map(({ verified }) => verified)).toEqual([0, 0]);
    expect(report.leftovers).toEqual(NOTHING);
  });

  test('V4 without the invalidation after munmap the device goes on using the old translation', () => {
    const facts: number[] = [];
    const report = start(
      { breakage: BREAK_UNMAP_INVALIDATION },
      { fact: (f) => f.word === 'process' && facts.push(f.number('stale')) },
    );
    expect(facts.reduce((sum, stale) => sum + stale, 0)).toBeGreaterThan(0);
    expect(report.steps.findIndex(({ missing }) => missing !== null)).toBe(6);
    expect(report.leftovers).toEqual(NOTHING);
  });

  test('with a reserved bit in the PASID entry the VMM refuses it and the DMA is blocked', () => {
    const names: string[] = [];
    const report = start({ breakage: BREAK_PASID_ENTRY_RESERVED }, { hear: ({ event }) => names.push(event.name) });
    expect(names).toContain('shadow_refused');
    expect(report.guest.processes.map(({ verified }) => verified)).toEqual([0, 0]);
    expect(report.leftovers).toEqual(NOTHING);
  });
});

/** Instructions between two moments at which a VM can be killed; the guest's end comes in the last such slice. */
const SLICE = 2000;

describe('the VM is killed', () => {
  test.each<[InterfaceKind, number, number]>([
    ['iommufd', 2, 50],
    ['iommufd', 4, 25],
    ['ioasid', 2, 15],
    ['gpasid', 2, 15],
  ])(
    'X6 with %s and %i processes, at %i random moments: nothing is left',
    (kind, processes, moments) => {
      const { guest } = startWith(kind, { processes });
      expect(guest.exitStatus).toBe(GUEST_EXIT_OK);
      fc.assert(
        fc.property(fc.integer({ min: 0, max: guest.instructions - SLICE }), (killAfter) => {
          const report = startWith(kind, { processes }, { kill: (instructions) => instructions >= killAfter });
          expect(report.failures[0]).toContain('killed');
          expect(report.leftovers).toEqual(NOTHING);
          expect(report.iommu.pageResponses).toBe(report.iommu.pageRequests);
        }),
        { numRuns: moments },
      );
    },
    120_000,
  );

  test.each(INTERFACES)(
    'X6 with %s, while page requests wait for the guest: the host answers them',
    (kind) => {
      for (let moment = 1; moment <= 1000; moment *= 10) {
        let waiting = 0;
        let chances = 0;
        let killed = false;
        const hear = ({ layer, event: { name } }: TraceEntry): void => {
          if (layer === 'hw' && name === 'page_request') waiting++;
          if (layer === 'hw' && name === 'page_response') waiting--;
          if (name === 'page_response_forward') expect(killed).toBe(false);
        };
        const kill = (): boolean => (killed = waiting > 0 && ++chances === moment);
        const report = startWith(kind, { processes: 4, bytes: 1 << 20 }, { kill, hear });
        expect(report.failures[0]).toContain('killed');
        expect(waiting).toBe(0);
        expect(report.leftovers).toEqual(NOTHING);
        expect(report.iommu.pageResponses).toBe(report.iommu.pageRequests);
      }
    },
    120_000,
  );
});
