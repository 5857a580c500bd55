/**
 * The eight steps of shared virtual addressing through nested translation, found in the trace of a run.
 *
 * Each step is a chain of events that must come in this order, across the layers, and that belong together by the ids
 * they carry: the guest's PASID, the host's, the nested table, the page request group, the cookie. The first PASID that
 * a guest process is given is followed from its entry to its end.
 */

import { hex } from '@iommukit/hw';
import type { TraceEntry } from './recorder.ts';

type Event = TraceEntry['event'];

/** What has been learnt on the way. */
type Ids = {
  pasid: number;
  hostPasid: number;
  cr3: bigint;
  parent: number;
  hwpt: number;
  instruction: string;
  source: bigint;
  group: number;
  cookie: number;
  page: bigint;
  unmapped: bigint;
  /** PASIDs that the host's table has an entry for now. */
  readonly hostEntries: Set<unknown>;
};

/** One event of a chain. */
type Link = {
  readonly layer: string;
  readonly name: string;
  /** What the event adds to the ids when it is the one, or false. */
  match(event: Event, ids: Ids): Partial<Ids> | false;
};

type StepPlan = {
  readonly title: string;
  readonly links: readonly Link[];
  observed(ids: Ids): string;
};

export type Step = {
  readonly title: string;
  /** What was seen; null when the step did not happen. */
  readonly observed: string | null;
  /** The event that did not come, for a step that did not happen. */
  readonly missing: string | null;
};

/** An event that is the one when `holds`. */
function link(layer: string, name: string, holds: (event: Event, ids: Ids) => boolean): Link {
  return { layer, name, match: (event, ids) => (holds(event, ids) ? {} : false) };
}

/** The PASID on the wire is the guest's own, or the one that ENQCMD sends for it. */
function ours(event: Event, ids: Ids): boolean {
  return event['pasid'] === ids.pasid || event['pasid'] === ids.hostPasid;
}

/** True when `address` lies in the naturally aligned range of 2^sizeLg2 bytes at `start`, and that is not everything. */
function isIn(address: bigint, start: unknown, sizeLg2: unknown): boolean {
  const shift = BigInt(sizeLg2 as number);
  return shift < 64n && address >> shift === (start as bigint) >> shift;
}

const PLAN: readonly StepPlan[] = [
  {
    title: "A process's own page table is to be the first stage",
    links: [
      {
        layer: 'vmm',
        name: 'guest_pasid_bind',
        match: (event) =>
          event['cr3'] === event['cpuCr3'] && { pasid: event['pasid'] as number, cr3: event['cr3'] as bigint },
      },
    ],
    observed: ({ pasid, cr3 }) => `guest PASID ${pasid}: CR3 of the running process is guest physical ${hex(cr3)}`,
  },
  {
    title: 'The guest writes its PASID entry, and nothing happens',
    links: [
      link('vmm', 'guest_pasid_entry', (event, ids) => {
        return event['pasid'] === ids.pasid && event['present'] === true && !ids.hostEntries.has(ids.pasid);
      }),
    ],
    observed: ({ pasid }) => `entry ${pasid} is present in the guest's table; the host has none`,
  },
  {
    title: 'The guest flushes its PASID cache, and the VMM looks',
    links: [
      link('vmm', 'pasid_cache_flush', (event, ids) => {
        return event['pasid'] === ids.pasid && event['present'] === true && !ids.hostEntries.has(ids.pasid);
      }),
    ],
    observed: ({ pasid }) => `PASID-cache invalidation of PASID ${pasid} trapped; the host still has no entry`,
  },
  {
    title: 'The VMM nests the table and attaches the device with the PASID',
    links: [
      {
        layer: 'iommufd',
        name: 'hwpt_alloc',
        match: (event) =>
          event['kind'] === 'nested' && { hwpt: event['hwpt'] as number, parent: event['parent'] as number },
      },
      link('core', 'pasid_entry_set', (event, ids) => event['pasid'] === ids.pasid),
      link('iommufd', 'device_attach', (event, ids) => event['pasid'] === ids.pasid && event['hwpt'] === ids.hwpt),
      {
        layer: 'core',
        name: 'pasid_entry_set',
        match: (event, ids) => event['pasid'] !== ids.pasid && { hostPasid: event['pasid'] as number },
      },
      link('iommufd', 'device_attach', (event, ids) => event['pasid'] === ids.hostPasid && event['hwpt'] === ids.hwpt),
      link('vmm', 'shadow_set', (event, ids) => event['hwpt'] === ids.hwpt && event['table'] === ids.cr3),
    ],
    observed: ({ hwpt, parent, pasid, hostPasid }) =>
      `HWPT ${hwpt} nested on HWPT ${parent}, attached at PASID ${pasid} and, for ENQCMD, ${hostPasid}`,
  },
  {
    title: 'The process hands its pointers to the device',
    links: [
      link('hw', 'dsa_submit', (event, ids) => ours(event, ids) && event['outcome'] === 'queued'),
      {
        layer: 'vmm',
        name: 'portal_write',
        match: (event, ids) =>
          event['cr3'] === ids.cr3 &&
          event['accepted'] === true && {
            instruction: (event['instruction'] as string).toUpperCase(),
            source: event['source'] as bigint,
          },
      },
      link('hw', 'ats_request', (event, ids) => {
        return ours(event, ids) && event['iova'] === ids.source - (ids.source & 0xfffn) && event['granted'] !== 0;
      }),
    ],
    observed: ({ instruction, cr3, source }) =>
      `${instruction} under CR3 ${hex(cr3)}; its pointer ${hex(source)} goes through both stages`,
  },
  {
    title: 'A page never touched: the guest serves the page request',
    links: [
      {
        layer: 'hw',
        name: 'page_request',
        match: (event, ids) => ours(event, ids) && { group: event['group'] as number, page: event['iova'] as bigint },
      },
      {
        layer: 'vmm',
        name: 'page_request_inject',
        match: (event, ids) =>
          event['group'] === ids.group &&
          event['pasid'] === ids.pasid &&
          event['address'] === ids.page && { cookie: event['cookie'] as number },
      },
      link('vmm', 'page_response_forward', (event, ids) => event['cookie'] === ids.cookie && event['code'] === 0),
      link('iommufd', 'fault_response', (event, ids) => event['cookie'] === ids.cookie && event['code'] === 0),
      link('hw', 'page_response', (event, ids) => event['group'] === ids.group && event['code'] === 0),
      link('hw', 'ats_request', (event, ids) => {
        return ours(event, ids) && event['iova'] === ids.page && event['granted'] !== 0;
      }),
      link('hw', 'dsa_complete', (event, ids) => ours(event, ids) && event['status'] === 1),
    ],
    observed: ({ page, group, cookie }) =>
      `page ${hex(page)}, group ${group}, cookie ${cookie}: faulted in, answered, translated, DMA completed`,
  },
  {
    title: "munmap: the guest's invalidation reaches the hardware",
    links: [
      {
        layer: 'vmm',
        name: 'guest_munmap',
        match: (event, ids) => event['cpuCr3'] === ids.cr3 && { unmapped: event['address'] as bigint },
      },
      link('hw', 'invalidate', (event, ids) => {
        const request = event['request'] as Readonly<Record<string, unknown>>;
        if (request['kind'] !== 'pasid-iotlb' || request['granularity'] !== 'page') return false;
        return request['pasid'] === ids.pasid && isIn(ids.unmapped, request['address'], request['sizeLg2']);
      }),
      link('hw', 'ats_invalidate', (event, ids) => {
        return ours(event, ids) && event['completed'] === true && isIn(ids.unmapped, event['iova'], event['sizeLg2']);
      }),
      link('iommufd', 'hwpt_invalidate', (event, ids) => event['hwpt'] === ids.hwpt),
    ],
    observed: ({ unmapped, hwpt }) => `${hex(unmapped)} invalidated in HWPT ${hwpt}, device TLB included`,
  },
  {
    title: 'The process exits, the VM ends: nothing is left',
    links: [
      link('core', 'prq_drain', (event, ids) => event['pasid'] === ids.hostPasid),
      link('core', 'pasid_entry_clear', (event, ids) => event['pasid'] === ids.hostPasid),
      link('core', 'prq_drain', (event, ids) => event['pasid'] === ids.pasid),
      link('core', 'pasid_entry_clear', (event, ids) => event['pasid'] === ids.pasid),
      link('vmm', 'shadow_clear', (event, ids) => event['hwpt'] === ids.hwpt),
      link('host', 'leftovers', ({ name: _, ...counts }) => Object.values(counts).every((count) => count === 0)),
    ],
    observed: ({ pasid, hostPasid }) =>
      `PASIDs ${pasid} and ${hostPasid} drained and cleared; no pin, PASID, object, mapping or frame is left`,
  },
];

/** Follows the steps through a trace that is given entry by entry. */
export class StepMatcher {
  private readonly ids: Ids = {
    pasid: -1,
    hostPasid: -1,
    cr3: -1n,
    parent: -1,
    hwpt: -1,
    instruction: '',
    source: -1n,
    group: -1,
    cookie: -1,
    page: -1n,
    unmapped: -1n,
    hostEntries: new Set(),
  };
  private readonly observations: string[] = [];
  /** Links matched of the step that is looked for. */
  private matched = 0;

  feed({ layer, event }: TraceEntry): void {
    const { hostEntries } = this.ids;
    if (layer === 'core' && event.name === 'pasid_entry_set') hostEntries.add(event['pasid']);
    if (layer === 'core' && event.name === 'pasid_entry_clear') hostEntries.delete(event['pasid']);
    const plan = PLAN[this.observations.length];
    const expected = plan?.links[this.matched];
    if (plan === undefined || expected === undefined || expected.layer !== layer || expected.name !== event.name)
      return;
    const learnt = expected.match(event, this.ids);
    if (learnt === false) return;
    Object.assign(this.ids, learnt);
    this.matched++;
    if (this.matched < plan.links.length) return;
    this.observations.push(plan.observed(this.ids));
    this.matched = 0;
  }

  /** All eight, whether they happened or not. */
  get steps(): readonly Step[] {
    const { observations, matched } = this;
    return PLAN.map(({ title, links }, index) => {
      const observed = observations[index] ?? null;
      const next = links[index === observations.length ? matched : 0]!;
      return { title, observed, missing: observed === null ? `${next.layer} ${next.name}` : null };
    });
  }

  get complete(): boolean {
    return this.observations.length === PLAN.length;
  }
}
