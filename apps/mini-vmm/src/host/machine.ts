/** The host's hardware: a machine with a DSA accelerator behind its VT-d unit. */

import { DsaFunction, Machine, requesterId } from '@iommukit/hw';

/** An integrated endpoint, as the real one. */
export const DSA_RID: number = requesterId(0, 1, 0);

/** Storage without a physical address: CPU state and device buffers. */
const RESERVED_BYTES = 64 << 20;

export function hostMachine(ramBytes: number): Machine {
  const machine = new Machine({ ramBytes, reservedBytes: RESERVED_BYTES, debug: true });
  machine.plug(new DsaFunction(machine), DSA_RID);
  return machine;
}
