/**
 * A list of frame numbers as runs of adjoining frames: what pinning yields, what a mapping is built from, and what
 * unpinning gives back. Runs are in the order of the virtual pages they stand behind.
 */

export class PfnRuns {
  /** First frame of each run; exact up to 2^40. */
  starts: Float64Array;
  /** Frames in each run. */
  lengths: Int32Array;
  /** Runs in use. */
  count = 0;
  /** Frames in all runs. */
  pages = 0;

  constructor(capacity = 4) {
    this.starts = new Float64Array(capacity);
    this.lengths = new Int32Array(capacity);
  }

  /** Appends `length` frames from `pfn`, joining them to the last run when they adjoin it. */
  push(pfn: number, length: number): void {
    const last = this.count - 1;
    this.pages += length;
    if (last >= 0 && this.starts[last]! + this.lengths[last]! === pfn && this.lengths[last]! + length < 0x7fffffff) {
      this.lengths[last] = this.lengths[last]! + length;
      return;
    }
    if (this.count === this.starts.length) this.grow();
    this.starts[this.count] = pfn;
    this.lengths[this.count] = length;
    this.count++;
  }

  /** A list of the same runs that has no room for more. */
  copy(): PfnRuns {
    const copy = new PfnRuns(this.count);
    copy.starts.set(this.starts.subarray(0, this.count));
    copy.lengths.set(this.lengths.subarray(0, this.count));
    copy.count = this.count;
    copy.pages = this.pages;
    return copy;
  }

  clear(): void {
    this.count = 0;
    this.pages = 0;
  }

  /** Frame number of the `index`-th page. @throws {RangeError} outside [0, pages) */
  at(index: number): number {
    let skipped = 0;
    for (let run = 0; run < this.count; run++) {
      const length = this.lengths[run]!;
      if (index < skipped + length) return this.starts[run]! + (index - skipped);
      skipped += length;
    }
    throw new RangeError(`page ${index} of ${this.pages}`);
  }

  private grow(): void {
    const starts = new Float64Array(Math.max(4, this.starts.length * 2));
    const lengths = new Int32Array(starts.length);
    starts.set(this.starts);
    lengths.set(this.lengths);
    this.starts = starts;
    this.lengths = lengths;
  }
}
