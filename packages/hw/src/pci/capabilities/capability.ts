/** One capability structure in configuration space, as PciFunction links it into its chain. */

import type { PciFunction } from '../function.ts';

export type Capability = {
  /** Capability id; the header with id, version 1 and next pointer is laid out by the function. */
  readonly id: number;
  /** In the extended chain from 0x100 on, instead of the one below. */
  readonly extended: boolean;
  /** Bytes, header included. */
  readonly size: number;
  /** Lays out the registers behind the header at `offset`. Called once. */
  install(fn: PciFunction, offset: number): void;
  /** The registers have just taken their reset values: the state behind them follows. */
  reset(): void;
};
