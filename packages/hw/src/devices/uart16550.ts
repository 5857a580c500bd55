/**
 * A 16550A serial port (National Semiconductor PC16550D, June 1995): registers, both FIFOs, loop-back, interrupt
 * identification. Bytes leave the transmitter at once, and the line never loses input: bytes that do not fit in the
 * receive FIFO wait outside.
 */

import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';

const IER_RECEIVE = 1;
const IER_TRANSMIT = 2;
const IER_LINE_STATUS = 4;
const IER_MODEM = 8;
const LCR_DIVISOR_LATCH = 0x80;
const MCR_LOOP = 0x10;
const LSR_DATA_READY = 1;
const LSR_OVERRUN = 2;
const LSR_TRANSMITTER_EMPTY = 0x60;
const FCR_ENABLE = 1;
const IIR_NONE = 1;
const IIR_MODEM = 0;
const IIR_TRANSMIT = 2;
const IIR_RECEIVE = 4;
const IIR_LINE_STATUS = 6;
const IIR_TIMEOUT = 12;
const FIFO_SIZE = 16;
const TRIGGER_LEVELS = [1, 4, 8, 14];

export type Uart16550Options = {
  /** Takes each byte that leaves the port. */
  output?: (byte: number) => void;
  /** Told when the interrupt line changes. */
  line?: (asserted: boolean) => void;
  /** log2 of the distance of two registers on MMIO: 0 (default) for bytes next to each other, 2 for words. */
  registerShift?: number;
};

export class Uart16550 implements MmioHandler {
  private readonly output: (byte: number) => void;
  private readonly line: (asserted: boolean) => void;
  private readonly registerShift: number;
  private interruptEnable = 0;
  private lineControl = 0;
  private modemControl = 0;
  private modemDelta = 0;
  private fifoControl = 0;
  private scratch = 0;
  private divisor = 1;
  private overrun = false;
  private transmitInterrupt = false;
  private asserted = false;
  private readonly fifo: number[] = [];
  private readonly waiting: number[] = [];

  constructor(options: Uart16550Options = {}) {
    this.output = options.output ?? (() => {});
    this.line = options.line ?? (() => {});
    this.registerShift = options.registerShift ?? 0;
  }

  /** Bytes arrive on the line. */
  receive(bytes: Iterable<number>): void {
    for (const byte of bytes) this.waiting.push(byte & 0xff);
    this.refill();
    this.update();
  }

  read(offset: number, _width: AccessWidth): bigint {
    return BigInt(this.readRegister(offset >>> this.registerShift));
  }

  write(offset: number, _width: AccessWidth, value: bigint): void {
    this.writeRegister(offset >>> this.registerShift, Number(value & 0xffn));
  }

  /** Register `index`, 0..7, as on an I/O port. */
  readRegister(index: number): number {
    const value = this.fetch(index);
    this.update();
    return value;
  }

  /** Writes a byte to register `index`, 0..7. */
  writeRegister(index: number, value: number): void {
    this.store(index, value & 0xff);
    this.update();
  }

  private get divisorLatch(): boolean {
    return (this.lineControl & LCR_DIVISOR_LATCH) !== 0;
  }

  private fetch(index: number): number {
    switch (index) {
      case 0: {
        if (this.divisorLatch) return this.divisor & 0xff;
        const byte = this.fifo.shift() ?? 0;
        this.refill();
        return byte;
      }
      case 1:
        return this.divisorLatch ? this.divisor >> 8 : this.interruptEnable;
      case 2: {
        const cause = this.cause();
        if (cause === IIR_TRANSMIT) this.transmitInterrupt = false;
        return cause | ((this.fifoControl & FCR_ENABLE) !== 0 ? 0xc0 : 0);
      }
      case 3:
        return this.lineControl;
      case 4:
        return this.modemControl;
      case 5: {
        const status = (this.fifo.length > 0 ? LSR_DATA_READY : 0) | (this.overrun ? LSR_OVERRUN : 0);
        this.overrun = false;
        return status | LSR_TRANSMITTER_EMPTY;
      }
      case 6: {
        const status = this.modemStatus() | this.modemDelta;
        this.modemDelta = 0;
        return status;
      }
      case 7:
        return this.scratch;
      default:
        return 0;
    }
  }

  private store(index: number, value: number): void {
    switch (index) {
      case 0:
        if (this.divisorLatch) this.divisor = (this.divisor & 0xff00) | value;
        else this.transmit(value);
        break;
      case 1:
        if (this.divisorLatch) this.divisor = (this.divisor & 0xff) | (value << 8);
        else {
          // Enabling the transmitter interrupt while the transmitter is empty raises it.
          if ((value & ~this.interruptEnable & IER_TRANSMIT) !== 0) this.transmitInterrupt = true;
          this.interruptEnable = value & 0xf;
        }
        break;
      case 2:
        // Turning the FIFOs on or off empties them, as does bit 1.
        if (((value ^ this.fifoControl) & FCR_ENABLE) !== 0 || (value & 2) !== 0) this.fifo.length = 0;
        this.fifoControl = (value & FCR_ENABLE) !== 0 ? value & 0xc9 : 0;
        this.refill();
        break;
      case 3:
        this.lineControl = value;
        break;
      case 4: {
        const before = this.modemStatus();
        this.modemControl = value & 0x1f;
        this.noteModem(before);
        break;
      }
      case 7:
        this.scratch = value;
        break;
    }
  }

  private transmit(byte: number): void {
    this.transmitInterrupt = true;
    if ((this.modemControl & MCR_LOOP) === 0) {
      this.output(byte);
      return;
    }
    if (this.fifo.length < this.capacity()) this.fifo.push(byte);
    else this.overrun = true;
  }

  private capacity(): number {
    return (this.fifoControl & FCR_ENABLE) !== 0 ? FIFO_SIZE : 1;
  }

  private refill(): void {
    if ((this.modemControl & MCR_LOOP) !== 0) return;
    const take = Math.min(this.capacity() - this.fifo.length, this.waiting.length);
    if (take > 0) this.fifo.push(...this.waiting.splice(0, take));
  }

  /** CTS, DSR, RI, DCD in bits 4..7: connected and ready, or what loop-back ties them to (RTS, DTR, OUT1, OUT2). */
  private modemStatus(): number {
    const control = this.modemControl;
    if ((control & MCR_LOOP) === 0) return 0xb0;
    return ((control & 2) << 3) | ((control & 1) << 5) | ((control & 0xc) << 4);
  }

  private noteModem(before: number): void {
    const after = this.modemStatus();
    const changed = (before ^ after) >> 4;
    // RI reports its trailing edge only.
    this.modemDelta |= (changed & 0xb) | (before & ~after & 0x40 ? 4 : 0);
  }

  private cause(): number {
    const enable = this.interruptEnable;
    if ((enable & IER_LINE_STATUS) !== 0 && this.overrun) return IIR_LINE_STATUS;
    if ((enable & IER_RECEIVE) !== 0 && this.fifo.length > 0) {
      const fifoOn = (this.fifoControl & FCR_ENABLE) !== 0;
      // Fewer bytes than the trigger level are reported as the time-out they will become: no more are under way.
      return !fifoOn || this.fifo.length >= TRIGGER_LEVELS[this.fifoControl >> 6]! ? IIR_RECEIVE : IIR_TIMEOUT;
    }
    if ((enable & IER_TRANSMIT) !== 0 && this.transmitInterrupt) return IIR_TRANSMIT;
    if ((enable & IER_MODEM) !== 0 && this.modemDelta !== 0) return IIR_MODEM;
    return IIR_NONE;
  }

  private update(): void {
    const asserted = this.cause() !== IIR_NONE;
    if (asserted === this.asserted) return;
    this.asserted = asserted;
    this.line(asserted);
  }
}
