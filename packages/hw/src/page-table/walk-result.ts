/** What a walk leaves behind until the next one. */

export abstract class WalkResult {
  /** Frame of the 4 KiB page asked for, not of the start of a larger leaf. After WALK_OK. */
  pfn = 0;
  /** log2 of the byte size of the leaf. After WALK_OK. */
  sizeLg2 = 0;
  /** What the tables allow, also beyond the access asked for: rights bits. After WALK_OK. */
  rights = 0;
  /** Low half of the leaf, with the bits that the walk has set. After WALK_OK. */
  leafLow = 0;

  /** The table that holds the leaf, its level, and what the entries above it restrict: for `resume`. After WALK_OK. */
  tablePfn = 0;
  tableLevel = 0;
  tableAll = 0;
  tableAny = 0;

  /** Level of the entry at which the walk failed; where a right is missing, of the first entry that lacks it. */
  faultLevel = 0;
  /** Frame of that entry's table, and its index there. */
  faultTablePfn = 0;
  faultIndex = 0;

  /** Entries read since the walker was made. */
  reads = 0;

  /** Keeps where a walk failed and hands its code through. */
  protected fail(code: number, level: number, table: number, index: number): number {
    this.faultLevel = level;
    this.faultTablePfn = table;
    this.faultIndex = index;
    return code;
  }
}
