/**
 * A CPU core as a machine or VMM drives it. Addresses on this interface are guest physical: on a machine without a
 * hypervisor they are simply physical addresses.
 */

import type { AccessWidth } from '../memory/mmio.ts';

/** What lies outside the core's memory map. Called while the core runs; must not run the core. */
export type CpuBus = {
  readMmio(gpa: bigint, width: AccessWidth): bigint;
  writeMmio(gpa: bigint, width: AccessWidth, value: bigint): void;
  /** MOVDIR64B to an address outside the memory map; `data` is valid during the call. */
  store64(gpa: bigint, data: Uint8Array): void;
  /**
   * ENQCMD or ENQCMDS to an address outside the memory map; `data` already carries the host PASID and privilege.
   * True: accepted (ZF = 0), false: retry (ZF = 1).
   */
  enqueue64(gpa: bigint, data: Uint8Array): boolean;
  readPort(port: number, width: 1 | 2 | 4): number;
  writePort(port: number, width: 1 | 2 | 4, value: number): void;
};

/** Where the core asks for interrupts: its local APIC. */
export type InterruptSource = {
  /** The highest-priority deliverable vector, 16..255, or -1. */
  pending(): number;
  /** The core takes `vector`: it moves from requested to in service. */
  acknowledge(vector: number): void;
  /** The task-priority class that CR8 shows, 0..15. A source without it has none: CR8 then only keeps its value. */
  taskPriority?: number;
};

/** Why `run` returned. */
export type CpuExit =
  /** The instruction budget is used up. */
  | 'budget'
  /** HLT with interrupts enabled and nothing pending: call again when something is. */
  | 'halt'
  /** HLT with interrupts disabled: only a reset helps. */
  | 'dead'
  /** `requestExit` was called. */
  | 'requested'
  /** A fault while delivering a double fault. */
  | 'triple-fault'
  /** ENQCMD with a PASID that has no entry in the VM's PASID translation table; the instruction has not executed. */
  | 'pasid';

/** Registers by name, for set-up, tests and dumps. */
export type CpuRegisters = {
  /** rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8..r15. */
  gpr: BigUint64Array;
  rip: bigint;
  rflags: bigint;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
  /** Current privilege level, 0 or 3. */
  cpl: number;
};

export type GuestCpu = {
  /** Retired instructions since reset; within a slice those up to its start. */
  readonly instructions: bigint;
  /** The PASID of an ENQCMD that ended in a 'pasid' exit. */
  readonly faultingPasid: number;

  /**
   * Puts RAM frames behind guest frames: guest frame `gfn + i` is host frame `pfns[i]`. Replaces what was there.
   * All host frames must be RAM of the machine that the core belongs to.
   */
  mapMemory(gfn: number, pfns: ArrayLike<number>, writable: boolean): void;
  /** Takes guest frames [gfn, gfn + frames) out of the memory map; accesses go to the bus again. */
  unmapMemory(gfn: number, frames: number): void;

  /** Runs until `limit` instructions have retired or something else ends the slice. */
  run(limit: number): CpuExit;
  /** Ends the current slice after the instruction in progress; callable from bus callbacks. */
  requestExit(): void;

  /** Drops every cached translation: needed after the memory map or a table in memory changed behind the core's back. */
  flushTlb(): void;

  /**
   * The VM's PASID translation table (Intel SDM, ENQCMD in VMX non-root operation): the guest PASID in IA32_PASID
   * becomes this host PASID. Without a table (the default) PASIDs pass unchanged.
   */
  setPasidTable(table: ReadonlyMap<number, number> | null): void;

  /** After a 'pasid' exit: when the core runs again, that ENQCMD ends with Retry (ZF = 1) and is sent nowhere. */
  refuseCommand(): void;

  /**
   * Enters long mode directly: paging on with this CR3, ring 0, interrupts off, flat segments, at `rip`. CR0 is PG, WP,
   * NE, ET, PE; CR4 is PAE; EFER is LME, LMA, NXE; CS 0x10 and SS 0x18, with no descriptor tables behind them yet.
   */
  resetToLongMode(state: { rip: bigint; cr3: bigint; rsp: bigint; rdi?: bigint; rsi?: bigint }): void;
  /** As they are between two slices. */
  readRegisters(): CpuRegisters;
  /** Sets all of them, unchecked, and ends a halt. */
  writeRegisters(registers: CpuRegisters): void;
};
