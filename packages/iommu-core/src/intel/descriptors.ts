/**
 * Invalidation descriptors, encoded as four words (Intel VT-d specification, revision 4.1, section 6.5.2). The upper
 * half of a 256-bit descriptor is zero in all of these.
 */

import {
  CONTEXT_CACHE_DEVICE,
  CONTEXT_CACHE_GLOBAL,
  CONTEXT_CACHE1_SID,
  DESCRIPTOR_CONTEXT_CACHE,
  DESCRIPTOR_DEVICE_TLB,
  DESCRIPTOR_INTERRUPT_ENTRY_CACHE,
  DESCRIPTOR_IOTLB,
  DESCRIPTOR_PAGE_GROUP_RESPONSE,
  DESCRIPTOR_PASID_CACHE,
  DESCRIPTOR_PASID_DEVICE_TLB,
  DESCRIPTOR_PASID_IOTLB,
  DESCRIPTOR_WAIT,
  DESCRIPTOR0_DID,
  DESCRIPTOR0_G,
  DESCRIPTOR1_PASID,
  DEVICE_TLB0_MIP,
  DEVICE_TLB0_PFSID,
  DEVICE_TLB1_PFSID,
  DEVICE_TLB1_SID,
  DEVICE_TLB2_S,
  fieldPrep,
  high32,
  INTERRUPT_ENTRY0_G,
  INTERRUPT_ENTRY1_IIDX,
  IOTLB_DOMAIN,
  IOTLB_GLOBAL,
  IOTLB_PAGE,
  IOTLB0_DR,
  IOTLB0_DW,
  IOTLB2_AM,
  IOTLB2_IH,
  low32,
  NO_PASID,
  PAGE_RESPONSE0_CODE,
  PAGE_RESPONSE0_PP,
  PAGE_RESPONSE0_RID,
  PAGE_RESPONSE2_INDEX,
  PASID_CACHE_GLOBAL,
  PASID_CACHE_PASID,
  PASID_DEVICE_TLB0_MIP,
  PASID_DEVICE_TLB0_PFSID,
  PASID_DEVICE_TLB0_SID,
  PASID_DEVICE_TLB1_PFSID,
  PASID_DEVICE_TLB2_S,
  PASID_IOTLB_PAGE,
  PASID_IOTLB_PASID,
  WAIT0_FN,
  WAIT0_PD,
  WAIT0_SW,
} from '@iommukit/hw';

/** Words 0 to 3. */
export type Descriptor = readonly [number, number, number, number];

/** Whole context cache. */
export function flushContextCache(): Descriptor {
  return [DESCRIPTOR_CONTEXT_CACHE | fieldPrep(DESCRIPTOR0_G, CONTEXT_CACHE_GLOBAL), 0, 0, 0];
}

/** Context-cache entries of one requester under `domainId`. */
export function flushContext(domainId: number, rid: number): Descriptor {
  const word0 = DESCRIPTOR_CONTEXT_CACHE | fieldPrep(DESCRIPTOR0_G, CONTEXT_CACHE_DEVICE);
  return [word0 | fieldPrep(DESCRIPTOR0_DID, domainId), fieldPrep(CONTEXT_CACHE1_SID, rid), 0, 0];
}

/** Every IOTLB and paging-structure-cache entry. */
export function flushIotlb(): Descriptor {
  return [iotlb(IOTLB_GLOBAL, 0), 0, 0, 0];
}

/** Second-stage, nested and pass-through entries of a domain. */
export function flushIotlbDomain(domainId: number): Descriptor {
  return [iotlb(IOTLB_DOMAIN, domainId), 0, 0, 0];
}

/** The same within a naturally aligned range of 2^`sizeLg2` bytes. `leaf`: no table was freed. */
export function flushIotlbPages(domainId: number, address: bigint, sizeLg2: number, leaf: boolean): Descriptor {
  return [iotlb(IOTLB_PAGE, domainId), 0, ...pageRange(address, sizeLg2, leaf)];
}

/** First-stage and nested entries of a PASID under `domainId`. */
export function flushPasidIotlb(domainId: number, pasid: number): Descriptor {
  const word0 = DESCRIPTOR_PASID_IOTLB | fieldPrep(DESCRIPTOR0_G, PASID_IOTLB_PASID);
  return [word0 | fieldPrep(DESCRIPTOR0_DID, domainId), fieldPrep(DESCRIPTOR1_PASID, pasid), 0, 0];
}

/** The same within a naturally aligned range of 2^`sizeLg2` bytes. */
export function flushPasidIotlbPages(
  domainId: number,
  pasid: number,
  address: bigint,
  sizeLg2: number,
  leaf: boolean,
): Descriptor {
  const word0 = DESCRIPTOR_PASID_IOTLB | fieldPrep(DESCRIPTOR0_G, PASID_IOTLB_PAGE);
  const range = pageRange(address, sizeLg2, leaf);
  return [word0 | fieldPrep(DESCRIPTOR0_DID, domainId), fieldPrep(DESCRIPTOR1_PASID, pasid), ...range];
}

/** Whole PASID cache. */
export function flushPasidCache(): Descriptor {
  return [DESCRIPTOR_PASID_CACHE | fieldPrep(DESCRIPTOR0_G, PASID_CACHE_GLOBAL), 0, 0, 0];
}

/** PASID-cache entries of a PASID under `domainId`. */
export function flushPasid(domainId: number, pasid: number): Descriptor {
  const word0 = DESCRIPTOR_PASID_CACHE | fieldPrep(DESCRIPTOR0_G, PASID_CACHE_PASID);
  return [word0 | fieldPrep(DESCRIPTOR0_DID, domainId), fieldPrep(DESCRIPTOR1_PASID, pasid), 0, 0];
}

/** Whole interrupt entry cache. */
export function flushInterruptEntries(): Descriptor {
  return [DESCRIPTOR_INTERRUPT_ENTRY_CACHE, 0, 0, 0];
}

/** One entry of the interrupt remapping table. */
export function flushInterruptEntry(index: number): Descriptor {
  return [DESCRIPTOR_INTERRUPT_ENTRY_CACHE | INTERRUPT_ENTRY0_G, fieldPrep(INTERRUPT_ENTRY1_IIDX, index), 0, 0];
}

/** Who is told to invalidate its own cache of translations. */
export type DeviceTlb = {
  readonly rid: number;
  /** Requester id of the physical function, the same unless the device is a virtual one. */
  readonly pfRid: number;
  /** Invalidations the device takes at a time, 0..31, as its ATS capability says: 0 is 32. */
  readonly queueDepth: number;
};

/** A device's cached translations of a naturally aligned range, 12 <= `sizeLg2` <= 64. */
export function flushDeviceTlb(device: DeviceTlb, pasid: number, address: bigint, sizeLg2: number): Descriptor {
  const { rid, pfRid, queueDepth } = device;
  const [lo, hi] = deviceRange(address, sizeLg2);
  if (pasid === NO_PASID) {
    return [
      DESCRIPTOR_DEVICE_TLB | fieldPrep(DEVICE_TLB0_PFSID, pfRid) | fieldPrep(DEVICE_TLB0_MIP, queueDepth),
      fieldPrep(DEVICE_TLB1_SID, rid) | fieldPrep(DEVICE_TLB1_PFSID, pfRid >> 4),
      lo | (sizeLg2 > 12 ? DEVICE_TLB2_S : 0),
      hi,
    ];
  }
  return [
    DESCRIPTOR_PASID_DEVICE_TLB |
      fieldPrep(PASID_DEVICE_TLB0_MIP, queueDepth) |
      fieldPrep(PASID_DEVICE_TLB0_PFSID, pfRid) |
      fieldPrep(PASID_DEVICE_TLB0_SID, rid),
    fieldPrep(DESCRIPTOR1_PASID, pasid) | fieldPrep(PASID_DEVICE_TLB1_PFSID, pfRid >> 4),
    lo | (sizeLg2 > 12 ? PASID_DEVICE_TLB2_S : 0),
    hi,
  ];
}

/** `pasid` is NO_PASID when the response carries none. `code` is a PRG_ code. */
export function pageGroupResponse(rid: number, pasid: number, group: number, code: number): Descriptor {
  return [
    DESCRIPTOR_PAGE_GROUP_RESPONSE |
      (pasid === NO_PASID ? 0 : PAGE_RESPONSE0_PP) |
      fieldPrep(PAGE_RESPONSE0_CODE, code) |
      fieldPrep(PAGE_RESPONSE0_RID, rid),
    pasid === NO_PASID ? 0 : fieldPrep(DESCRIPTOR1_PASID, pasid),
    fieldPrep(PAGE_RESPONSE2_INDEX, group),
    0,
  ];
}

/** Stores `data` at `statusAddress` when everything before is done. `drain`: page requests before it are in the queue. */
export function waitStatus(statusAddress: bigint, data: number, drain: boolean): Descriptor {
  const word0 = DESCRIPTOR_WAIT | WAIT0_SW | (drain ? WAIT0_PD : 0);
  return [word0, data, low32(statusAddress), high32(statusAddress)];
}

/** Nothing after it starts before everything before is done. */
export function fence(): Descriptor {
  return [DESCRIPTOR_WAIT | WAIT0_FN, 0, 0, 0];
}

/** Does nothing: takes the place of a descriptor that the unit refused. */
export function neutral(): Descriptor {
  return [DESCRIPTOR_WAIT, 0, 0, 0];
}

function iotlb(granularity: number, domainId: number): number {
  const word0 = DESCRIPTOR_IOTLB | IOTLB0_DW | IOTLB0_DR;
  return word0 | fieldPrep(DESCRIPTOR0_G, granularity) | fieldPrep(DESCRIPTOR0_DID, domainId);
}

function pageRange(address: bigint, sizeLg2: number, leaf: boolean): [number, number] {
  const hint = leaf ? IOTLB2_IH : 0;
  return [(low32(address) & ~0xfff) | hint | fieldPrep(IOTLB2_AM, sizeLg2 - 12), high32(address)];
}

/** The range of an ATS invalidation: a run of ones from bit 12 up to, not including, bit `sizeLg2` - 1 gives its size. */
function deviceRange(address: bigint, sizeLg2: number): [number, number] {
  const base = address & ~((1n << BigInt(sizeLg2)) - 1n);
  const ones = ((1n << BigInt(sizeLg2 - 1)) - 1n) & ~0xfffn;
  const range = sizeLg2 === 12 ? base : base | ones;
  return [low32(range), high32(range)];
}
