/** Sequences of operations as fast-check draws and shrinks them, and what a failure says. */

import fc from 'fast-check';
import * as mapping from './mapping-operations.ts';
import * as memory from './memory-operations.ts';
import { type Draw, Run } from './run.ts';
import * as table from './table-operations.ts';
import { teardown } from './teardown.ts';
import * as using from './using-operations.ts';
import { type DomainMaker, World } from './world.ts';

/** Operations of a sequence. */
export const LENGTH = 50;

type Operation = (run: Run, draw: Draw) => void;
type Step = Draw & { readonly operation: Operation };

const WEIGHTS: readonly (readonly [number, Operation])[] = [
  [6, mapping.map],
  [5, mapping.mapFile],
  [6, mapping.copy],
  [3, mapping.unmap],
  [1, mapping.unmapAll],
  [2, mapping.allow],
  [2, table.reserve],
  [4, table.addDomain],
  [2, table.removeDomain],
  [2, table.setHugePages],
  [3, table.cut],
  [2, table.changeProcess],
  [2, using.attach],
  [1, using.detach],
  [6, using.pin],
  [2, using.unpin],
  [2, using.lock],
  [4, using.readWrite],
  [2, memory.revoke],
  [2, memory.limit],
  [1, memory.exit],
  [1, memory.fork],
  [3, memory.remap],
  [2, memory.store],
  [1, memory.truncate],
];

const step: fc.Arbitrary<Step> = fc.record({
  operation: fc.oneof(...WEIGHTS.map(([weight, operation]) => ({ weight, arbitrary: fc.constant(operation) }))),
  who: fc.nat(5),
  ioas: fc.nat(2),
  at: fc.nat(27),
  length: fc.nat(10),
  place: fc.nat(63),
  flags: fc.nat(15),
  unit: fc.oneof({ weight: 3, arbitrary: fc.constant(4096) }, { weight: 1, arbitrary: fc.constant(2048) }),
  odd: fc.oneof({ weight: 12, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.constantFrom(1, 0x400) }),
  fail: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 14 }) }),
});

/** How pins are charged; and whether nothing is mapped but files, which can be handed to another process. */
type Setting = { readonly accountMm: boolean; readonly filesOnly: boolean };

const setting: fc.Arbitrary<Setting> = fc.record({
  accountMm: fc.boolean(),
  filesOnly: fc.integer({ min: 0, max: 3 }).map((number) => number === 3),
});

/** Drawn at full length, and shrunk to any. */
class FullLength extends fc.Arbitrary<Step[]> {
  private readonly full: fc.Arbitrary<Step[]>;
  private readonly any: fc.Arbitrary<Step[]>;

  constructor(length: number) {
    super();
    this.full = fc.array(step, { minLength: length, maxLength: length });
    this.any = fc.array(step, { maxLength: length });
  }

  override generate(random: fc.Random, bias: number | undefined): fc.Value<Step[]> {
    return this.full.generate(random, bias);
  }

  override canShrinkWithoutContext(value: unknown): value is Step[] {
    return this.any.canShrinkWithoutContext(value);
  }

  override shrink(value: Step[], context: unknown): fc.Stream<fc.Value<Step[]>> {
    return this.any.shrink(value, context);
  }
}

export type Series = {
  readonly sequences: number;
  readonly seed: number;
  readonly length?: number;
  readonly maker: () => DomainMaker;
};

/**
 * Runs sequences, each to its end and through a teardown. Gives how often each call ended how.
 * @throws {Error} with the shortest sequence found that fails, an operation a line
 */
export function runSequences({ sequences, seed, length = LENGTH, maker }: Series): Map<string, number> {
  const outcomes = new Map<string, number>();
  const play = (steps: readonly Step[], { accountMm, filesOnly }: Setting): void => {
    const run = new Run(new World(maker(), accountMm), outcomes);
    try {
      for (const { operation, ...draw } of steps) {
        if (operation === mapping.map && filesOnly) mapping.mapFile(run, draw);
        else operation(run, draw);
      }
      teardown(run);
    } catch (error) {
      throw new Failed(run.lines, error);
    }
  };
  const property = fc.property(new FullLength(length), setting, play);
  const result = fc.check(property, { numRuns: sequences, seed });
  if (!result.failed) return outcomes;
  const cause = result.errorInstance;
  if (!(cause instanceof Failed)) throw cause;
  const lines = cause.lines.map((line, index) => `  ${index + 1}. ${line}`);
  const what = cause.cause instanceof Error ? cause.cause.message : String(cause.cause);
  const replay = `seed ${result.seed}, path ${result.counterexamplePath}`;
  throw new Error(`${what}\nafter (${replay})\n${lines.join('\n')}`, { cause: cause.cause });
}

/** A sequence that breaks something, as far as it went. */
class Failed extends Error {
  readonly lines: readonly string[];

  constructor(lines: readonly string[], cause: unknown) {
    super('a sequence fails', { cause });
    this.lines = lines;
  }
}
