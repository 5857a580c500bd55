/**
 * Loads and stores of the guest. An access yields a pointer: into RAM, or to State.SCRATCH when the bytes are split
 * over two pages, belong to the bus, or lie in a frame that somebody watches. Whoever stores through a pointer calls
 * `finishWrite`, which moves scratch bytes to where they belong. A null pointer means that an exception is pending.
 */

import { readBus, writeBus } from './host.ts';
import { Access, misaligned, noteFrame, Place, translate } from './paging.ts';
import { Bits, Operation, Record } from './record.ts';
import { Attention, attend, Cr4, cpu, Mode, State } from './state.ts';

/** The pointer for a load of a T by the instruction `record`. */
@inline
export function readPointer<T>(tlb: usize, record: usize, address: u64): usize {
  const entry = tlb + ((<u32>(address >> 12) & 255) << 4);
  if (load<u64>(entry) == ((address + (sizeof<T>() - 1)) & ~(<u64>0xfff))) return <u32>address + load<u32>(entry, 8);
  return readSlow(record, address, sizeof<T>(), load<u32>(cpu, State.MODE));
}

/** The pointer for a store of a T; `modify` when the old value is wanted there too. */
@inline
export function writePointer<T>(tlb: usize, record: usize, address: u64, modify: bool): usize {
  const entry = tlb + 4096 + ((<u32>(address >> 12) & 255) << 4);
  if (load<u64>(entry) == ((address + (sizeof<T>() - 1)) & ~(<u64>0xfff))) {
    const pointer = <u32>address + load<u32>(entry, 8);
    if (!load<u8>(load<u32>(cpu, State.FRAME_FLAGS) + (pointer >> 12))) return pointer;
  }
  return writeSlow(record, address, sizeof<T>(), load<u32>(cpu, State.MODE), modify);
}

@inline
export function finishWrite(record: usize, pointer: usize): void {
  if (pointer == cpu + State.SCRATCH) commitWrite(record);
}

/** As readPointer, for an operand size known at run time. */
export function read(record: usize, address: u64, size: u32): usize {
  const entry = load<u32>(cpu, State.TLB) + ((<u32>(address >> 12) & 255) << 4);
  if (load<u64>(entry) == ((address + (size - 1)) & ~(<u64>0xfff))) return <u32>address + load<u32>(entry, 8);
  return readSlow(record, address, size, load<u32>(cpu, State.MODE));
}

/** As writePointer, for an operand size known at run time. */
export function write(record: usize, address: u64, size: u32, modify: bool): usize {
  const entry = load<u32>(cpu, State.TLB) + 4096 + ((<u32>(address >> 12) & 255) << 4);
  if (load<u64>(entry) == ((address + (size - 1)) & ~(<u64>0xfff))) {
    const pointer = <u32>address + load<u32>(entry, 8);
    if (!load<u8>(load<u32>(cpu, State.FRAME_FLAGS) + (pointer >> 12))) return pointer;
  }
  return writeSlow(record, address, size, load<u32>(cpu, State.MODE), modify);
}

export function readSlow(record: usize, address: u64, size: u32, mode: u32): usize {
  const stack = (load<u8>(record, Record.BITS) & Bits.STACK) != 0;
  if (mode == Mode.USER_ALIGNED && size <= 8 && <u32>address & (size - 1)) {
    misaligned();
    return 0;
  }
  const first = min<u32>(size, 4096 - (<u32>address & 0xfff));
  const place = translate(address, Access.READ, mode, stack);
  if (place == Place.FAULT) return 0;
  const host = load<u32>(cpu, State.HOST);
  if (first == size && place == Place.RAM) return host;
  const gpa = load<u64>(cpu, State.GPA);
  const scratch = cpu + State.SCRATCH;
  if (first == size) {
    gather(record, place, host, gpa, scratch, size);
    return scratch;
  }
  const place2 = translate((address & ~(<u64>0xfff)) + 4096, Access.READ, mode, stack);
  if (place2 == Place.FAULT) return 0;
  const host2 = load<u32>(cpu, State.HOST);
  const gpa2 = load<u64>(cpu, State.GPA);
  gather(record, place, host, gpa, scratch, first);
  gather(record, place2, host2, gpa2, scratch + first, size - first);
  return scratch;
}

export function writeSlow(record: usize, address: u64, size: u32, mode: u32, modify: bool): usize {
  const stack = (load<u8>(record, Record.BITS) & Bits.STACK) != 0;
  if (mode == Mode.USER_ALIGNED && size <= 8 && <u32>address & (size - 1)) {
    misaligned();
    return 0;
  }
  const first = min<u32>(size, 4096 - (<u32>address & 0xfff));
  const place = translate(address, Access.WRITE, mode, stack);
  if (place == Place.FAULT) return 0;
  const host = load<u32>(cpu, State.HOST);
  const gpa = load<u64>(cpu, State.GPA);
  if (first == size && place == Place.RAM && !load<u8>(load<u32>(cpu, State.FRAME_FLAGS) + (host >> 12))) return host;
  let place2: u32 = Place.FAULT;
  if (first < size) {
    place2 = translate((address & ~(<u64>0xfff)) + 4096, Access.WRITE, mode, stack);
    if (place2 == Place.FAULT) return 0;
    store<u32>(cpu, place2 == Place.RAM ? load<u32>(cpu, State.HOST) : 0xffffffff, State.WRITE_HOST2);
    store<u64>(cpu, load<u64>(cpu, State.GPA), State.WRITE_GPA2);
  }
  store<u32>(cpu, place == Place.RAM ? host : 0xffffffff, State.WRITE_HOST);
  store<u64>(cpu, gpa, State.WRITE_GPA);
  store<u32>(cpu, first, State.WRITE_LENGTH);
  store<u32>(cpu, size - first, State.WRITE_LENGTH2);
  const scratch = cpu + State.SCRATCH;
  if (modify) {
    gather(record, place, host, gpa, scratch, first);
    if (first < size) {
      const host2 = load<u32>(cpu, State.WRITE_HOST2);
      gather(record, place2, host2, load<u64>(cpu, State.WRITE_GPA2), scratch + first, size - first);
    }
  }
  return scratch;
}

export function commitWrite(record: usize): void {
  const scratch = cpu + State.SCRATCH;
  const first = load<u32>(cpu, State.WRITE_LENGTH);
  const second = load<u32>(cpu, State.WRITE_LENGTH2);
  scatter(record, load<u32>(cpu, State.WRITE_HOST), load<u64>(cpu, State.WRITE_GPA), scratch, first);
  if (second) {
    scatter(record, load<u32>(cpu, State.WRITE_HOST2), load<u64>(cpu, State.WRITE_GPA2), scratch + first, second);
  }
}

function gather(record: usize, place: u32, host: usize, gpa: u64, to: usize, length: u32): void {
  if (place == Place.RAM) memory.copy(to, host, length);
  else busTransfer(record, gpa, to, length, false);
}

function scatter(record: usize, host: usize, gpa: u64, from: usize, length: u32): void {
  if (host != 0xffffffff) {
    memory.copy(host, from, length);
    noteFrame(host);
  } else busTransfer(record, gpa, from, length, true);
}

/** Pointer to plain, unwatched RAM at `address`, or 0; nothing is accessed, and a fault is for the caller to find again. */
export function ramPointer(address: u64, access: u32): usize {
  if (translate(address, access, load<u32>(cpu, State.MODE), false) != Place.RAM) return 0;
  const host = load<u32>(cpu, State.HOST);
  return access == Access.WRITE && load<u8>(load<u32>(cpu, State.FRAME_FLAGS) + (host >> 12)) ? 0 : host;
}

/** Splits a bus access into the largest naturally aligned pieces. */
function busTransfer(record: usize, gpa: u64, bytes: usize, length: u32, out: bool): void {
  // The bytes of a write are safe from what the bus does: nothing runs in this core meanwhile.
  for (let done: u32 = 0; done < length; ) {
    let width: u32 = 8;
    while ((<u32>gpa + done) & (width - 1) || done + width > length) width >>= 1;
    if (out) writeBus(gpa + done, width, loadSized(bytes + done, width));
    else storeSized(bytes + done, width, readBus(gpa + done, width));
    done += width;
  }
  breakAfter(record);
}

/**
 * The outside may have changed anything: after the instruction `record`, leave the block and look. The next record's
 * operation is replaced until then (`endBreak`).
 */
export function breakAfter(record: usize): void {
  attend(Attention.POLL);
  if (load<u32>(cpu, State.BREAK_AT)) return;
  const next = record + Record.SIZE;
  store<u32>(cpu, next, State.BREAK_AT);
  store<u32>(cpu, load<u16>(next), State.BREAK_OPERATION);
  store<u16>(next, Operation.BREAK);
}

/** Puts back what `breakAfter` replaced, unless the block has died meanwhile. */
export function endBreak(): void {
  const at = load<u32>(cpu, State.BREAK_AT);
  if (!at) return;
  if (load<u16>(at) == Operation.BREAK) store<u16>(at, <u16>load<u32>(cpu, State.BREAK_OPERATION));
  store<u32>(cpu, 0, State.BREAK_AT);
}

export function loadSized(pointer: usize, size: u32): u64 {
  if (size == 8) return load<u64>(pointer);
  if (size == 4) return load<u32>(pointer);
  if (size == 2) return load<u16>(pointer);
  return load<u8>(pointer);
}

export function storeSized(pointer: usize, size: u32, value: u64): void {
  if (size == 8) store<u64>(pointer, value);
  else if (size == 4) store<u32>(pointer, <u32>value);
  else if (size == 2) store<u16>(pointer, <u16>value);
  else store<u8>(pointer, <u8>value);
}

/** Mode of the accesses that the processor makes for itself: SMAP holds for them whatever AC says. */
function implicitMode(): u32 {
  return load<u64>(cpu, State.CR4) & Cr4.SMAP ? Mode.SUPERVISOR_SMAP : Mode.SUPERVISOR;
}

/** An access to a system table: the pointer to `size` bytes, or 0. */
export function systemRead(address: u64, size: u32): usize {
  return readSlow(cpu + State.NO_RECORD, address, size, implicitMode());
}

/** A store to a system table or a new stack. False: an exception is pending. */
export function systemWrite(address: u64, size: u32, value: u64): bool {
  const record = cpu + State.NO_RECORD;
  const pointer = writeSlow(record, address, size, implicitMode(), false);
  if (!pointer) return false;
  storeSized(pointer, size, value);
  finishWrite(record, pointer);
  return true;
}
