/**
 * System instructions (Intel SDM volumes 2 and 3A). Each is the last of its block: RIP is set here when one retires.
 */

import { cpuid } from './cpuid.ts';
import { enqueueCommand, moveDirect64 } from './direct-stores.ts';
import { getFlags, setAllFlags } from './flags.ts';
import { readPort, readTaskPriority, writePort, writeTaskPriority } from './host.ts';
import { changeableFlags, deliver, farReturn, interruptReturn, Origin } from './interrupts.ts';
import { finishWrite, loadSized, read, storeSized, write } from './memory.ts';
import { readMsr, writeMsr } from './model-specific.ts';
import {
  address,
  isRegisterForm,
  operandSize,
  peek,
  push,
  readRm,
  storeRegister,
  storeRm,
  writeReg,
  writeRm,
} from './operand.ts';
import { Access, flushPage, flushTlb, translate } from './paging.ts';
import { portAllowed } from './ports.ts';
import { Operation, Record } from './record.ts';
import {
  checkJumpCode,
  Descriptor,
  descriptorDpl,
  descriptorHigh,
  descriptorLimit,
  descriptorType,
  hasDescriptor,
  loadSegment,
  loadSystemSegment,
  readDescriptor,
  readSelector,
  writeSelector,
} from './segments.ts';
import {
  Activity,
  attend,
  Attention,
  cpl,
  cpu,
  Cr0,
  Cr4,
  Efer,
  Flag,
  generalProtection,
  getRegister,
  isCanonical,
  raise,
  Segment,
  selectMode,
  setCpl,
  setRegister,
  setSystemFlags,
  Slot,
  State,
  Status,
  systemFlags,
  undefinedOpcode,
  Vector,
} from './state.ts';

const FAULT: u32 = Status.FAULT;

/** Retires the instruction: on to `next`. */
function done(next: u64): u32 {
  store<u64>(cpu, next, State.RIP);
  return Status.JUMP;
}

/** Retires the instruction unless `status` says otherwise. */
function after(status: u32, next: u64): u32 {
  return status == Status.NEXT || status == Status.JUMP ? done(next) : status;
}

function readControl(record: usize, next: u64): u32 {
  if (cpl()) return generalProtection();
  let value: u64;
  switch (<u32>load<u8>(record, Record.KIND)) {
    case 0:
      value = load<u64>(cpu, State.CR0);
      break;
    case 2:
      value = load<u64>(cpu, State.CR2);
      break;
    case 3:
      value = load<u64>(cpu, State.CR3);
      break;
    case 4:
      value = load<u64>(cpu, State.CR4);
      break;
    case 8:
      value = readTaskPriority();
      break;
    default:
      return undefinedOpcode();
  }
  store<u64>(cpu + load<u8>(record, Record.RM), value);
  return done(next);
}

function writeControl(record: usize, next: u64): u32 {
  if (cpl()) return generalProtection();
  const value = load<u64>(cpu + load<u8>(record, Record.RM));
  switch (<u32>load<u8>(record, Record.KIND)) {
    case 0:
      return writeCr0(value, next);
    case 2:
      store<u64>(cpu, value, State.CR2);
      return done(next);
    case 3:
      // Bit 63 has a meaning with PCIDs only, and those are not advertised.
      if (value & (load<u64>(cpu, State.ADDRESS_RESERVED) | 0xfff0000000000000)) return generalProtection();
      store<u64>(cpu, value, State.CR3);
      flushTlb();
      return done(next);
    case 4:
      if (value & ~(<u64>Cr4.WRITABLE) || (value & Cr4.PAE) == 0) return generalProtection();
      store<u64>(cpu, value, State.CR4);
      flushTlb();
      selectMode();
      return done(next);
    case 8:
      if (value > 15) return generalProtection();
      writeTaskPriority(<u32>value);
      attend(Attention.POLL);
      return done(next);
  }
  return undefinedOpcode();
}

/** Paging and protection stay on: the processor has no other mode. */
function writeCr0(value: u64, next: u64): u32 {
  const paging: u64 = 0x80000001;
  if (value >> 32 || (value & paging) != paging) return generalProtection();
  if (value & Cr0.NW && (value & Cr0.CD) == 0) return generalProtection();
  store<u64>(cpu, (value & Cr0.WRITABLE) | Cr0.ET, State.CR0);
  flushTlb();
  selectMode();
  return done(next);
}

/** DR4 and DR5 are DR6 and DR7 unless CR4.DE. 8: there is no such register. */
function debugRegister(record: usize): u32 {
  const number = <u32>load<u8>(record, Record.KIND);
  if (number == 4 || number == 5) return load<u64>(cpu, State.CR4) & 8 ? 8 : number + 2;
  return min<u32>(number, 8);
}

/** The debug registers keep what is written: breakpoints are not implemented. */
function moveDebug(record: usize, write: bool, next: u64): u32 {
  const number = debugRegister(record);
  if (number == 8) return undefinedOpcode();
  if (cpl()) return generalProtection();
  const register = cpu + State.DEBUG + (number << 3);
  const operand = cpu + load<u8>(record, Record.RM);
  if (!write) store<u64>(operand, load<u64>(register));
  else {
    const value = load<u64>(operand);
    if (number >= 6 && value >> 32) return generalProtection();
    if (number == 6) store<u64>(register, (value & 0xe00f) | 0xffff0ff0);
    else if (number == 7) store<u64>(register, (value & 0xffff2fff) | 0x400);
    else store<u64>(register, value);
  }
  return done(next);
}

/** SGDT and SIDT. */
function storeTable(record: usize, limit: u32, base: u64, next: u64): u32 {
  if (refusedByUmip()) return generalProtection();
  const pointer = write(record, address(record), 10, false);
  if (!pointer) return FAULT;
  store<u16>(pointer, <u16>limit);
  store<u64>(pointer, base, 2);
  finishWrite(record, pointer);
  return done(next);
}

function refusedByUmip(): bool {
  return cpl() != 0 && (load<u64>(cpu, State.CR4) & Cr4.UMIP) != 0;
}

/** LGDT and LIDT. */
function loadTable(record: usize, limitAt: usize, baseAt: usize, next: u64): u32 {
  if (cpl()) return generalProtection();
  const pointer = read(record, address(record), 10);
  if (!pointer) return FAULT;
  const base = load<u64>(pointer, 2);
  if (!isCanonical(base)) return generalProtection();
  store<u32>(cpu + limitAt, load<u16>(pointer));
  store<u64>(cpu + baseAt, base);
  return done(next);
}

/** SLDT, STR, SMSW and MOV from a segment: 16 bits to memory, the operand size to a register. */
function storeSelector(record: usize, value: u64, next: u64): u32 {
  const size = isRegisterForm(record) ? operandSize(record) : 2;
  const pointer = writeRm(record, size, false);
  if (!pointer) return FAULT;
  storeRm(record, pointer, size, value);
  return done(next);
}

function setZero(zero: bool): void {
  const flags = getFlags() & ~(<u64>Flag.ZF);
  setAllFlags(zero ? flags | Flag.ZF : flags);
}

/** LAR, LSL, VERR and VERW: ZF says whether the descriptor can be seen. */
function inspect(record: usize, operation: u32, next: u64): u32 {
  const pointer = readRm(record, 2);
  if (!pointer) return FAULT;
  const selector = <u32>load<u16>(pointer);
  if (!hasDescriptor(selector)) {
    setZero(false);
    return done(next);
  }
  if (!readDescriptor(selector, Vector.GP, 0)) return FAULT;
  const type = descriptorType();
  const ordinary = (type & Descriptor.ORDINARY) != 0;
  const code = (type & Descriptor.CODE) != 0;
  const conforming = ordinary && code && (type & Descriptor.CONFORMING) != 0;
  let visible = conforming || descriptorDpl() >= max<u32>(selector & 3, cpl());
  if (!ordinary) {
    // LDT, TSS available or busy; LAR sees call gates too.
    visible = visible && (type == 2 || type == 9 || type == 11 || (type == 12 && operation == Operation.LAR));
    visible = visible && operation != Operation.VERR && operation != Operation.VERW;
  } else if (operation == Operation.VERR) visible = visible && (!code || (type & Descriptor.WRITABLE) != 0);
  else if (operation == Operation.VERW) visible = visible && !code && (type & Descriptor.WRITABLE) != 0;
  if (visible) {
    if (operation == Operation.LAR) writeReg(record, operandSize(record), descriptorHigh() & 0x00ffff00);
    else if (operation == Operation.LSL) writeReg(record, operandSize(record), descriptorLimit());
  }
  setZero(visible);
  return done(next);
}

function fastSystemCall(next: u64): u32 {
  if ((load<u64>(cpu, State.EFER) & Efer.SCE) == 0) return undefinedOpcode();
  const flags = getFlags();
  setRegister(Slot.RCX, next);
  setRegister(Slot.R11, flags & ~(<u64>Flag.RF));
  const selector = <u32>(load<u64>(cpu, State.STAR) >> 32) & 0xfffc;
  writeSelector(Segment.CS, selector, 0);
  writeSelector(Segment.SS, selector + 8, 0);
  setAllFlags(flags & ~load<u64>(cpu, State.FMASK) & ~(<u64>Flag.RF));
  setCpl(0);
  return done(load<u64>(cpu, State.LSTAR));
}

function fastSystemReturn(record: usize): u32 {
  // The form without REX.W goes to compatibility mode.
  if ((load<u64>(cpu, State.EFER) & Efer.SCE) == 0 || operandSize(record) != 8) return undefinedOpcode();
  const target = getRegister(Slot.RCX);
  if (cpl() || !isCanonical(target)) return generalProtection();
  const selector = <u32>(load<u64>(cpu, State.STAR) >> 48);
  writeSelector(Segment.CS, ((selector + 16) & 0xffff) | 3, 3);
  writeSelector(Segment.SS, ((selector + 8) & 0xffff) | 3, 3);
  setAllFlags(getRegister(Slot.R11) & ~(<u64>(Flag.RF | Flag.VM)));
  setCpl(3);
  return done(target);
}

/** JMP and CALL through m16:64 (or :32, :16). */
function farJump(record: usize, call: bool, next: u64): u32 {
  const size = operandSize(record);
  const pointer = read(record, address(record), size + 2);
  if (!pointer) return FAULT;
  const target = loadSized(pointer, size);
  const selector = <u32>load<u16>(pointer + size);
  const status = checkJumpCode(selector);
  if (status != Status.NEXT) return status;
  if (!isCanonical(target)) return generalProtection();
  if (call) {
    const top = getRegister(Slot.RSP);
    if (!push(record, readSelector(Segment.CS), size)) return FAULT;
    if (!push(record, next, size)) {
      setRegister(Slot.RSP, top);
      return FAULT;
    }
  }
  writeSelector(Segment.CS, (selector & 0xfffc) | cpl(), cpl());
  return done(target);
}

function loadFar(record: usize, next: u64): u32 {
  const size = operandSize(record);
  const pointer = read(record, address(record), size + 2);
  if (!pointer) return FAULT;
  const offset = loadSized(pointer, size);
  const segment = <u32>load<u8>(record, Record.KIND);
  const status = loadSegment(segment, <u32>load<u16>(pointer + size));
  if (status != Status.NEXT) return status;
  writeReg(record, size, offset);
  return done(next);
}

function moveToSegment(record: usize, next: u64): u32 {
  const pointer = readRm(record, 2);
  if (!pointer) return FAULT;
  const segment = <u32>load<u8>(record, Record.KIND);
  const status = loadSegment(segment, <u32>load<u16>(pointer));
  if (status != Status.NEXT) return status;
  if (segment == Segment.SS) shadow();
  return done(next);
}

/** Interrupts wait for one more instruction. */
function shadow(): void {
  store<u32>(cpu, 1, State.SHADOW);
  attend(Attention.POLL);
}

function popSegment(record: usize, next: u64): u32 {
  const size = operandSize(record);
  const pointer = peek(record, 0, size);
  if (!pointer) return FAULT;
  const status = loadSegment(<u32>load<u8>(record, Record.KIND), <u32>load<u16>(pointer));
  if (status != Status.NEXT) return status;
  setRegister(Slot.RSP, getRegister(Slot.RSP) + size);
  return done(next);
}

function popFlags(record: usize, next: u64): u32 {
  const size = operandSize(record);
  const pointer = peek(record, 0, size);
  if (!pointer) return FAULT;
  let changeable = changeableFlags();
  if (size == 2) changeable &= 0xffff;
  const flags = loadSized(pointer, size);
  setRegister(Slot.RSP, getRegister(Slot.RSP) + size);
  setAllFlags((flags & changeable) | (getFlags() & ~changeable & ~(<u64>Flag.RF)));
  return done(next);
}

function portNumber(record: usize): u32 {
  return load<u8>(record, Record.KIND) ? <u32>load<u16>(cpu, Slot.RDX) : load<u32>(record, Record.IMMEDIATE);
}

function portAccess(record: usize, out: bool, next: u64): u32 {
  const size = operandSize(record);
  const port = portNumber(record);
  const status = portAllowed(port, size);
  if (status != Status.NEXT) return status;
  if (out) writePort(port, size, <u32>loadSized(cpu + Slot.RAX, size));
  else storeRegister(cpu + Slot.RAX, size, readPort(port, size));
  attend(Attention.POLL);
  return done(next);
}

/** CLI and STI: by privilege, IOPL decides. */
function interruptFlag(set: bool, next: u64): u32 {
  const flags = systemFlags();
  if (cpl() > <u32>((flags >> 12) & 3)) return generalProtection();
  if (set) {
    if ((flags & Flag.IF) == 0) shadow();
    setSystemFlags(flags | Flag.IF);
  } else setSystemFlags(flags & ~(<u64>Flag.IF));
  return done(next);
}

/** RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE. */
function segmentBase(record: usize, write: bool, next: u64): u32 {
  if ((load<u64>(cpu, State.CR4) & Cr4.FSGSBASE) == 0) return undefinedOpcode();
  const size = operandSize(record);
  const slot: usize = load<u8>(record, Record.KIND) ? Slot.GS_BASE : Slot.FS_BASE;
  const register = cpu + load<u8>(record, Record.RM);
  if (write) {
    const value = loadSized(register, size);
    if (!isCanonical(value)) return generalProtection();
    setRegister(slot, value);
  } else storeRegister(register, size, getRegister(slot));
  return done(next);
}

/** Performs system `operation` of `record`; `next` is the address behind it. Gives a Status. */
export function system(record: usize, operation: u32, next: u64, retired: u64): u32 {
  const tsc = retired + load<u64>(cpu, State.TSC_OFFSET);
  switch (operation) {
    case Operation.IN:
    case Operation.OUT:
      return portAccess(record, operation == Operation.OUT, next);
    case Operation.INTERRUPT:
    case Operation.BREAKPOINT: {
      const vector = operation == Operation.BREAKPOINT ? 3 : load<u32>(record, Record.IMMEDIATE);
      store<u64>(cpu, next, State.RIP);
      store<u64>(cpu, next - load<u8>(record, Record.LENGTH), State.SOFTWARE_RIP);
      deliver(vector, Origin.SOFTWARE, false, 0);
      return Status.JUMP;
    }
    case Operation.DEBUG_TRAP:
      store<u64>(cpu, next, State.RIP);
      deliver(Vector.DB, Origin.EXCEPTION, false, 0);
      return Status.JUMP;
    case Operation.HALT:
      if (cpl()) return generalProtection();
      store<u32>(cpu, Activity.HALTED, State.ACTIVITY);
      attend(Attention.POLL);
      return done(next);
    case Operation.CLI:
    case Operation.STI:
      return interruptFlag(operation == Operation.STI, next);
    case Operation.CLAC:
    case Operation.STAC: {
      if (cpl() || (load<u64>(cpu, State.CR4) & Cr4.SMAP) == 0) return undefinedOpcode();
      const flags = systemFlags() & ~(<u64>Flag.AC);
      setSystemFlags(operation == Operation.STAC ? flags | Flag.AC : flags);
      return done(next);
    }
    case Operation.CLTS:
      if (cpl()) return generalProtection();
      store<u64>(cpu, load<u64>(cpu, State.CR0) & ~(<u64>Cr0.TS), State.CR0);
      return done(next);
    case Operation.CPUID:
      cpuid();
      return done(next);
    case Operation.RDTSC:
    case Operation.RDTSCP:
      if (cpl() && load<u64>(cpu, State.CR4) & Cr4.TSD) return generalProtection();
      setRegister(Slot.RAX, tsc & 0xffffffff);
      setRegister(Slot.RDX, tsc >> 32);
      if (operation == Operation.RDTSCP) setRegister(Slot.RCX, load<u32>(cpu, State.TSC_AUX));
      return done(next);
    case Operation.RDMSR:
      return after(readMsr(tsc), next);
    case Operation.WRMSR: {
      const status = writeMsr(tsc);
      if (status == Status.JUMP) flushTlb();
      return after(status, next);
    }
    case Operation.MOV_FROM_CR:
      return readControl(record, next);
    case Operation.MOV_TO_CR:
      return writeControl(record, next);
    case Operation.MOV_FROM_DR:
    case Operation.MOV_TO_DR:
      return moveDebug(record, operation == Operation.MOV_TO_DR, next);
    case Operation.SMSW:
      if (refusedByUmip()) return generalProtection();
      return storeSelector(record, load<u64>(cpu, State.CR0), next);
    case Operation.LMSW: {
      if (cpl()) return generalProtection();
      const pointer = readRm(record, 2);
      if (!pointer) return FAULT;
      // PE can be set but not cleared; of the rest only MP, EM and TS are written.
      const value = (load<u64>(cpu, State.CR0) & ~(<u64>0xe)) | (load<u16>(pointer) & 0xe);
      store<u64>(cpu, value, State.CR0);
      return done(next);
    }
    case Operation.SGDT:
      return storeTable(record, load<u32>(cpu, State.GDT_LIMIT), load<u64>(cpu, State.GDT_BASE), next);
    case Operation.SIDT:
      return storeTable(record, load<u32>(cpu, State.IDT_LIMIT), load<u64>(cpu, State.IDT_BASE), next);
    case Operation.LGDT:
      return loadTable(record, State.GDT_LIMIT, State.GDT_BASE, next);
    case Operation.LIDT:
      return loadTable(record, State.IDT_LIMIT, State.IDT_BASE, next);
    case Operation.SLDT:
    case Operation.STR:
      if (refusedByUmip()) return generalProtection();
      return storeSelector(
        record,
        operation == Operation.STR ? load<u16>(cpu, State.TSS_SELECTOR) : load<u16>(cpu, State.LDT_SELECTOR),
        next,
      );
    case Operation.LLDT:
    case Operation.LTR: {
      if (cpl()) return generalProtection();
      const pointer = readRm(record, 2);
      if (!pointer) return FAULT;
      return after(loadSystemSegment(<u32>load<u16>(pointer), operation == Operation.LTR), next);
    }
    case Operation.LAR:
    case Operation.LSL:
    case Operation.VERR:
    case Operation.VERW:
      return inspect(record, operation, next);
    case Operation.INVLPG:
      if (cpl()) return generalProtection();
      flushPage(address(record));
      return done(next);
    case Operation.WBINVD:
      return cpl() ? generalProtection() : done(next);
    case Operation.CLFLUSH:
      // Checked like a load, which it is not: memory is coherent anyway.
      return translate(address(record), Access.READ, load<u32>(cpu, State.MODE), false) ? <u32>Status.NEXT : FAULT;
    case Operation.SWAPGS: {
      if (cpl()) return generalProtection();
      const base = getRegister(Slot.GS_BASE);
      setRegister(Slot.GS_BASE, load<u64>(cpu, State.KERNEL_GS_BASE));
      store<u64>(cpu, base, State.KERNEL_GS_BASE);
      return done(next);
    }
    case Operation.SYSCALL:
      return fastSystemCall(next);
    case Operation.SYSRET:
      return fastSystemReturn(record);
    case Operation.IRET:
      return interruptReturn(record, operandSize(record));
    case Operation.RET_FAR:
      return farReturn(record, operandSize(record), load<u64>(record, Record.IMMEDIATE));
    case Operation.JUMP_FAR:
    case Operation.CALL_FAR:
      return farJump(record, operation == Operation.CALL_FAR, next);
    case Operation.MOV_FROM_SEGMENT:
      return storeSelector(record, readSelector(load<u8>(record, Record.KIND)), next);
    case Operation.MOV_TO_SEGMENT:
      return moveToSegment(record, next);
    case Operation.PUSH_SEGMENT:
      if (!push(record, readSelector(load<u8>(record, Record.KIND)), operandSize(record))) return FAULT;
      return done(next);
    case Operation.POP_SEGMENT:
      return popSegment(record, next);
    case Operation.LOAD_FAR:
      return loadFar(record, next);
    case Operation.READ_BASE:
    case Operation.WRITE_BASE:
      return segmentBase(record, operation == Operation.WRITE_BASE, next);
    case Operation.POPF:
      return popFlags(record, next);
    case Operation.MOVDIRI: {
      const size = operandSize(record);
      const pointer = write(record, address(record), size, false);
      if (!pointer) return FAULT;
      storeSized(pointer, size, loadSized(cpu + load<u8>(record, Record.REG), size));
      finishWrite(record, pointer);
      return Status.NEXT;
    }
    case Operation.MOVDIR64B:
      return moveDirect64(record, next);
    case Operation.ENQCMD:
    case Operation.ENQCMDS:
      return enqueueCommand(record, operation == Operation.ENQCMDS, next);
  }
  return Status.NEXT;
}
