/** The numbers that both sides draw: a xorshift generator, as in c/random.h. */

let state = 1;

/** Starts the numbers again from the first. */
export function reseed(): void {
  state = 1;
}

function draw(): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return state >>> 0;
}

/** The numbers below `count` in random order. */
export function shuffle(count: number): Int32Array {
  const list = Int32Array.from({ length: count }, (_, index) => index);
  for (let i = count - 1; i > 0; i--) {
    const j = draw() % (i + 1);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}

/** `count` numbers below `limit`. */
export function draws(count: number, limit: number): Int32Array {
  return Int32Array.from({ length: count }, () => draw() % limit);
}
