/** One sequence of operations: what is drawn for each, and how each is made on the world and on its model. */

import { SysError } from '@iommukit/iommu-core';
import { checkInvariants } from './invariants.ts';
import { type AreaModel, type IoasModel, TOP } from './ioas-model.ts';
import { Refusal } from './memory-model.ts';
import { ensure } from './violation.ts';
import type { ProcessPair, World } from './world.ts';

/** Numbers from which an operation makes what it needs of what there is. */
export type Draw = {
  /** Which process, access, file or the like. */
  readonly who: number;
  readonly ioas: number;
  readonly at: number;
  readonly length: number;
  readonly place: number;
  readonly flags: number;
  /** Bytes that the three above count: a page, or half of one. */
  readonly unit: number;
  /** Bytes by which addresses are off. */
  readonly odd: number;
  /** Which failpoint is to fail; 0 is none. */
  readonly fail: number;
};

export type Call<T> = {
  readonly text: string;
  readonly real: () => T;
  readonly model: () => T;
  /** Which failpoint of the call fails. */
  readonly fail?: number;
  /** What is refused may have been done in part, in the same part on both sides. */
  readonly partial?: boolean;
  /** Called with what both sides give, before the invariants are checked. */
  readonly agreed?: (value: T) => void;
};

/** Calls that give the place where something is mapped. */
const PLACED: readonly string[] = ['map', 'map-file', 'copy'];

type Result<T> = { readonly code: string | null; readonly value: T | undefined };

export class Run {
  readonly world: World;
  /** What has been done, an operation a line. */
  readonly lines: string[] = [];
  /** How often each call ended how. */
  readonly outcomes: Map<string, number>;

  constructor(world: World, outcomes: Map<string, number> = new Map()) {
    this.world = world;
    this.outcomes = outcomes;
  }

  /**
   * Makes a call on both sides: it ends alike, or a failpoint has failed it; refused, it has changed nothing (property
   * 4). Gives whether it was carried out.
   */
  call<T>(name: string, { text, real, model, fail = 0, partial = false, agreed }: Call<T>): boolean {
    const { world } = this;
    const { failpoints } = world.kernel;
    this.lines.push(`${name} ${text}`);
    const before = world.snapshot();
    failpoints.arm(fail);
    const done = outcome(real);
    const { hit } = failpoints;
    failpoints.arm(0);
    const injected = done.code === 'ENOMEM' && hit !== null;
    this.note(name, injected ? 'failpoint' : (done.code ?? 'ok'), injected ? ` at ${hit}` : '', done.value);
    if (injected || (done.code !== null && !partial)) {
      ensure(
        world.snapshot() === before,
        4,
        () => `${name}, refused with ${done.code}, has changed\n${before}\nto\n${world.snapshot()}`,
      );
    }
    if (!injected) {
      const wanted = outcome(() => world.model.call(model));
      ensure(done.code === wanted.code, 'model', () => `${name} ends with ${done.code}, not ${wanted.code}`);
      ensure(
        done.value === wanted.value,
        PLACED.includes(name) ? 9 : 'model',
        () => `${name} gives ${hexOf(done.value)}, not ${hexOf(wanted.value)}`,
      );
      if (done.code === null) agreed?.(done.value!);
    }
    checkInvariants(world);
    return done.code === null;
  }

  /** Something that happens to the memory, not a call of /dev/iommu. */
  happens(text: string, body: () => void): void {
    this.lines.push(text);
    body();
    const [name = ''] = text.split(' ');
    this.outcomes.set(name, (this.outcomes.get(name) ?? 0) + 1);
    checkInvariants(this.world);
  }

  ioas({ ioas }: Draw): IoasModel {
    return pick(this.world.model.ioas, ioas)!;
  }

  /** A process that runs; the first always does. */
  process({ who }: Draw): ProcessPair {
    return pick(this.world.alive, who)!;
  }

  /** Some area, of any IOAS, if there is one. */
  area({ ioas, at }: Draw): { ioas: IoasModel; area: AreaModel | undefined } {
    const places = this.world.model.ioas.flatMap((owner) => owner.areas.map((area) => ({ ioas: owner, area })));
    return pick(places, at) ?? { ioas: pick(this.world.model.ioas, ioas)!, area: undefined };
  }

  /** Some address: low, where areas are, or at the very top. */
  iova({ place, unit, odd, flags }: Draw): bigint {
    const at = BigInt(place * unit + odd);
    return place < 6 && (flags & 8) !== 0 ? TOP - BigInt(8 * unit) + at : at;
  }

  private note(name: string, end: string, detail: string, value: unknown): void {
    const gives = value === undefined || value === null ? '' : ` = ${hexOf(value)}`;
    this.lines[this.lines.length - 1] += `: ${end}${detail}${gives}`;
    const key = `${name} ${end}`;
    this.outcomes.set(key, (this.outcomes.get(key) ?? 0) + 1);
  }
}

function outcome<T>(body: () => T): Result<T> {
  try {
    return { code: null, value: body() };
  } catch (error) {
    if (error instanceof SysError || error instanceof Refusal) return { code: error.code, value: undefined };
    throw error;
  }
}

export function pick<T>(list: readonly T[], at: number): T | undefined {
  return list[at % Math.max(list.length, 1)];
}

export function hexOf(value: unknown): string {
  return typeof value === 'bigint' ? `0x${value.toString(16)}` : String(value);
}
