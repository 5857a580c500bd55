/** Delivery through the IDT, and IRET (Intel SDM volume 3A, chapter "Interrupt and Exception Handling"). */

import { getFlags, setAllFlags } from './flags.ts';
import { systemRead, systemWrite } from './memory.ts';
import { peek } from './operand.ts';
import {
  checkReturnCode,
  checkStack,
  Descriptor,
  descriptorDpl,
  descriptorIs64,
  descriptorPresent,
  descriptorType,
  dropSegments,
  readDescriptor,
  writeSelector,
} from './segments.ts';
import {
  Activity,
  cpl,
  cpu,
  Flag,
  generalProtection,
  getRegister,
  isCanonical,
  raiseWithError,
  Segment,
  setCpl,
  setRegister,
  setSystemFlags,
  Slot,
  State,
  Status,
  systemFlags,
  Vector,
} from './state.ts';

/** Where an event comes from: it decides on privilege checks and on the EXT bit of error codes. */
export const enum Origin {
  EXCEPTION,
  /** INT n and INT3: the gate's privilege level counts, and faults on the way are not external. */
  SOFTWARE,
  EXTERNAL,
}

/** One attempt to deliver `vector`. False: another exception is pending, and nothing but stack bytes has changed. */
function deliverOnce(vector: u32, origin: u32, hasError: bool, error: u32): bool {
  const external: u32 = origin == Origin.SOFTWARE ? 0 : 1;
  const gateError = (vector << 3) | 2 | external;
  if ((vector << 4) + 15 > load<u32>(cpu, State.IDT_LIMIT)) return refuse(Vector.GP, gateError);
  const gate = systemRead(load<u64>(cpu, State.IDT_BASE) + (vector << 4), 16);
  if (!gate) return false;
  const low = load<u64>(gate);
  const target = (low & 0xffff) | ((low >> 32) & 0xffff0000) | (load<u64>(gate, 8) << 32);
  const type = <u32>(low >> 40) & 31;
  // 64-bit interrupt gate 14, trap gate 15.
  if (type != 14 && type != 15) return refuse(Vector.GP, gateError);
  if (origin == Origin.SOFTWARE && (<u32>(low >> 45) & 3) < cpl()) return refuse(Vector.GP, gateError);
  if ((low & (1 << 47)) == 0) return refuse(Vector.NP, gateError);

  const selector = <u32>(low >> 16) & 0xffff;
  if ((selector & 0xfffc) == 0) return refuse(Vector.GP, external);
  if (!readDescriptor(selector, Vector.GP, external)) return false;
  const code = descriptorType();
  const level = code & Descriptor.CONFORMING ? cpl() : descriptorDpl();
  const isCode = (code & (Descriptor.ORDINARY | Descriptor.CODE)) == (Descriptor.ORDINARY | Descriptor.CODE);
  if (!isCode || descriptorDpl() > cpl() || !descriptorIs64()) {
    return refuse(Vector.GP, (selector & 0xfffc) | external);
  }
  if (!descriptorPresent()) return refuse(Vector.NP, (selector & 0xfffc) | external);

  const ist = <u32>(low >> 32) & 7;
  const change = level < cpl();
  let stack = getRegister(Slot.RSP);
  if (change || ist) {
    const offset: u32 = ist ? 28 + (ist << 3) : 4 + (level << 3);
    if (offset + 7 > load<u32>(cpu, State.TSS_LIMIT)) {
      return refuse(Vector.TS, (load<u16>(cpu, State.TSS_SELECTOR) & 0xfffc) | external);
    }
    const entry = systemRead(load<u64>(cpu, State.TSS_BASE) + offset, 8);
    if (!entry) return false;
    stack = load<u64>(entry);
    if (!isCanonical(stack)) return refuse(Vector.SS, external);
  }
  if (!isCanonical(target)) return refuse(Vector.GP, external);

  let flags = getFlags();
  if (origin == Origin.EXCEPTION && vector != Vector.BP && vector != Vector.DB) flags |= Flag.RF;
  else flags &= ~(<u64>Flag.RF);
  let top = stack & ~(<u64>15);
  const bytes: u64 = hasError ? 48 : 40;
  if (!isCanonical(top - bytes) || !isCanonical(top - 1)) return refuse(Vector.SS, external);
  if (!systemWrite((top -= 8), 8, load<u16>(cpu, State.SELECTORS + 2 * Segment.SS))) return false;
  if (!systemWrite((top -= 8), 8, getRegister(Slot.RSP))) return false;
  if (!systemWrite((top -= 8), 8, flags)) return false;
  if (!systemWrite((top -= 8), 8, load<u16>(cpu, State.SELECTORS + 2 * Segment.CS))) return false;
  if (!systemWrite((top -= 8), 8, load<u64>(cpu, State.RIP))) return false;
  if (hasError && !systemWrite((top -= 8), 8, error)) return false;

  writeSelector(Segment.CS, (selector & 0xfffc) | level, level);
  if (change) writeSelector(Segment.SS, level, level);
  setRegister(Slot.RSP, top);
  store<u64>(cpu, target, State.RIP);
  let kept = systemFlags() & ~(<u64>(Flag.TF | Flag.NT | Flag.RF | Flag.VM));
  if (type == 14) kept &= ~(<u64>Flag.IF);
  setSystemFlags(kept);
  setCpl(level);
  return true;
}

function refuse(vector: u32, error: u32): bool {
  raiseWithError(vector, error);
  return false;
}

/** Exceptions that make a double fault of a second one: #DE, #TS, #NP, #SS, #GP. */
function contributory(vector: u32): bool {
  return vector == Vector.DE || (vector >= <u32>Vector.TS && vector <= <u32>Vector.GP);
}

/** Delivers an interrupt or the pending exception; nested faults become double and triple faults. */
export function deliver(vector: u32, origin: u32, hasError: bool, error: u32): void {
  store<u64>(cpu, load<u64>(cpu, State.REMAINING) - 1, State.REMAINING);
  store<u64>(cpu, load<u64>(cpu, State.DELIVERIES) + 1, State.DELIVERIES);
  store<u32>(cpu, 0, State.LINK_FROM);
  store<u32>(cpu, 0, State.SHADOW);
  store<u32>(cpu, Activity.RUNNING, State.ACTIVITY);
  let from = origin;
  let current = vector;
  let withError = hasError;
  let code = error;
  // Each round ends in delivery, a double fault or a shutdown, but benign exceptions may start a chain of others.
  for (let round = 0; round < 4; round++) {
    if (deliverOnce(current, from, withError, code)) return;
    const second = load<u32>(cpu, State.VECTOR);
    if (from == Origin.EXCEPTION && current == Vector.DF) break;
    const serious =
      from == Origin.EXCEPTION &&
      ((contributory(current) && contributory(second)) ||
        (current == Vector.PF && (contributory(second) || second == Vector.PF)));
    if (from == Origin.SOFTWARE) store<u64>(cpu, load<u64>(cpu, State.SOFTWARE_RIP), State.RIP);
    from = Origin.EXCEPTION;
    if (serious) {
      current = Vector.DF;
      withError = true;
      code = 0;
    } else {
      current = second;
      withError = load<u32>(cpu, State.HAS_ERROR) != 0;
      code = load<u32>(cpu, State.ERROR);
    }
  }
  store<u32>(cpu, Activity.SHUT_DOWN, State.ACTIVITY);
}

/** Flags that IRET and POPF may change at the current privilege. */
export function changeableFlags(): u64 {
  const flags =
    Flag.ARITHMETIC | Flag.TF | Flag.DF | Flag.NT | Flag.AC | Flag.ID | (cpl() == 0 ? Flag.IOPL : 0);
  return cpl() <= <u32>((systemFlags() >> 12) & 3) ? flags | Flag.IF : flags;
}

/** IRET with operands of `size` bytes. Gives a Status. */
export function interruptReturn(record: usize, size: u32): u32 {
  if (systemFlags() & Flag.NT) return generalProtection();
  const pointer = peek(record, 0, size);
  if (!pointer) return Status.FAULT;
  const rip = sized(pointer, size);
  const codePointer = peek(record, 1, size);
  if (!codePointer) return Status.FAULT;
  const code = <u32>load<u16>(codePointer);
  const flagsPointer = peek(record, 2, size);
  if (!flagsPointer) return Status.FAULT;
  const flags = sized(flagsPointer, size);
  const rspPointer = peek(record, 3, size);
  if (!rspPointer) return Status.FAULT;
  const rsp = sized(rspPointer, size);
  const stackPointer = peek(record, 4, size);
  if (!stackPointer) return Status.FAULT;
  const stack = <u32>load<u16>(stackPointer);

  const level = code & 3;
  let status = checkReturnCode(code);
  if (status != Status.NEXT) return status;
  status = checkStack(stack, level, Vector.GP);
  if (status != Status.NEXT) return status;
  if (!isCanonical(rip)) return generalProtection();

  let changeable = changeableFlags() | Flag.RF;
  if (cpl() == 0) changeable |= Flag.VIF | Flag.VIP;
  // A 16-bit image has no upper half.
  if (size == 2) changeable &= 0xffff;
  writeSelector(Segment.CS, code, level);
  writeSelector(Segment.SS, stack, level);
  setRegister(Slot.RSP, rsp);
  store<u64>(cpu, rip, State.RIP);
  setAllFlags((flags & changeable) | (getFlags() & ~changeable));
  if (level > cpl()) dropSegments(level);
  setCpl(level);
  return Status.JUMP;
}

/** Far return with operands of `size` bytes that drops `drop` bytes of arguments. Gives a Status. */
export function farReturn(record: usize, size: u32, drop: u64): u32 {
  const pointer = peek(record, 0, size);
  if (!pointer) return Status.FAULT;
  const rip = sized(pointer, size);
  const codePointer = peek(record, 1, size);
  if (!codePointer) return Status.FAULT;
  const code = <u32>load<u16>(codePointer);
  const level = code & 3;
  let status = checkReturnCode(code);
  if (status != Status.NEXT) return status;
  let rsp = getRegister(Slot.RSP) + 2 * size + drop;
  let stack: u32 = 0;
  const outward = level > cpl();
  if (outward) {
    const old = getRegister(Slot.RSP);
    setRegister(Slot.RSP, rsp);
    const rspPointer = peek(record, 0, size);
    const newRsp = rspPointer ? sized(rspPointer, size) : 0;
    const stackPointer = rspPointer ? peek(record, 1, size) : 0;
    setRegister(Slot.RSP, old);
    if (!stackPointer) return Status.FAULT;
    stack = <u32>load<u16>(stackPointer);
    status = checkStack(stack, level, Vector.GP);
    if (status != Status.NEXT) return status;
    rsp = newRsp + drop;
  }
  if (!isCanonical(rip)) return generalProtection();
  writeSelector(Segment.CS, code, level);
  setRegister(Slot.RSP, rsp);
  store<u64>(cpu, rip, State.RIP);
  if (outward) {
    writeSelector(Segment.SS, stack, level);
    dropSegments(level);
    setCpl(level);
  }
  return Status.JUMP;
}

function sized(pointer: usize, size: u32): u64 {
  return size == 8 ? load<u64>(pointer) : size == 4 ? load<u32>(pointer) : load<u16>(pointer);
}
