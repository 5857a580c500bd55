/**
 * An x86-64 processor core in long mode (Intel SDM, order 325462-084): what its host calls. All state lies in the
 * host's memory at the base given to `initialize`; the sixteen general registers are the first 128 bytes of it.
 */

import { forgetBlocks, getBlock, headOfBlock, killFrame } from './blocks.ts';
import { execute } from './execute.ts';
import { getFlags, setAllFlags } from './flags.ts';
import { acknowledgeInterrupt, pendingInterrupt, readTaskPriority, writeTaskPriority } from './host.ts';
import { deliver, Origin } from './interrupts.ts';
import { endBreak } from './memory.ts';
import { flushTlb, translate } from './paging.ts';
import { Block } from './record.ts';
import { writeSelector } from './segments.ts';
import {
  Activity,
  attend,
  Attention,
  cpl,
  cpu,
  Cr0,
  Cr4,
  Efer,
  Exit,
  Flag,
  Mode,
  Segment,
  selectMode,
  setBase,
  setCpl,
  setRegister,
  Slot,
  State,
  Status,
  systemFlags,
  Vector,
} from './state.ts';

/** Bytes of storage that a core takes. */
export function storageSize(): u32 {
  return State.END;
}

/** Byte offset, from the base, of the 64 bytes of a direct store. */
export function directOffset(): u32 {
  return State.DIRECT;
}

/**
 * Takes zeroed storage at `base`. `map` is where the guest frame map of `mapFrames` words lies, `frameFlags` where the
 * machine's frame flags do.
 */
export function initialize(
  base: u32,
  map: u32,
  mapFrames: u32,
  frameFlags: u32,
  physicalBits: u32,
  apicId: u32,
): void {
  setBase(base);
  store<u32>(cpu, map, State.MAP);
  store<u32>(cpu, mapFrames, State.MAP_FRAMES);
  store<u32>(cpu, frameFlags, State.FRAME_FLAGS);
  store<u32>(cpu, apicId, State.APIC_ID);
  store<u64>(cpu, 0x000fffffffffffff & ~(((<u64>1) << physicalBits) - 1), State.ADDRESS_RESERVED);
  forgetBlocks();
  reset(0, 0, 0, 0, 0);
}

/** Long mode in ring 0 with paging on, interrupts off, everything else as after INIT. */
export function reset(rip: u64, cr3: u64, rsp: u64, rdi: u64, rsi: u64): void {
  // Everything up to the derived state; translations and blocks follow.
  memory.fill(cpu, 0, State.CPL);
  store<u64>(cpu, 0x80000000 | Cr0.PE | Cr0.ET | Cr0.WP | 0x20, State.CR0);
  store<u64>(cpu, cr3, State.CR3);
  store<u64>(cpu, Cr4.PAE, State.CR4);
  store<u64>(cpu, Efer.LME | Efer.LMA | Efer.NXE, State.EFER);
  store<u64>(cpu, 0x0007040600070406, State.PAT);
  store<u64>(cpu, 0xffff0ff0, State.DEBUG + 48);
  store<u64>(cpu, 0x400, State.DEBUG + 56);
  store<u64>(cpu, rip, State.RIP);
  setRegister(Slot.RSP, rsp);
  setRegister(Slot.RDI, rdi);
  setRegister(Slot.RSI, rsi);
  setAllFlags(0);
  writeSelector(Segment.CS, 0x10, 0);
  writeSelector(Segment.SS, 0x18, 0);
  store<u32>(cpu, Activity.RUNNING, State.ACTIVITY);
  store<u32>(cpu, 0, State.ATTENTION);
  store<u32>(cpu, 0, State.SHADOW);
  store<u64>(cpu, 0, State.RETIRED);
  flushTlb();
  setCpl(0);
}

/** Named registers of getSpecial and setSpecial. */
const enum Special {
  RIP,
  RFLAGS,
  CR0,
  CR2,
  CR3,
  CR4,
  CR8,
  EFER,
  CPL,
  RETIRED,
  TSC_OFFSET,
  FAULTING_PASID,
}

function specialOffset(which: u32): usize {
  switch (which) {
    case Special.RIP:
      return State.RIP;
    case Special.CR0:
      return State.CR0;
    case Special.CR2:
      return State.CR2;
    case Special.CR3:
      return State.CR3;
    case Special.CR4:
      return State.CR4;
    case Special.EFER:
      return State.EFER;
    case Special.RETIRED:
      return State.RETIRED;
    default:
      return State.TSC_OFFSET;
  }
}

export function getSpecial(which: u32): u64 {
  if (which == Special.RFLAGS) return getFlags();
  if (which == Special.CR8) return readTaskPriority();
  if (which == Special.CPL) return cpl();
  if (which == Special.FAULTING_PASID) return load<u32>(cpu, State.FAULTING_PASID);
  return load<u64>(cpu + specialOffset(which));
}

/** No checks: the host sets what it likes. A new RIP ends a halt, a change of CPL brings Linux's selectors with it. */
export function setSpecial(which: u32, value: u64): void {
  if (which == Special.RFLAGS) setAllFlags(value);
  else if (which == Special.CR8) writeTaskPriority(<u32>value);
  else if (which == Special.CPL) {
    if (<u32>value != cpl()) {
      writeSelector(Segment.CS, <u32>value == 3 ? 0x33 : 0x10, <u32>value);
      writeSelector(Segment.SS, <u32>value == 3 ? 0x2b : 0x18, <u32>value);
    }
    store<u32>(cpu, <u32>value, State.CPL);
  } else store<u64>(cpu + specialOffset(which), value);
  if (which == Special.RIP && load<u32>(cpu, State.ACTIVITY) == Activity.HALTED) {
    store<u32>(cpu, Activity.RUNNING, State.ACTIVITY);
  }
  flushTlb();
  selectMode();
}

export function requestExit(): void {
  attend(Attention.EXIT);
}

export function flush(): void {
  flushTlb();
}

/** A frame with decoded code was written. */
export function frameWritten(pfn: u32): void {
  killFrame(pfn);
}

/**
 * Translates `address` as a data or instruction access (0 read, 1 write, 2 execute) would, flags in the tables
 * included. Gives the guest physical address, or 2^63 | the page-fault error code, or 2^62 when it is not canonical.
 */
export function probe(address: u64, access: u32, user: u32): u64 {
  const cr2 = load<u64>(cpu, State.CR2);
  const supervisor: u32 =
    load<u64>(cpu, State.CR4) & Cr4.SMAP && !(systemFlags() & Flag.AC) ? Mode.SUPERVISOR_SMAP : Mode.SUPERVISOR;
  const place = translate(address, access, user ? <u32>Mode.USER : supervisor, false);
  if (place) return load<u64>(cpu, State.GPA);
  store<u64>(cpu, cr2, State.CR2);
  if (load<u32>(cpu, State.VECTOR) == Vector.PF) return (1 << 63) | <u64>load<u32>(cpu, State.ERROR);
  return 1 << 62;
}

/** Runs until `limit` instructions have retired or something else ends the slice. Gives an Exit. */
export function run(limit: f64): u32 {
  store<i64>(cpu, <i64>limit, State.SLICE);
  store<i64>(cpu, <i64>limit, State.REMAINING);
  store<u64>(cpu, 0, State.DELIVERIES);
  store<u32>(cpu, Attention.POLL, State.ATTENTION);
  // Still there when a host function threw through the last slice.
  endBreak();
  const exit = runSlice();
  const spent = load<u64>(cpu, State.SLICE) - load<u64>(cpu, State.REMAINING) - load<u64>(cpu, State.DELIVERIES);
  store<u64>(cpu, load<u64>(cpu, State.RETIRED) + spent, State.RETIRED);
  return exit;
}

function runSlice(): u32 {
  while (true) {
    if (load<u32>(cpu, State.ACTIVITY) == Activity.SHUT_DOWN) return Exit.TRIPLE_FAULT;
    const attention = load<u32>(cpu, State.ATTENTION);
    if (attention & Attention.EXIT) {
      store<u32>(cpu, attention & ~Attention.EXIT, State.ATTENTION);
      return Exit.REQUESTED;
    }
    const enabled = (systemFlags() & Flag.IF) != 0;
    if (attention && !load<u32>(cpu, State.SHADOW)) {
      store<u32>(cpu, 0, State.ATTENTION);
      const vector = enabled ? pendingInterrupt() : -1;
      if (vector >= 0) {
        acknowledgeInterrupt(vector);
        deliver(vector, Origin.EXTERNAL, false, 0);
        continue;
      }
    }
    if (load<u32>(cpu, State.ACTIVITY) == Activity.HALTED) {
      // An instruction's shadow ends with it, and HLT was that instruction.
      if (load<u32>(cpu, State.SHADOW)) {
        store<u32>(cpu, 0, State.SHADOW);
        continue;
      }
      return enabled ? Exit.HALT : Exit.DEAD;
    }
    if (load<i64>(cpu, State.REMAINING) <= 0) return Exit.BUDGET;
    const status = runBlocks();
    if (status == Status.FAULT) deliverPending();
    else if (status == Status.PASID) return Exit.PASID;
  }
}

function deliverPending(): void {
  const hasError = load<u32>(cpu, State.HAS_ERROR) != 0;
  deliver(load<u32>(cpu, State.VECTOR), Origin.EXCEPTION, hasError, load<u32>(cpu, State.ERROR));
}

/** Runs from RIP until something needs attention: one instruction when interrupts wait for it or TF is set. */
function runBlocks(): u32 {
  const trap = (systemFlags() & Flag.TF) != 0;
  const single = trap || load<u32>(cpu, State.SHADOW) != 0;
  let block = getBlock(load<u64>(cpu, State.RIP));
  if (!block) return Status.FAULT;
  const budget = load<u64>(cpu, State.REMAINING);
  const count: u64 = single ? 1 : min<u64>(budget, 0xffff);
  if (count < load<u32>(block, Block.COUNT)) block = headOfBlock(block, <u32>count);
  else if (block >= cpu + State.ARENA) {
    const link: usize = load<u32>(cpu, State.LINK_FROM);
    if (link >= cpu + State.ARENA) store<u32>(link, <u32>block);
  }
  store<u32>(cpu, 0, State.LINK_FROM);
  store<u32>(cpu, 0, State.SHADOW);
  if (single) attend(Attention.POLL);
  store<u64>(cpu, budget - load<u32>(block, Block.COUNT), State.REMAINING);
  const deliveries = load<u64>(cpu, State.DELIVERIES);
  const status = execute(block);
  endBreak();
  if (trap && status == Status.JUMP && load<u64>(cpu, State.DELIVERIES) == deliveries) {
    // DR6.BS
    store<u64>(cpu, load<u64>(cpu, State.DEBUG + 48) | 0x4000, State.DEBUG + 48);
    deliver(Vector.DB, Origin.EXCEPTION, false, 0);
  }
  return status;
}
