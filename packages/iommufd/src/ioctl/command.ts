/** What a command of /dev/iommu is to the dispatcher: a request, the structure behind it, and what carries it out. */

import { hex } from '@iommukit/hw';
import { type Fields, type Struct, type StructValues, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import type { Caller } from '../files/file.ts';

/** Who calls, and what on. */
export type IommufdCaller = Caller & { readonly context: IommufdContext };

/** How a command ends that does not throw. */
export type Outcome = {
  /** The structure is stored back, unless this is false. */
  answers?: boolean;
  /** Byte from which it is stored back; 0 by default. */
  answersFrom?: number;
  /** The call fails, though it answers. */
  failure?: SysError | null;
  /** What ioctl(2) returns; 0 by default. */
  result?: number;
  /** Takes back what was made when the answer cannot be stored. */
  undo?: () => void;
};

export type Command = {
  readonly request: number;
  readonly size: number;
  readonly min: number;
  /** Carries the command out on its structure in `bytes`, and answers there. */
  run(caller: IommufdCaller, bytes: Uint8Array): Outcome;
};

/** Longer than any driver's structure, in bytes; of what is longer still no more is fetched. */
export const USER_DATA_MAX = 4096;

export type StructOf<S> = S extends Struct<infer F> ? StructValues<F> : never;

/** A command on `layout`, of which user space has to give at least the fields up to `last`. */
export function command<F extends Fields>(
  request: number,
  layout: Struct<F>,
  last: keyof F,
  run: (caller: IommufdCaller, cmd: StructValues<F>) => Outcome | undefined,
): Command {
  return {
    request,
    size: layout.size,
    min: layout.end(last),
    run(caller, bytes) {
      const cmd = layout.read(bytes);
      const outcome = run(caller, cmd) ?? {};
      layout.write(cmd, bytes);
      return outcome;
    },
  };
}

/** @throws {SysError} EOPNOTSUPP */
export function checkReserved(call: string, reserved: number): void {
  if (reserved !== 0) throw reservedError(call, reserved);
}

export function reservedError(call: string, reserved: number): SysError {
  return new SysError('EOPNOTSUPP', call, `reserved field holds ${hex(reserved >>> 0)}`);
}

/** A sum of user values as the 64-bit register holds it. */
export function wrap(address: bigint): bigint {
  return BigInt.asUintN(64, address);
}
