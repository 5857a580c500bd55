/** Model-specific registers (Intel SDM volume 4). An unknown one is #GP(0). */

import { cpl, cpu, Efer, generalProtection, getRegister, isCanonical, setRegister, Slot, State, Status } from './state.ts';

const enum Msr {
  TSC = 0x10,
  APIC_BASE = 0x1b,
  MICROCODE = 0x8b,
  PAT = 0x277,
  PASID = 0xd93,
  EFER = 0xc0000080,
  STAR = 0xc0000081,
  LSTAR = 0xc0000082,
  CSTAR = 0xc0000083,
  FMASK = 0xc0000084,
  FS_BASE = 0xc0000100,
  GS_BASE = 0xc0000101,
  KERNEL_GS_BASE = 0xc0000102,
  TSC_AUX = 0xc0000103,
}

/** Enabled, at its usual address; bit 8 says that this is the bootstrap processor. It does not move. */
function apicBase(): u64 {
  return load<u32>(cpu, State.APIC_ID) ? 0xfee00800 : 0xfee00900;
}

/** IA32_PASID: the PASID and its valid bit. */
const PASID_BITS: u64 = 0x800fffff;

/** State offset of the registers that are just storage, or 0. */
function storage(index: u32): usize {
  switch (index) {
    case Msr.PAT:
      return State.PAT;
    case Msr.PASID:
      return State.PASID;
    case Msr.EFER:
      return State.EFER;
    case Msr.STAR:
      return State.STAR;
    case Msr.LSTAR:
      return State.LSTAR;
    case Msr.CSTAR:
      return State.CSTAR;
    case Msr.FMASK:
      return State.FMASK;
    case Msr.FS_BASE:
      return Slot.FS_BASE;
    case Msr.GS_BASE:
      return Slot.GS_BASE;
    case Msr.KERNEL_GS_BASE:
      return State.KERNEL_GS_BASE;
    case Msr.TSC_AUX:
      return State.TSC_AUX;
  }
  return 0;
}

/** RDMSR; `tsc` is the time-stamp counter now. Gives a Status. */
export function readMsr(tsc: u64): u32 {
  if (cpl()) return generalProtection();
  const index = load<u32>(cpu, Slot.RCX);
  let value: u64;
  const at = storage(index);
  if (at) value = load<u64>(cpu + at);
  else if (index == Msr.TSC) value = tsc;
  else if (index == Msr.APIC_BASE) value = apicBase();
  else if (index == Msr.MICROCODE) value = 0;
  else return generalProtection();
  setRegister(Slot.RAX, value & 0xffffffff);
  setRegister(Slot.RDX, value >> 32);
  return Status.NEXT;
}

/** Memory types 0, 1, 4, 5, 6, 7 in each byte. */
function validPat(value: u64): bool {
  for (let entry = 0; entry < 8; entry++) {
    const type = (value >> (entry << 3)) & 0xff;
    if (type > 7 || type == 2 || type == 3) return false;
  }
  return true;
}

/** WRMSR; `tsc` is the time-stamp counter now. Gives a Status. */
export function writeMsr(tsc: u64): u32 {
  if (cpl()) return generalProtection();
  const index = load<u32>(cpu, Slot.RCX);
  const value = <u64>load<u32>(cpu, Slot.RAX) | (getRegister(Slot.RDX) << 32);
  switch (index) {
    case Msr.TSC:
      store<u64>(cpu, load<u64>(cpu, State.TSC_OFFSET) + value - tsc, State.TSC_OFFSET);
      return Status.NEXT;
    case Msr.APIC_BASE:
      return value == apicBase() ? <u32>Status.NEXT : generalProtection();
    case Msr.MICROCODE:
      return Status.NEXT;
    case Msr.PAT:
      if (!validPat(value)) return generalProtection();
      break;
    case Msr.PASID:
      if (value & ~PASID_BITS) return generalProtection();
      break;
    case Msr.EFER:
      return writeEfer(value);
    case Msr.FMASK:
    case Msr.TSC_AUX:
      if (value >> 32) return generalProtection();
      break;
    case Msr.LSTAR:
    case Msr.CSTAR:
    case Msr.FS_BASE:
    case Msr.GS_BASE:
    case Msr.KERNEL_GS_BASE:
      if (!isCanonical(value)) return generalProtection();
      break;
  }
  const at = storage(index);
  if (!at) return generalProtection();
  store<u64>(cpu + at, value);
  return Status.NEXT;
}

/** Long mode cannot be left: LME is fixed while paging is on, and it is on always. */
function writeEfer(value: u64): u32 {
  const old = load<u64>(cpu, State.EFER);
  if (value & ~(<u64>(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)) || (value & Efer.LME) == 0) {
    return generalProtection();
  }
  store<u64>(cpu, (value & ~(<u64>Efer.LMA)) | (old & Efer.LMA), State.EFER);
  return Status.JUMP;
}
