/** MOVDIRI, MOVDIR64B, ENQCMD and ENQCMDS (Intel SDM volume 2). */

import { getFlags, setAllFlags } from './flags.ts';
import { enqueueDirect, storeDirect, translatePasid } from './host.ts';
import { breakAfter, read } from './memory.ts';
import { address, regPointer } from './operand.ts';
import { Access, noteFrame, Place, translate } from './paging.ts';
import { Bits, Record } from './record.ts';
import { cpl, cpu, Flag, generalProtection, State, Status } from './state.ts';

const PASID_VALID: u64 = 0x80000000;
/** translatePasid: the table has no entry. */
const PASID_MISSING: i32 = -1;

/** Copies the 64 source bytes to State.DIRECT. False: an exception is pending. */
function fetchSource(record: usize): bool {
  const from = read(record, address(record), 64);
  if (!from) return false;
  memory.copy(cpu + State.DIRECT, from, 64);
  return true;
}

/** The destination address, in the register that ModRM.reg names; the source's segment does not apply to it. */
function destination(record: usize): u64 {
  const value = load<u64>(regPointer(record));
  return load<u8>(record, Record.BITS) & Bits.ADDRESS32 ? value & 0xffffffff : value;
}

/** The place of a 64-byte store; alignment has been checked. */
function place(where: u64): u32 {
  return translate(where, Access.WRITE, load<u32>(cpu, State.MODE), false);
}

/** Gives a Status. */
export function moveDirect64(record: usize, next: u64): u32 {
  const where = destination(record);
  if (where & 63) return generalProtection();
  if (!fetchSource(record)) return Status.FAULT;
  const at = place(where);
  if (at == Place.FAULT) return Status.FAULT;
  if (at == Place.RAM) {
    const host = load<u32>(cpu, State.HOST);
    memory.copy(host, cpu + State.DIRECT, 64);
    noteFrame(host);
  } else {
    storeDirect(load<u64>(cpu, State.GPA));
    breakAfter(record);
  }
  store<u64>(cpu, next, State.RIP);
  return Status.JUMP;
}

/** ENQCMD, or ENQCMDS when `supervisor`. Gives a Status. */
export function enqueueCommand(record: usize, supervisor: bool, next: u64): u32 {
  if (supervisor && cpl()) return generalProtection();
  const where = destination(record);
  if (where & 63) return generalProtection();
  let command = load<u64>(cpu, State.PASID);
  if (!supervisor && (command & PASID_VALID) == 0) return generalProtection();
  if (!fetchSource(record)) return Status.FAULT;
  const head = load<u32>(cpu, State.DIRECT);
  if (supervisor) {
    // Software gives PASID and privilege; bits 30:20 are reserved.
    if (head & 0x7ff00000) return generalProtection();
    command = head;
  } else {
    if (head) return generalProtection();
    command &= 0xfffff;
  }
  const pasid = <u32>command & 0xfffff;
  const at = place(where);
  if (at == Place.FAULT) return Status.FAULT;
  const translated = translatePasid(pasid);
  if (translated == PASID_MISSING) {
    store<u32>(cpu, pasid, State.FAULTING_PASID);
    return Status.PASID;
  }
  // Memory accepts no enqueue stores, and a refused command goes nowhere.
  let accepted: u32 = 0;
  if (at == Place.BUS && translated >= 0) {
    store<u32>(cpu, (<u32>command & 0x80000000) | <u32>translated, State.DIRECT);
    accepted = enqueueDirect(load<u64>(cpu, State.GPA));
    breakAfter(record);
  }
  setAllFlags((getFlags() & ~(<u64>Flag.ARITHMETIC)) | (accepted ? 0 : <u64>Flag.ZF));
  store<u64>(cpu, next, State.RIP);
  return Status.JUMP;
}
