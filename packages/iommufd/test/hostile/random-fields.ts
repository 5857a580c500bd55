/** Values of single fields, chosen by what their names say they are. */

// @boundaries-ignore the generator of the lowest layer's tests
import type { Random } from '../../../hw/test/support/random.ts';

/** What the program knows of itself, for arguments that get further than the first check. */
export type Knowledge = {
  /** Objects that exist, with their type, which is `hwpt-parent` of tables that others can be nested on. */
  readonly objects: readonly { readonly id: number; readonly type: string }[];
  readonly fds: readonly number[];
  /** Addresses in its memory, or close to it. */
  readonly addresses: readonly bigint[];
};

const EXTREMES = [
  0n,
  1n,
  0xfffn,
  0x1000n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  1n << 47n,
  1n << 63n,
  0xffff_ffff_ffff_ffffn,
  0xffff_ffff_ffff_f000n,
];

type Choice = (random: Random, known: Knowledge, name: string) => bigint | number;

/** By the first that matches. */
const CHOICES: readonly (readonly [RegExp, Choice])[] = [
  [/reserved|^pad$/, () => 0],
  [/Id$|^id$/, (random, known, name) => (random.chance(95) ? objectId(random, name, known) : random.below(40))],
  [/fd$/i, (random, { fds }) => random.pick(fds)],
  [/flags/i, (random) => (random.chance(70) ? random.pick([0, 0, 0, 0, 1, 2, 4, 6, 6, 7, 8]) : random.below(16))],
  [/^length$|^size$/, (random) => (random.chance(80) ? pages(random, 1 + random.below(8)) : extreme(random))],
  [/iova$/i, (random) => (random.chance(80) ? smallPage(random) : extreme(random))],
  [/^pageSize$/, (random) => 1n << BigInt(random.below(random.chance(80) ? 14 : 64))],
  [
    /ptr$|addr$|iovas$|va$|^data$/i,
    (random, { addresses }) => (random.chance(85) ? random.pick(addresses) : extreme(random)),
  ],
  [/Len$/, (random) => random.pick([24, 24, 24, 8, 0, 1, 23, 25, 40, 4096, 4097, random.below(1 << 20)])],
  [/entryNum|numIovas/, (random) => random.pick([0, 1, 2, 3, 100, 1 << 19, (1 << 19) + 1, random.bits() >>> 0])],
  [/pasid/i, (random) => random.pick([0, 1, 2, 1024, 0xf_ffff, 0x10_0000])],
  [/type$/i, (random) => random.below(4)],
  [/start$/, (random) => pages(random, random.below(8))],
  [/optionId|^op$|val64/, (random) => random.below(3)],
];

export function fieldValue(random: Random, name: string, known: Knowledge): bigint {
  if (random.chance(1)) return noise(random);
  const choice = CHOICES.find(([names]) => names.test(name))?.[1];
  if (choice !== undefined) return BigInt(choice(random, known, name));
  return random.chance(70) ? BigInt(random.below(8)) : noise(random);
}

/** Of any magnitude. */
export function noise(random: Random): bigint {
  const bits = BigInt.asUintN(64, (BigInt(random.bits()) << 32n) ^ BigInt(random.bits()));
  return bits >> BigInt(random.below(64));
}

/** One of few enough pages that what is mapped is found again. */
export function smallPage(random: Random): bigint {
  return pages(random, random.below(random.chance(70) ? 8 : 40));
}

/** Bytes of `count` pages, not always quite. */
function pages(random: Random, count: number): bigint {
  return (BigInt(count) << 12n) + BigInt(random.chance(90) ? 0 : random.below(16));
}

function extreme(random: Random): bigint {
  const step = random.chance(50) ? 1n : 4096n;
  return BigInt.asUintN(64, random.pick(EXTREMES) + BigInt(random.below(5) - 2) * step);
}

/** Which objects a field of that name is about. */
const OBJECTS: readonly (readonly [RegExp, RegExp])[] = [
  [/ioas/i, /ioas/],
  [/viommu/i, /viommu/],
  [/hwpt/i, /hwpt|viommu/],
  [/^pt/, /ioas|hwpt|viommu/],
  [/dev/i, /device|selftest/],
  [/fault/i, /fault/],
];

/** The id of an object or, where the kernel's tests have that under the same name, a descriptor. */
function objectId(random: Random, name: string, { objects, fds }: Knowledge): number {
  if (name === 'id' && random.chance(30)) return random.pick(fds);
  const type = OBJECTS.find(([names]) => names.test(name))?.[1];
  const fitting =
    type === undefined || random.chance(10) ? objects : objects.filter((object) => type.test(object.type));
  return random.pick(fitting)?.id ?? 0;
}
