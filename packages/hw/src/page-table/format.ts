/**
 * What a page-table format is: bits and numbers.
 *
 * Terms (after Linux's generic_pt): a table is an array of entries in one frame; an entry is a leaf, which maps a page,
 * or points to the table of the next lower level; level 0 has only leaves. Every format here has 512 entries of
 * 64 bits in a table, written as two int32 halves, the address in bits 51..12 and all flags but those named `...High`
 * in the low half. The address of a leaf counts the format's smallest pages, which are 4 KiB nearly everywhere; that of
 * a table counts frames of 4 KiB. A bit that a format does not have is 0.
 */
export type PageTableFormat = {
  readonly name: string;
  /** Levels that a table can have, ascending: 4 means top level 3. */
  readonly levels: readonly number[];
  /** Addresses above the lower half continue in the sign-extended upper half (canonical addresses). */
  readonly canonical: boolean;
  /** log2 of the page sizes, ascending; the index is the level of the leaf, so each is 9 more than the one before. */
  readonly pageSizesLg2: readonly number[];
  /** An entry is present when one of these bits is set. */
  readonly present: number;
  /** Set in every leaf, whatever it allows. */
  readonly leaf: number;
  /** An entry above level 0 is a leaf when of the bits in `leafMask` it has those in `large`, and no others. */
  readonly leafMask: number;
  readonly large: number;
  /** Set in every leaf that allows the access. Where there is no read bit, what is present can be read. */
  readonly read: number;
  readonly readHigh: number;
  readonly write: number;
  readonly writeHigh: number;
  /** Set in every leaf that user accesses may use. */
  readonly user: number;
  /** Set in leaves that allow to execute, or in those that forbid it. */
  readonly execute: number;
  readonly noExecuteHigh: number;
  /** Device accesses through the leaf snoop caches. */
  readonly snoop: number;
  readonly snoopHigh: number;
  /** The translation is the same in every address space. */
  readonly global: number;
  /** Set by hardware on use, on write; in entries and leaves, in leaves. */
  readonly accessed: number;
  readonly dirty: number;
  /** Hardware always sets them; otherwise only when it is told to. */
  readonly alwaysMarks: boolean;
  /** An entry that points to a table and restricts nothing; `tableLevel` times the entry's level comes on top. */
  readonly table: number;
  readonly tableLevel: number;
  readonly tableHigh: number;
  /** Bits of the low half that hardware ignores, for software's own use. */
  readonly software: number;
};
