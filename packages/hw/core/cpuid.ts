/** CPUID: what this processor has. Leaves that are not here read as zero. */

import { addressBits } from './paging.ts';
import { cpu, setRegister, Slot, State } from './state.ts';

const HIGHEST_LEAF: u32 = 0x16;
const HIGHEST_EXTENDED: u32 = 0x80000008;
/** Ticks of the time-stamp counter a second: one instruction is one tick, and one virtual nanosecond. */
const FREQUENCY: u32 = 1000000000;

const enum Leaf1Ecx {
  CX16 = 1 << 13,
  MOVBE = 1 << 22,
  POPCNT = 1 << 23,
  HYPERVISOR = 1 << 31,
}

/** DE, PSE, TSC, MSR, PAE, CX8, APIC, PGE, CMOV, PAT, CLFSH. */
const LEAF1_EDX: u32 =
  (1 << 2) |
  (1 << 3) |
  (1 << 4) |
  (1 << 5) |
  (1 << 6) |
  (1 << 8) |
  (1 << 9) |
  (1 << 13) |
  (1 << 15) |
  (1 << 16) |
  (1 << 19);
/** FSGSBASE, BMI1, SMEP, ERMS, SMAP, CLFLUSHOPT, CLWB. */
const LEAF7_EBX: u32 = 1 | (1 << 3) | (1 << 7) | (1 << 9) | (1 << 20) | (1 << 23) | (1 << 24);
/** UMIP, MOVDIRI, MOVDIR64B, ENQCMD. */
const LEAF7_ECX: u32 = (1 << 2) | (1 << 27) | (1 << 28) | (1 << 29);
/** LAHF, LZCNT, PREFETCHW. */
const EXTENDED1_ECX: u32 = 1 | (1 << 5) | (1 << 8);
/** SYSCALL, NX, RDTSCP, long mode. */
const EXTENDED1_EDX: u32 = (1 << 11) | (1 << 20) | (1 << 27) | (1 << 29);

function answer(eax: u32, ebx: u32, ecx: u32, edx: u32): void {
  setRegister(Slot.RAX, eax);
  setRegister(Slot.RBX, ebx);
  setRegister(Slot.RCX, ecx);
  setRegister(Slot.RDX, edx);
}

export function cpuid(): void {
  const leaf = load<u32>(cpu, Slot.RAX);
  const subleaf = load<u32>(cpu, Slot.RCX);
  switch (leaf) {
    case 0:
      // "GenuineIntel"
      answer(HIGHEST_LEAF, 0x756e6547, 0x6c65746e, 0x49656e69);
      return;
    case 1:
      // Family 6, model 143, stepping 8; 64-byte cache lines; one logical processor.
      answer(
        0x000806f8,
        (8 << 8) | (1 << 16) | (load<u32>(cpu, State.APIC_ID) << 24),
        Leaf1Ecx.CX16 | Leaf1Ecx.MOVBE | Leaf1Ecx.POPCNT | Leaf1Ecx.HYPERVISOR,
        LEAF1_EDX,
      );
      return;
    case 7:
      if (subleaf == 0) answer(0, LEAF7_EBX, LEAF7_ECX, 0);
      else answer(0, 0, 0, 0);
      return;
    case 0x15:
      answer(1, 1, FREQUENCY, 0);
      return;
    case 0x16:
      answer(FREQUENCY / 1000000, FREQUENCY / 1000000, 100, 0);
      return;
    case 0x80000000:
      answer(HIGHEST_EXTENDED, 0, 0, 0);
      return;
    case 0x80000001:
      answer(0, 0, EXTENDED1_ECX, EXTENDED1_EDX);
      return;
    case 0x80000007:
      // The time-stamp counter never stops.
      answer(0, 0, 0, 1 << 8);
      return;
    case 0x80000008:
      answer(addressBits() | (48 << 8), 0, 0, 0);
      return;
  }
  answer(0, 0, 0, 0);
}
