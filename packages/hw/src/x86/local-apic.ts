/**
 * A local APIC in xAPIC mode (Intel SDM volume 3A, order 253668-084, chapter "Advanced Programmable Interrupt
 * Controller"): registers, priorities, message acceptance, self and broadcast IPIs, the one-shot and periodic timer.
 *
 * Fixed and lowest-priority messages are accepted; with one processor in a destination the two are the same. NMI, SMI,
 * INIT, start-up and ExtINT messages are dropped, as are the x2APIC and TSC-deadline modes, which are not advertised.
 */

import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';
import type { InterruptSink } from '../pci/transaction.ts';
import type { ScheduledEvent, Scheduler } from '../scheduler.ts';
import type { InterruptSource } from './guest-cpu.ts';

/** Physical address of the register page after reset. */
export const LOCAL_APIC_BASE = 0xfee0_0000;

const ID = 0x02;
const VERSION = 0x03;
const TPR = 0x08;
const APR = 0x09;
const PPR = 0x0a;
const EOI = 0x0b;
const LDR = 0x0d;
const DFR = 0x0e;
const SVR = 0x0f;
const ISR = 0x10;
const TMR = 0x18;
const IRR = 0x20;
const ESR = 0x28;
const ICR_LOW = 0x30;
const ICR_HIGH = 0x31;
const LVT_TIMER = 0x32;
const LVT_ERROR = 0x37;
const INITIAL_COUNT = 0x38;
const CURRENT_COUNT = 0x39;
const DIVIDE = 0x3e;

/** Version 0x14 with LVT entries 0..5 (timer, thermal, performance, LINT0, LINT1, error). */
const VERSION_VALUE = 0x0005_0014;
const SVR_ENABLE = 1 << 8;
const LVT_MASKED = 1 << 16;
const LVT_PERIODIC = 1 << 17;
const ESR_SEND_ILLEGAL_VECTOR = 1 << 5;
const ESR_RECEIVE_ILLEGAL_VECTOR = 1 << 6;
const MSI_LEVEL_TRIGGERED = 1 << 15;
/** A periodic timer never fires more often, so that no register value can swallow the machine's time. Nanoseconds. */
const SHORTEST_PERIOD = 1000;

/** Bits that software can write of LVT entries 0x32..0x37. */
const LVT_WRITABLE = [0x300ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];

export type LocalApicOptions = {
  scheduler: Scheduler;
  /** APIC id, 0..254; 0 by default. */
  id?: number;
  /** Nanoseconds of one timer tick before division; 1 by default. */
  timerTick?: number;
  /** Takes the IPIs meant for other processors. */
  others?: InterruptSink;
};

export class LocalApic implements MmioHandler, InterruptSink, InterruptSource {
  /** Called whenever an interrupt may have become deliverable: the processor asks `pending` soon. */
  onPending: (() => void) | null = null;
  /** Called at the EOI of a level-triggered vector: the I/O APICs look whether its line is still asserted. */
  onEoi: ((vector: number) => void) | null = null;

  private readonly scheduler: Scheduler;
  private readonly timerTick: number;
  private readonly others: InterruptSink | null;
  private readonly registers: Int32Array = new Int32Array(64);
  private errors = 0;
  private timer: ScheduledEvent | null = null;

  constructor(options: LocalApicOptions) {
    this.scheduler = options.scheduler;
    this.timerTick = options.timerTick ?? 1;
    this.others = options.others ?? null;
    this.registers[ID] = (options.id ?? 0) << 24;
    this.reset();
  }

  /** Power-up state; the id stays. */
  reset(): void {
    const id = this.registers[ID]!;
    this.stopTimer();
    this.registers.fill(0);
    this.errors = 0;
    this.registers[ID] = id;
    this.registers[DFR] = -1;
    this.registers[SVR] = 0xff;
    this.registers.fill(LVT_MASKED, LVT_TIMER, LVT_ERROR + 1);
  }

  pending(): number {
    const vector = this.highest(IRR);
    return vector >= 16 && vector >> 4 > this.processorPriority() >> 4 ? vector : -1;
  }

  acknowledge(vector: number): void {
    this.clearBit(IRR, vector);
    this.setBit(ISR, vector);
  }

  /** CR8: the task-priority class, 0..15. */
  get taskPriority(): number {
    return (this.registers[TPR]! >> 4) & 15;
  }

  set taskPriority(priority: number) {
    this.registers[TPR] = (priority & 15) << 4;
    this.notify();
  }

  deliver(addressLow: number, data: number): void {
    if (!this.isDestination((addressLow >>> 12) & 0xff, (addressLow & 4) !== 0)) return;
    const mode = (data >> 8) & 7;
    if (mode <= 1) this.accept(data & 0xff, (data & MSI_LEVEL_TRIGGERED) !== 0);
  }

  /** Requests `vector` (0..255). Refused while software has the APIC disabled; vectors below 16 are an error. */
  accept(vector: number, level = false): void {
    if (!this.enabled()) return;
    if (vector < 16) {
      this.report(ESR_RECEIVE_ILLEGAL_VECTOR);
      return;
    }
    if (level) this.setBit(TMR, vector);
    else this.clearBit(TMR, vector);
    this.setBit(IRR, vector);
    this.notify();
  }

  read(offset: number, width: AccessWidth): bigint {
    const index = offset >>> 4;
    const byte = offset & 15;
    if (index >= 64 || byte >= 4) return 0n;
    const value = BigInt(this.readRegister(index) >>> 0) >> BigInt(byte * 8);
    return width >= 4 ? value : value & (width === 1 ? 0xffn : 0xffffn);
  }

  write(offset: number, width: AccessWidth, value: bigint): void {
    if ((offset & 15) !== 0 || offset >= 0x400 || width < 4) return;
    this.writeRegister(offset >>> 4, Number(value & 0xffffffffn) | 0);
  }

  private readRegister(index: number): number {
    if (index === VERSION) return VERSION_VALUE;
    if (index === PPR || index === APR) return this.processorPriority();
    if (index === CURRENT_COUNT) return this.currentCount();
    return this.registers[index]!;
  }

  private writeRegister(index: number, value: number): void {
    const registers = this.registers;
    if (index >= LVT_TIMER && index <= LVT_ERROR) {
      registers[index] = (value & LVT_WRITABLE[index - LVT_TIMER]!) | (this.enabled() ? 0 : LVT_MASKED);
      return;
    }
    switch (index) {
      case ID:
      case LDR:
      case ICR_HIGH:
        registers[index] = value & 0xff000000;
        break;
      case TPR:
        registers[TPR] = value & 0xff;
        this.notify();
        break;
      case EOI:
        this.endOfInterrupt();
        break;
      case DFR:
        registers[DFR] = value | 0x0fffffff;
        break;
      case SVR:
        registers[SVR] = value & 0x1ff;
        if (!this.enabled()) {
          for (let entry = LVT_TIMER; entry <= LVT_ERROR; entry++) registers[entry] = registers[entry]! | LVT_MASKED;
        }
        break;
      case ESR:
        registers[ESR] = this.errors;
        this.errors = 0;
        break;
      case ICR_LOW:
        registers[ICR_LOW] = value & 0x000ccfff;
        this.sendIpi(value);
        break;
      case INITIAL_COUNT:
        registers[INITIAL_COUNT] = value;
        this.startTimer(value >>> 0);
        break;
      case DIVIDE: {
        const left = this.currentCount();
        registers[DIVIDE] = value & 0xb;
        if (this.timer !== null) this.startTimer(left >>> 0);
        break;
      }
    }
  }

  private enabled(): boolean {
    return (this.registers[SVR]! & SVR_ENABLE) !== 0;
  }

  private processorPriority(): number {
    const task = this.registers[TPR]!;
    const service = Math.max(this.highest(ISR), 0);
    return task >> 4 >= service >> 4 ? task : service & 0xf0;
  }

  private endOfInterrupt(): void {
    const vector = this.highest(ISR);
    if (vector < 0) return;
    this.clearBit(ISR, vector);
    if ((this.registers[TMR + (vector >> 5)]! & (1 << (vector & 31))) !== 0) this.onEoi?.(vector);
    this.notify();
  }

  private notify(): void {
    if (this.onPending !== null && this.pending() >= 0) this.onPending();
  }

  private report(error: number): void {
    this.errors |= error;
    const entry = this.registers[LVT_ERROR]!;
    // An error entry with an illegal vector of its own must not report itself for ever.
    if ((entry & LVT_MASKED) === 0 && (entry & 0xff) >= 16) this.accept(entry & 0xff);
  }

  private isDestination(destination: number, logical: boolean): boolean {
    if (destination === 0xff) return true;
    if (!logical) return destination === this.registers[ID]! >>> 24;
    const own = this.registers[LDR]! >>> 24;
    if (this.registers[DFR]! >>> 28 === 0xf) return (own & destination) !== 0;
    return own >> 4 === destination >> 4 && (own & destination & 0xf) !== 0;
  }

  private sendIpi(command: number): void {
    const mode = (command >> 8) & 7;
    const vector = command & 0xff;
    if (mode <= 1 && vector < 16) {
      this.report(ESR_SEND_ILLEGAL_VECTOR);
      return;
    }
    const shorthand = (command >> 18) & 3;
    const destination = shorthand === 0 ? this.registers[ICR_HIGH]! >>> 24 : 0xff;
    const logical = shorthand === 0 && (command & (1 << 11)) !== 0;
    if (shorthand === 1 || shorthand === 2 || (shorthand === 0 && this.isDestination(destination, logical))) {
      if (mode <= 1) this.accept(vector);
    }
    if (shorthand !== 1 && this.others !== null) {
      this.others.deliver(LOCAL_APIC_BASE | (destination << 12) | (logical ? 4 : 0) | 0, command & 0x47ff);
    }
  }

  /** Nanoseconds of one count of the timer. */
  private countSpan(): number {
    const divide = this.registers[DIVIDE]!;
    const exponent = (divide & 3) | ((divide & 8) >> 1);
    return this.timerTick * (exponent === 7 ? 1 : 2 << exponent);
  }

  private currentCount(): number {
    if (this.timer === null) return 0;
    const left = Math.ceil((this.timer.due - this.scheduler.now) / this.countSpan());
    return Math.max(left, 0) | 0;
  }

  private startTimer(count: number): void {
    this.stopTimer();
    if (count === 0) return;
    this.timer = this.scheduler.schedule(count * this.countSpan(), () => this.expire());
  }

  private stopTimer(): void {
    if (this.timer !== null) this.scheduler.cancel(this.timer);
    this.timer = null;
  }

  private expire(): void {
    const entry = this.registers[LVT_TIMER]!;
    this.timer = null;
    if ((entry & LVT_PERIODIC) !== 0) {
      const period = (this.registers[INITIAL_COUNT]! >>> 0) * this.countSpan();
      if (period > 0) {
        this.timer = this.scheduler.schedule(Math.max(period, SHORTEST_PERIOD), () => this.expire());
      }
    }
    if ((entry & LVT_MASKED) === 0 && (entry & (1 << 18)) === 0) this.accept(entry & 0xff);
  }

  /** Highest set bit of a 256-bit register, or -1. */
  private highest(first: number): number {
    for (let word = 7; word >= 0; word--) {
      const bits = this.registers[first + word]!;
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits);
    }
    return -1;
  }

  private setBit(first: number, vector: number): void {
    this.registers[first + (vector >> 5)]! |= 1 << (vector & 31);
  }

  private clearBit(first: number, vector: number): void {
    this.registers[first + (vector >> 5)]! &= ~(1 << (vector & 31));
  }
}
