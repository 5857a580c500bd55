/**
 * What a page-table format is: bits and numbers.
 *
 * Terms (after Linux's generic_pt): a table is an array of entries in one frame; an entry is a leaf, which maps a page,
 * or points to the table of the next lower level; level 0 has only leaves. Every format here has 512 entries of
 * 64 bits in a table, written as two int32 halves, the physical address in bits 51..12 and all flags but those named
 * `...High` in the low half. A bit that a format does not have is 0.
 */
export type PageTableFormat = {
  readonly name: string;
  /** Levels that a table can have, ascending: 4 means top level 3. */
  readonly levels: readonly number[];
  /** Addresses above the lower half continue in the sign-extended upper half (canonical addresses). */
  readonly canonical: boolean;
  /** log2 of the page sizes, ascending; the index is the level of the leaf. */
  readonly pageSizesLg2: readonly number[];
  /** An entry is present when one of these bits is set. */
  readonly present: number;
  /** Set in leaves above level 0. */
  readonly large: number;
  /** Set in every leaf that allows the access. Where there is no read bit, what is present can be read. */
  readonly read: number;
  readonly write: number;
  /** Set in every leaf that user accesses may use. */
  readonly user: number;
  /** Set in leaves that allow to execute, or in those that forbid it. */
  readonly execute: number;
  readonly noExecuteHigh: number;
  /** Device accesses through the leaf snoop caches. */
  readonly snoop: number;
  /** The translation is the same in every address space. */
  readonly global: number;
  /** Set by hardware on use, on write; in entries and leaves, in leaves. */
  readonly accessed: number;
  readonly dirty: number;
  /** Hardware always sets them; otherwise only when it is told to. */
  readonly alwaysMarks: boolean;
  /** Low half of an entry that points to a table and restricts nothing. */
  readonly table: number;
  /** Bits of the low half that hardware ignores, for software's own use. */
  readonly software: number;
};
