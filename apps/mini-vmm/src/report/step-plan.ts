/**
 * The eight steps of shared virtual addressing through nested translation, as chains of trace events. Each chain's
 * events must come in this order, across the layers, and they belong together by the ids they carry: the guest's PASID,
 * the host's, the nested table, the page request group, the cookie. The first PASID that a guest process is given is
 * followed from its entry to its end.
 *
 * The steps are the same with every interface of the kernel. Where its objects have names of their own, in steps 4 and
 * 6 to 8, so have the chains.
 */

import { hex } from '@iommukit/hw';
import type { InterfaceKind } from '../vmm/interfaces/open.ts';
import type { TraceEntry } from './recorder.ts';

type Event = TraceEntry['event'];

/** What has been learnt on the way. */
export type Ids = {
  pasid: number;
  hostPasid: number;
  cr3: bigint;
  /** Of iommufd's and ioasid's steps: the nested hardware page table and the one it is nested on. */
  parent: number;
  hwpt: number;
  /** The IOASID that the table is for. */
  ioasid: number;
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
export type Link = {
  readonly layer: string;
  readonly name: string;
  /** What the event adds to the ids when it is the one, or false. */
  match(event: Event, ids: Ids): Partial<Ids> | false;
};

export type StepPlan = {
  readonly title: string;
  readonly links: readonly Link[];
  observed(ids: Ids): string;
};

/** What of the steps is an interface's own. */
type Dialect = {
  /** Step 4: the table is nested and the device attached with both PASIDs. */
  readonly nests: readonly Link[];
  nested(ids: Ids): string;
  /** Step 6: the answer passes through the interface. */
  readonly answer: Link;
  /** Step 7: the invalidation has come back from the interface. */
  readonly invalidated: Link;
  /** The table's name there. */
  table(ids: Ids): string;
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

const entryIsSet: Link = link('core', 'pasid_entry_set', (event, ids) => event['pasid'] === ids.pasid);
const commandEntryIsSet: Link = {
  layer: 'core',
  name: 'pasid_entry_set',
  match: (event, ids) => event['pasid'] !== ids.pasid && { hostPasid: event['pasid'] as number },
};

/** A hardware page table of /dev/iommu, which /dev/ioasid has underneath. */
const hwptNests: readonly Link[] = [
  {
    layer: 'iommufd',
    name: 'hwpt_alloc',
    match: (event) =>
      event['kind'] === 'nested' && { hwpt: event['hwpt'] as number, parent: event['parent'] as number },
  },
  entryIsSet,
  link('iommufd', 'device_attach', (event, ids) => event['pasid'] === ids.pasid && event['hwpt'] === ids.hwpt),
  commandEntryIsSet,
  link('iommufd', 'device_attach', (event, ids) => event['pasid'] === ids.hostPasid && event['hwpt'] === ids.hwpt),
];
const hwptAnswer: Link = link('iommufd', 'fault_response', (event, ids) => {
  return event['cookie'] === ids.cookie && event['code'] === 0;
});
const hwptInvalidated: Link = link('iommufd', 'hwpt_invalidate', (event, ids) => event['hwpt'] === ids.hwpt);

const DIALECTS: Readonly<Record<InterfaceKind, Dialect>> = {
  iommufd: {
    nests: [
      ...hwptNests,
      link('vmm', 'shadow_set', (event, ids) => event['hwpt'] === ids.hwpt && event['table'] === ids.cr3),
    ],
    nested: ({ hwpt, parent, pasid, hostPasid }) =>
      `HWPT ${hwpt} nested on HWPT ${parent}, attached at PASID ${pasid} and, for ENQCMD, ${hostPasid}`,
    answer: hwptAnswer,
    invalidated: hwptInvalidated,
    table: ({ hwpt }) => `HWPT ${hwpt}`,
  },
  ioasid: {
    nests: [
      ...hwptNests,
      {
        layer: 'vmm',
        name: 'shadow_set',
        match: (event, ids) =>
          event['hostPasid'] === ids.hostPasid && event['table'] === ids.cr3 && { ioasid: event['ioasid'] as number },
      },
    ],
    nested: ({ ioasid, pasid, hostPasid }) =>
      `IOASID ${ioasid} nested on guest memory, attached at PASID ${pasid} and, for ENQCMD, ${hostPasid}`,
    answer: hwptAnswer,
    invalidated: hwptInvalidated,
    table: ({ ioasid }) => `IOASID ${ioasid}`,
  },
  gpasid: {
    nests: [
      entryIsSet,
      link('core', 'attach_device_to_domain', (event, ids) => {
        return event['pasid'] === ids.pasid && event['kind'] === 'nested';
      }),
      commandEntryIsSet,
      link('core', 'attach_device_to_domain', (event, ids) => {
        return event['pasid'] === ids.hostPasid && event['kind'] === 'nested';
      }),
      link('core', 'ioasid_notify', (event, ids) => {
        return event['kind'] === 'bind' && event['id'] === ids.hostPasid && event['spid'] === ids.pasid;
      }),
      link('vmm', 'shadow_set', (event, ids) => {
        return event['hostPasid'] === ids.hostPasid && event['table'] === ids.cr3;
      }),
    ],
    nested: ({ pasid, hostPasid }) =>
      `the table bound to PASID ${pasid} and, for ENQCMD, to ${hostPasid}, whose SPID is ${pasid}`,
    answer: link('core', 'page_response', (event, ids) => {
      return ours(event, ids) && event['group'] === ids.group && event['code'] === 0;
    }),
    invalidated: link('vmm', 'stage1_invalidate', (event, ids) => {
      return event['pasid'] === ids.pasid && event['address'] === ids.unmapped;
    }),
    table: ({ pasid, hostPasid }) => `PASIDs ${pasid} and ${hostPasid}`,
  },
};

/** The steps, in order, as they are seen with an interface of the kernel's. */
export function planSteps(kind: InterfaceKind): readonly StepPlan[] {
  const dialect = DIALECTS[kind];
  return [
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
      links: dialect.nests,
      observed: dialect.nested,
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
        dialect.answer,
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
        dialect.invalidated,
      ],
      observed: (ids) => `${hex(ids.unmapped)} invalidated in ${dialect.table(ids)}, device TLB included`,
    },
    {
      title: 'The process exits, the VM ends: nothing is left',
      links: [
        link('core', 'prq_drain', (event, ids) => event['pasid'] === ids.hostPasid),
        link('core', 'pasid_entry_clear', (event, ids) => event['pasid'] === ids.hostPasid),
        link('core', 'prq_drain', (event, ids) => event['pasid'] === ids.pasid),
        link('core', 'pasid_entry_clear', (event, ids) => event['pasid'] === ids.pasid),
        link('vmm', 'shadow_clear', (event, ids) => event['hostPasid'] === ids.hostPasid),
        link('host', 'leftovers', ({ name: _, ...counts }) => Object.values(counts).every((count) => count === 0)),
      ],
      observed: ({ pasid, hostPasid }) =>
        `PASIDs ${pasid} and ${hostPasid} drained and cleared; no pin, PASID, object, mapping or frame is left`,
    },
  ];
}
