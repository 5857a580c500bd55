/** Permission to use an I/O port: IOPL, or the bitmap of the task state segment. */

import { systemRead } from './memory.ts';
import { cpl, cpu, generalProtection, State, Status, systemFlags } from './state.ts';

/** Gives a Status. */
export function portAllowed(port: u32, size: u32): u32 {
  if (cpl() <= <u32>((systemFlags() >> 12) & 3)) return Status.NEXT;
  const base = load<u64>(cpu, State.TSS_BASE);
  const limit = load<u32>(cpu, State.TSS_LIMIT);
  if (limit < 103) return generalProtection();
  const map = systemRead(base + 102, 2);
  if (!map) return Status.FAULT;
  const at = <u32>load<u16>(map) + (port >> 3);
  // Two bytes are read always: a group of ports may lie across a byte boundary.
  if (at + 1 > limit) return generalProtection();
  const pair = systemRead(base + at, 2);
  if (!pair) return Status.FAULT;
  return (load<u16>(pair) >> (port & 7)) & ((1 << size) - 1) ? generalProtection() : Status.NEXT;
}
