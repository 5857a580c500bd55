/**
 * Descriptors of the invalidation queue and of the page-request queue (VT-d Architecture Specification, revision 4.1,
 * sections 6.5.2 and 7.4.1).
 *
 * Fields are masks over the 32-bit word whose index ends the name's first part. A descriptor of the invalidation
 * queue is 4 words (128 bits) or 8 words (256 bits, IQA.DW), one of the page-request queue 8 words.
 */

import { genmask } from '../bits.ts';

/** Types: word 0, bits 11..9 and 3..0 together. */
export const DESCRIPTOR_CONTEXT_CACHE = 1;
export const DESCRIPTOR_IOTLB = 2;
export const DESCRIPTOR_DEVICE_TLB = 3;
export const DESCRIPTOR_INTERRUPT_ENTRY_CACHE = 4;
export const DESCRIPTOR_WAIT = 5;
export const DESCRIPTOR_PASID_IOTLB = 6;
export const DESCRIPTOR_PASID_CACHE = 7;
export const DESCRIPTOR_PASID_DEVICE_TLB = 8;
export const DESCRIPTOR_PAGE_GROUP_RESPONSE = 9;

/** The type field of a descriptor's word 0. */
export function descriptorType(word0: number): number {
  return (word0 & 0xf) | ((word0 >>> 5) & 0x70);
}

/** Granularity, in context-cache, PASID-cache, IOTLB and PASID-based IOTLB descriptors. */
export const DESCRIPTOR0_G: number = genmask(5, 4);
/** Domain, in the same. */
export const DESCRIPTOR0_DID: number = genmask(31, 16);
/** PASID, in PASID-cache, PASID-based and page-group response descriptors. */
export const DESCRIPTOR1_PASID: number = genmask(19, 0);

/** Context cache and IOTLB: 1 global, 2 domain, 3 device or page. PASID cache: 0 domain, 1 PASID, 3 global. */
export const CONTEXT_CACHE_GLOBAL = 1;
export const CONTEXT_CACHE_DOMAIN = 2;
export const CONTEXT_CACHE_DEVICE = 3;
export const PASID_CACHE_DOMAIN = 0;
export const PASID_CACHE_PASID = 1;
export const PASID_CACHE_GLOBAL = 3;
export const IOTLB_GLOBAL = 1;
export const IOTLB_DOMAIN = 2;
export const IOTLB_PAGE = 3;
/** PASID-based IOTLB: 2 the PASID, 3 pages of it. */
export const PASID_IOTLB_PASID = 2;
export const PASID_IOTLB_PAGE = 3;

export const CONTEXT_CACHE1_SID: number = genmask(15, 0);
/** Function mask: how many bits of the function number are ignored, from its highest (bit 2) down. */
export const CONTEXT_CACHE1_FM: number = genmask(17, 16);

export const IOTLB0_DW: number = 1 << 6;
export const IOTLB0_DR: number = 1 << 7;
/** Address mask: 2^AM pages, naturally aligned. IOTLB and PASID-based IOTLB descriptors. */
export const IOTLB2_AM: number = genmask(5, 0);
/** Invalidation hint: only leaf entries changed. */
export const IOTLB2_IH: number = 1 << 6;

export const DEVICE_TLB0_PFSID: number = genmask(15, 12);
export const DEVICE_TLB0_MIP: number = genmask(20, 16);
export const DEVICE_TLB1_SID: number = genmask(15, 0);
export const DEVICE_TLB1_PFSID: number = genmask(31, 20);
/** The address encodes a range: its lowest zero bit from bit 12 on says how large. */
export const DEVICE_TLB2_S: number = 1 << 0;

export const PASID_DEVICE_TLB0_MIP: number = genmask(8, 4);
export const PASID_DEVICE_TLB0_PFSID: number = genmask(15, 12);
export const PASID_DEVICE_TLB0_SID: number = genmask(31, 16);
export const PASID_DEVICE_TLB1_PFSID: number = genmask(31, 20);
/** Global: every PASID of the function. */
export const PASID_DEVICE_TLB2_G: number = 1 << 0;
export const PASID_DEVICE_TLB2_S: number = 1 << 11;

/** Index-selective; else global. */
export const INTERRUPT_ENTRY0_G: number = 1 << 4;
/** 2^IM entries, naturally aligned. */
export const INTERRUPT_ENTRY0_IM: number = genmask(31, 27);
export const INTERRUPT_ENTRY1_IIDX: number = genmask(15, 0);

/** Interrupt when complete. */
export const WAIT0_IF: number = 1 << 4;
/** Write word 1 to the address in words 2 and 3 when complete. */
export const WAIT0_SW: number = 1 << 5;
/** Fence: later descriptors wait for this one. */
export const WAIT0_FN: number = 1 << 6;
/** Page-request drain. */
export const WAIT0_PD: number = 1 << 7;

export const PAGE_RESPONSE0_PP: number = 1 << 4;
export const PAGE_RESPONSE0_CODE: number = genmask(15, 12);
export const PAGE_RESPONSE0_RID: number = genmask(31, 16);
export const PAGE_RESPONSE2_INDEX: number = genmask(11, 3);

/** Bytes of a page request descriptor. Words 2 and 3, bits 63..12: the page. */
export const PAGE_REQUEST_SIZE = 32;
/** Word 0, bits 7..0: the only type there is. */
export const PAGE_REQUEST_TYPE = 1;
export const PAGE_REQUEST0_PP: number = 1 << 8;
export const PAGE_REQUEST0_RID: number = genmask(31, 16);
export const PAGE_REQUEST1_PASID: number = genmask(19, 0);
export const PAGE_REQUEST1_EXE: number = 1 << 20;
export const PAGE_REQUEST1_PRIV: number = 1 << 21;
export const PAGE_REQUEST2_READ: number = 1 << 0;
export const PAGE_REQUEST2_WRITE: number = 1 << 1;
export const PAGE_REQUEST2_LAST: number = 1 << 2;
export const PAGE_REQUEST2_GROUP: number = genmask(11, 3);
