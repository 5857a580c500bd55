import {
  CONTROL_EXTENDED_ACCESSED,
  CONTROL_NO_EXECUTE,
  CONTROL_SMEP,
  CONTROL_STAGE2_ACCESSED_DIRTY,
  CONTROL_STAGE2_EXECUTE,
  CONTROL_WRITE_PROTECT,
  RIGHTS_WRITE,
  VtdNestedWalker,
  VtdSecondStageWalker,
  WALK_OK,
  type WalkerOptions,
  X86Walker,
} from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  HostileMachine,
  naiveAccess,
  naiveControl,
  RAM_FRAMES,
  randomAccess,
  rightsBits,
  walkCodes,
} from '../support/hostile-tables.ts';
import {
  type NaiveAccess,
  type NaiveControl,
  type NaiveMemory,
  type NaiveOptions,
  type NaiveResult,
  naiveFirstStage,
  naiveSecondStage,
} from '../support/naive-walker.ts';
import { Random } from '../support/random.ts';

const WALKS_PER_RUN = 400;
const RUNS = 50;

type Pair = {
  name: string;
  topLevel: number;
  /** Which frames look like tables of which stage. */
  stageOf: (frame: number) => 1 | 2;
  /** Percent of entries with nothing odd about them: more where more of them make a walk. */
  plain: number;
  /** A walk of the walker under test, as [code, frame, size, rights] or [code]. */
  walk: (
    walker: Walkers,
    root: number,
    root2: number,
    pageHigh: number,
    pageLow: number,
    access: number,
    control: number,
  ) => number[];
  naive: (
    memory: NaiveMemory,
    root: bigint,
    root2: bigint,
    address: bigint,
    access: NaiveAccess,
    control: NaiveControl,
    options: NaiveOptions,
  ) => NaiveResult;
};

class Walkers {
  readonly x86: X86Walker;
  readonly second: VtdSecondStageWalker;
  readonly nested: VtdNestedWalker;

  constructor(machine: HostileMachine, options: WalkerOptions) {
    this.x86 = new X86Walker(machine.memory, options);
    this.second = new VtdSecondStageWalker(machine.memory, options);
    this.nested = new VtdNestedWalker(machine.memory, this.second, options);
  }
}

const pairs: Pair[] = [];
for (const levels of [4, 5]) {
  pairs.push({
    name: `x86-64, ${levels} levels`,
    topLevel: levels - 1,
    stageOf: () => 1,
    plain: 30,
    walk: ({ x86 }, root, _root2, pageHigh, pageLow, access, control) => {
      const code = x86.walk(root, levels - 1, pageHigh, pageLow, access, control);
      return code === WALK_OK ? [code, x86.pfn, x86.sizeLg2, x86.rights] : [code];
    },
    naive: (memory, root, _root2, address, access, control, options) =>
      naiveFirstStage(memory, root, levels, address, access, control, options),
  });
}
for (const levels of [3, 4, 5]) {
  pairs.push({
    name: `VT-d second stage, ${levels} levels`,
    topLevel: levels - 1,
    stageOf: () => 2,
    plain: 30,
    walk: ({ second }, root, _root2, pageHigh, pageLow, access, control) => {
      const code = second.walk(root, levels - 1, pageHigh, pageLow, access & 7, control);
      return code === WALK_OK ? [code, second.pfn, second.sizeLg2, second.rights] : [code];
    },
    naive: (memory, root, _root2, address, access, control, options) =>
      naiveSecondStage(memory, root, levels, address, { ...access, privileged: false }, control, options),
  });
}
for (const [levels, levels2] of [
  [4, 4],
  [5, 3],
  [4, 5],
] as const) {
  pairs.push({
    name: `nested ${levels} over ${levels2} levels`,
    topLevel: levels - 1,
    stageOf: (frame) => ((frame & 1) === 0 ? 1 : 2),
    plain: 88,
    walk: ({ nested }, root, root2, pageHigh, pageLow, access, control) => {
      const code = nested.walk(root, levels - 1, root2, levels2 - 1, pageHigh, pageLow, access, control);
      if (code === WALK_OK) return [code, nested.pfn, nested.sizeLg2, nested.rights];
      return nested.faultStage === 1 ? [code, 1] : [code, 2, nested.faultGfn];
    },
    naive: (memory, root, root2, address, access, control, options) =>
      naiveFirstStage(memory, root, levels, address, access, control, options, (guest, how) =>
        naiveSecondStage(memory, root2, levels2, guest, how, control, options),
      ),
  });
}

/** Everything that does not lead to an early end, most of the time. */
const nestedRoots = (random: Random): number => random.below(RAM_FRAMES);

describe.each(pairs)('$name against a naive walker', (pair) => {
  test(`random tables, random accesses: same outcome, same tables afterwards`, () => {
    const outcomes = new Map<number, number>();
    const check = fc.property(fc.integer(), fc.constantFrom(36, 39, 46, 52), fc.nat(7), (seed, physicalBits, has) => {
      const options = {
        physicalBits,
        page2M: (has & 1) === 0 || seed % 3 !== 0,
        page1G: (has & 2) === 0 || seed % 3 !== 0,
        snoopControl: (has & 4) === 0 || seed % 3 !== 0,
      };
      const [machine, model] = [new HostileMachine(), new HostileMachine()];
      for (const each of [machine, model]) each.fill(new Random(seed), pair.stageOf, pair.plain);
      const walkers = new Walkers(machine, options);
      const memory = model.naive;
      const random = new Random(~seed);
      for (let walk = 0; walk < WALKS_PER_RUN; walk++) {
        const near = random.chance(95);
        const pageLow = near ? random.bits() & 0x7ffffff : random.bits() & 0x40201;
        const inside = (1 << Math.max(0, 9 * pair.topLevel - 18 - (pair.name.startsWith('VT-d') ? 0 : 1))) - 1;
        const sign = random.chance(30) && !pair.name.startsWith('VT-d') ? 0x1ffffff & ~inside : 0;
        const pageHigh = random.chance(97) ? (random.bits() & inside) | sign : random.bits() & 0x1ffffff;
        const root = nestedRoots(random);
        const root2 = nestedRoots(random);
        const access = randomAccess(random);
        const control =
          random.below(2) * CONTROL_WRITE_PROTECT +
          (random.chance(80) ? CONTROL_NO_EXECUTE : 0) +
          (random.chance(20) ? CONTROL_SMEP : 0) +
          (random.chance(20) ? CONTROL_EXTENDED_ACCESSED : 0) +
          random.below(2) * CONTROL_STAGE2_ACCESSED_DIRTY +
          random.below(2) * CONTROL_STAGE2_EXECUTE;
        const address = (BigInt(pageHigh) << 39n) | (BigInt(pageLow) << 12n);
        const got = pair.walk(walkers, root, root2, pageHigh, pageLow, access, control);
        const want = pair.naive(
          memory,
          BigInt(root) << 12n,
          BigInt(root2) << 12n,
          address,
          naiveAccess(access),
          naiveControl(control),
          options,
        );
        outcomes.set(got[0]!, (outcomes.get(got[0]!) ?? 0) + 1);
        const outcome = expected(want, pair.name.startsWith('nested'));
        if (String(got) !== String(outcome)) expect({ walk, got }).toEqual({ walk, got: outcome });
      }
      expect(Buffer.compare(machine.memory.bytes, model.memory.bytes)).toBe(0);
      expect(Buffer.compare(machine.foreign, model.foreign)).toBe(0);
    });
    fc.assert(check, { numRuns: RUNS });
    // A comparison that never gets past the root compares nothing.
    expect(outcomes.get(WALK_OK) ?? 0).toBeGreaterThan(RUNS * WALKS_PER_RUN * 0.05);
    expect(outcomes.size).toBeGreaterThanOrEqual(6);
  });

  test('a walk repeated on its own result is taken again with the same outcome and writes nothing', () => {
    const machine = new HostileMachine();
    machine.fill(new Random(7), pair.stageOf, pair.plain);
    const walkers = new Walkers(machine, {});
    const random = new Random(8);
    const control = CONTROL_WRITE_PROTECT | CONTROL_NO_EXECUTE | CONTROL_STAGE2_ACCESSED_DIRTY;
    let repeated = 0;
    for (let walk = 0; walk < 2000; walk++) {
      const args = [
        nestedRoots(random),
        nestedRoots(random),
        0,
        random.bits() & 0x7ffffff,
        randomAccess(random),
      ] as const;
      const first = pair.walk(walkers, ...args, control);
      if (first[0] !== WALK_OK) continue;
      const before = machine.memory.bytes.slice();
      expect(pair.walk(walkers, ...args, control)).toEqual(first);
      expect(Buffer.compare(machine.memory.bytes, before)).toBe(0);
      repeated++;
    }
    expect(repeated).toBeGreaterThan(100);
  });
});

function expected(result: NaiveResult, nested: boolean): number[] {
  if (result.fault !== null) {
    const code = walkCodes[result.fault];
    if (!nested) return [code];
    return result.stage === 1 ? [code, 1] : [code, 2, Number(result.gfn)];
  }
  const { address, size, user, privileged } = result.ok;
  return [WALK_OK, Number(address >> 12n), size.toString(2).length - 1, rightsBits(user, privileged)];
}

describe('resuming from a cached table', () => {
  test('gives what the whole walk gives, with fewer reads', () => {
    const machine = new HostileMachine();
    machine.fill(new Random(21), () => 1, 30);
    const walker = new X86Walker(machine.memory);
    const random = new Random(22);
    const control = CONTROL_WRITE_PROTECT | CONTROL_NO_EXECUTE | CONTROL_SMEP;
    let resumed = 0;
    for (let walk = 0; walk < 3000; walk++) {
      const [pageLow, access, root] = [random.bits() & 0x7ffffff, randomAccess(random), random.below(RAM_FRAMES)];
      if (walker.walk(root, 3, 0, pageLow, access, control) !== WALK_OK) continue;
      const { pfn, sizeLg2, rights, tablePfn, tableLevel, tableAll, tableAny } = walker;
      const before = walker.reads;
      expect(walker.resume(tablePfn, tableLevel, tableAll, tableAny, 0, pageLow, access, control)).toBe(WALK_OK);
      expect([walker.pfn, walker.sizeLg2, walker.rights]).toEqual([pfn, sizeLg2, rights]);
      expect(walker.reads - before).toBe(1);
      resumed++;
    }
    expect(resumed).toBeGreaterThan(500);
  });

  test('gives what the whole nested walk gives', () => {
    const machine = new HostileMachine();
    machine.fill(new Random(31), (frame) => ((frame & 1) === 0 ? 1 : 2), 88);
    const { nested } = new Walkers(machine, {});
    const random = new Random(32);
    const control = CONTROL_WRITE_PROTECT | CONTROL_NO_EXECUTE | CONTROL_STAGE2_ACCESSED_DIRTY;
    let resumed = 0;
    for (let walk = 0; walk < 8000; walk++) {
      const [pageLow, access] = [random.bits() & 0x7ffffff, randomAccess(random)];
      const [root, root2] = [random.below(RAM_FRAMES), random.below(RAM_FRAMES)];
      if (nested.walk(root, 3, root2, 3, 0, pageLow, access, control) !== WALK_OK) continue;
      const { pfn, sizeLg2, rights, tableGfn, tablePfn, tableLevel, tableAll, tableAny } = nested;
      const code = nested.resume(
        tableGfn,
        tablePfn,
        tableLevel,
        tableAll,
        tableAny,
        root2,
        3,
        0,
        pageLow,
        access,
        control,
      );
      expect([code, nested.pfn, nested.sizeLg2, nested.rights]).toEqual([WALK_OK, pfn, sizeLg2, rights]);
      resumed++;
    }
    expect(resumed).toBeGreaterThan(300);
  });
});

describe('what may be cached', () => {
  test('the right to write is kept back until a walk has set the dirty bit', () => {
    const machine = new HostileMachine();
    const { words } = machine.memory;
    for (const table of [1, 2, 3]) words[table << 10] = ((table + 1) << 12) | 7;
    words[4 << 10] = (9 << 12) | 7;
    const walker = new X86Walker(machine.memory);
    const control = CONTROL_WRITE_PROTECT;
    expect(walker.walk(1, 3, 0, 0, 1, control)).toBe(WALK_OK);
    expect(walker.rights & RIGHTS_WRITE).toBe(RIGHTS_WRITE);
    expect(walker.cacheableRights(control) & RIGHTS_WRITE).toBe(0);
    expect(walker.walk(1, 3, 0, 0, 2, control)).toBe(WALK_OK);
    expect(walker.cacheableRights(control) & RIGHTS_WRITE).toBe(RIGHTS_WRITE);
    expect(words[4 << 10]).toBe((9 << 12) | 0x67);
  });
});

describe('faults say where', () => {
  test('the level, the table and the index of the entry', () => {
    const machine = new HostileMachine();
    const { words } = machine.memory;
    for (const table of [1, 2, 3]) words[(table << 10) | 10] = ((table + 1) << 12) | 7;
    const page = 5 | (5 << 9) | (5 << 18);
    const walker = new X86Walker(machine.memory);
    walker.walk(1, 3, 5, page, 1, 0);
    expect([walker.faultLevel, walker.faultTablePfn, walker.faultIndex]).toEqual([0, 4, 5]);
    words[(2 << 10) | 10] = (3 << 12) | 5;
    words[(4 << 10) | 10] = (9 << 12) | 7;
    walker.walk(1, 3, 5, page, 2 | 8, CONTROL_WRITE_PROTECT);
    expect([walker.faultLevel, walker.faultTablePfn, walker.faultIndex]).toEqual([2, 2, 5]);
  });
});
