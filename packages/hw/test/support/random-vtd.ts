/**
 * Random remapping tables: mostly sensible, with every kind of entry that is not among them, and few enough indexes in
 * use that random addresses meet them.
 */

/** A small deterministic generator (mulberry32). */
export class Random {
  private state: number;
  constructor(seed: number) {
    this.state = seed | 0;
  }
  /** An integer in [0, below). */
  below(below: number): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * below);
  }
  /** True in `percent` of all calls. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
  bits64(): bigint {
    return (BigInt(this.below(0x100000000)) << 32n) | BigInt(this.below(0x100000000));
  }
}

export type RandomWorld = {
  scalable: boolean;
  hostAddressWidth: number;
  root: bigint;
  rids: readonly number[];
  pasids: readonly number[];
};

const PAGE = 4096n;
const RIDS = [0x0108, 0x0188, 0x0210];
/** PASID -1 is none; 70 and 1000 lie in tables of their own, 9000 is beyond a small directory. */
const PASIDS = [-1, 0, 1, 2, 3, 70, 1000, 9000];

type Put = (address: bigint, value: bigint) => void;

/** Fills memory of `frames` frames, from frame 1 on, with tables. */
export function randomWorld(random: Random, frames: number, put: Put): RandomWorld {
  const scalable = !random.chance(20);
  const hostAddressWidth = random.pick([46, 52]);
  let next = 1n;
  const take = (count = 1n): bigint => {
    next += count;
    return (next - count) * PAGE;
  };
  const root = take();
  const garbage = [take(), take()];
  /** A pointer that leads nowhere good: outside RAM, beyond the address width, or into garbage. */
  const wild = (): bigint => {
    if (random.chance(40)) return random.pick(garbage);
    if (random.chance(50)) return (BigInt(frames + random.below(1 << 20)) * PAGE) & 0x3fffffff000n;
    return (1n << BigInt(46 + random.below(6))) | PAGE;
  };
  for (const frame of garbage) {
    for (let i = 0n; i < 512n; i++) {
      const flags = random.chance(70) ? BigInt(random.below(4096)) : 0n;
      const high = random.chance(20) ? BigInt(random.below(4096)) << 52n : 0n;
      put(frame + 8n * i, flags | high | (random.chance(50) ? wild() : random.pick(garbage)));
    }
  }
  const indexes = [0n, 1n, 2n, 3n, 511n];
  /** Two tables of each level; entries of one level point to tables of the next. */
  const tree = (leafOf: (level: number) => bigint, tableOf: (to: bigint) => bigint): bigint[][] => {
    const levels = [0, 1, 2, 3, 4].map(() => [take(), take()]);
    levels.forEach((tables, level) => {
      for (const table of tables) {
        for (const index of indexes) {
          const leaf = level === 0 || (level <= 2 && random.chance(12));
          if (random.chance(5)) continue;
          put(table + 8n * index, leaf ? leafOf(level) : tableOf(random.pick(levels[level - 1]!)));
        }
      }
    });
    return levels;
  };
  const without = (flags: bigint, percent: number, masks: readonly bigint[]): bigint => {
    let value = flags;
    for (const mask of masks) if (random.chance(percent)) value &= ~mask;
    return value;
  };
  const odd = (value: bigint, masks: readonly bigint[]): bigint => {
    let odder = value;
    if (random.chance(3)) odder ^= random.pick(masks);
    return odder;
  };
  /** Where leaves lead: RAM, the interrupt range, anywhere. */
  const target = (level: number): bigint => {
    const size = PAGE << BigInt(9 * level);
    const at = random.chance(4) ? 0xfee00000n + PAGE * BigInt(random.below(256)) : BigInt(random.below(1 << 28)) * PAGE;
    return level === 0 || random.chance(95) ? at - (at % size) : at;
  };
  const secondFlags = 7n | 0x300n;
  const second = tree(
    (level) => {
      // Guest frames that hold first-stage tables are mostly mapped one to one: see `leafTables` below.
      const large = level > 0 ? 0x80n : 0n;
      const flags = without(secondFlags, 8, [1n, 2n, 4n, 0x100n, 0x200n]) | (random.chance(20) ? 0x800n : 0n);
      return odd(target(level) | large | flags, [1n << 62n, 1n << 7n, 1n << 51n, 3n, 1n << 12n]);
    },
    (to) => {
      const flags = without(0x107n, 3, [1n, 2n, 4n, 0x100n]);
      return odd((random.chance(3) ? wild() : to) | flags, [1n << 62n, 1n << 7n, 1n << 11n, 3n, 1n << 50n]);
    },
  );
  for (const table of second[0]!) {
    for (let frame = 4n; frame < BigInt(frames); frame++) {
      put(table + 8n * frame, without((frame * PAGE) | secondFlags, 2, [1n, 2n, 4n, 0x100n, 0x200n, 3n]));
    }
  }
  // Guest frames below 512 go through index 0 of the upper tables; those stay plain most of the time.
  for (let level = 1; level < 5; level++) {
    for (const table of second[level]!) {
      if (random.chance(90)) put(table, random.pick(second[level - 1]!) | without(0x107n, 2, [2n, 0x100n]));
    }
  }
  const first = tree(
    (level) => {
      const large = level > 0 ? 0x80n : 0n;
      const flags = without(0x467n, 8, [1n, 2n, 4n, 0x20n, 0x40n, 0x400n]) | (random.chance(10) ? 1n << 63n : 0n);
      const at = random.chance(50) ? BigInt(4 + random.below(frames - 4)) * PAGE : target(level);
      const aligned = level === 0 ? at : at - (at % (PAGE << BigInt(9 * level)));
      return odd(aligned | large | flags, [1n << 63n, 1n << 51n, 1n << 12n, 1n << 13n, 1n << 7n]);
    },
    (to) => {
      const flags = without(0x427n, 3, [1n, 2n, 4n, 0x20n, 0x400n]) | (random.chance(3) ? 1n << 63n : 0n);
      return odd((random.chance(3) ? wild() : to) | flags, [1n << 63n, 1n << 51n, 1n << 7n]);
    },
  );
  let did = 1n;
  const contextTables = RIDS.map(() => take());
  RIDS.forEach((rid, i) => {
    const table = contextTables[i]!;
    const bus = BigInt(rid >> 8);
    const half = scalable && (rid & 0x80) !== 0 ? 8n : 0n;
    const rootEntry = odd(table | 1n, [1n, 2n, 1n << 51n]);
    put(root + 16n * bus + half, random.chance(3) ? wild() | 1n : rootEntry);
    if (!scalable) {
      const width = random.chance(90) ? 1n + BigInt(random.below(3)) : BigInt(random.below(8));
      const type = BigInt(random.pick([0, 0, 1, 1, 1, 2, 3]));
      const tables = second[Number(width) + 1] ?? second[3]!;
      const pointer = random.chance(4) ? wild() : random.pick(tables);
      const fpd = random.chance(10) ? 2n : 0n;
      put(table + 16n * BigInt(rid & 0xff), odd(pointer | (type << 2n) | fpd | 1n, [1n, 1n << 5n, 1n << 51n]));
      put(table + 16n * BigInt(rid & 0xff) + 8n, odd(width | (did++ << 8n), [1n << 7n, 1n << 30n]));
      return;
    }
    const directory = take();
    const size = random.chance(50) ? 0n : BigInt(random.below(8));
    const flags = without(0xdn, 10, [4n, 8n]) | (random.chance(10) ? 2n : 0n);
    const at = table + 32n * BigInt(rid & 0x7f);
    put(at, odd((random.chance(3) ? wild() : directory) | (size << 9n) | flags, [1n, 1n << 5n, 1n << 51n]));
    const ridPasid = random.chance(95) ? BigInt(random.below(4)) : 0x8000n;
    put(at + 8n, odd(ridPasid | (random.chance(20) ? 1n << 20n : 0n), [1n << 21n, 1n << 40n]));
    for (const group of [0, 1, 15]) {
      const pasidTable = take();
      const fpdOfGroup = random.chance(10) ? 2n : 0n;
      const entry = odd((random.chance(3) ? wild() : pasidTable) | 1n | fpdOfGroup, [1n, 4n, 1n << 51n]);
      put(directory + 8n * BigInt(group), entry);
      for (const pasid of PASIDS) {
        if (pasid < 0 || pasid >> 6 !== group) continue;
        const kind = BigInt(random.chance(94) ? random.pick([1, 2, 3, 3, 3, 4]) : random.below(8));
        const width = random.chance(95) ? 1n + BigInt(random.below(3)) : BigInt(random.below(8));
        const mode = random.chance(95) ? BigInt(random.below(2)) : 2n;
        const root2 = random.chance(3) ? wild() : random.pick(second[Number(width) + 1] ?? second[3]!);
        const root1 = random.chance(3) ? wild() : random.pick(first[Number(mode & 1n) + 3]!);
        const fpd = random.chance(10) ? 2n : 0n;
        const extra = BigInt(random.pick([0, 0x200, 0x20, 0x220]));
        const words = [
          odd(root2 | (width << 2n) | (kind << 6n) | fpd | extra | 1n, [1n, 1n << 10n, 1n << 51n]),
          odd((did++ % 65536n) | (1n << 23n), [1n << 16n, 1n << 24n, 1n << 25n, 1n << 40n]),
          odd(root1 | BigInt(random.below(256) & ~0xc) | (mode << 2n), [1n << 8n, 1n << 51n]),
          odd(0n, [1n]),
        ];
        words.forEach((word, j) => {
          put(pasidTable + 64n * BigInt(pasid & 63) + BigInt(8 * j), word);
        });
      }
    }
  });
  return {
    scalable,
    hostAddressWidth,
    root: random.chance(99) ? root : BigInt(frames + 5) * PAGE,
    rids: RIDS,
    pasids: PASIDS,
  };
}

/** An address that has a chance to be mapped by such tables. */
export function randomAddress(random: Random): bigint {
  if (random.chance(2)) return random.bits64();
  if (random.chance(2)) return 0xfee00000n + BigInt(random.below(1 << 20));
  let address = BigInt(random.below(4096));
  const highest = random.pick([0, 1, 2, 2, 3, 3, 4]);
  for (let level = 0; level <= highest; level++) {
    address |= BigInt(random.chance(96) ? random.below(4) : 511) << BigInt(12 + 9 * level);
  }
  if (random.chance(3)) address |= 0xffff8000_00000000n;
  return address;
}
