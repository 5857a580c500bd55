/**
 * Arguments of a program that means harm: structures of the uAPI with ids that may exist, addresses that may be mapped,
 * lengths that overflow, or noise.
 */

// @boundaries-ignore the generator of the lowest layer's tests
import type { Random } from '../../../hw/test/support/random.ts';
import type { StructValues } from '../../src/index.ts';
import { fieldValue, type Knowledge, noise, smallPage } from './random-fields.ts';
import type { Target } from './targets.ts';

export type Argument = {
  /** The structure. */
  readonly bytes: Uint8Array;
  /** What lies where it points to. */
  readonly data: { readonly address: bigint; readonly bytes: Uint8Array };
};

type Values = { [field: string]: bigint };

/** A structure for `target` that may be in order, and what it points to. */
export function randomArgument(random: Random, target: Target, known: Knowledge): Argument {
  const { layout, types } = target;
  const [first, ...fields] = Object.keys(types) as [string, ...string[]];
  const values: Values = Object.fromEntries(fields.map((name) => [name, fieldValue(random, name, known)]));
  const size = random.chance(94) ? target.size : randomSize(random, target.size);
  if (random.chance(85)) Object.assign(values, coherent(random, values, known));
  if (target.operation !== undefined && random.chance(95)) values['op'] = BigInt(target.operation);
  values[first] = BigInt(size);
  const bytes = new Uint8Array(Math.min(Math.max(size, target.size), 8192));
  const typed = Object.entries(values).map(([name, value]) => [name, types[name] === 'u64' ? value : low32(value)]);
  layout.write(Object.fromEntries(typed) as StructValues<typeof types>, bytes);
  if (random.chance(2)) bytes[random.below(bytes.length)] = random.below(256);
  const pointer = ['dataUptr', 'allowedIovas', 'uptr'].find((name) => name in values);
  const address = pointer === undefined ? random.pick(known.addresses) : values[pointer]!;
  return { bytes, data: { address, bytes: randomData(random) } };
}

function low32(value: bigint): number {
  return Number(value & 0xffff_ffffn);
}

/** Values of fields that only together get a command carried out. */
function coherent(random: Random, values: Values, { objects }: Knowledge): Values {
  const one = (type: string): bigint => {
    return BigInt(random.pick(objects.filter((object) => object.type === type))?.id ?? 0);
  };
  if ('entryLen' in values) {
    return { hwptId: one('hwpt-nested'), dataType: 0n, entryLen: 24n, entryNum: BigInt(random.below(4)) };
  }
  if ('ptId' in values && 'dataType' in values) {
    if (random.chance(50)) {
      return { ptId: one('ioas'), flags: random.pick([1n, 9n, 2n, 8n, 0n]), dataType: 0n, dataLen: 0n };
    }
    const fault = random.chance(50) ? { flags: 12n, faultId: one('fault') } : { flags: 8n, faultId: 0n };
    // Of VT-d, or of the mock IOMMU.
    const data = random.chance(60) ? { dataType: 1n, dataLen: 24n } : { dataType: 0xdeadn, dataLen: 8n };
    return { ptId: one('hwpt-parent'), ...fault, ...data };
  }
  if ('outIoasId' in values || 'outFaultId' in values) return { flags: 0n };
  if ('outStdevId' in values) {
    return {
      id: one(random.chance(60) ? 'ioas' : 'hwpt-paging'),
      ...('devFlags' in values ? { devFlags: random.pick([0n, 4n, 5n]) } : {}),
    };
  }
  if ('outViommuId' in values) return { flags: 0n, hwptId: one('hwpt-parent'), type: 0xdead_beefn, dataLen: 24n };
  if ('viommuId' in values && 'type' in values) {
    return {
      flags: 0n,
      viommuId: one('viommu'),
      type: random.pick([0xbeef_beefn, 0xdead_beefn]),
      index: BigInt(random.below(3)),
    };
  }
  if ('userVa' in values || 'start' in values || 'srcIova' in values) return { flags: random.pick([4n, 6n, 6n, 7n]) };
  return {};
}

function randomSize(random: Random, size: number): number {
  return random.pick([0, 3, 4, 8, size - 4, size - 1, size + 8, 4096, random.below(9000), random.bits() >>> 0]);
}

/** A first-stage table, an invalidation, ranges, entries of a table, or noise. */
function randomData(random: Random): Uint8Array {
  const page = (): bigint => smallPage(random);
  const words = random.pick([
    () => [random.pick([0n, 0n, 1n, 2n, 8n]), page(), random.pick([48n, 48n, 57n])],
    () => [page(), BigInt(random.below(4)), BigInt(random.below(2))],
    () => [page(), page() | 0xfffn, 0x4_0000n + page(), 0x8_0000n + page()],
    () => Array.from({ length: 16 }, () => page() | BigInt(random.below(256))),
    () => Array.from({ length: 16 }, () => noise(random)),
  ])();
  return new Uint8Array(BigUint64Array.from(words).buffer);
}
