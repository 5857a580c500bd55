/**
 * Random invalidation descriptors against a model of the IOTLB that knows one thing: which translations a descriptor
 * reaches (VT-d Architecture Specification, revision 4.1, sections 6.5.2.3 and 6.5.2.4). Tables change all the time;
 * what was used once must be used until it is reached, and not after.
 */

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Random } from '../support/random-vtd.ts';
import { Bench, PAGE, RID } from './bench.ts';

type Kind = 'first' | 'second' | 'nested';
type Binding = { pasid: number; did: number; kind: Kind; root1: bigint; root2: bigint };
/** A leaf of some size: where its entry lies, what it maps to now, and what the unit has cached of it. */
type Leaf = { binding: Binding; base: bigint; sizeLg2: number; slot: bigint; frame: bigint; cached: bigint | null };

const BINDINGS: [number, number, Kind][] = [
  [1, 1, 'first'],
  [2, 1, 'first'],
  [3, 1, 'second'],
  [4, 2, 'second'],
  [5, 2, 'nested'],
  [6, 3, 'nested'],
  [7, 3, 'first'],
];
const BASES: [bigint, number][] = [
  [0x4000_0000n, 12],
  [0x4000_1000n, 12],
  [0x4000_2000n, 12],
  [0x4000_f000n, 12],
  [0x4010_0000n, 12],
  [0x4020_0000n, 21],
  [0x4060_0000n, 12],
  [0x8000_0000n, 30],
  [0x1_0000_0000n, 12],
  [0x7f_ffff_f000n, 12],
];

class World extends Bench {
  readonly leaves: Leaf[] = [];
  private readonly random: Random;

  constructor(random: Random) {
    super({ ramBytes: 4 << 20 });
    this.random = random;
    this.enable(1);
    const context = this.context(RID, 0x1dn);
    for (const [pasid, did, kind] of BINDINGS) {
      const root1 = this.frame() * PAGE;
      const root2 = this.frame() * PAGE;
      const pgtt = { first: 1n, second: 2n, nested: 3n }[kind];
      this.pasidEntry(context, pasid, [root2 | (2n << 2n) | (pgtt << 6n) | 1n, BigInt(did) | (1n << 23n), root1]);
      const binding = { pasid, did, kind, root1, root2 };
      if (kind === 'nested') {
        for (let gib = 0n; gib < 512n; gib++) this.map(root2, 4, gib << 30n, (gib << 30n) | 0x87n, 7n, 2);
      }
      for (const [base, sizeLg2] of BASES) {
        const level = (sizeLg2 - 12) / 9;
        const slot =
          kind === 'second' ? this.map(root2, 4, base, 0n, 7n, level) : this.map(root1, 4, base, 0n, 0x27n, level);
        const leaf: Leaf = { binding, base, sizeLg2, slot, frame: 0n, cached: null };
        this.leaves.push(leaf);
        this.change(leaf);
      }
    }
  }

  /** Maps a leaf somewhere else, above 4 GiB: large pages that hold the interrupt range are not cached whole. */
  change(leaf: Leaf): void {
    const pages = 1n << BigInt(leaf.sizeLg2 - 12);
    leaf.frame = BigInt(4 + this.random.below(100)) * (1n << 18n) + BigInt(this.random.below(200)) * 512n;
    leaf.frame -= leaf.frame % pages;
    const large = leaf.sizeLg2 > 12 ? 0x80n : 0n;
    this.put64(leaf.slot, (leaf.frame * PAGE) | (leaf.binding.kind === 'second' ? 7n : 0x67n) | large);
  }

  use(leaf: Leaf): void {
    const page = BigInt(this.random.below(2 ** Math.min(leaf.sizeLg2 - 12, 18)));
    const expected = leaf.cached ?? leaf.frame;
    leaf.cached = expected;
    const { pasid } = leaf.binding;
    const title = `PASID ${pasid} at ${(leaf.base + page * PAGE).toString(16)}`;
    expect(this.dma(RID, pasid, 1, leaf.base + page * PAGE), title).toBe(0);
    expect(this.unit.pfn, title).toBe(Number(expected + page));
  }
}

type Reach = (leaf: Leaf) => boolean;

/** A random descriptor and what it reaches. */
function randomDescriptor(random: Random): { words: bigint[]; reach: Reach } {
  const did = 1 + random.below(4);
  const pasid = 1 + random.below(8);
  const mask = random.pick([0, 0, 1, 2, 4, 8, 9, 12, 18]);
  const [near] = random.pick(BASES);
  const address = near + PAGE * BigInt(random.below(16));
  const hint = random.chance(50) ? 0x40n : 0n;
  const low = address | hint | BigInt(mask);
  const inDomain: Reach = (leaf) => leaf.binding.did === did;
  const inPasid: Reach = (leaf) => inDomain(leaf) && leaf.binding.pasid === pasid && leaf.binding.kind !== 'second';
  const inRange: Reach = (leaf) => {
    const size = BigInt(Math.max(12 + mask, leaf.sizeLg2));
    return address >> size === leaf.base >> size;
  };
  const didField = BigInt(did) << 16n;
  const pasidField = BigInt(pasid) << 32n;
  switch (random.below(10)) {
    case 0:
      return random.chance(80) ? { words: [0x11n], reach: () => false } : { words: [0x12n], reach: () => true };
    case 1:
      return { words: [0x22n | didField], reach: inDomain };
    case 2:
    case 3:
    case 4:
      return {
        words: [0x32n | didField, low],
        reach: (leaf) =>
          inDomain(leaf) && (leaf.binding.kind === 'nested' || (leaf.binding.kind === 'second' && inRange(leaf))),
      };
    case 5:
      return { words: [0x26n | didField | pasidField], reach: inPasid };
    case 6:
    case 7:
    case 8:
      return { words: [0x36n | didField | pasidField, low], reach: (leaf) => inPasid(leaf) && inRange(leaf) };
    default:
      return { words: random.pick([[0x37n], [0x17n | didField | pasidField], [0x04n]]), reach: () => false };
  }
}

test('every descriptor reaches what it names and nothing else', { timeout: 60_000 }, () => {
  fc.assert(
    fc.property(fc.integer(), (seed) => {
      const random = new Random(seed);
      const world = new World(random);
      for (let step = 0; step < 400; step++) {
        const leaf = random.pick(world.leaves);
        if (random.chance(30)) world.change(leaf);
        else if (random.chance(80)) world.use(leaf);
        else {
          const { words, reach } = randomDescriptor(random);
          expect(world.submit(words)).toBe(true);
          for (const candidate of world.leaves) if (reach(candidate)) candidate.cached = null;
        }
      }
    }),
    { numRuns: 60 },
  );
});
