/** Tight loops over adjoining entries of one table. `at` is the index of the first entry's low word. */

/**
 * Writes `count` leaves: the first is (`low`, `high`), each next one `step` higher. The sum must not carry out of the
 * low half.
 */
export function fillLeaves(
  words: Int32Array,
  at: number,
  count: number,
  low: number,
  high: number,
  step: number,
): void {
  // Sums are cut to 32 bits at once: one that is kept whole becomes a double where a leaf lies at 2 GiB.
  let word = at;
  let entry = low;
  const end = at + (count << 1);
  for (const fours = end - 7; word < fours; word += 8) {
    words[word] = entry;
    words[word + 1] = high;
    entry = (entry + step) | 0;
    words[word + 2] = entry;
    words[word + 3] = high;
    entry = (entry + step) | 0;
    words[word + 4] = entry;
    words[word + 5] = high;
    entry = (entry + step) | 0;
    words[word + 6] = entry;
    words[word + 7] = high;
    entry = (entry + step) | 0;
  }
  for (; word < end; word += 2) {
    words[word] = entry;
    words[word + 1] = high;
    entry = (entry + step) | 0;
  }
}

/** `fillLeaves` of a few, in code of its own: what one learns of its runs would slow down the other. */
export function fillFewLeaves(
  words: Int32Array,
  at: number,
  count: number,
  low: number,
  high: number,
  step: number,
): void {
  let entry = low;
  for (let word = at; word < at + (count << 1); word += 2) {
    words[word] = entry;
    words[word + 1] = high;
    entry = (entry + step) | 0;
  }
}

/** How many of `count` entries are in use. */
export function countUsed(words: Int32Array, at: number, count: number): number {
  let used = 0;
  for (let word = at; word < at + (count << 1); word += 2) if (words[word] !== 0) used++;
  return used;
}

/** Clears `count` entries. */
export function clearEntries(words: Int32Array, at: number, count: number): void {
  if (count === 1) {
    words[at] = 0;
    words[at + 1] = 0;
  } else words.fill(0, at, at + (count << 1));
}

/** Where the leaves that begin at `at` end: at an entry that is unused or a table's, or at `end`. */
export function endOfLeaves(words: Int32Array, at: number, end: number, leafMask: number, large: number): number {
  let word = at;
  while (word < end && words[word] !== 0 && (words[word]! & leafMask) === large) word += 2;
  return word;
}

/** The first of the entries from `at` to before `end` that has one of `bits`; `end` when none has. */
export function firstWith(words: Int32Array, at: number, end: number, bits: number): number {
  let word = at;
  while (word < end && (words[word]! & bits) === 0) word += 2;
  return word;
}

/** The first of the entries from `at` to before `end` that has none of `bits`; `end` when all have. */
export function firstWithout(words: Int32Array, at: number, end: number, bits: number): number {
  let word = at;
  while (word < end && (words[word]! & bits) !== 0) word += 2;
  return word;
}

/** Clears `bits` of the entries from `at` to before `end`. */
export function clearBits(words: Int32Array, at: number, end: number, bits: number): void {
  for (let word = at; word < end; word += 2) words[word] = words[word]! & ~bits;
}
