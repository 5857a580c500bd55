/**
 * Decodes descriptors of the invalidation queue (VT-d Architecture Specification, revision 4.1, section 6.5.2). Types
 * that the unit does not advertise are invalid types; bits that a type does not define are reserved.
 */

import { fieldGet } from '../bits.ts';
import { NO_PASID, type PageGroupResponse } from '../pci/transaction.ts';
import { joinU64 } from '../u64.ts';
import type { VtdInvalidation } from './backend.ts';
import * as d from './descriptors.ts';
import type { VtdFeatures } from './features.ts';
import { IQEI_INVALID_TTM, IQEI_INVALID_TYPE, IQEI_RESERVED_FIELD } from './registers.ts';

/** What a descriptor asks for; `error` is an IQEI_ value. */
export type DecodedDescriptor =
  | { what: 'invalidation'; request: VtdInvalidation }
  | { what: 'response'; response: PageGroupResponse }
  | { what: 'wait'; wait: WaitDescriptor }
  | { what: 'error'; error: number };

export type WaitDescriptor = {
  interrupt: boolean;
  writeStatus: boolean;
  fence: boolean;
  drain: boolean;
  /** Where to write the status, and the 32-bit value. */
  status: bigint;
  data: number;
};

/** Reserved bits of words 0 to 3 by type; words 4 to 7 are reserved in all of them. */
const RESERVED: Record<number, readonly [number, number, number, number]> = {
  [d.DESCRIPTOR_CONTEXT_CACHE]: [0xf1c0, 0xfffc0000, -1, -1],
  [d.DESCRIPTOR_IOTLB]: [0xf100, -1, 0xf80, 0],
  [d.DESCRIPTOR_DEVICE_TLB]: [0xffe001f0, 0x000f0000, 0xffe, 0],
  [d.DESCRIPTOR_INTERRUPT_ENTRY_CACHE]: [0x07fff1e0, 0xffff0000, -1, -1],
  [d.DESCRIPTOR_WAIT]: [0xfffff100, 0, 3, 0],
  [d.DESCRIPTOR_PASID_IOTLB]: [0xf1c0, 0xfff00000, 0xf80, 0],
  [d.DESCRIPTOR_PASID_CACHE]: [0xf1c0, 0xfff00000, -1, -1],
  [d.DESCRIPTOR_PASID_DEVICE_TLB]: [0, 0, 0x7fe, 0],
  // Bit 2 of word 2 repeated the request's Last bit in revisions before 3.4; it is not checked.
  [d.DESCRIPTOR_PAGE_GROUP_RESPONSE]: [0x01e0, 0xfff00000, 0xfffff003, -1],
};

/**
 * Decodes the descriptor in `words` (4 or 8 of them). `scalable`: the root table is a scalable-mode one, without which
 * there are no PASID-granular caches.
 */
export function decodeDescriptor(words: Int32Array, features: VtdFeatures, scalable: boolean): DecodedDescriptor {
  const type = d.descriptorType(words[0]!);
  if (!advertised(type, features)) return fail(IQEI_INVALID_TYPE);
  if (hasReserved(type, words, features)) return fail(IQEI_RESERVED_FIELD);
  const word0 = words[0]!;
  const word1 = words[1]!;
  const granularity = fieldGet(d.DESCRIPTOR0_G, word0);
  const did = fieldGet(d.DESCRIPTOR0_DID, word0);
  switch (type) {
    case d.DESCRIPTOR_CONTEXT_CACHE:
      return contextCache(granularity, did, word1);
    case d.DESCRIPTOR_IOTLB:
      return iotlb(granularity, did, words, features);
    case d.DESCRIPTOR_DEVICE_TLB:
      return deviceTlb(words, fieldGet(d.DEVICE_TLB1_SID, word1), NO_PASID, false, d.DEVICE_TLB2_S);
    case d.DESCRIPTOR_INTERRUPT_ENTRY_CACHE:
      return interruptEntries(word0, word1);
    case d.DESCRIPTOR_WAIT:
      return wait(words);
    case d.DESCRIPTOR_PASID_IOTLB:
      if (!scalable) return fail(IQEI_INVALID_TTM);
      return pasidIotlb(granularity, did, words, features);
    case d.DESCRIPTOR_PASID_CACHE:
      if (!scalable) return fail(IQEI_INVALID_TTM);
      return pasidCache(granularity, did, fieldGet(d.DESCRIPTOR1_PASID, word1));
    case d.DESCRIPTOR_PASID_DEVICE_TLB: {
      const sid = fieldGet(d.PASID_DEVICE_TLB0_SID, word0);
      const pasid = fieldGet(d.DESCRIPTOR1_PASID, word1);
      return deviceTlb(words, sid, pasid, (words[2]! & d.PASID_DEVICE_TLB2_G) !== 0, d.PASID_DEVICE_TLB2_S);
    }
    default:
      return pageGroupResponse(words);
  }
}

function advertised(type: number, features: VtdFeatures): boolean {
  switch (type) {
    case d.DESCRIPTOR_CONTEXT_CACHE:
    case d.DESCRIPTOR_IOTLB:
    case d.DESCRIPTOR_WAIT:
      return true;
    case d.DESCRIPTOR_DEVICE_TLB:
      return features.deviceTlb;
    case d.DESCRIPTOR_INTERRUPT_ENTRY_CACHE:
      return features.interruptRemapping;
    case d.DESCRIPTOR_PASID_IOTLB:
    case d.DESCRIPTOR_PASID_CACHE:
      return features.scalableMode;
    case d.DESCRIPTOR_PASID_DEVICE_TLB:
      return features.deviceTlb && features.pasid;
    case d.DESCRIPTOR_PAGE_GROUP_RESPONSE:
      return features.pageRequests;
    default:
      return false;
  }
}

function hasReserved(type: number, words: Int32Array, features: VtdFeatures): boolean {
  const reserved = RESERVED[type]!;
  for (let i = 0; i < 4; i++) if ((words[i]! & reserved[i]!) !== 0) return true;
  for (let i = 4; i < words.length; i++) if (words[i] !== 0) return true;
  return type === d.DESCRIPTOR_WAIT && !features.pageRequestDrain && (words[0]! & d.WAIT0_PD) !== 0;
}

function fail(error: number): DecodedDescriptor {
  return { what: 'error', error };
}

function invalidation(request: VtdInvalidation): DecodedDescriptor {
  return { what: 'invalidation', request };
}

function contextCache(granularity: number, did: number, word1: number): DecodedDescriptor {
  const kind = 'context-cache';
  if (granularity === d.CONTEXT_CACHE_GLOBAL) return invalidation({ kind, granularity: 'global' });
  if (granularity === d.CONTEXT_CACHE_DOMAIN) return invalidation({ kind, granularity: 'domain', did });
  if (granularity !== d.CONTEXT_CACHE_DEVICE) return fail(IQEI_RESERVED_FIELD);
  const sid = fieldGet(d.CONTEXT_CACHE1_SID, word1);
  const functionMask = fieldGet(d.CONTEXT_CACHE1_FM, word1);
  return invalidation({ kind, granularity: 'device', did, sid, functionMask });
}

function pasidCache(granularity: number, did: number, pasid: number): DecodedDescriptor {
  const kind = 'pasid-cache';
  if (granularity === d.PASID_CACHE_GLOBAL) return invalidation({ kind, granularity: 'global' });
  if (granularity === d.PASID_CACHE_DOMAIN) return invalidation({ kind, granularity: 'domain', did });
  if (granularity === d.PASID_CACHE_PASID) return invalidation({ kind, granularity: 'pasid', did, pasid });
  return fail(IQEI_RESERVED_FIELD);
}

/** The range of a page-selective request, or null when AM is beyond what the unit takes. */
function pages(
  words: Int32Array,
  features: VtdFeatures,
): { address: bigint; sizeLg2: number; leafOnly: boolean } | null {
  const mask = fieldGet(d.IOTLB2_AM, words[2]!);
  if (mask > features.maxAddressMask) return null;
  const sizeLg2 = 12 + mask;
  const address = (joinU64(words[2]!, words[3]!) >> BigInt(sizeLg2)) << BigInt(sizeLg2);
  return { address, sizeLg2, leafOnly: (words[2]! & d.IOTLB2_IH) !== 0 };
}

function iotlb(granularity: number, did: number, words: Int32Array, features: VtdFeatures): DecodedDescriptor {
  const kind = 'iotlb';
  if (granularity === d.IOTLB_GLOBAL) return invalidation({ kind, granularity: 'global' });
  if (granularity === d.IOTLB_DOMAIN) return invalidation({ kind, granularity: 'domain', did });
  if (granularity !== d.IOTLB_PAGE) return fail(IQEI_RESERVED_FIELD);
  if (!features.pageSelective) return invalidation({ kind, granularity: 'domain', did });
  const range = pages(words, features);
  return range === null ? fail(IQEI_RESERVED_FIELD) : invalidation({ kind, granularity: 'page', did, ...range });
}

function pasidIotlb(granularity: number, did: number, words: Int32Array, features: VtdFeatures): DecodedDescriptor {
  const kind = 'pasid-iotlb';
  const pasid = fieldGet(d.DESCRIPTOR1_PASID, words[1]!);
  if (granularity === d.PASID_IOTLB_PASID) return invalidation({ kind, granularity: 'pasid', did, pasid });
  if (granularity !== d.PASID_IOTLB_PAGE) return fail(IQEI_RESERVED_FIELD);
  const range = pages(words, features);
  if (range === null) return fail(IQEI_RESERVED_FIELD);
  return invalidation({ kind, granularity: 'page', did, pasid, ...range });
}

/** The size of a device-TLB range is encoded in its address: ones from bit 12 up to the lowest zero. */
function deviceTlb(words: Int32Array, sid: number, pasid: number, global: boolean, sizeBit: number): DecodedDescriptor {
  let sizeLg2 = 12;
  const encoded = joinU64(words[2]!, words[3]!);
  if ((words[2]! & sizeBit) !== 0) {
    sizeLg2 = 13;
    while (sizeLg2 < 64 && ((encoded >> BigInt(sizeLg2 - 1)) & 1n) === 1n) sizeLg2++;
  }
  const address = (encoded >> BigInt(sizeLg2)) << BigInt(sizeLg2);
  return invalidation({ kind: 'device-tlb', sid, pasid, global, address, sizeLg2 });
}

function interruptEntries(word0: number, word1: number): DecodedDescriptor {
  const kind = 'interrupt-entry-cache';
  if ((word0 & d.INTERRUPT_ENTRY0_G) === 0) return invalidation({ kind, granularity: 'global' });
  const count = 2 ** Math.min(fieldGet(d.INTERRUPT_ENTRY0_IM, word0), 16);
  const index = fieldGet(d.INTERRUPT_ENTRY1_IIDX, word1) & ~(count - 1);
  return invalidation({ kind, granularity: 'index', index, count });
}

function wait(words: Int32Array): DecodedDescriptor {
  const word0 = words[0]!;
  return {
    what: 'wait',
    wait: {
      interrupt: (word0 & d.WAIT0_IF) !== 0,
      writeStatus: (word0 & d.WAIT0_SW) !== 0,
      fence: (word0 & d.WAIT0_FN) !== 0,
      drain: (word0 & d.WAIT0_PD) !== 0,
      status: joinU64(words[2]!, words[3]!),
      data: words[1]! >>> 0,
    },
  };
}

function pageGroupResponse(words: Int32Array): DecodedDescriptor {
  const word0 = words[0]!;
  return {
    what: 'response',
    response: {
      rid: fieldGet(d.PAGE_RESPONSE0_RID, word0),
      pasid: (word0 & d.PAGE_RESPONSE0_PP) !== 0 ? fieldGet(d.DESCRIPTOR1_PASID, words[1]!) : NO_PASID,
      code: fieldGet(d.PAGE_RESPONSE0_CODE, word0),
      group: fieldGet(d.PAGE_RESPONSE2_INDEX, words[2]!),
    },
  };
}
