/**
 * Accesses that hardware refused for good: nobody is asked, and nothing is retried. What can be resolved is a page
 * request (page-fault.ts).
 */

export type UnrecoverableReason =
  | 'unknown'
  /** The PASID table could not be read. */
  | 'pasid-fetch'
  /** The PASID's entry is absent or malformed. */
  | 'bad-pasid-entry'
  /** The PASID is out of range, or the device may not send any. */
  | 'pasid-invalid'
  /** A page-table entry could not be read or updated. */
  | 'walk-abort'
  /** A page-table entry is absent, allows nothing or is malformed, or a table is where the next stage has nothing. */
  | 'not-translated'
  | 'permission'
  /** An address is wider than a stage takes. */
  | 'out-of-range';

export type UnrecoverableFault = {
  /** NO_PASID or a PASID. */
  readonly pasid: number;
  /** Page of the access. */
  readonly address: bigint;
  /** ACCESS_ bits. */
  readonly access: number;
  readonly reason: UnrecoverableReason;
};
