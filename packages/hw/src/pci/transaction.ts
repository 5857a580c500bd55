/**
 * What travels between a PCI Express function, the root complex and an IOMMU unit (PCI Express Base Specification 6.0:
 * chapter 2 transaction layer, chapter 10 address translation services, section 6.20 PASID).
 *
 * Addresses are int32 halves or split page numbers (see u64.ts); results that are more than one number stand in fields
 * of the answering object until its next call, so that nothing is allocated for a transaction.
 */

/** Access bits, used by requests, translations and page requests alike. */
export const ACCESS_READ = 1;
export const ACCESS_WRITE = 2;
/** With a PASID only: the Execute Requested bit of the PASID prefix. */
export const ACCESS_EXECUTE = 4;
/** With a PASID only: the Privileged Mode Requested bit of the PASID prefix. */
export const ACCESS_PRIVILEGED = 8;

/** PASID argument of a request without a PASID prefix. */
export const NO_PASID = -1;

/** Requester id: bus << 8 | device << 3 | function. */
export function requesterId(bus: number, device: number, fn: number): number {
  return (bus << 8) | (device << 3) | fn;
}

/** `bb:dd.f`, as lspci prints it. */
export function formatRid(rid: number): string {
  const bus = (rid >> 8).toString(16).padStart(2, '0');
  const device = ((rid >> 3) & 31).toString(16).padStart(2, '0');
  return `${bus}:${device}.${rid & 7}`;
}

/** AT field of a memory request. */
export const AT_UNTRANSLATED = 0;
export const AT_TRANSLATED = 2;

/** Completion status of a non-posted request, and the fate of a posted one (section 2.2.9). */
export const COMPLETION_SUCCESS = 0;
export const COMPLETION_UNSUPPORTED_REQUEST = 1;
export const COMPLETION_ABORT = 4;

/** Response codes of a Page Request Group Response (section 10.4.2.1). */
export const PRG_SUCCESS = 0;
export const PRG_INVALID_REQUEST = 1;
export const PRG_RESPONSE_FAILURE = 15;

/** First and last frame of the MSI address range 0xfee0_0000..0xfeef_ffff. */
export const MSI_FIRST_PFN = 0xfee00;
export const MSI_LAST_PFN = 0xfeeff;

/**
 * An IOMMU unit, or the root complex's pass-through when there is none, as the fabric sees it.
 * One method call is one transaction; it happens at once.
 */
export type TranslationAgent = {
  /**
   * Translates the page of a memory request that the root complex is about to perform.
   * `access` holds ACCESS_ bits, `addressType` AT_UNTRANSLATED or AT_TRANSLATED.
   * COMPLETION_SUCCESS leaves the frame number in `pfn`; otherwise a fault has been recorded as the unit specifies.
   */
  translate(rid: number, pasid: number, access: number, addressType: number, pageHigh: number, pageLow: number): number;
  /** Frame number of the last successful `translate`. */
  readonly pfn: number;

  /**
   * An ATS translation request for one page. `access` has ACCESS_WRITE unless the request carries No Write (NW).
   * COMPLETION_SUCCESS leaves the completion in `ats`, which may grant nothing (ats.access 0: the page is not there).
   */
  requestTranslation(rid: number, pasid: number, access: number, pageHigh: number, pageLow: number): number;
  /** The last translation completion. */
  readonly ats: TranslationCompletion;

  /** A page-request message (section 10.4.1). `access` 0 with `last` is a stop marker when it carries a PASID. */
  requestPage(request: PageRequest): void;

  /**
   * A write of `data` to the MSI address range, without PASID. Success: delivered, or blocked as the unit specifies
   * (posted writes are never refused); the fault is recorded.
   */
  writeInterrupt(rid: number, addressLow: number, addressHigh: number, data: number): void;
};

/** Fields of a translation completion (section 10.2.3.2). Overwritten by the next request. */
export type TranslationCompletion = {
  /** Frame number of the translated 4 KiB page (of the page asked for, not of the range's start). */
  pfn: number;
  /** log2 of the byte size of the naturally aligned range the translation is valid for, >= 12. */
  sizeLg2: number;
  /** ACCESS_ bits granted: read, write, execute; ACCESS_PRIVILEGED echoes Priv. 0: no translation. */
  access: number;
  /** Global mapping (G): valid for every PASID of the requester. */
  global: boolean;
  /** Non-snooped accesses (N). */
  noSnoop: boolean;
  /** Untranslated access only (U): the address may not be cached. */
  untranslatedOnly: boolean;
};

/** A page-request message. */
export type PageRequest = {
  rid: number;
  /** NO_PASID or a PASID. */
  pasid: number;
  /** ACCESS_ bits: what is wanted, plus ACCESS_EXECUTE and ACCESS_PRIVILEGED of the PASID prefix. */
  access: number;
  /** Last request of its group (L). */
  last: boolean;
  /** Page request group index, 9 bits. */
  group: number;
  /** Split page number of the page wanted. */
  pageHigh: number;
  pageLow: number;
};

/** A page-request-group response, from the agent to the function. */
export type PageGroupResponse = {
  rid: number;
  /** NO_PASID when the response carries no PASID prefix. */
  pasid: number;
  /** PRG_ code. */
  code: number;
  group: number;
};

/** An ATS invalidation request, from the agent to the function (section 10.3.1). */
export type AtsInvalidation = {
  rid: number;
  /** NO_PASID when the request carries no PASID prefix. */
  pasid: number;
  /** With a PASID prefix: global invalidate, every PASID of the function. */
  global: boolean;
  /** Split page number of the range's first page; the range is naturally aligned. */
  pageHigh: number;
  pageLow: number;
  /** log2 of the byte size of the range, 12..64. */
  sizeLg2: number;
};

/** The way down: what an agent asks of the fabric. */
export type DownstreamPort = {
  /**
   * Sends an invalidation. `done` is called with true when the function has completed it, with false when it did not
   * answer within the completion time-out (which the fabric keeps); not before this call returns.
   */
  invalidate(request: AtsInvalidation, done: (completed: boolean) => void): void;
  /** Sends a page-group response; dropped when no function has that requester id. */
  respond(response: PageGroupResponse): void;
};

/** Where interrupt messages end up: the interrupt controllers of a machine. */
export type InterruptSink = {
  /** A compatibility-format message: `addressLow` 0xfeexxxxx with destination, `data` with vector and mode. */
  deliver(addressLow: number, data: number): void;
};
