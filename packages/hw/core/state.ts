/**
 * Where everything is: byte offsets from the base of one core's storage in the machine's memory. The module itself
 * holds no state but that base, so any number of cores live in one memory.
 */

/** Base of this core's storage. */
export let cpu: usize = 0;

export function setBase(base: usize): void {
  cpu = base;
}

export const enum State {
  /** Register slots of 8 bytes: 16 general registers, then the Slot values below. */
  REGISTERS = 0,
  /** Arithmetic flags, see flags.ts. */
  FLAG_RESULT = 256,
  FLAG_CARRIES = 264,
  RIP = 272,
  /** RFLAGS without the six arithmetic flags. */
  SYSTEM_FLAGS = 280,
  CR0 = 288,
  CR2 = 296,
  CR3 = 304,
  CR4 = 312,
  CR8 = 320,
  EFER = 328,
  STAR = 336,
  LSTAR = 344,
  CSTAR = 352,
  FMASK = 360,
  KERNEL_GS_BASE = 368,
  PAT = 376,
  TSC_OFFSET = 384,
  TSC_AUX = 392,
  PASID = 400,
  /** DR0..DR7. */
  DEBUG = 408,
  GDT_BASE = 472,
  IDT_BASE = 480,
  LDT_BASE = 488,
  TSS_BASE = 496,
  GDT_LIMIT = 504,
  IDT_LIMIT = 508,
  LDT_LIMIT = 512,
  TSS_LIMIT = 516,
  /** Selectors of ES, CS, SS, DS, FS, GS, u16 each. */
  SELECTORS = 520,
  LDT_SELECTOR = 532,
  TSS_SELECTOR = 534,
  /** Descriptor privilege levels of the six segments, u8 each. */
  SEGMENT_DPL = 536,
  CPL = 544,
  /** Which of the four translation caches is in use (Mode), and its address. */
  MODE = 548,
  TLB = 552,
  /** ATTENTION_ bits: reasons to leave the fast path before the next instruction. */
  ATTENTION = 556,
  /** 1: interrupts wait for one more instruction (STI, MOV SS). */
  SHADOW = 560,
  /** Activity: running, halted, shut down. */
  ACTIVITY = 564,
  /** Retired before this slice. */
  RETIRED = 568,
  /** Instructions left of the slice, less those of the block being executed. */
  REMAINING = 576,
  SLICE = 584,
  /** Budget spent on delivering exceptions, which retire nothing. */
  DELIVERIES = 592,
  /** The pending exception. */
  VECTOR = 600,
  HAS_ERROR = 604,
  ERROR = 608,
  /** The record at which execution left a block. */
  RECORD = 616,
  /** Address of the link field to fill with the next block, or 0. */
  LINK_FROM = 620,
  /** The record whose operation is replaced by BREAK, or 0, and that operation. */
  BREAK_AT = 624,
  BREAK_OPERATION = 628,
  FAULTING_PASID = 632,
  /** Result of a translation: byte offset in memory, guest physical address. */
  HOST = 636,
  GPA = 640,
  /** The two parts of a write that goes through the scratch bytes. */
  WRITE_HOST = 648,
  WRITE_LENGTH = 652,
  WRITE_GPA = 656,
  WRITE_HOST2 = 664,
  WRITE_LENGTH2 = 668,
  WRITE_GPA2 = 672,
  /** Guest frame map: u32 each, 0 or (pfn << 1 | writable) + 2; and its size in frames. */
  MAP = 680,
  MAP_FRAMES = 684,
  FRAME_FLAGS = 688,
  /** Bits of a paging-structure entry that must be zero because no such physical address exists. */
  ADDRESS_RESERVED = 696,
  ARENA_NEXT = 704,
  /** Initial APIC id, as CPUID tells it. */
  APIC_ID = 720,
  /** Where a software interrupt stands, for exceptions on its way. */
  SOFTWARE_RIP = 712,
  /** 1 when a translation cache holds a part of a large page. */
  LARGE_CACHED = 708,
  /** 64 bytes for accesses that are split or go to the bus. */
  SCRATCH = 768,
  /** 64 bytes of a direct store. */
  DIRECT = 832,
  /** Up to 32 instruction bytes that straddle a page. */
  FETCH = 896,
  /** Two records of zeros: the record of accesses that no instruction makes. */
  NO_RECORD = 960,
  /** Four translation caches, see memory.ts. */
  TLBS = 1024,
  BLOCK_HASH = 50176,
  FRAME_HASH = 82944,
  /** A block that is executed once: one instruction across two pages, or the head of a block. */
  SINGLE = 87040,
  ARENA = 91136,
  END = 2188288,
}

/** Register slots behind the 16 general registers, as byte offsets like all register operands. */
export const enum Slot {
  RAX = 0,
  RCX = 8,
  RDX = 16,
  RBX = 24,
  RSP = 32,
  RBP = 40,
  RSI = 48,
  RDI = 56,
  R11 = 88,
  ZERO = 128,
  FS_BASE = 136,
  GS_BASE = 144,
  ADDRESS = 152,
}

/** Segment registers in encoding order. */
export const enum Segment {
  ES,
  CS,
  SS,
  DS,
  FS,
  GS,
}

/** Translation regimes, each with a cache of its own. */
export const enum Mode {
  SUPERVISOR,
  /** Supervisor accesses that SMAP keeps out of user pages. */
  SUPERVISOR_SMAP,
  USER,
  /** User accesses with alignment checks: never cached, so that every access is looked at. */
  USER_ALIGNED,
}

export const enum Attention {
  /** Ask the interrupt source. */
  POLL = 1,
  /** End the slice. */
  EXIT = 2,
}

export const enum Activity {
  RUNNING,
  HALTED,
  SHUT_DOWN,
}

export const enum Exit {
  BUDGET,
  HALT,
  DEAD,
  REQUESTED,
  TRIPLE_FAULT,
  PASID,
}

/** What an operation says to the loop that called it. */
export const enum Status {
  /** Go on with the next record. */
  NEXT,
  /** RIP is set: find the block there. */
  JUMP,
  /** An exception is pending; the instruction has done nothing. */
  FAULT,
  /** Leave with the 'pasid' exit; the instruction has done nothing. */
  PASID,
}

export const enum Flag {
  CF = 1,
  PF = 4,
  AF = 0x10,
  ZF = 0x40,
  SF = 0x80,
  TF = 0x100,
  IF = 0x200,
  DF = 0x400,
  OF = 0x800,
  IOPL = 0x3000,
  NT = 0x4000,
  RF = 0x10000,
  VM = 0x20000,
  AC = 0x40000,
  VIF = 0x80000,
  VIP = 0x100000,
  ID = 0x200000,
  ARITHMETIC = 0x8d5,
}

export const enum Vector {
  DE = 0,
  DB = 1,
  BP = 3,
  UD = 6,
  NM = 7,
  DF = 8,
  TS = 10,
  NP = 11,
  SS = 12,
  GP = 13,
  PF = 14,
  AC = 17,
}

export const enum Cr0 {
  PE = 1,
  ET = 0x10,
  TS = 8,
  NW = 0x20000000,
  CD = 0x40000000,
  WP = 0x10000,
  AM = 0x40000,
  WRITABLE = 0xe005003f,
}

export const enum Cr4 {
  TSD = 4,
  PAE = 0x20,
  PGE = 0x80,
  UMIP = 0x800,
  FSGSBASE = 0x10000,
  SMEP = 0x100000,
  SMAP = 0x200000,
  /** TSD, DE, PSE, PAE, MCE, PGE, PCE, UMIP, FSGSBASE, SMEP, SMAP. */
  WRITABLE = 0x3109fc,
}

export const enum Efer {
  SCE = 1,
  LME = 0x100,
  LMA = 0x400,
  NXE = 0x800,
}

export function getRegister(slot: usize): u64 {
  return load<u64>(cpu + slot);
}

export function setRegister(slot: usize, value: u64): void {
  store<u64>(cpu + slot, value);
}

export function systemFlags(): u64 {
  return load<u64>(cpu, State.SYSTEM_FLAGS);
}

export function cpl(): u32 {
  return load<u32>(cpu, State.CPL);
}

export function attend(reason: u32): void {
  store<u32>(cpu, load<u32>(cpu, State.ATTENTION) | reason, State.ATTENTION);
}

/** Sets RFLAGS but for the arithmetic flags. */
export function setSystemFlags(flags: u64): void {
  const before = systemFlags();
  store<u64>(cpu, flags & ~(<u64>Flag.ARITHMETIC), State.SYSTEM_FLAGS);
  if (flags & Flag.IF & ~before) attend(Attention.POLL);
  if ((flags ^ before) & Flag.AC) selectMode();
}

export function setCpl(level: u32): void {
  store<u32>(cpu, level, State.CPL);
  selectMode();
}

/** Chooses the translation cache that CPL, AC, CR0.AM and CR4.SMAP ask for. */
export function selectMode(): void {
  const aligned = (systemFlags() & Flag.AC) != 0;
  let mode: u32;
  if (cpl() == 3) mode = aligned && load<u64>(cpu, State.CR0) & Cr0.AM ? Mode.USER_ALIGNED : Mode.USER;
  else mode = load<u64>(cpu, State.CR4) & Cr4.SMAP && !aligned ? Mode.SUPERVISOR_SMAP : Mode.SUPERVISOR;
  store<u32>(cpu, mode, State.MODE);
  store<u32>(cpu, cpu + State.TLBS + mode * TLB_SIZE, State.TLB);
}

/** A cache has three arrays (read, write, execute) of 256 entries of 16 bytes. */
export const TLB_SIZE: u32 = 12288;

export function raise(vector: u32): void {
  store<u32>(cpu, vector, State.VECTOR);
  store<u32>(cpu, 0, State.HAS_ERROR);
}

export function raiseWithError(vector: u32, error: u32): void {
  store<u32>(cpu, vector, State.VECTOR);
  store<u32>(cpu, 1, State.HAS_ERROR);
  store<u32>(cpu, error, State.ERROR);
}

/** #GP(0), as the status of the instruction. */
export function generalProtection(): u32 {
  raiseWithError(Vector.GP, 0);
  return Status.FAULT;
}

/** #UD, as the status of the instruction. */
export function undefinedOpcode(): u32 {
  raise(Vector.UD);
  return Status.FAULT;
}

export function isCanonical(address: u64): bool {
  return <u64>((<i64>address << 16) >> 16) == address;
}
